"""Uncertainty of stored metrics, and the points of ROC and reliability curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from busistore.errors import BusistoreError, lookup
from busistore.metrics import CONFUSION_METRICS, N_BINS, bin_of

_BLOCK_CELLS = 4_000_000  # confusion cells held at once: 32 MB


class Interval(NamedTuple):
    """An estimate and its interval; `low` and `high` are None where one value leaves the spread unknown."""

    estimate: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of n values with Student's t interval: the spread over seeds on one fixed test set.

    Raises:
        ValueError: no values.
    """
    from scipy.special import stdtrit  # scipy.stats would cost start-up time

    x = np.asarray(values, np.float64)
    if not x.size:
        raise ValueError("no values")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, None, None, 1)
    half = float(stdtrit(x.size - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def two_way_interval(
    true: np.ndarray,
    predicted: np.ndarray,
    groups: Sequence,
    n_classes: int,
    metric: str = "balanced_accuracy",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean over seeds of a metric, with the percentile interval for new seeds and new test images together.

    Seeds and near-duplicate groups are resampled with replacement, crossed (the pigeonhole bootstrap, whose
    variance errs on the large side). Groups are drawn within their class, groups of several classes among
    themselves. One seed gives the interval for new test images alone.

    Args:
        true: (N,) class numbers of the test images.
        predicted: (S, N) class numbers predicted with each of S seeds for the same images.
        groups: (N,) group of each image.
        metric: a name of metrics.CONFUSION_METRICS.
        seed: of the resampling.

    Raises:
        UnknownName: the metric is no function of the confusion matrix.
        BusistoreError: no predictions.

    Source: Owen (2007), Annals of Applied Statistics 1(2), 386-411.
    """
    of = lookup("metric of the confusion matrix", metric, CONFUSION_METRICS)
    true, predicted = np.asarray(true, np.int64), np.atleast_2d(np.asarray(predicted, np.int64))
    if not predicted.size:
        raise BusistoreError("no predictions to resample; evaluate first")
    counts, strata = _group_counts(true, predicted, groups, n_classes)
    n_groups, n_seeds = counts.shape[:2]
    flat = counts.reshape(n_groups, -1).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    block = max(1, _BLOCK_CELLS // flat.shape[1])
    values = []
    for start in range(0, n_resamples, block):
        n = min(block, n_resamples - start)
        resampled = (_draw_groups(strata, n, rng) @ flat).reshape(n, *counts.shape[1:])
        seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n)
        values.append((of(resampled) * seeds).sum(axis=1) / n_seeds)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail])
    return Interval(float(of(counts.sum(axis=0)).mean()), float(low), float(high), len(true))


def _group_counts(
    true: np.ndarray, predicted: np.ndarray, groups: Sequence, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(G, S, C, C) confusion counts of each group and seed; (G,) class of each group, -1 if it spans classes."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    n_groups, n_seeds = int(group.max()) + 1, len(predicted)
    cells = ((group * n_seeds + np.arange(n_seeds)[:, None]) * n_classes + true) * n_classes + predicted
    shape = (n_groups, n_seeds, n_classes, n_classes)
    counts = np.bincount(cells.ravel(), minlength=np.prod(shape)).reshape(shape)
    per_class = counts[:, 0].sum(axis=-1)
    return counts, np.where((per_class > 0).sum(axis=1) > 1, -1, per_class.argmax(axis=1))


def _draw_groups(strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, G) float64: how often each group is in each of n resamples, each stratum keeping its number of groups."""
    weights = np.empty((n, len(strata)))
    for stratum in np.unique(strata):
        among = np.flatnonzero(strata == stratum)
        weights[:, among] = rng.multinomial(len(among), np.full(len(among), 1 / len(among)), size=n)
    return weights


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
