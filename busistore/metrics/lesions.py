"""Lesions counted one by one: which were found, and what was called a lesion and is none."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.metrics.overlap import check_masks

MIN_LESION_PX = 16  # smaller islands are slips of the pen or specks of a network (BUSI has some of 1 to 4 px)
MIN_IOU = 0.1


class Regions(NamedTuple):
    """Lesions of a mask: `labels` (H, W) int32, 0 outside and 1 to K inside, the largest first; `areas_px` (K,)."""

    labels: np.ndarray
    areas_px: np.ndarray


class Detection(NamedTuple):
    """Lesions of the truth, those of them that were found, and predicted ones that are none of them."""

    n_lesions: int
    n_found: int
    n_false: int


def regions(mask: np.ndarray, min_area_px: int = MIN_LESION_PX) -> Regions:
    """The parts of an (H, W) bool mask that touch by side or corner, less those under `min_area_px`."""
    from scipy import ndimage

    found, n = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(found.ravel(), minlength=n + 1)
    kept = 1 + np.flatnonzero(areas[1:] >= min_area_px)
    kept = kept[np.argsort(-areas[kept], kind="stable")]
    number = np.zeros(n + 1, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    return Regions(number[found], areas[kept])


def detection(
    pred: np.ndarray, true: np.ndarray, min_iou: float = MIN_IOU, min_area_px: int = MIN_LESION_PX
) -> Detection:
    """How many lesions of one image were found, by (H, W) bool masks.

    A lesion is found when one predicted region has an IoU of at least `min_iou` with it; a predicted region that has
    so with no lesion is false. The low bar asks for the place alone: how good the outline is, is for Dice to say.
    One region may find two lesions; pieces too small to find a lesion each do not find it together.

    Source: the bar is that of Baumgartner et al. (2021), MICCAI, arXiv 2106.00817.
    """
    check_masks(pred, true)
    said, there = regions(pred, min_area_px), regions(true, min_area_px)
    lesion, region, values = _overlaps(said, there)
    hit = values >= min_iou
    n_found, n_right = len(np.unique(lesion[hit])), len(np.unique(region[hit]))
    return Detection(len(there.areas_px), n_found, len(said.areas_px) - n_right)


def _overlaps(said: Regions, there: Regions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lesion, region (from 0) and IoU of the pairs that share a pixel; no table of all pairs, specks may be many."""
    both = (said.labels > 0) & (there.labels > 0)
    width = max(len(said.areas_px), 1)
    pairs = (there.labels[both] - 1).astype(np.int64) * width + said.labels[both] - 1
    pairs, n_shared = np.unique(pairs, return_counts=True)
    lesion, region = np.divmod(pairs, width)
    return lesion, region, n_shared / (there.areas_px[lesion] + said.areas_px[region] - n_shared)
