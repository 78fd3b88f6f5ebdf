"""Metrics of the probabilities themselves: how far from the truth, and how far from the observed shares."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

N_BINS = 15


def brier(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(...) mean over images of the squared error summed over classes: 0 (certain and right) to 2 (certain and wrong).

    Args:
        true: (N,) class numbers.
        probs: (..., N, C).
    """
    return np.square(probs - np.eye(probs.shape[-1])[true]).sum(axis=-1).mean(axis=-1)


def log_loss(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """(...) mean -log of the true class's probability, never below 2.2e-16: (N,) class numbers and (..., N, C)."""
    eps = np.finfo(np.float64).eps
    return 0 - np.log(np.clip(probs[..., np.arange(len(true)), true], eps, 1)).mean(axis=-1)


def bin_of(confidence: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """(...) number of the bin of equal width that each confidence lies in; bins include their upper edge."""
    return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], confidence)


def ece(true: np.ndarray, probs: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """(...) mean gap between confidence and accuracy over bins of the top probability, weighted by their images.

    Args:
        true: (N,) class numbers.
        probs: (..., N, C).

    Source: Guo et al. (2017), ICML, equation 3.
    """
    n = probs.shape[-2]
    confidence, right = probs.max(axis=-1).reshape(-1, n), (probs.argmax(axis=-1) == true).reshape(-1, n)
    cells = np.arange(len(confidence))[:, None] * n_bins + bin_of(confidence, n_bins)
    gaps = np.bincount(cells.ravel(), weights=(confidence - right).ravel(), minlength=len(confidence) * n_bins)
    return np.abs(gaps.reshape(*probs.shape[:-2], n_bins)).sum(axis=-1) / n


PROBABILITY_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "brier": brier, "log_loss": log_loss, "ece": ece,
}  # fmt: skip
