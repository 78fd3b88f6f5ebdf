"""Every metric of one predicted mask against the true one, and their means over a set of images.

Empty masks, one policy for all metrics:
- both empty, a true negative: Dice, IoU, NSD and distances have no value (NaN), and their means leave the image out;
- prediction without a lesion, a false positive: Dice, IoU and NSD are 0, distances have no value;
- lesion without a prediction, a miss: Dice, IoU and NSD are 0, each distance is the diagonal of the image.
Sensitivity and `hd_bussam_compat` have a value only where there is a lesion; specificity and pixel accuracy count the
normal images too, a true negative as 1.
So a mean says little without the three counts that `summary` gives beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from busistore.metrics.bussam_distance import hd_bussam_compat
from busistore.metrics.lesions import MIN_IOU, MIN_LESION_PX, detection
from busistore.metrics.overlap import OVERLAP_METRICS, check_masks
from busistore.metrics.surface import TOLERANCES_PX, surface_metrics

# name -> what it is, and whether higher is better (None for counts)
MASK_METRICS: dict[str, tuple[str, bool | None]] = {
    "dice": ("overlap of predicted and true mask, 0 to 1; 0 for a miss or a false positive", True),
    "iou": ("pixels in both masks over those in either, 0 to 1", True),
    "sensitivity": ("share of the lesion's pixels that were predicted", True),
    "specificity": ("share of the pixels outside the lesion that were left out", True),
    "pixel_accuracy": ("share of all pixels on which both masks agree", True),
    "hausdorff": ("greatest distance between the borders, px; the image's diagonal for a miss", False),
    "hd95": ("greater of the two directed 95th percentiles of border distances, px; diagonal for a miss", False),
    "assd": ("mean distance between the borders, both directions pooled, px; diagonal for a miss", False),
    **{f"nsd_{t}px": (f"share of both borders within {t} px of the other, 0 to 1", True) for t in TOLERANCES_PX},
    "hd_bussam_compat": ("what BUSSAM's release calls HD, at 256 px: no distance, identical masks score about 9", None),
    "missed": ("1 where a lesion got an empty mask, else 0; no value without a lesion", False),
    "false_positive": ("1 where a normal image got any mask, else 0; no value with a lesion", False),
    "n_lesions": (f"lesions in the truth, of at least {MIN_LESION_PX} px", None),
    "n_lesions_found": (f"lesions that a predicted region meets with an IoU of at least {MIN_IOU}", None),
    "n_false_lesions": (f"predicted regions of at least {MIN_LESION_PX} px that meet no lesion so", False),
}

# upper bounds of a lesion's share of the image; the thirds of 324 lesion images of BUSI (.035 and .110), rounded down
STRATA = {"small": 0.03, "medium": 0.10, "large": math.inf}


class Mean(NamedTuple):
    """Mean of a metric over the `n_used` images where it has a value (NaN if none), beside counts of all images."""

    mean: float
    n_used: int
    n_missed: int
    n_false_positive: int


class Detections(NamedTuple):
    """Lesions of a set of images, pooled; `recall` is NaN without a lesion, `false_per_image` without an image."""

    n_lesions: int
    n_found: int
    n_false: int
    recall: float
    false_per_image: float


def mask_metrics(pred: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Every metric of MASK_METRICS of one image, NaN where it has no value.

    Args:
        pred, true: (H, W) bool in the pixels of the original image; True is lesion, all lesions in one mask.

    Raises:
        BadInput: masks that are not bool or differ in size.
    """
    check_masks(pred, true)
    found, predicted, lesion = detection(pred, true), bool(pred.any()), bool(true.any())
    return {
        **{name: float(of(pred, true)) for name, of in OVERLAP_METRICS.items()},
        **surface_metrics(pred, true),
        "hd_bussam_compat": hd_bussam_compat(pred, true) if lesion else np.nan,
        "missed": float(not predicted) if lesion else np.nan,
        "false_positive": np.nan if lesion else float(predicted),
        "n_lesions": float(found.n_lesions),
        "n_lesions_found": float(found.n_found),
        "n_false_lesions": float(found.n_false),
    }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """The mean of each metric over images, from their `mask_metrics`; a name that a row lacks is as good as NaN."""
    n_missed, n_false = _total(rows, "missed"), _total(rows, "false_positive")
    return {name: Mean(*_mean(_values(rows, name)), n_missed, n_false) for name in MASK_METRICS}


def detections(rows: Sequence[Mapping[str, float]]) -> Detections:
    """The lesions of a set of images together: a mean over images would weigh those of crowded images less."""
    n, found, false = (_total(rows, name) for name in ("n_lesions", "n_lesions_found", "n_false_lesions"))
    return Detections(n, found, false, found / n if n else np.nan, false / len(rows) if rows else np.nan)


def _values(rows: Iterable[Mapping[str, float]], name: str) -> np.ndarray:
    values = np.array([row.get(name, np.nan) for row in rows], np.float64)
    return values[~np.isnan(values)]


def _total(rows: Iterable[Mapping[str, float]], name: str) -> int:
    return int(_values(rows, name).sum())


def _mean(values: np.ndarray) -> tuple[float, int]:
    return (float(values.mean()) if values.size else np.nan), values.size


def stratum(area_px: int, image_area_px: int) -> str:
    """The name in STRATA of a lesion's size; `area_px` counts all lesions of the image, 1 to `image_area_px`."""
    if not 0 < area_px <= image_area_px:
        raise ValueError(f"a lesion of {area_px} px in an image of {image_area_px}")
    share = area_px / image_area_px
    return next(name for name, below in STRATA.items() if share < below)
