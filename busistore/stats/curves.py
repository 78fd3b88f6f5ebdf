"""The points of ROC and reliability curves."""

from __future__ import annotations

import numpy as np

from busistore.metrics import N_BINS, bin_of


def reliability_curve(
    positive: np.ndarray, scores: np.ndarray, n_bins: int = N_BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed share, mean score and number of images of each bin of equal width that holds any.

    Args:
        positive: (N,) bool: of the class, or, for the top class of many, predicted rightly.
        scores: (N,) probability of that, 0 to 1.
    """
    at = bin_of(np.asarray(scores, np.float64), n_bins)
    n = np.bincount(at, minlength=n_bins)
    held = n > 0
    share = np.bincount(at, weights=np.asarray(positive, np.float64), minlength=n_bins)[held] / n[held]
    score = np.bincount(at, weights=scores, minlength=n_bins)[held] / n[held]
    return share, score, n[held]


def roc_curve(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate at every threshold, both from 0 to 1; the first point is (0, 0).

    Args:
        positive: (N,) bool, of which some and not all are True.
        scores: (N,), higher for more likely positive.

    Raises:
        ValueError: no positive or no negative.
    """
    positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
    if positive.all() or not positive.any():
        raise ValueError("a ROC curve needs both positives and negatives")
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[last_of_tie]
    misses = last_of_tie + 1 - hits
    return np.append(0.0, misses / misses[-1]), np.append(0.0, hits / hits[-1])
