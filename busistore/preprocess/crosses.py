"""The cross filter: points of a grey plane from which four equally bright arms go out, each brighter than its sides."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

MOST_POINTS = 4000  # answers of the filter that are looked at, the best; of more, the picture is noise
PAD_PX = 20  # room for the longest arm and its flanks; above any half-arm of a size


class Size(NamedTuple):
    """Half-arm and thickness of a cross in px, and how far its middle is left free.

    For an 'x' the half-arm counts diagonal steps and the thickness runs along a row.
    """

    half: int
    thick: int
    hole: int = 0


class Bar(NamedTuple):
    """A box of width x height px whose first pixel is (x, y) from the centre, n times in steps of (dx, 1)."""

    x: int
    y: int
    width: int
    height: int
    n: int = 1
    dx: int = 0


def cross_points(plane: np.ndarray, shape: str, settings, least: float, cap: float, least_arm: float) -> np.ndarray:
    """Points of an (H, W) uint8 plane where the filter of shape '+' or 'x' scores at least `least`.

    Contrast counts to `cap`, and no arm is dimmer than `least_arm`.

    Returns:
        (N, 4) float64 rows of x, y, score, index of size; best first, none within `marks_apart_px` of a better one.
    """
    import cv2

    padded = cv2.copyMakeBorder(plane, *(PAD_PX,) * 4, cv2.BORDER_REPLICATE)
    sizes = settings.sizes if shape == "+" else settings.x_sizes
    found = [_answers(padded, shape, Size(*size), k, settings, least, cap, least_arm) for k, size in enumerate(sizes)]
    return thinned(np.concatenate(found), settings.marks_apart_px)


def points_in(
    plane: np.ndarray, box: tuple[int, int, int, int], shape: str, settings, least: float, cap: float, least_arm: float
) -> np.ndarray:
    """`cross_points` of the part of a plane in a box (x0, y0, x1, y1), ends excluded, in pixels of the plane."""
    x0, y0, x1, y1 = box
    part = np.ascontiguousarray(plane[y0:y1, x0:x1])
    return cross_points(part, shape, settings, least, cap, least_arm) + np.array([x0, y0, 0, 0])


def _answers(padded: np.ndarray, shape: str, size: Size, k: int, settings, least, cap, least_arm) -> np.ndarray:
    """(N, 4) rows of x, y, score, k where the k-th size scores at least `least`."""
    import cv2

    bars, contrast = [], None
    for arm, *flanks in _upright(size) if shape == "+" else _oblique(size):
        bar, sides = _mean(padded, arm), [_mean(padded, flank) for flank in flanks]
        above = cv2.subtract(bar, np.maximum(*sides))  # 0 where a side is brighter
        contrast = above if contrast is None else np.minimum(contrast, above)
        bars.append(bar)
    bonus = settings.score_per_px * size.half
    maybe = contrast > least - bonus
    for bar in bars:
        maybe &= bar >= least_arm
    y, x = np.nonzero(maybe)
    one, two, across, other = (bar[y, x].astype(float) for bar in bars)
    spread = np.maximum(np.abs(one - across), np.abs(two - other))
    smeared = np.abs(one + across - two - other) / 2  # resampling may smear one bar only
    spread = np.maximum(spread, settings.smear_weight * smeared)
    score = np.minimum(contrast[y, x].astype(float), cap) - spread + bonus
    keep = score >= least
    shift = (size.thick - 1) / 2 - size.thick // 2  # an even bar has its middle between two pixels
    return np.stack([x + shift, y + shift, score, np.full(len(x), k)], axis=1)[keep]


@lru_cache
def _upright(size: Size) -> list[tuple[Bar, Bar, Bar]]:
    """The four arms of a '+', each as (arm, flank, flank); every second one is opposite."""
    low = -(size.thick // 2)
    high, length = low + size.thick + size.hole, size.half - size.thick // 2 - size.hole
    arms = []
    for start in (high, low - size.hole - length):  # right and left of the middle; below and above by swapping axes
        near = start + 1 if start > 0 else start  # a flank keeps off the other arm's soft edge
        sides = [Bar(near, side, length - 1, 1) for side in (low - 2, low + size.thick + 1)]
        right = (Bar(start, low, length, size.thick), *sides)
        arms += [right, tuple(Bar(bar.y, bar.x, bar.height, bar.width) for bar in right)]
    return arms


@lru_cache
def _oblique(size: Size) -> list[tuple[Bar, Bar, Bar]]:
    """The four arms of an 'x', each as (arm, flank, flank), in steps of one row; every second one is opposite.

    A thin arm's flanks run beside it. Thick short arms leave no room for that: theirs are the notches between the arms.
    """
    first, low = size.thick // 2 + 1, -(size.thick // 2)
    arms = []
    for down in (True, False):
        for dx in (1, -1):
            start = first if down else -size.half
            arm = Bar(dx * start + low, start, size.thick, 1, size.half + 1 - first, dx)
            side = dx if down else -dx
            arms.append((arm, *(_notches(size, side, down) if size.thick > 2 else _parallels(size, dx, down))))
    return arms


def _parallels(size: Size, dx: int, down: bool) -> list[Bar]:
    near = 2 if down else -size.half  # from here on a flank has left the other arm
    return [
        Bar(dx * near + beside, near, 1, 1, size.half - 1, dx)
        for beside in (-(size.thick // 2) - 2, (size.thick + 1) // 2 + 1)
    ]


def _notches(size: Size, side: int, down: bool) -> list[Bar]:
    """The pixels on the axes to the left or right and above or below, clear of the arms."""
    near = size.thick + 1
    length = max(size.half - near, 1) + 1
    x, y = near if side > 0 else -near - length + 1, near if down else -near - length + 1
    return [Bar(x, 0, length, 1), Bar(0, y, 1, length)]


def _mean(padded: np.ndarray, bar: Bar) -> np.ndarray:
    """(H, W) uint8 mean over the bar set on every pixel."""
    import cv2

    height, width = padded.shape[0] - 2 * PAD_PX, padded.shape[1] - 2 * PAD_PX
    if bar.n == 1 and bar.width * bar.height > 2:
        window = padded[PAD_PX + bar.y :, PAD_PX + bar.x :][: height + bar.height - 1, : width + bar.width - 1]
        return cv2.blur(np.ascontiguousarray(window), (bar.width, bar.height), anchor=(0, 0))[:height, :width]
    if bar.n == 1:  # cv2.blur of OpenCV 5.0 leaves the last columns at 0 for a kernel of 2 x 1
        steps = [(k % bar.width, k // bar.width) for k in range(bar.width * bar.height)]
        rows = padded
    else:
        steps = [(k * bar.dx, k) for k in range(bar.n)]
        rows = padded if bar.width == 1 else cv2.blur(padded, (bar.width, 1), anchor=(0, 0))
    total = np.zeros((height, width), np.uint16)
    for dx, dy in steps:
        y, x = PAD_PX + bar.y + dy, PAD_PX + bar.x + dx
        total += rows[y : y + height, x : x + width]
    return (total // len(steps)).astype(np.uint8)


def thinned(points: np.ndarray, apart_px: float) -> np.ndarray:
    """Rows (x, y, score, ...) best first, less those nearer than `apart_px` to a better one."""
    points = points[np.lexsort((points[:, 0], points[:, 1], -points[:, 2]))][:MOST_POINTS]
    kept: list[int] = []
    for n, (x, y) in enumerate(points[:, :2]):
        if all(abs(points[m, 0] - x) >= apart_px or abs(points[m, 1] - y) >= apart_px for m in kept):
            kept.append(n)
    return points[kept]
