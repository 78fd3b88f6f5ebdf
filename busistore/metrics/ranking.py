"""Metrics of an order of images: areas under the ROC and the precision-recall curve, along the last axis."""

from __future__ import annotations

import numpy as np

from busistore.metrics.confusion import ratio


def _ties(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of the run of equal values that each position of (..., N) sorted values is in."""
    n = ranked.shape[-1]
    new = np.ones(ranked.shape, bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    end = np.ones(ranked.shape, bool)
    end[..., :-1] = new[..., 1:]
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0), axis=-1)
    last = np.minimum.accumulate(np.where(end, np.arange(n), n)[..., ::-1], axis=-1)[..., ::-1]
    return first, last


def auroc(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) chance that a positive scores above a negative, ties counted half; NaN without either.

    Args:
        positive: (..., N) bool.
        scores: (..., N), higher for more likely positive.
    """
    positive, scores = np.broadcast_arrays(np.asarray(positive, bool), np.asarray(scores, np.float64))
    order = np.argsort(scores, axis=-1, kind="stable")
    first, last = _ties(np.take_along_axis(scores, order, -1))
    hits = np.take_along_axis(positive, order, -1)
    n_pos = hits.sum(axis=-1)
    n_neg = hits.shape[-1] - n_pos
    ranks = np.where(hits, (first + last) / 2 + 1, 0).sum(axis=-1)
    return ratio(ranks - n_pos * (n_pos + 1) / 2, n_pos * n_neg, np.nan)


def average_precision(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) sum over thresholds of precision times the step in recall; NaN unless both kinds are there.

    Args:
        positive: (..., N) bool.
        scores: (..., N), higher for more likely positive.
    """
    positive, scores = np.broadcast_arrays(np.asarray(positive, bool), np.asarray(scores, np.float64))
    order = np.argsort(-scores, axis=-1, kind="stable")
    _, last = _ties(np.take_along_axis(scores, order, -1))
    hits = np.take_along_axis(positive, order, -1)
    precisions = np.take_along_axis(np.cumsum(hits, axis=-1), last, -1) / (last + 1)
    n_pos = hits.sum(axis=-1)
    value = ratio(np.where(hits, precisions, 0).sum(axis=-1), n_pos, np.nan)
    return np.where(n_pos == hits.shape[-1], np.nan, value)


def share_of_pair(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """(...) the probability of one class as a share of those of two; one half where both are 0."""
    return ratio(positive, positive + negative, 0.5)
