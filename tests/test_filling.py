"""Filling changes what the mask names and nothing else, and gives back what bends least."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore.errors import BadInput, UnknownName
from busistore.preprocess.filling import FILLERS, LATERAL, fill
from tests.speckle import speckle


def spots(seed: int, shape: tuple[int, int], n: int = 12) -> np.ndarray:
    """(H, W) bool: rectangles of up to 5 x 5 px, some at the frame."""
    rng, mask = np.random.default_rng(seed), np.zeros(shape, bool)
    for y, x in zip(rng.integers(0, shape[0], n), rng.integers(0, shape[1], n)):
        mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    return mask


@pytest.mark.parametrize("method", sorted(FILLERS))
@given(st.integers(0, 2**32))
def test_nothing_outside_the_mask_changes(method, seed):
    image, mask = speckle(3, 60, 80), spots(seed, (60, 80))
    made = fill(image, mask, method)
    assert (made[~mask] == image[~mask]).all()
    assert made.dtype == np.uint8
    assert made is not image


@pytest.mark.parametrize("method", sorted(FILLERS))
def test_an_empty_mask_changes_nothing(method):
    image = speckle(3, 60, 80)
    assert (fill(image, np.zeros(image.shape, bool), method) == image).all()


@given(st.integers(0, 2**32), st.floats(-2, 2), st.floats(-2, 2))
def test_a_slope_is_continued_exactly(seed, along, down):
    """A plane does not bend: it is the answer, wherever the hole; levels are rounded once before and once after."""
    y, x = np.indices((40, 50))
    plane = np.clip(np.rint(128 + along * (x - 25) + down * (y - 20)), 0, 255).astype(np.uint8)
    hole = np.zeros(plane.shape, bool)
    top, left = np.random.default_rng(seed).integers(4, 30, 2)
    hole[top : top + 5, left : left + 6] = True
    inked = np.where(hole, np.uint8(226), plane)
    assert np.abs(fill(inked, hole).astype(int) - plane)[hole].max() <= 2


def test_the_fill_solves_the_equations_written_out():
    image, mask = speckle(8, 24, 30), np.zeros((24, 30), bool)
    for y0, y1, x0, x1 in (parts := ((8, 12, 10, 16), (0, 2, 3, 5), (20, 24, 28, 30))):
        mask[y0:y1, x0:x1] = True
    unknown = np.argwhere(mask)
    number = {tuple(p): k for k, p in enumerate(unknown)}

    def bent(p: tuple[int, int]) -> dict[tuple[int, int], float]:
        """Coefficients of (L u)(p): neighbours beyond the frame do not count, as behind a mirror."""
        out = {p: 0.0}
        for dy, dx, w in ((0, 1, LATERAL), (0, -1, LATERAL), (1, 0, 1), (-1, 0, 1)):
            q = (p[0] + dy, p[1] + dx)
            if 0 <= q[0] < 24 and 0 <= q[1] < 30:
                out[q], out[p] = w, out[p] - w
        return out

    A, b = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for k, p in enumerate(map(tuple, unknown)):
        for q, w in bent(p).items():
            for r, v in bent(q).items():
                if mask[r]:
                    A[k, number[r]] += w * v
                else:
                    b[k] -= w * v * image[r]
    wanted = np.zeros(image.shape)
    wanted[mask] = np.linalg.solve(A, b)
    for y0, y1, x0, x1 in parts:
        near = np.s_[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2]
        known = image[near][~mask[near]]
        wanted[y0:y1, x0:x1] = wanted[y0:y1, x0:x1].clip(known.min(), known.max())
    assert np.abs(fill(image, mask) - wanted)[mask].max() <= 0.5 + 1e-6


def test_a_fill_stays_within_the_levels_around():
    image = np.full((40, 40), 100, np.uint8)
    image[:, 20:] = 180
    mask = np.zeros(image.shape, bool)
    mask[10:30, 17:23] = mask[:6, 30:] = True
    made = fill(np.where(mask, np.uint8(255), image), mask)
    assert (made[mask] >= 100).all()
    assert (made[mask] <= 180).all()


def test_the_default_is_closest_to_what_was_there():
    """On strokes 3 px wide over speckle that is smeared sideways; and its grain keeps more of its contrast."""
    grain = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((160, 200)), (0, 0), sigmaX=3, sigmaY=1.3)
    image = np.clip(100 + 40 * grain / grain.std(), 0, 255).astype(np.uint8)
    mask = np.zeros(image.shape, bool)
    for k in range(20, 180, 20):
        mask[30:130, k : k + 3] = True
        mask[k * 7 // 10 : k * 7 // 10 + 3, 20:180] = True
    inked = np.where(mask, np.uint8(226), image)
    error = {m: float(np.square(fill(inked, mask, m).astype(float) - image)[mask].mean()) for m in FILLERS}
    assert error["biharmonic"] < 0.8 * min(error["telea"], error["navier-stokes"])
    assert fill(inked, mask)[mask].std() > 0.9 * image[mask].std()


def test_one_thread_or_many():
    image, mask = speckle(3), spots(5, (300, 400), 60)
    before = cv2.getNumThreads()
    try:
        made = []
        for n in (1, 4):
            cv2.setNumThreads(n)
            made.append(fill(image, mask))
    finally:
        cv2.setNumThreads(before)
    assert (made[0] == made[1]).all()


def test_bad_input():
    image, mask = speckle(3, 40, 50), np.zeros((40, 50), bool)
    with pytest.raises(BadInput, match="whole image"):
        fill(image, ~mask)
    for grey, some in ((image, mask[:-1]), (image.astype(float), mask), (image, mask.astype(np.uint8))):
        with pytest.raises(BadInput, match="wanted are uint8 and bool"):
            fill(grey, some)
    with pytest.raises(UnknownName, match="did you mean 'telea'"):
        fill(image, mask, "tela")
