"""Several comparisons at once: Holm's correction, and how many comparisons few pairs can bear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> np.ndarray:
    """(N,) adjusted p of a family, in the order given; NaN is no comparison and stays NaN.

    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    adjusted, known = np.full(p.shape, np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def least_p(n_pairs: int) -> float:
    """The least two-sided p that an exact signed-rank or sign test of n pairs can give: 2 / 2^n, at most 1."""
    return min(2.0 ** (1 - n_pairs), 1.0)


def most_comparisons(n_pairs: int, level: float = 0.05) -> int:
    """How many comparisons a family may have for the least p of n pairs to reach the level after Holm's correction."""
    return int(np.floor(level / least_p(n_pairs) * (1 + 1e-12)))


def unreachable(n_pairs: int, n_comparisons: int, level: float = 0.05) -> str | None:
    """The sentence that says that no comparison can be significant, or None where one can.

    >>> print(unreachable(10, 30))
    10 pairs give no p below 0.00195, so none of 30 comparisons can reach 0.05 after Holm's correction (at most 25 can); take 11 pairs or more
    """  # noqa: E501
    if n_comparisons <= most_comparisons(n_pairs, level):
        return None
    most = most_comparisons(n_pairs, level)
    enough = next(n for n in range(n_pairs + 1, 1100) if n_comparisons <= most_comparisons(n, level))
    none = f"none of {n_comparisons} comparisons can reach {level:g} after Holm's correction (at most {most} can)"
    if n_comparisons == 1 or not most:
        none = f"{n_comparisons} comparison{'s' * (n_comparisons > 1)} cannot reach {level:g}"
    pairs = "1 pair gives" if n_pairs == 1 else f"{n_pairs} pairs give"
    return f"{pairs} no p below {least_p(n_pairs):.3g}, so {none}; take {enough} pairs or more"
