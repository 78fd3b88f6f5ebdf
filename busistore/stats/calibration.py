"""How far probabilities are from observed shares, of many runs at once: leading axes are runs, the last is images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from busistore.metrics import N_BINS, bin_of

_EPS = 1e-12  # probabilities are kept this far from 0 and 1 before their logit is taken
_MOST_AT_ENDS = 0.01  # share of scores within _EPS of 0 or 1 beyond which a slope would be a function of _EPS
_MAX_STEPS = 100


class BrierParts(NamedTuple):
    """Mean squared error of a probability of one class: reliability - resolution + uncertainty + rest."""

    reliability: np.ndarray
    resolution: np.ndarray
    uncertainty: np.ndarray
    rest: np.ndarray


def ece_equal_mass(positive: np.ndarray, scores: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """(...) mean gap between score and observed share over bins of as many images each, weighted by their images.

    Equal scores are never parted, so bins differ in size where there are ties.

    Args:
        positive: (..., N) bool: of the class, or, for the top class of many, predicted rightly.
        scores: (..., N) probability of that, 0 to 1.

    Source: Nixon et al. (2019), CVPR workshops, "Measuring calibration in deep learning".
    """
    positive, scores = _runs(positive, scores)
    n = scores.shape[-1]
    order = np.argsort(scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, -1)
    new = np.ones(ranked.shape, bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    first = np.maximum.accumulate(np.where(new, np.arange(n), 0), axis=-1)
    gap = _bin_sums(first * n_bins // n, ranked - np.take_along_axis(positive, order, -1), n_bins)
    return np.abs(gap).sum(axis=-1) / n


def calibration_intercept(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) the constant that added to the logits of the scores makes their mean the observed share; ideally 0.

    Below 0 the scores are too high. NaN where no constant does so: all or none are positive, or as many scores as there
    are positives are exactly 1, or as many as negatives exactly 0. Arguments as of `ece_equal_mass`.

    Source: Van Calster et al. (2019), BMC Medicine 17, 230: calibration in the large.
    """
    from scipy.special import expit

    y, x = _logits(positive, scores)
    share, at_0, at_1 = y.mean(axis=-1), *_at_ends(y, scores)
    low, high = -np.full(share.shape, 60.0), np.full(share.shape, 60.0)
    for _ in range(70):
        middle = (low + high) / 2
        too_high = expit(x + middle[..., None]).mean(axis=-1) > share
        low, high = np.where(too_high, low, middle), np.where(too_high, middle, high)
    return np.where((share > at_1) & (share < 1 - at_0), (low + high) / 2, np.nan)


