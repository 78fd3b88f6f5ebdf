"""Crumbs: what is left of numbers and dots beside a mark once all else is found: specks of its level that touch it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from busistore.preprocess.findings import Finding, box_of
from busistore.preprocess.strokes import Found, wider


@dataclass(frozen=True)
class CrumbSettings:
    """What is a crumb; sizes in original pixels."""

    crumb_reach_px: int = 34
    """It lies no further from a mark, in x and in y..."""
    crumb_gap_px: int = 3
    """...and no further than this from what is known to be ink."""
    crumb_band: int = 10
    """Its pixels differ by no more from the mark's level..."""
    crumb_contrast: float = 40.0
    """...which is so far above the median around the mark: tissue there does not look like it."""
    crumb_area_px: int = 90
    """It is no larger."""


def find_crumbs(
    grey: np.ndarray, marks: list[tuple[float, float, float]], ink: np.ndarray, settings: CrumbSettings
) -> list[Found]:
    """The crumbs of each mark, as "digit" findings.

    Args:
        grey: (H, W) uint8. marks: rows of x, y, level. ink: (H, W) bool, the pixels that are known.
    """
    import cv2

    out, near = [], wider(ink, settings.crumb_gap_px)
    for x, y, level in marks:
        reach = settings.crumb_reach_px
        at = np.s_[max(int(y) - reach, 0) : int(y) + reach + 1, max(int(x) - reach, 0) : int(x) + reach + 1]
        part, known = grey[at].astype(int), ink[at]
        if known.all() or level - np.median(part[~known]) < settings.crumb_contrast:
            continue
        same = (np.abs(part - level) <= settings.crumb_band) & ~known
        _, labels, stats, _ = cv2.connectedComponentsWithStats(same.view(np.uint8), connectivity=8)
        touching = np.unique(labels[same & near[at]])
        small = [k for k in touching if k and stats[k, cv2.CC_STAT_AREA] <= settings.crumb_area_px]
        mask = np.zeros(grey.shape, bool)
        mask[at] = np.isin(labels, small) & same
        if mask.any():
            out.append((Finding("digit", box_of(mask), float(mask.sum())), wider(mask, 2)))
    return out
