"""The sector is what shows echo: bars, frames and black borders go, shadows and the picture itself stay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore.preprocess.sector import find_sector
from tests.speckle import speckle


@given(st.tuples(*[st.integers(0, 40)] * 4), st.sampled_from([0, 14, 128, 240]))
def test_borders_of_one_level_are_cut_exactly(sides, level):
    left, top, right, bottom = sides
    image = np.pad(speckle(3, 160, 200), ((top, bottom), (left, right)), constant_values=level)
    assert find_sector(image) == (left, top, left + 200, top + 160)


def test_a_frame_between_borders_is_cut_with_them():
    image = np.pad(speckle(3, 160, 200), 12)
    image[4:6] = image[-6:-4] = 200
    image[:, 4:6] = image[:, -6:-4] = 200
    assert find_sector(image) == (12, 12, 212, 172)


def test_ink_in_a_side_bar_does_not_save_it():
    image = np.pad(speckle(3, 160, 200), ((0, 0), (0, 30)))
    ink = np.zeros(image.shape, bool)
    ink[10:150:14, 210:218] = True
    image[ink] = 226
    assert find_sector(image, ink) == (0, 0, 200, 160)


def test_a_shadow_keeps_its_columns():
    image = speckle(3, 160, 200).copy()
    image[40:, :30] = 0
    assert find_sector(image) == (0, 0, 200, 160)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_without_echo_is_left_whole(level):
    assert find_sector(np.full((60, 80), level, np.uint8)) == (0, 0, 80, 60)


def test_less_than_half_is_no_sector():
    assert find_sector(np.pad(speckle(3, 60, 80), ((0, 70), (0, 0)))) == (0, 0, 80, 130)


def test_of_a_sector_nothing_is_cut():
    image = np.pad(speckle(3, 160, 200), 9)
    x0, y0, x1, y1 = find_sector(image)
    assert find_sector(image[y0:y1, x0:x1]) == (0, 0, x1 - x0, y1 - y0)
