"""Grey levels that a scanner writes in, told from tissue by crosses and runs of one level that speckle lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.strokes import wider

DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # steps (dy, dx) in which runs of a level are sought
ARMS = {"+": ((1, 0), (-1, 0), (0, 1), (0, -1)), "x": ((1, 1), (1, -1), (-1, 1), (-1, -1))}
"""Directions (dy, dx) of the arms of a mark."""
NEAREST = {"+": 3, "x": 2}
"""From so many steps on an arm is there for any size of a mark, its middle free or not."""
BETWEEN = {
    "+": [[(s * a, t * b) for a in (2, 3, 4) for b in (2, 3, 4)] for s in (1, -1) for t in (1, -1)],
    "x": [[(s * a, b) for a in (3, 4, 5) for b in (-1, 0, 1)] for s in (1, -1)]
    + [[(b, s * a) for a in (3, 4, 5) for b in (-1, 0, 1)] for s in (1, -1)],
}
"""The four places between its arms, steps as above."""


@dataclass(frozen=True)
class LevelSettings:
    """When a grey level counts as a scanner's; levels run from 0 to 255."""

    flat_run_px: int = 5
    """So many equal pixels in a line are a run."""
    flat_range: tuple[int, int] = (100, 253)
    """First and last level that is looked at: black borders and saturated tissue are flat too."""
    flat_least_runs: int = 12
    """Runs at a level, at least."""
    flat_ratio: float = 8.0
    """Runs at a level over the mean of the levels 4 to 14 away, at least."""
    flat_most_levels: int = 3
    """No more levels than this are taken, those of the highest ratio."""
    cross_span: int = 3
    """The arms of a flat cross differ by no more."""
    short_span: int = 1
    """Those of a short one, whose ends are not looked at."""
    short_most_levels: int = 6
    """No more levels of short ones than this are taken, the most frequent first."""
    cross_step: int = 10
    """What lies between its arms is this far from its level, in three of four places."""
    cross_area_px: int = 500_000
    """One more point of a level is asked for in every so many pixels: in more of them, chance makes more."""
    cross_most_levels: int = 6
    """Of more levels than this, flat crosses are smooth tissue: no scanner writes in so many."""
    least_used: float = 0.5
    """Of the levels from 20 to 200, this share is in use at least: of fewer, tissue is as flat as ink."""
    cross_least: int = 90
    """Darkest level of a flat cross."""


def flat_levels(grey: np.ndarray, settings) -> tuple[int, ...]:
    """Levels in whose crosses or runs an (H, W) uint8 image is unlike tissue, the clearest first."""
    if not is_fine(grey, settings):
        return ()
    exact: list[int] = []
    for level in (*cross_levels(grey, "+", settings), *cross_levels(grey, "x", settings), *run_levels(grey, settings)):
        if all(abs(level - other) > 3 for other in exact):
            exact.append(level)
    return tuple(exact)


def is_fine(grey: np.ndarray, settings) -> bool:
    """Whether an (H, W) uint8 image is of enough levels for one of them to say something."""
    used = np.bincount(grey.ravel(), minlength=256) > 0
    return bool(used[20:200].mean() >= settings.least_used)


def run_levels(grey: np.ndarray, settings) -> tuple[int, ...]:
    """Levels of which there are more runs than of those around them; none twice within 3 levels."""
    runs = run_counts(grey, settings.flat_run_px)
    near = runs + np.r_[runs[1:], 0] + np.r_[0, runs[:-1]]
    low, high = settings.flat_range
    found = []
    for level in range(low, high + 1):
        if near[level] < settings.flat_least_runs or runs[level] < runs[max(level - 3, 0) : level + 4].max():
            continue
        around = np.r_[near[max(level - 14, 0) : level - 3], near[level + 4 : min(level + 15, 253)]]
        ratio = near[level] / (around.mean() + 1)
        if ratio >= settings.flat_ratio:
            found.append((-ratio, level))
    return tuple(level for _, level in sorted(found)[: settings.flat_most_levels])


