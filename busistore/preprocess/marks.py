"""Caliper marks, '+' and 'x', where they are and which pixels they cover.

A mark is told from speckle by its four arms, equally bright, each brighter than both of its sides. Where the scanner's
grey level is known (from a mark already found, or from runs of one level that speckle does not have), the same filter
on the pixels of that level also finds marks that are no brighter than the tissue beside them. An 'x' is a '+' on the
picture turned by 45 degrees. Colour stands out from grey tissue: a coloured mark is looked for in the chroma.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from busistore.preprocess.crosses import cross_points, points_in, thinned
from busistore.preprocess.levels import places, short_levels
from busistore.preprocess.mark import ROOT_HALF, Mark, is_even, is_sharp, level_of, stands_out

REACH_PX = 20  # half the side of the window that a mark is measured in
SEAM_PX = 12  # nothing is looked for so near to the edge of a part of the picture
LEAST_PIXELS = {"level": 5, "exact": 7}  # of eight at the short arms of a mark; ink beside it may hide some


@dataclass(frozen=True)
class MarkSettings:
    """Thresholds of the mark filter; grey levels run from 0 to 255."""

    sizes: tuple[tuple[int, ...], ...] = (
        (5, 1), (7, 1), (9, 1), (5, 2), (7, 2), (9, 2), (5, 3), (7, 3), (10, 3),
        (6, 1, 2), (9, 1, 2), (8, 2, 2), (8, 3, 1),
    )  # fmt: skip
    """Half-arm, thickness and, where the middle is left free, how far, of a '+', px."""
    x_sizes: tuple[tuple[int, int], ...] = ((4, 1), (6, 1), (8, 1), (4, 2), (6, 2), (8, 2), (4, 3), (6, 3), (8, 3))
    """Half-arm in diagonal steps and thickness along a row, of an 'x', px."""
    mark_score: float = 14.0
    """Least score of a '+': grey levels of an arm above its flanks, less the spread of the arms."""
    x_extra: float = 6.0
    """What an 'x' needs beyond that: edges of tissue are oblique more often than upright."""
    contrast_cap: float = 80.0
    """Contrast counts up to here, so that one bright arm does not make up for a dim one."""
    smear_weight: float = 0.6
    """What a difference between the two bars counts against one between two arms of a bar."""
    score_per_px: float = 0.3
    """Score of each px of half-arm."""
    least_arm: float = 90.0
    """Least mean grey level of an arm."""
    least_arm_chroma: float = 40.0
    """The same in the chroma, which tissue does not have."""
    marks_apart_px: float = 5.0
    """Of two marks nearer than this, the weaker is dropped."""
    number_apart_px: float = 20.0
    """Of two marks nearer than this, the weaker is dropped where it is no mark but the other's number or line."""
    beside_share: float = 0.6
    """It is none below this share of the better score."""
    level_tolerance: int = 5
    """Pixels this near to a level are of that level."""
    exact_tolerance: int = 1
    """The same where nothing was resampled or compressed: a mark is of one level then, and tissue of others."""
    sharp_step: float = 8.0
    """What lies right beside the arms of a mark is this far from its level, where a level is all that tells it."""
    level_score: float = 115.0
    """Least score on the pixels of one level, where all is 0 or 255 and contrast counts in full."""
    level_weight: float = 0.3
    """A score on the pixels of one level is worth this much of one in grey."""
    sure_score: float = 40.0
    """A mark of this score tells the scanner's level, and that an image with two such '+' has no 'x'."""
    longest_arm_px: int = 13
    """An arm is followed from the centre no further than this."""
    arm_share: float = 0.4
    """An arm goes on while it is above its sides by this share of the mark's contrast."""
    edge_share: float = 0.3
    """A row belongs to an arm when it is above the background by this share of the contrast."""
    least_chroma: int = 60
    """A pixel is coloured when its largest and smallest channel differ by this much more than the image's median."""
    least_coloured_px: int = 30
    """Chroma is searched from this many coloured pixels on."""


