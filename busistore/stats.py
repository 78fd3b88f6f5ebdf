"""Uncertainty of stored metrics, and the points of ROC and reliability curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from busistore.errors import BusistoreError, lookup
from busistore.metrics import CONFUSION_METRICS, N_BINS, bin_of

_BLOCK_CELLS = 4_000_000  # confusion cells held at once: 32 MB


class Interval(NamedTuple):
    """An estimate and its interval; `low` and `high` are None where the data leave the spread unknown."""

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
    true: np.ndarray, predicted: np.ndarray, groups: Sequence, n_classes: int, metric: str = "balanced_accuracy",
    confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0,
) -> Interval:  # fmt: skip
    """The mean over seeds of a metric, with an interval for new seeds and new test images together.

    On each side the distance to the bound is the root of two squares: Student's t over the seeds on these test
    images, and the bootstrap over near-duplicate groups with these seeds (`_group_interval`). The noise of one seed
    on one image is in both, so the interval is too wide where that noise prevails; where the seeds' values are
    skewed it is still too narrow. Simulated coverage of 95 % from 2 to 10 seeds: 0.90 to 1.00. With one seed only
    new test images are covered, and no new seed is. The bounds are None where a class has fewer than two groups, or
    where no resample of the groups differs: the data then say nothing about their spread.

    Args:
        true: (N,) class numbers of the test images.
        predicted: (S, N) class numbers predicted with each of S seeds for the same images.
        groups: (N,) group of each image.
        metric: a name of metrics.CONFUSION_METRICS.
        seed: of the resampling.

    Raises:
        UnknownName: the metric is no function of the confusion matrix.
        BusistoreError: no predictions.

    Source: Howe (1974), JASA 69, 789-794, and Zou & Donner (2008), Statistics in Medicine 27, 1693-1702.
    """
    of = lookup("metric of the confusion matrix", metric, CONFUSION_METRICS)
    true, predicted = np.asarray(true, np.int64), np.atleast_2d(np.asarray(predicted, np.int64))
    if not predicted.size:
        raise BusistoreError("no predictions to resample; evaluate first")
    counts, strata = _group_counts(true, predicted, groups, n_classes)
    over_seeds = mean_interval(of(counts.sum(axis=0)), confidence)
    mean, lower, upper = over_seeds.estimate, *_group_interval(counts, strata, of, confidence, n_resamples, seed)
    if lower == upper or np.bincount(strata, minlength=n_classes)[np.unique(true)].min() < 2:
        return Interval(mean, None, None, len(true))
    of_seeds = 0.0 if over_seeds.high is None else over_seeds.high - mean
    low, high = mean - np.hypot(mean - lower, of_seeds), mean + np.hypot(upper - mean, of_seeds)
    return Interval(mean, max(float(low), -1.0 if metric == "mcc" else 0.0), min(float(high), 1.0), len(true))


def _group_counts(
    true: np.ndarray, predicted: np.ndarray, groups: Sequence, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(G, S, C, C) confusion counts of each group and seed; (G,) the class with the most images in each group."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    n_groups, n_seeds = int(group.max()) + 1, len(predicted)
    cells = ((group * n_seeds + np.arange(n_seeds)[:, None]) * n_classes + true) * n_classes + predicted
    shape = (n_groups, n_seeds, n_classes, n_classes)
    counts = np.bincount(cells.ravel(), minlength=np.prod(shape)).reshape(shape)
    return counts, counts[:, 0].sum(axis=-1).argmax(axis=1)


def _group_interval(
    counts: np.ndarray, strata: np.ndarray, of: Callable, confidence: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    """Bounds of the mean over seeds for new groups: percentiles, moved out by Student's t over the normal quantile.

    The degrees of freedom are groups less strata, as for clusters of a survey. The mean lies within the bounds.

    Args:
        counts: (G, S, C, C) confusion counts.
        strata: (G,) class of each group.
        of: metric of (..., C, C) counts.
    """
    from scipy.special import ndtri, stdtrit

    mean, flat = of(counts.sum(axis=0)).mean(), counts.reshape(len(counts), -1).astype(np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    block, values = max(1, _BLOCK_CELLS // flat.shape[1]), []
    for start in range(0, n_resamples, block):
        weights = _draw_groups(strata, min(block, n_resamples - start), rng)
        values.append(of((weights @ flat).reshape(-1, *counts.shape[1:])).mean(axis=-1))
    quantile = (1 + confidence) / 2
    low, high = np.quantile(np.concatenate(values), [1 - quantile, quantile])
    df = max(1, len(strata) - len(np.unique(strata)))
    wider = stdtrit(df, quantile) / ndtri(quantile)
    return float(mean - wider * max(mean - low, 0)), float(mean + wider * max(high - mean, 0))


def _draw_groups(strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, G) float64: the weight of each group in each of n resamples, the weights of a stratum of g summing to g.

    g - 1 groups are drawn, which makes the variance of a mean unbiased; g drawn would give (g - 1) / g of it.
    A stratum of one group keeps it.

    Source: Rao & Wu (1988), JASA 83, 231-241.
    """
    weights = np.ones((n, len(strata)))
    for stratum in np.unique(strata):
        among = np.flatnonzero(strata == stratum)
        g = len(among)
        if g > 1:
            weights[:, among] = rng.multinomial(g - 1, np.full(g, 1 / g), size=n) * (g / (g - 1))
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