def short_levels(grey: np.ndarray, shape: str, settings) -> tuple[int, ...]:
    """Levels of the short flat crosses of one shape: tissue has some too, so that a mark of them must be exact."""
    if not is_fine(grey, settings):
        return ()
    levels = cross_levels(grey, shape, replace(settings, cross_span=settings.short_span), length=2)
    return levels[: settings.short_most_levels]


def places(plane: np.ndarray, shape: str, least: int, reach_px: int = 24) -> list[tuple[int, int, int, int]]:
    """Where in the (H, W) uint8 plane of one level, 0 or 255, crosses may be: boxes (x0, y0, x1, y1), ends excluded.

    There is a point in each at whose short arms `least` of eight pixels are of the level; `reach_px` lie around it.
    """
    import cv2

    points = cv2.filter2D(plane, cv2.CV_32F, _kernel(shape, 2).astype(np.float32) / 255) > least - 0.5
    if not points.any():
        return []
    _, _, boxes, _ = cv2.connectedComponentsWithStats(wider(points, reach_px).view(np.uint8), connectivity=8)
    return [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in boxes[1:]]


def cross_levels(grey: np.ndarray, shape: str, settings, length: int = 3) -> tuple[int, ...]:
    """Levels of the points of an (H, W) uint8 image from which four arms of one level go out, most frequent first.

    Nothing but a scanner's '+' or 'x' (`shape`) is so flat along its arms and yet unlike what lies between them. Of
    each arm `length` pixels are looked at.
    """
    import cv2

    kernel = _kernel(shape, length)
    low, high = (change(grey, kernel, borderType=cv2.BORDER_REPLICATE) for change in (cv2.erode, cv2.dilate))
    y, x = np.nonzero((high - low <= settings.cross_span) & (low >= settings.cross_least))
    level = (low[y, x].astype(int) + high[y, x]) // 2
    steps = np.sort(np.median(np.abs(between_arms(grey, y, x, shape) - level), axis=1), axis=0)[1]
    counts = np.bincount(level[steps >= settings.cross_step], minlength=256)
    least = 1 + grey.size // settings.cross_area_px
    levels = tuple(int(k) for k in np.argsort(-counts, kind="stable") if counts[k] >= least)
    return levels if length < 3 or len(levels) <= settings.cross_most_levels else ()


def between_arms(grey: np.ndarray, y, x, shape: str) -> np.ndarray:
    """(4, 9, N) int: the levels in the four places between the arms of marks at rows y and columns x, both (N,).

    The edge of the (H, W) image goes on beyond it.
    """
    height, width = grey.shape
    steps = np.array(BETWEEN[shape])[..., None]
    rows, columns = np.clip(y + steps[:, :, 0], 0, height - 1), np.clip(x + steps[:, :, 1], 0, width - 1)
    return grey[rows, columns].astype(int)


def _kernel(shape: str, length: int) -> np.ndarray:
    """(11, 11) uint8: 1 at the nearest `length` pixels of each arm of a mark in the middle."""
    kernel, first = np.zeros((11, 11), np.uint8), NEAREST[shape]
    for dy, dx in ARMS[shape]:
        for k in range(first, first + length):
            kernel[5 + dy * k, 5 + dx * k] = 1
    return kernel


def run_counts(grey: np.ndarray, length: int) -> np.ndarray:
    """(256,) runs of `length` equal pixels by level, along rows, columns and both diagonals.

    >>> run_counts(np.full((1, 6), 7, np.uint8), 5)[7]
    2
    """
    counts = np.zeros(256, np.int64)
    for dy, dx in DIRECTIONS:
        leftward = grey[:, ::-1] if dx < 0 else grey
        counts += np.bincount(_run_levels(leftward, length, dy, abs(dx)), minlength=256)
    return counts


def _run_levels(grey: np.ndarray, length: int, dy: int, dx: int) -> np.ndarray:
    """The level of every run of `length` equal pixels in steps of (dy, dx), both 0 or 1."""
    height, width = grey.shape[0] - (length - 1) * dy, grey.shape[1] - (length - 1) * dx
    first = grey[: max(height, 0), : max(width, 0)]
    run = np.ones(first.shape, bool)
    for k in range(1, length):
        run &= first == grey[k * dy : k * dy + height, k * dx : k * dx + width]
    return first[run]
