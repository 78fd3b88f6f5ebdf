"""What acting on a probability is worth: net benefit over the thresholds at which one would act."""

from __future__ import annotations

import numpy as np


def net_benefit(positive: np.ndarray, p: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(..., T) true positives per image less false positives per image times t / (1 - t), acting where p >= t.

    A threshold says how many needless biopsies one would do for one cancer found: (1 - t) / t.

    Args:
        positive: (..., N) bool: truly malignant.
        p: (..., N) probability of that.
        thresholds: (T,), 0 or more and below 1.

    Raises:
        ValueError: a threshold outside that range.

    Source: Vickers & Elkin (2006), Medical Decision Making 26, 565-574.
    """
    t = _checked(thresholds)
    positive, p = np.broadcast_arrays(np.asarray(positive, bool), np.asarray(p, np.float64))
    odds = t / (1 - t)
    worth = np.empty((*p.shape[:-1], len(t)))
    for k in range(len(t)):  # one threshold at a time: all at once would hold T copies of the probabilities
        acted = p >= t[k]
        worth[..., k] = (acted & positive).mean(axis=-1) - odds[k] * (acted & ~positive).mean(axis=-1)
    return worth


def treat_all(positive: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(..., T) net benefit of acting on every image; (..., N) positive. Acting on none has a net benefit of 0."""
    t, share = _checked(thresholds), np.asarray(positive, np.float64).mean(axis=-1)[..., None]
    return share - (1 - share) * t / (1 - t)


def treat_none(thresholds: np.ndarray) -> np.ndarray:
    """(T,) net benefit of acting on no image: 0."""
    return np.zeros(len(_checked(thresholds)))


def _checked(thresholds: np.ndarray) -> np.ndarray:
    t = np.asarray(thresholds, np.float64).reshape(-1)
    if not np.all((t >= 0) & (t < 1)):
        raise ValueError("thresholds must be 0 or more and below 1")
    return t
