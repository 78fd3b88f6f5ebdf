"""Wilcoxon's signed-rank test of paired differences, exact with ties and zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXACT_PAIRS = 60


def wilcoxon(differences: Sequence[float]) -> float:
    """Two-sided p of the hypothesis that differences are symmetric about 0.

    Zeros are ranked and then dropped, ties share their mean rank. Up to 60 differences the distribution over all signs
    is counted whole, however tied; beyond, it is the normal one of the same mean and variance. All zeros give 1. What
    agrees to twelve digits of the largest difference is tied, so that 0.3 - 0.2 and 0.7 - 0.6 are.

    Raises:
        ValueError: no differences, or one that is no finite number.

    Source: Wilcoxon (1945), Biometrics Bulletin 1, 80-83; Pratt (1959), JASA 54, 655-667, for zeros.

    >>> wilcoxon([1, 2, 3, 4, 5])
    0.0625
    """
    x = np.asarray(differences, np.float64)
    if not np.isfinite(x).all() or not x.size:
        raise ValueError(f"{x.size} differences, {(~np.isfinite(x)).sum()} of them no numbers")
    x = np.round(x / max(np.abs(x).max(), np.finfo(np.float64).tiny), 12)
    ranks = _doubled_ranks(np.abs(x))
    ranks, positive = ranks[x != 0], x[x != 0] > 0
    if not ranks.size:
        return 1.0
    total, above = int(ranks.sum()), int(ranks[positive].sum())
    return _exact(ranks, min(above, total - above)) if x.size <= _EXACT_PAIRS else _normal(ranks, above)


def _doubled_ranks(sizes: np.ndarray) -> np.ndarray:
    """(N,) twice the rank from 1, whole also where ties share their mean rank."""
    _, at, n = np.unique(sizes, return_inverse=True, return_counts=True)
    last = np.cumsum(n)
    return (2 * last - n + 1)[at]


def _exact(ranks: np.ndarray, least: int) -> float:
    """Twice the chance that the ranks that random signs make positive sum to `least` or fewer, at most 1."""
    chance = np.zeros(int(ranks.sum()) + 1)
    chance[0] = 1
    for rank in ranks:
        chance[rank:] = (chance[rank:] + chance[:-rank]) / 2
        chance[:rank] /= 2
    return float(min(2 * chance[: least + 1].sum(), 1))


def _normal(ranks: np.ndarray, above: int) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(above - ranks.sum() / 2) / np.sqrt(np.square(ranks.astype(np.float64)).sum() / 4)))
