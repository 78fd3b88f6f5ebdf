"""The usual way to remove calipers and text, restated plainly: bright components by size, aspect and fill; Telea.

A pixel is bright above one threshold or when it is coloured. A component of the size of a mark, about as wide as tall
and thinly filled, is a mark; small ones near the straight line between two marks are dots; others of the size of a
letter, two or more in a row or next to a mark, are text. The mask is dilated and inpainted (Telea 2004, J. Graphics
Tools 9(1), 23-34). Threshold, aspect and fill are those with the best F1 of marks on the drawn cases to tune on, out of
eighteen settings, so that the rival is a fair one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

BRIGHT, COLOURED = 215, 60
"""Least grey level, and least difference between the largest and smallest of red, green and blue."""
MARK_SIDE_PX, MARK_AREA_PX, MARK_ASPECT, MARK_FILL = (7, 30), (12, 250), (1 / 1.3, 1.3), (0.1, 0.4)
DOT_SIDE_PX, DOT_FROM_LINE_PX, DOTS_LEAST = 6, 3.0, 4
LETTER_HEIGHT_PX, LETTER_FILL, LETTER_GAP_PX = (7, 26), (0.2, 0.9), 12
DILATION_PX, TELEA_RADIUS_PX = 5, 3.0


@dataclass
class Answer:
    """What a side of the comparison gives for one image.

    pixels: (H, W) uint8. mask: (H, W) bool. marks: (N, 2) centres x, y. has_text, flags: of the image as a whole.
    """

    pixels: np.ndarray
    mask: np.ndarray
    marks: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    has_text: bool = False
    flags: frozenset[str] = frozenset()


def usual(image: np.ndarray, grey: np.ndarray) -> Answer:
    """The answer for an image (H, W[, 3]) whose luma is `grey`."""
    bright = grey >= BRIGHT
    if image.ndim == 3:
        bright |= np.ptp(image, axis=2) >= COLOURED
    _, labels, stats, centres = cv2.connectedComponentsWithStats(bright.astype(np.uint8), connectivity=8)
    marks = [k for k in range(1, len(stats)) if _is_mark(stats[k])]
    dots = _dots(stats, centres, marks)
    letters = _letters(stats, centres, set(marks) | dots, marks)
    chosen = np.zeros(len(stats), bool)
    chosen[[*marks, *dots, *letters]] = True
    mask = cv2.dilate(chosen[labels].astype(np.uint8), np.ones((DILATION_PX, DILATION_PX), np.uint8))
    pixels = cv2.inpaint(grey, mask, TELEA_RADIUS_PX, cv2.INPAINT_TELEA) if mask.any() else grey
    return Answer(pixels, mask > 0, centres[marks].reshape(-1, 2), len(letters) > 1)


def _is_mark(row: np.ndarray) -> bool:
    _, _, width, height, area = (int(v) for v in row)
    low, high = MARK_SIDE_PX
    return (
        low <= width <= high and low <= height <= high
        and MARK_AREA_PX[0] <= area <= MARK_AREA_PX[1]
        and MARK_ASPECT[0] <= width / height <= MARK_ASPECT[1]
        and MARK_FILL[0] <= area / (width * height) <= MARK_FILL[1]
    )  # fmt: skip


def _dots(stats: np.ndarray, centres: np.ndarray, marks: list[int]) -> set[int]:
    """Small components near the segment between two marks, where there are enough for a dotted line."""
    small = np.flatnonzero((stats[:, 2] <= DOT_SIDE_PX) & (stats[:, 3] <= DOT_SIDE_PX))
    found: set[int] = set()
    for i, a in enumerate(marks):
        for b in marks[i + 1 :]:
            along = centres[b] - centres[a]
            length = float(np.hypot(*along))
            offset = centres[small] - centres[a]
            at = offset @ along / max(length, 1.0)
            away = np.abs(offset @ (-along[1], along[0])) / max(length, 1.0)
            near = small[(at > 0) & (at < length) & (away <= DOT_FROM_LINE_PX)]
            if len(near) >= max(DOTS_LEAST, length / 20):
                found |= set(near.tolist())
    return found


def _letters(stats: np.ndarray, centres: np.ndarray, taken: set[int], marks: list[int]) -> list[int]:
    """Components of a letter's size with another of like height beside them, or beside a mark."""
    low, high = LETTER_HEIGHT_PX
    fill = stats[:, 4] / np.maximum(stats[:, 2] * stats[:, 3], 1)
    sized = (stats[:, 3] >= low) & (stats[:, 3] <= high) & (stats[:, 2] <= high)
    sized &= (fill >= LETTER_FILL[0]) & (fill <= LETTER_FILL[1])
    letters = [k for k in np.flatnonzero(sized).tolist() if k and k not in taken]
    return [k for k in letters if any(_beside(stats, k, other) for other in [*letters, *marks] if other != k)]


def _beside(stats: np.ndarray, a: int, b: int) -> bool:
    """Whether two boxes lie side by side: a small gap in x, and most of their heights shared."""
    gap = max(stats[a, 0], stats[b, 0]) - min(stats[a, 0] + stats[a, 2], stats[b, 0] + stats[b, 2])
    shared = min(stats[a, 1] + stats[a, 3], stats[b, 1] + stats[b, 3]) - max(stats[a, 1], stats[b, 1])
    return bool(gap <= LETTER_GAP_PX and shared >= 0.6 * min(stats[a, 3], stats[b, 3]))
