"""The learning rate of BUSSAM's training: up along a line, then down along a power."""

from __future__ import annotations


def rate(step: int, total: int, base: float = 5e-4, warm_up: int = 250, power: float = 0.9) -> float:
    """Learning rate that step `step` is made with, from 0 to `total` - 1.

    The released code sets the rate after a step and not before it, so each step uses the one before it had coming:
    the first two are alike, and the fall never ends at 0. The warm-up is not taken off the length of the fall.

    Args:
        total: steps of the whole training, epochs times batches.
        base: the highest rate.
        warm_up: steps of the way up; a training that is shorter never gets to `base`.

    Source: Tu et al. (2024), arXiv 2404.14837, as released.

    >>> rate(0, 4700), rate(1, 4700), rate(250, 4700), rate(251, 4700)
    (2e-06, 2e-06, 0.0005, 0.0005)
    >>> f"{rate(4699, 4700):.4g}"
    '3.592e-05'
    """
    if not 0 <= step < total:
        raise ValueError(f"step {step} of {total}")
    before = max(step - 1, 0)
    if before < warm_up:
        return base * (before + 1) / warm_up
    return base * (1 - (before - warm_up) / total) ** power
