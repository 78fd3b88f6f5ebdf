"""Areas under ROC curves of the same images: covariance, intervals and paired differences without resampling.

For one run, or for several scores of the same images, where images (or groups of them) are independent; offered to
Python users through `busistore.stats`. Neither `busistore compare` nor the report uses it: they average over support
sets, whose runs share test images, and take their intervals from `crossed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from busistore.errors import BusistoreError
from busistore.stats.intervals import Interval, on_scale


class Areas(NamedTuple):
    """M areas under the ROC curve and their (M, M) covariance for new images.

    `n_positive` and `n_negative` are the groups that hold any positive or negative: the images, if none are grouped.
    """

    areas: np.ndarray
    covariance: np.ndarray
    n_positive: int
    n_negative: int


class Difference(NamedTuple):
    """A difference with its interval; `p` is that of a difference of 0."""

    estimate: float
    low: float
    high: float
    p: float


def delong(positive: np.ndarray, scores: np.ndarray, groups: Sequence | None = None) -> Areas:
    """Areas of M scores of the same N images, and their covariance for new images, or for new groups of images.

    Args:
        positive: (N,) bool.
        scores: (M, N), or (N,) of one, higher for more likely positive; ties count half.
        groups: (N,) group of each image; without, each image stands alone.

    Raises:
        BusistoreError: fewer than two groups of positives or of negatives.

    Source: DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44, 837-845; with groups Obuchowski (1997), Biometrics
        53, 567-578, which is the same where every group is one image.
    """
    positive, scores = np.asarray(positive, bool), np.atleast_2d(np.asarray(scores, np.float64))
    _, group = np.unique(np.arange(len(positive)) if groups is None else np.asarray(groups), return_inverse=True)
    n_groups = [len(np.unique(group[kind])) for kind in (positive, ~positive)]
    if min(n_groups) < 2:
        raise BusistoreError(f"positives in {n_groups[0]} and negatives in {n_groups[1]} groups; an area's variance "
                             "needs two of each")  # fmt: skip
    of_positives, of_negatives = _components(scores[:, positive], scores[:, ~positive])
    areas = of_positives.mean(axis=1)
    sums = [_sums(x - areas[:, None], group[kind], int(group.max()) + 1)
            for x, kind in ((of_positives, positive), (of_negatives, ~positive))]  # fmt: skip
    covariance = sum(x @ x.T * (g / (g - 1)) for x, g in zip(sums, n_groups))
    total = int(group.max()) + 1
    crossed = sums[0] @ sums[1].T * (total / (total - 1))  # 0 where no group holds both kinds
    return Areas(areas, covariance + crossed + crossed.T, *n_groups)


def _components(pos: np.ndarray, neg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, P) share of negatives below each positive and (M, Q) of positives above each negative, by ranks."""
    above = [_share_below(p, q) for p, q in zip(pos, neg)]
    below = [1 - _share_below(q, p) for p, q in zip(pos, neg)]
    return np.stack(above), np.stack(below)


def _share_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ranked = np.sort(y)
    return (np.searchsorted(ranked, x, "left") + np.searchsorted(ranked, x, "right")) / (2 * len(y))


def _sums(x: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """(M, G) sums of (M, K) components over groups, divided by K."""
    return np.stack([np.bincount(group, weights=row, minlength=n_groups) for row in x]) / x.shape[1]


def area_interval(found: Areas, at: int = 0, confidence: float = 0.95) -> Interval:
    """Interval of one area: normal on the logit scale, or `newcombe` where that has no width (an area of 1 or 0).

    Its `n` counts the groups of positives and those of negatives.
    """
    from scipy.special import ndtri

    area, variance = float(found.areas[at]), float(found.covariance[at, at])
    n = found.n_positive + found.n_negative
    if variance <= 1e-24 or not 0 < area < 1:
        return Interval(area, *newcombe(area, found.n_positive, found.n_negative, confidence), n)
    return Interval(area, *on_scale("auroc", area, float(ndtri((1 + confidence) / 2)) * variance**0.5), n)


def newcombe(area: float, n_positive: int, n_negative: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score-type bounds of an area, those t with |t - area| = z sd(t); never of width 0, also at areas of 0 and 1.

    sd(t)^2 = t (1 - t) (1 + h (1 - t) / (2 - t) + h t / (1 + t)) / (m n), with h = (m + n) / 2 - 1.

    >>> [round(x, 4) for x in newcombe(11 / 12, 6, 7)]
    [0.5973, 0.986]

    Source: Newcombe (2006), Statistics in Medicine 25, 559-573, method 5.
    """
    from scipy.special import ndtri

    z2, h = float(ndtri((1 + confidence) / 2)) ** 2, (n_positive + n_negative) / 2 - 1

    def outside(t: float) -> bool:
        factor = 1 + h * (1 - t) / (2 - t) + h * t / (1 + t)
        return (t - area) ** 2 > z2 * t * (1 - t) * factor / (n_positive * n_negative)

    return _edge(outside, area, 0.0), _edge(outside, area, 1.0)


def _edge(outside: Callable[[float], bool], inner: float, outer: float) -> float:
    """Where `outside` begins between an area and an end of the range, by halving; an area on that end stays there."""
    if inner == outer:
        return outer
    for _ in range(60):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if outside(middle) else (middle, outer)
    return (inner + outer) / 2


def area_difference(found: Areas, a: int, b: int, confidence: float = 0.95) -> Difference:
    """Area a less area b of the same images, with its normal interval and p.

    Where the difference has no variance (both areas 1, or the same scores) the interval joins the `newcombe` intervals
    of the two as squares, as if they were independent, which is wide; p is then 1 for equal areas.

    Source: DeLong et al. (1988); Zou & Donner (2008), Statistics in Medicine 27, 1693-1702, for the joined squares.
    """
    from scipy.special import ndtr, ndtri

    contrast = np.zeros(len(found.areas))
    contrast[a] += 1
    contrast[b] -= 1
    estimate, variance = float(contrast @ found.areas), float(contrast @ found.covariance @ contrast)
    if variance > 1e-24:
        se = variance**0.5
        half = float(ndtri((1 + confidence) / 2)) * se
        return Difference(estimate, estimate - half, estimate + half, float(2 * ndtr(-abs(estimate) / se)))
    x, y = float(found.areas[a]), float(found.areas[b])

    def bounds(level: float) -> tuple[float, float]:
        (x_low, x_high), (y_low, y_high) = (newcombe(v, found.n_positive, found.n_negative, level) for v in (x, y))
        return estimate - float(np.hypot(x - x_low, y_high - y)), estimate + float(np.hypot(x_high - x, y - y_low))

    return Difference(estimate, *bounds(confidence), _p_of(bounds))


def _p_of(bounds: Callable[[float], tuple[float, float]]) -> float:
    """One less the confidence at which the bounds begin to hold 0, by halving."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        below, above = bounds(middle)
        low, high = (low, middle) if below <= 0 <= above else (middle, high)
    return 1 - low
