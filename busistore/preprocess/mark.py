"""One caliper mark: its pixels, its level, and what tells it from tissue once it is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.levels import between_arms

SMEAR_PX = 2  # the mask reaches this far beyond the measured arms: anti-aliasing, resampling, JPEG
ROOT_HALF = float(np.sqrt(0.5))


@dataclass(frozen=True)
class Mark:
    """A mark with centre (x, y) in px and shape '+' or 'x'.

    `arms` are the lengths of right, lower, left and upper arm in px; `rows` and `columns` the first and last offset of
    the horizontal and the vertical bar from the centre. For an 'x' all these are in a frame turned by 45 degrees.
    `level` is its grey level; `plane` where it was found: "grey", "level" or "chroma".
    """

    x: float
    y: float
    shape: str
    arms: tuple[float, float, float, float]
    rows: tuple[float, float]
    columns: tuple[float, float]
    score: float
    level: float
    plane: str = "grey"


def mark_ink(mark: Mark, shape: tuple[int, int], smear_px: float = SMEAR_PX) -> np.ndarray:
    """(H, W) bool pixels of the mark's two bars, `smear_px` wider on all sides."""
    out = np.zeros(shape, bool)
    reach = int(max(mark.arms)) + 4
    x0, y0 = max(int(mark.x) - reach, 0), max(int(mark.y) - reach, 0)
    window = out[y0 : int(mark.y) + reach + 1, x0 : int(mark.x) + reach + 1]
    dy, dx = np.indices(window.shape, dtype=float) + np.array([y0 - mark.y, x0 - mark.x]).reshape(2, 1, 1)
    if mark.shape == "x":
        dx, dy = (dx + dy) * ROOT_HALF, (dy - dx) * ROOT_HALF
    right, down, left, up = mark.arms
    more = smear_px + 1e-6
    across = _between(dy, *mark.rows, more) & _between(dx, -left, right, more)
    upright = _between(dx, *mark.columns, more) & _between(dy, -up, down, more)
    window |= across | upright
    return out


def _between(values: np.ndarray, low: float, high: float, more: float) -> np.ndarray:
    return (values >= low - more) & (values <= high + more)


def level_of(plane: np.ndarray, mark: Mark) -> float:
    """Median level of an (H, W) uint8 plane on the mark's centre lines."""
    pixels = centre_lines(plane, mark)
    return float(np.median(pixels)) if len(pixels) else 0.0


def is_even(grey: np.ndarray, mark: Mark, settings) -> bool:
    """Whether most of a mark's centre lines are of its level; of thin marks that were resampled, they are not."""
    return float((np.abs(centre_lines(grey, mark) - mark.level) <= 2 * settings.level_tolerance).mean()) > 0.5


def slenderness(mark: Mark) -> float:
    """Mean length of its arms over the thickness of its thicker bar."""
    thick = 1 + max(mark.rows[1] - mark.rows[0], mark.columns[1] - mark.columns[0])
    return float(np.mean(mark.arms)) / thick


def is_thin(grey: np.ndarray, mark: Mark, step: float) -> bool:
    """Whether it is darker between a mark's arms, by `step` of its contrast in three places of four: no disc is."""
    reach, (y, x), (height, width) = int(max(mark.arms)) + 6, _pixel(mark), grey.shape
    rows = np.clip(np.arange(max(y - reach, -6), min(y + reach, height + 5) + 1), 0, height - 1)
    columns = np.clip(np.arange(max(x - reach, -6), min(x + reach, width + 5) + 1), 0, width - 1)
    contrast = mark.level - np.median(grey[np.ix_(rows, columns)])
    between = np.median(between_arms(grey, [y], [x], mark.shape), axis=1)
    return int((mark.level - between >= step * contrast).sum()) >= 3


def is_sharp(grey: np.ndarray, mark: Mark, settings) -> bool:
    """Whether a mark ends at once: a pixel or two from its arms, smooth tissue is still of nearly its level."""
    beside = mark_ink(mark, grey.shape, 2.0) & ~mark_ink(mark, grey.shape, 0.6)
    return bool(np.median(np.abs(grey[beside].astype(float) - mark.level)) >= settings.sharp_step)


def stands_out(grey: np.ndarray, mark: Mark, settings) -> bool:
    """Whether what lies between a mark's arms is of other levels than its own, in three places of four at least."""
    y, x = _pixel(mark)
    steps = np.median(np.abs(between_arms(grey, [y], [x], mark.shape) - mark.level), axis=1)
    return bool(np.sort(steps[:, 0])[1] >= settings.cross_step)


def _pixel(mark: Mark) -> tuple[int, int]:
    """Row and column of its centre."""
    return int(np.floor(mark.y + 0.5)), int(np.floor(mark.x + 0.5))


def centre_lines(plane: np.ndarray, mark: Mark) -> np.ndarray:
    """(N,) float of the plane's pixels there."""
    thin = replace(mark, rows=(0.0, 0.0), columns=(0.0, 0.0))
    return plane[mark_ink(thin, plane.shape, 0.5)].astype(float)
