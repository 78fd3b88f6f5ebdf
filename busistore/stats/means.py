"""The mean of a score over images with its interval over groups of near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from busistore.errors import BusistoreError
from busistore.stats.intervals import Interval
from busistore.stats.resampling import draw_groups, image_strata, two_of_each


def grouped_mean(
    values: np.ndarray, true: np.ndarray, groups: Sequence, confidence: float = 0.95, n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:  # fmt: skip
    """Mean of the images that have a value, with its percentile interval over resamples of the groups.

    It covers new images of the same source alone. Groups are drawn within the classes, images without a value with
    them, so that how many have one varies too. The bounds are None where a class with a value has fewer than two
    groups, or where no resample differs; `n` counts the images that have a value.

    Args:
        values: (N,) float, NaN where an image has none.
        true: (N,) class numbers, from 0.
        groups: (N,) group of each image.

    Raises:
        BusistoreError: no image has a value.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 13; groups as in `image_weights`.
    """
    values, true = np.asarray(values, np.float64), np.asarray(true, np.int64)
    has = ~np.isnan(values)
    if not has.any():
        raise BusistoreError("no image has a value to take the mean of; segment first")
    group, stratum = image_strata(true, groups)
    mean, n = float(values[has].mean()), int(has.sum())
    if not two_of_each(true[has], stratum):
        return Interval(mean, None, None, n)
    weights = draw_groups(stratum, n_resamples, np.random.Generator(np.random.PCG64(seed)))[:, group[has]]
    total = weights.sum(axis=1)
    means = np.divide(weights @ values[has], total, out=np.full(n_resamples, np.nan), where=total > 0)
    low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, None, None, n) if low == high else Interval(mean, float(low), float(high), n)
