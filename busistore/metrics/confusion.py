"""Metrics of the class said: functions of the confusion matrix, along the last two axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def confusion(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(..., C, C) int64 counts, rows the truth, columns the predictions.

    Args:
        true: (N,) class numbers from 0.
        predicted: (..., N) class numbers: of one run, or of many.
    """
    predicted = np.asarray(predicted, np.int64)
    runs = predicted.reshape(-1, predicted.shape[-1])
    cells = np.arange(len(runs))[:, None] * n_classes**2 + np.asarray(true, np.int64) * n_classes + runs
    counts = np.bincount(cells.ravel(), minlength=len(runs) * n_classes**2)
    return counts.reshape(*predicted.shape[:-1], n_classes, n_classes)


def ratio(top: np.ndarray, bottom: np.ndarray, undefined: float = 0.0) -> np.ndarray:
    """Element by element, `undefined` where the bottom is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(top, np.float64), np.asarray(bottom, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, undefined), where=bottom != 0)


def _diagonal(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def precision(counts: np.ndarray) -> np.ndarray:
    """(..., C) precision from (..., C, C) counts; 0 where a class was never predicted."""
    return ratio(_diagonal(counts), counts.sum(axis=-2))


def recall(counts: np.ndarray) -> np.ndarray:
    """(..., C) recall from (..., C, C) counts; 0 where a class is not in the truth."""
    return ratio(_diagonal(counts), counts.sum(axis=-1))


def f1(counts: np.ndarray) -> np.ndarray:
    """(..., C) F1 from (..., C, C) counts; 0 where a class is neither in the truth nor predicted."""
    return ratio(2 * _diagonal(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) accuracy from (..., C, C) counts."""
    return ratio(_diagonal(counts).sum(axis=-1), counts.sum(axis=(-2, -1)), np.nan)


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """(...) mean recall over the classes of the truth, from (..., C, C) counts."""
    return ratio(recall(counts).sum(axis=-1), (counts.sum(axis=-1) > 0).sum(axis=-1), np.nan)


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """(...) F1 weighted by the images of each class, from (..., C, C) counts."""
    support = counts.sum(axis=-1)
    return ratio((f1(counts) * support).sum(axis=-1), support.sum(axis=-1), np.nan)


def _macro(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The mean of a per-class metric over the classes that are in the truth or among the predictions."""

    def macro(counts: np.ndarray) -> np.ndarray:
        n_present = ((counts.sum(axis=-1) + counts.sum(axis=-2)) > 0).sum(axis=-1)
        return ratio(of(counts).sum(axis=-1), n_present, np.nan)

    return macro


def mcc(counts: np.ndarray) -> np.ndarray:
    """(...) Matthews correlation from (..., C, C) counts; 0 if all predictions are one class, NaN if all truth is.

    Source: Gorodkin (2004), Computational Biology and Chemistry 28, 367-374.
    """
    counts = counts.astype(np.float64)
    total, truth, called = counts.sum(axis=(-2, -1)), counts.sum(axis=-1), counts.sum(axis=-2)
    covariance = _diagonal(counts).sum(axis=-1) * total - (truth * called).sum(axis=-1)
    truth_spread = total**2 - (truth**2).sum(axis=-1)
    called_spread = total**2 - (called**2).sum(axis=-1)
    value = ratio(covariance, np.sqrt(truth_spread * called_spread))
    return np.where(truth_spread == 0, np.nan, value)


CONFUSION_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": _macro(f1), "weighted_f1": weighted_f1,
    "macro_precision": _macro(precision), "macro_recall": _macro(recall), "mcc": mcc,
}  # fmt: skip