def find_marks(grey: np.ndarray, chroma: np.ndarray | None, settings, levels: tuple[int, ...] = ()) -> list[Mark]:
    """All marks of an (H, W) uint8 image, '+' before 'x' and the best first.

    `chroma` (H, W) uint8 is None for an image without colour. `levels` are grey levels that the scanner is known to
    write in.
    """
    return [mark for shape in "+x" for mark in _apart(_all_passes(grey, chroma, settings, levels, shape), settings)]


def _all_passes(grey, chroma, settings, levels, shape: str) -> list[Mark]:
    """Marks of one shape in the grey image, in the chroma, and then in the pixels of every level seen."""
    extra = settings.x_extra if shape == "x" else 0.0
    marks = _marks_in(grey, grey, shape, settings, settings.mark_score + extra, "grey")
    if chroma is not None:
        marks += _marks_in(chroma, grey, shape, settings, settings.mark_score + extra, "chroma")
    for level in seen_levels([m for m in marks if is_even(grey, m, settings)], settings, levels):
        plane = of_level(grey, level, settings.level_tolerance)
        marks += _marks_in(plane, grey, shape, settings, settings.level_score + 8 * extra, "level")
    for level in dict.fromkeys((*levels, *short_levels(grey, shape, settings))):
        plane = of_level(grey, level, settings.exact_tolerance)
        marks += _marks_in(plane, grey, shape, settings, settings.level_score, "exact")
    return marks


def of_level(grey: np.ndarray, level: int, tolerance: int) -> np.ndarray:
    """(H, W) uint8: 255 where a pixel is within `tolerance` of `level`, else 0."""
    import cv2

    return cv2.inRange(grey, max(level - tolerance, 1), min(level + tolerance, 255))


def seen_levels(marks: list[Mark], settings, known: tuple[int, ...] = ()) -> list[int]:
    """Known levels and those of sure marks in grey, none within a tolerance of an earlier one."""
    levels: list[int] = []
    for level in (*known, *(round(m.level) for m in marks if m.score >= settings.sure_score and m.plane == "grey")):
        if all(abs(level - other) > settings.level_tolerance for other in levels):
            levels.append(level)
    return levels


def _marks_in(plane, grey, shape: str, settings, least: float, name: str) -> list[Mark]:
    """Marks of one shape that one plane shows."""
    import cv2

    padded = cv2.copyMakeBorder(plane, *(2 * REACH_PX,) * 4, cv2.BORDER_REPLICATE)
    sizes, found = settings.sizes if shape == "+" else settings.x_sizes, []
    is_level = name in ("level", "exact")
    cap, weight = (255.0, settings.level_weight) if is_level else (settings.contrast_cap, 1.0)
    least_arm = settings.least_arm_chroma if name == "chroma" else settings.least_arm
    for x, y, score, size in _points_in(plane, shape, settings, (least, cap, least_arm), LEAST_PIXELS.get(name)):
        mark = measured(padded, x, y, shape, sizes[int(size)][0], settings)
        mark = replace(mark, score=float(score) * weight, plane=name)
        mark = replace(mark, level=level_of(grey, mark))
        if not is_level or (is_sharp(grey, mark, settings) and (name == "exact" or stands_out(grey, mark, settings))):
            found.append(mark)
    return found


def _points_in(plane, shape: str, settings, limits: tuple[float, float, float], least_pixels: int | None) -> np.ndarray:
    """What `cross_points` gives of a plane; of one level, where so many of eight pixels are of it, and nowhere else."""
    if least_pixels is None:
        return cross_points(plane, shape, settings, *limits)
    height, width = plane.shape
    found = [np.zeros((0, 4))]
    for x0, y0, x1, y1 in places(plane, shape, least_pixels):
        points = points_in(plane, (x0, y0, x1, y1), shape, settings, *limits)
        low = [0 if edge == 0 else edge + SEAM_PX for edge in (x0, y0)]  # what a cut cuts looks like an arm
        high = [edge if edge == end else edge - SEAM_PX for edge, end in ((x1, width), (y1, height))]
        found.append(points[((points[:, :2] >= low) & (points[:, :2] < high)).all(axis=1)])
    return np.concatenate(found)


