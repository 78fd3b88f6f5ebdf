"""What is no ink: bright echoes in a lesion, other contrasts, smooth or coarse pictures, flow: nothing is filled."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from busistore.preprocess.artefacts import detect
from busistore.preprocess.cleaning import clean
from tests.speckle import speckle
from tests.test_artefacts import plus


def lesion(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(240, 300) uint8 of speckle with a dark ellipse in its middle, and that as bool."""
    picture = speckle(seed, 240, 300).astype(float)
    picture *= 80 / picture.mean()
    y, x = np.indices(picture.shape)
    inside = ((x - 150) / 60) ** 2 + ((y - 120) / 45) ** 2 < 1
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 3)
    return np.clip(picture * (1 - 0.75 * soft), 0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("level", [170, 230])
@pytest.mark.parametrize("radius", range(3, 9))
def test_a_round_bright_focus_stays(radius, level, seed):
    """A calcification: soft at its edge, and of speckle like all else."""
    picture, _ = lesion(seed)
    draw = np.random.default_rng([seed, radius, level])
    y, x = np.indices(picture.shape)
    disc = ((x - 145) ** 2 + (y - 125) ** 2 <= radius**2).astype(np.float32)
    share = cv2.GaussianBlur(disc, (0, 0), 1.2)
    bright = level + 10 * draw.standard_normal(picture.shape)
    picture = np.clip(picture * (1 - share) + bright * share, 0, 255).astype(np.uint8)
    assert not detect(picture).mask.any()


@pytest.mark.parametrize("gain", [1.0, 1.3, 1.6])
@pytest.mark.parametrize("seed", range(6))
def test_contrast_is_no_caliper(seed, gain):
    picture = speckle(seed, 240, 300).astype(float)
    picture = np.clip((picture - picture.mean()) * gain + 100, 0, 255).astype(np.uint8)
    assert not detect(picture).of("caliper+", "caliperx", "line")


@pytest.mark.parametrize("seed", range(3))
def test_coarse_levels_are_no_ink(seed):
    assert not detect(speckle(seed, 240, 300) // 16 * 16).mask.any()


@pytest.mark.parametrize("side", [500, 1000])
def test_an_enlarged_picture_is_no_ink(side):
    large = cv2.resize(np.asarray(speckle(1, side // 2, side // 2)), (side, side), interpolation=cv2.INTER_CUBIC)
    assert not detect(large).mask.any()


def flow(spots: list[tuple[int, int, int, tuple[int, int, int]]]) -> np.ndarray:
    """Speckle with filled discs (x, y, radius, colour)."""
    picture = np.repeat((speckle(3, 240, 300) // 2)[:, :, None], 3, axis=2)
    y, x = np.indices(picture.shape[:2])
    for cx, cy, radius, colour in spots:
        picture[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = colour
    return picture


RED, BLUE, DARK = (250, 40, 20), (20, 60, 250), (85, 10, 10)
FLOWS = {
    "dark": [(150, 120, 30, DARK)],
    "one block": [(150, 120, 16, RED)],
    "spots": [(60 + 25 * k, 90 + 30 * (k % 3), 5, RED if k % 2 else BLUE) for k in range(9)],
}


@pytest.mark.parametrize("kind", FLOWS)
def test_flow_is_flagged_and_left(kind):
    picture = flow(FLOWS[kind])
    made = clean(picture)
    assert "doppler" in made.artefacts.flags
    assert not made.filled


def test_a_test_chart_is_flagged_in_time():
    """Hundreds of crosses are no calipers."""
    chart = np.full((200, 200), 40, np.uint8)
    for y in range(12, 200, 22):
        for x in range(12, 200, 22):
            plus(chart, x, y, 7)
    made = clean(chart)
    assert made.artefacts.flags == {"too-much"}
    assert np.array_equal(made.pixels, chart)


def test_ink_found_at_a_later_look_counts_for_what_is_too_much(monkeypatch):
    from busistore.preprocess import cleaning
    from busistore.preprocess.findings import Artefacts, Finding

    mask = np.zeros((64, 64), bool)
    mask[20:24, 20:24] = True
    first = Artefacts((Finding("text", (20, 20, 24, 24), 1.0),), mask)
    looks = iter([first, Artefacts((), ~mask, frozenset({"too-much"}))])
    monkeypatch.setattr(cleaning, "detect", lambda *_, **__: next(looks))
    picture = np.asarray(speckle(1, 64, 64))
    made = clean(picture)
    assert not made.filled
    assert np.array_equal(made.pixels, picture)
