"""What an interval is, and the plainest one: the mean of a few values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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


RANGES = {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0), "log_loss": (0.0, np.inf)}  # of metrics that are not within 0 and 1


def on_scale(metric: str, estimate: float, half: float) -> tuple[float | None, float | None]:
    """The bounds estimate -+ half, made on the logit scale of the metric's range, or on the log scale if that is open.

    To first order they are as far apart, but they are asymmetric near the ends and never leave the range. An estimate
    on an end has none.

    >>> [round(x, 3) for x in on_scale("auroc", 0.9, 0.1)]
    [0.748, 0.965]
    """
    from scipy.special import expit, logit

    low, high = RANGES.get(metric, (0.0, 1.0))
    if not low < estimate < high:
        return None, None
    if np.isinf(high):
        factor = np.exp(half / (estimate - low))
        return float(low + (estimate - low) / factor), float(low + (estimate - low) * factor)
    width, share = high - low, (estimate - low) / (high - low)
    step = half / width / (share * (1 - share))
    return float(low + width * expit(logit(share) - step)), float(low + width * expit(logit(share) + step))