def measured(padded: np.ndarray, x: float, y: float, shape: str, half: int, settings) -> Mark:
    """The mark near (x, y) of a plane padded by 2 REACH_PX: bars by their profiles, arms by following them."""
    cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    window = padded[cy : cy + 4 * REACH_PX + 1, cx : cx + 4 * REACH_PX + 1]
    window = (_turned(window) if shape == "x" else window)[REACH_PX:-REACH_PX, REACH_PX:-REACH_PX].astype(np.float32)
    rows, bright_h = _bar(window, half, settings.edge_share)
    columns, bright_v = _bar(window.T, half, settings.edge_share)
    right = _arm(window, rows, columns[1], 1, bright_h, settings)
    down = _arm(window.T, columns, rows[1], 1, bright_v, settings)
    left = _arm(window, rows, columns[0], -1, bright_h, settings)
    up = _arm(window.T, columns, rows[0], -1, bright_v, settings)
    u, v = sum(columns) / 2, sum(rows) / 2
    dx, dy = ((u - v) * ROOT_HALF, (u + v) * ROOT_HALF) if shape == "x" else (u, v)
    return Mark(cx + dx, cy + dy, shape, (right - u, down - v, left + u, up + v), (rows[0] - v, rows[1] - v),
                (columns[0] - u, columns[1] - u), 0.0, 0.0)  # fmt: skip


def _turned(window: np.ndarray) -> np.ndarray:
    """A square window turned by 45 degrees about its middle, so that an 'x' becomes a '+'."""
    import cv2

    middle = (window.shape[0] - 1) / 2
    turn = cv2.getRotationMatrix2D((middle, middle), 45, 1.0)
    return cv2.warpAffine(np.ascontiguousarray(window), turn, window.shape[::-1], flags=cv2.INTER_LINEAR)


def _bar(window: np.ndarray, half: int, share: float) -> tuple[tuple[int, int], float]:
    """First and last row, from the centre, of the horizontal bar in a window, and its contrast to the rows beside."""
    offsets = np.r_[-half:-2, 3 : half + 1] + REACH_PX
    profile = np.median(window[REACH_PX - 5 : REACH_PX + 6, offsets], axis=1)
    peak = 4 + int(np.argmax(profile[4:7]))
    beside = max(profile[max(peak - 3, 0)], profile[min(peak + 3, 10)])
    contrast = float(profile[peak] - beside)
    inside = profile > beside + share * contrast
    low = high = peak
    while low > peak - 2 and inside[low - 1]:
        low -= 1
    while high < peak + 2 and inside[high + 1]:
        high += 1
    return (low - 5, high - 5), contrast


def _arm(window, rows: tuple[int, int], start: int, step: int, contrast: float, settings) -> float:
    """How far the horizontal bar reaches from the centre in one direction, px."""
    reach = np.arange(1, settings.longest_arm_px + 1) * step + REACH_PX
    low, high = rows[0] + REACH_PX, rows[1] + REACH_PX
    core = window[low : high + 1, reach].max(axis=0)
    beside = np.maximum(window[low - 2, reach], window[high + 2, reach])
    goes_on = core - beside > settings.arm_share * contrast
    goes_on[: max(abs(start), 2)] = True
    goes_on[:-1] |= goes_on[1:] & (np.arange(len(reach) - 1) < 5)  # speckle beside may hide a pixel of an arm
    ends = np.flatnonzero(~goes_on)
    return float(ends[0] if len(ends) else len(reach))


def _apart(marks: list[Mark], settings) -> list[Mark]:
    """Marks best first, less those beside a better one: touching it, or near it and far weaker, as its number is."""
    if not marks:
        return []
    points = np.array([(m.x, m.y, m.score, n) for n, m in enumerate(marks)])
    kept: list[Mark] = []
    for mark in (marks[int(n)] for n in thinned(points, settings.marks_apart_px)[:, 3]):
        near = [m for m in kept if max(abs(m.x - mark.x), abs(m.y - mark.y)) < settings.number_apart_px]
        if all(mark.score >= settings.beside_share * m.score for m in near):
            kept.append(mark)
    return kept
