"""New test sets drawn from the one at hand: whole groups of near-duplicates, within the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from busistore.errors import BusistoreError
from busistore.stats.intervals import Interval
from busistore.stats.weighted import resampled


def image_strata(true: np.ndarray, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """(N,) number of each image's group, in the order of their names; (G,) the class each group has most images of."""
    true, names = np.asarray(true, np.int64), np.asarray(groups)
    if not len(true):
        raise BusistoreError("no predictions to resample; evaluate first")
    if len(names) != len(true):
        raise BusistoreError(f"{len(true)} test images and {len(names)} groups; give one group for each image")
    _, group = np.unique(names, return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, int(true.max()) + 1), np.int64)
    np.add.at(counts, (group, true), 1)
    return group, counts.argmax(axis=1)


def two_of_each(true: np.ndarray, stratum: np.ndarray) -> bool:
    """Whether every class of the truth has two groups or more: of one, no spread can be known."""
    n_groups = np.bincount(stratum, minlength=int(np.max(true)) + 1)
    return bool(n_groups[np.unique(true)].min() > 1)


def image_weights(true: np.ndarray, groups: Sequence, n_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """(R, N) float64: the weight of each test image in each of R resamples of the groups, within the classes.

    Of a class of g groups, g - 1 are drawn and weigh g / (g - 1), which makes the variance of a mean unbiased; g drawn
    would give (g - 1) / g of it. A class of one group keeps it. The order of the images changes nothing.

    Args:
        true: (N,) class numbers.
        groups: (N,) group of each image; one of several classes is drawn with the class it has most images of.

    Source: Rao & Wu (1988), JASA 83, 231-241.
    """
    group, stratum = image_strata(true, groups)
    rng = np.random.Generator(np.random.PCG64(seed))
    return draw_groups(stratum, n_resamples, rng)[:, group]


def draw_groups(stratum: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, G) float64 weights of groups, those of a stratum of g summing to g; see `image_weights`."""
    weights = np.ones((n_resamples, len(stratum)))
    for one in np.unique(stratum):
        among = np.flatnonzero(stratum == one)
        g = len(among)
        if g > 1:
            weights[:, among] = rng.multinomial(g - 1, np.full(g, 1 / g), size=n_resamples) * (g / (g - 1))
    return weights


def cluster_bootstrap(
    metric: str, true: np.ndarray, probs: np.ndarray, groups: Sequence, classes: Sequence[str],
    confidence: float = 0.95, n_resamples: int = 2000, seed: int = 0,
    positive: str = "malignant", negative: str = "benign",
) -> Interval:  # fmt: skip
    """The metric of one run with its percentile interval over resamples of the groups.

    It covers new test images alone. The bounds are None where a class has fewer than two groups, or where no resample
    differs: the data then say nothing of the spread.

    Args:
        metric, true, groups, classes: as of `crossed.two_way`.
        probs: (N, C) probabilities of the one run.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13; groups as in `image_weights`.
    """
    group, stratum = image_strata(true, groups)
    weights = draw_groups(stratum, n_resamples, np.random.Generator(np.random.PCG64(seed)))[:, group]
    rows = np.vstack([np.ones(len(group)), weights])
    values = resampled(metric, true, np.asarray(probs)[None], rows, classes, positive, negative)[:, 0]
    low, high = np.nanquantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    if low == high or not two_of_each(true, stratum):
        return Interval(float(values[0]), None, None, len(group))
    return Interval(float(values[0]), float(low), float(high), len(group))
