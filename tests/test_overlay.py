"""Overlays: the outline lies on the edge of the mask and nowhere else, and what is said is below the picture."""

import numpy as np
import pytest
from PIL import ImageColor

from busistore import overlay
from busistore.sheet import LABELS

GREY = np.full((360, 720), 100, np.uint8)  # shown as it is


def square() -> np.ndarray:
    mask = np.zeros(GREY.shape, bool)
    mask[100:200, 300:500] = True
    return mask


def test_the_outline_is_the_edge_of_the_mask():
    shown = np.asarray(overlay.outlined(GREY, square(), LABELS["benign"]))
    colour = (shown == ImageColor.getrgb(LABELS["benign"])).all(axis=2)
    black, plain = (shown == 0).all(axis=2), (shown == 100).all(axis=2)
    wide = overlay.EDGE_PX
    expected = square()
    expected[100 + wide : 200 - wide, 300 + wide : 500 - wide] = False
    assert (colour == expected).all()
    assert (colour | black | plain).all()
    assert black[100 - wide, 400]
    assert plain[100 - wide - 1, 400]
    assert plain[150, 400]  # within, nothing is covered


def test_a_mask_at_the_border_leaves_the_border_of_the_image_alone():
    mask = np.zeros(GREY.shape, bool)
    mask[:50, :50] = True
    shown = np.asarray(overlay.outlined(GREY, mask, "#ffffff"))
    assert (shown[:, -1] == 100).all()
    assert (shown[-1] == 100).all()
    assert (shown[0, :50] == 255).all()


@pytest.mark.parametrize("mask", [None, np.zeros(GREY.shape, bool)])
def test_nothing_marked_is_nothing_drawn(mask):
    assert (np.asarray(overlay.outlined(GREY, mask, "#ffffff")) == 100).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((100, 50), (360, 720)), ((720, 400), (400, 720)), ((3200, 3200), (1600, 1600))]
)
def test_small_pictures_are_enlarged_and_large_ones_are_not_kept(shape, size):
    assert overlay.outlined(np.zeros(shape, np.uint8), None, "#ffffff").size == size


def test_words_make_the_page_longer_and_leave_the_picture():
    short, long = (overlay.draw(GREY, None, "benign: 0.9", ["one line"] * n, ["remark"]) for n in (1, 3))
    assert short.width == long.width == 720
    assert long.height > short.height > 360
    assert (np.asarray(long)[:360] == 100).all()
    assert overlay.draw(GREY, None, "benign: 0.9", ["one line"], ["remark"]).tobytes() == short.tobytes()


def test_numbers_stand_at_their_corners():
    marked = np.asarray(overlay.draw(GREY, None, "x", [], corners=[(300, 100), (719, 0)])).astype(int)[:360]
    changed = (marked != 100).any(axis=2)
    assert changed[75:102, 295:320].any()
    assert changed[:25, 680:].any()
    assert not changed[110:].any()