def calibration_slope(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(...) slope of the logistic regression of the truth on the logits of the scores; ideally 1.

    Below 1 the scores are too extreme. NaN where the regression has no solution: where a threshold parts positives from
    negatives, or all scores or all truths are one. NaN too where more than 1 % of the scores are exactly 0 or 1, whose
    logits are infinite, so that the slope would say how they were rounded. Arguments as of `ece_equal_mass`.

    Source: Cox (1958), Biometrika 45, 562-565; Van Calster et al. (2019), BMC Medicine 17, 230.
    """
    y, x = _logits(positive, scores)
    hit = y > 0
    low_pos, high_pos = np.where(hit, x, np.inf).min(-1), np.where(hit, x, -np.inf).max(-1)
    low_neg, high_neg = np.where(hit, np.inf, x).min(-1), np.where(hit, -np.inf, x).max(-1)
    solvable = (low_pos < high_neg) & (low_neg < high_pos) & (sum(_at_ends(y, scores)) <= _MOST_AT_ENDS)
    centre, scale = x.mean(axis=-1, keepdims=True), x.std(axis=-1, keepdims=True)
    standard = (x - centre) / np.where(scale > 0, scale, 1)
    slope = np.full(solvable.shape, np.nan)
    slope[solvable] = _logistic_slope(standard[solvable], y[solvable]) / scale[..., 0][solvable]
    return slope


def _logistic_slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(K,) slopes of K logistic regressions of (K, N) truths on one variable, by Newton's steps, halved if too long."""
    from scipy.special import expit

    a, b = np.zeros((2, len(x)))
    for _ in range(_MAX_STEPS):
        p = expit(a[:, None] + b[:, None] * x)
        w, left = p * (1 - p), y - p
        g0, g1 = left.sum(axis=1), (left * x).sum(axis=1)
        h0, h1, h2 = w.sum(axis=1), (w * x).sum(axis=1), (w * x * x).sum(axis=1)
        det = h0 * h2 - h1 * h1
        step_a, step_b = (h2 * g0 - h1 * g1) / det, (h0 * g1 - h1 * g0) / det
        size = _step_size(x, y, (a, b), (step_a, step_b))
        a, b = a + size * step_a, b + size * step_b
        if np.all(np.maximum(np.abs(step_a), np.abs(step_b)) < 1e-10):
            break
    return b


def _step_size(x: np.ndarray, y: np.ndarray, at: tuple, step: tuple) -> np.ndarray:
    """(K,) the longest of 1, 1/2, 1/4 ... at which the likelihood does not fall."""
    here, size = _loss(x, y, *at), np.ones(len(x))
    for _ in range(30):
        worse = _loss(x, y, at[0] + size * step[0], at[1] + size * step[1]) > here * (1 + 1e-12)
        if not worse.any():
            break
        size = np.where(worse, size / 2, size)
    return size


def _loss(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    z = a[:, None] + b[:, None] * x
    return (np.logaddexp(0, z) - y * z).sum(axis=1)


def brier_parts(positive: np.ndarray, scores: np.ndarray, n_bins: int = N_BINS) -> BrierParts:
    """The parts of the Brier score of one class, (...) each, over bins of equal width; they sum to it exactly.

    With o and f the observed share and mean score of a bin: reliability is the mean of (f - o)^2, resolution that of
    (o - share)^2, uncertainty share (1 - share); the rest is the spread of scores within the bins less twice their
    covariance with the truth there, and 0 where all scores of a bin are one. Arguments as of `ece_equal_mass`.

    Source: Murphy (1973), Journal of Applied Meteorology 12, 595-600; the rest by Stephenson, Coelho & Jolliffe
        (2008), Weather and Forecasting 23, 752-757.
    """
    y, x = _runs(positive, scores)
    n, at = x.shape[-1], bin_of(x, n_bins)
    held = _bin_sums(at, np.ones(x.shape), n_bins)
    count = np.maximum(held, 1)
    observed, forecast = _bin_sums(at, y, n_bins) / count, _bin_sums(at, x, n_bins) / count
    share = y.mean(axis=-1)
    off_f, off_o = x - np.take_along_axis(forecast, at, -1), y - np.take_along_axis(observed, at, -1)
    return BrierParts(
        (held * (forecast - observed) ** 2).sum(axis=-1) / n,
        (held * (observed - share[..., None]) ** 2).sum(axis=-1) / n,
        share * (1 - share),
        (off_f**2 - 2 * off_f * off_o).mean(axis=-1),
    )


def _runs(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., N) float64 truths and scores of one shape."""
    return np.broadcast_arrays(np.asarray(positive, np.float64), np.asarray(scores, np.float64))


def _logits(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import logit

    y, x = _runs(positive, scores)
    return y, logit(np.clip(x, _EPS, 1 - _EPS))


def _at_ends(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(...) shares of the scores that are 0, and that are 1, but for _EPS."""
    x = _runs(positive, scores)[1]
    return (x <= _EPS).mean(axis=-1), (x >= 1 - _EPS).mean(axis=-1)


def _bin_sums(at: np.ndarray, x: np.ndarray, n_bins: int) -> np.ndarray:
    """(..., n_bins) sums of (..., N) values by the (..., N) number of their bin."""
    n_runs = int(np.prod(x.shape[:-1], dtype=np.int64))
    cells = np.arange(n_runs)[:, None] * n_bins + at.reshape(n_runs, -1)
    return np.bincount(cells.ravel(), weights=x.ravel(), minlength=n_runs * n_bins).reshape(*x.shape[:-1], n_bins)
