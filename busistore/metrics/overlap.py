"""How far two masks cover each other: counts of pixels, of one pair of masks or of a stack of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from busistore.errors import BadInput
from busistore.metrics.confusion import ratio


class Counts(NamedTuple):
    """Pixels of each pair of masks, int64 of shape (...): in both, in the prediction, in the truth, in all."""

    both: np.ndarray
    pred: np.ndarray
    true: np.ndarray
    total: int


def check_masks(pred: np.ndarray, true: np.ndarray) -> None:
    """Raises BadInput unless both are (..., H, W) bool of one shape."""
    for mask, what in ((pred, "predicted"), (true, "true")):
        if mask.dtype != bool or mask.ndim < 2:
            raise BadInput(f"a {what} mask of {mask.ndim} axes and {mask.dtype} values; give (H, W) bool: cut it first")
    if pred.shape != true.shape:
        sizes = f"{' x '.join(map(str, pred.shape))} px, the true one {' x '.join(map(str, true.shape))} (rows first)"
        raise BadInput(f"the predicted mask is of {sizes}; bring it to the size of the truth first")


def counts(pred: np.ndarray, true: np.ndarray) -> Counts:
    """The pixels that every metric of this module is made of; see `check_masks` for shapes and errors."""
    check_masks(pred, true)
    return Counts(_n_set(pred & true), _n_set(pred), _n_set(true), pred.shape[-1] * pred.shape[-2])


def _n_set(masks: np.ndarray) -> np.ndarray:
    flat = masks.reshape(-1, *masks.shape[-2:])  # image by image: along an axis NumPy counts ten times slower
    return np.array([np.count_nonzero(mask) for mask in flat], np.int64).reshape(masks.shape[:-2])


def dice(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(...) twice the pixels in both, over those of each: 0 (disjoint, or one empty) to 1 (equal); NaN if both empty.

    Args:
        pred, true: (..., H, W) bool, as for all metrics of this module.

    Source: Dice (1945), Ecology 26(3), 297-302.

    >>> float(dice(np.array([[True, True]]), np.array([[True, False]])))
    0.6666666666666666
    """
    n = counts(pred, true)
    return ratio(2 * n.both, n.pred + n.true, np.nan)


def iou(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(...) pixels in both over those in either (Jaccard), 0 to 1; NaN if both masks are empty."""
    n = counts(pred, true)
    return ratio(n.both, n.pred + n.true - n.both, np.nan)


def sensitivity(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(...) share of the true pixels that were predicted; NaN where the truth is empty."""
    n = counts(pred, true)
    return ratio(n.both, n.true, np.nan)


def specificity(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(...) share of the pixels outside the truth that were left out; NaN where the truth fills the image."""
    n = counts(pred, true)
    return ratio(n.total - n.pred - n.true + n.both, n.total - n.true, np.nan)


def pixel_accuracy(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(...) share of all pixels on which both masks agree, background included."""
    n = counts(pred, true)
    return ratio(n.total - n.pred - n.true + 2 * n.both, n.total, np.nan)


OVERLAP_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "dice": dice, "iou": iou, "sensitivity": sensitivity, "specificity": specificity, "pixel_accuracy": pixel_accuracy,
}  # fmt: skip
