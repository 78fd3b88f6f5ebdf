"""Every overall metric with weighted images: R weightings of the same N test images by S runs, as matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from busistore.errors import BusistoreError, lookup
from busistore.metrics import CONFUSION_METRICS, N_BINS, bin_of, share_of_pair

_BLOCK_CELLS = 1_000_000  # float64 cells of one intermediate array: 8 MB


def resampled(
    metric: str,
    true: np.ndarray,
    probs: np.ndarray,
    weights: np.ndarray,
    classes: Sequence[str],
    positive: str = "malignant",
    negative: str = "benign",
) -> np.ndarray:
    """(R, S) float64: the metric of each run under each weighting; NaN where it is undefined.

    Weights of ones give the metric itself, and whole weights that of a sample with each image so many times over.

    Args:
        metric: a name of WEIGHTED, or auroc_{positive}_vs_{negative}.
        true: (N,) class numbers in the order of `classes`.
        probs: (S, N, C), or (N, C) of one run; columns in the order of `classes`.
        weights: (R, N), not negative.

    Raises:
        UnknownName: no metric of whole runs has that name, or the two classes of the AUROC are not among `classes`.
        BusistoreError: the arrays do not fit each other.
    """
    true, weights = np.asarray(true, np.int64), np.atleast_2d(np.asarray(weights, np.float64))
    probs = np.asarray(probs, np.float64)
    probs = probs[None] if probs.ndim == 2 else probs
    if not probs.size:
        raise BusistoreError("no predictions to resample; evaluate first")
    if probs.ndim != 3 or probs.shape[1:] != (len(true), len(classes)) or weights.shape[1] != len(true):
        raise BusistoreError(
            f"{len(true)} labels of {len(classes)} classes, probabilities of shape {probs.shape} and weights of shape "
            f"{weights.shape} do not fit; give (runs, images, classes) and (resamples, images)"
        )
    if true.min() < 0 or true.max() >= len(classes):
        raise BusistoreError(f"class numbers {true.min()} to {true.max()} of {len(classes)} classes; count from 0")
    pair = f"auroc_{positive}_vs_{negative}"
    if metric == pair:
        return _pair_auroc(true, probs, weights, list(classes), positive, negative)
    return lookup("metric of a whole run", metric, {**WEIGHTED, pair: None})(true, probs, weights)


def _of_counts(of: Callable, true: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A metric of the confusion matrix: one product makes the weighted counts of all runs."""
    (s, n, c), predicted = probs.shape, probs.argmax(axis=-1)
    cells = np.zeros((n, s, c * c))
    cells[np.arange(n)[:, None], np.arange(s), (true * c + predicted).T] = 1
    return _in_blocks(weights, cells.reshape(n, -1), lambda sums: of(sums.reshape(-1, s, c, c)))


def _mean(loss: Callable, true: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A mean over images of a loss of single images, (S, N) from (N,) and (S, N, C)."""
    return _over_total(weights @ loss(true, probs).T, weights)


def _squared_error(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    return np.square(probs - np.eye(probs.shape[-1])[true]).sum(axis=-1)


def _surprise(true: np.ndarray, probs: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(probs[:, np.arange(len(true)), true], np.finfo(np.float64).eps, 1))


def _ece(true: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    s, n = probs.shape[:2]
    confidence = probs.max(axis=-1)
    gaps = np.zeros((n, s, N_BINS))
    gaps[np.arange(n)[:, None], np.arange(s), bin_of(confidence).T] = (confidence - (probs.argmax(-1) == true)).T
    parts = _in_blocks(weights, gaps.reshape(n, -1), lambda sums: np.abs(sums.reshape(-1, s, N_BINS)).sum(axis=-1))
    return _over_total(parts, weights)


def _in_blocks(weights: np.ndarray, columns: np.ndarray, then: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`then` of weights @ columns, some rows of the weights at a time."""
    block = max(1, _BLOCK_CELLS // columns.shape[1])
    return np.concatenate([then(weights[start : start + block] @ columns) for start in range(0, len(weights), block)])


def _over_total(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, S) sums over images divided by the weight of their images, NaN where that is 0."""
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)


def _macro(of: Callable, true: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over classes, each against the rest, of a ranking; over those for which it is defined."""
    sums, n_defined = 0.0, 0
    for c in range(probs.shape[-1]):
        values = of(true == c, probs[..., c], weights)
        defined = ~np.isnan(values)
        sums, n_defined = sums + np.where(defined, values, 0), n_defined + defined
    return np.divide(sums, n_defined, out=np.full(np.shape(sums), np.nan), where=n_defined > 0)


def _pair_auroc(
    true: np.ndarray, probs: np.ndarray, weights: np.ndarray, classes: list[str], positive: str, negative: str
) -> np.ndarray:
    number = {name: k for k, name in enumerate(classes)}
    pos, neg = (lookup("class", name, number) for name in (positive, negative))
    among = (true == pos) | (true == neg)
    share = share_of_pair(probs[:, among, pos], probs[:, among, neg])
    return weighted_auroc(true[among] == pos, share, weights[:, among])


def weighted_auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, S) share of the weight of pairs in which the positive scores above the negative, ties counted half.

    A pair weighs the product of its two images. All runs share these products, so all areas are one matrix product of
    (R, pairs) and (pairs, S), made for some positives and weightings at a time; the cost grows with the pairs.

    Args:
        positive: (N,) bool.
        scores: (S, N).
        weights: (R, N).
    """
    of_pos, of_neg = weights[:, positive], weights[:, ~positive]
    pos, neg = scores[:, positive], scores[:, ~positive]
    wins = np.zeros((len(weights), len(scores)))
    step = max(1, _BLOCK_CELLS // max(1, neg.size))
    for first in range(0, pos.shape[1], step):
        some = pos[:, first : first + step, None]
        won = (some > neg[:, None]) + 0.5 * (some == neg[:, None])
        _add_wins(wins, of_pos[:, first : first + step], of_neg, won.reshape(len(scores), -1).T)
    pairs = (of_pos.sum(axis=1) * of_neg.sum(axis=1))[:, None]
    return np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0)


def _add_wins(wins: np.ndarray, of_pos: np.ndarray, of_neg: np.ndarray, won: np.ndarray) -> None:
    """Add to (R, S) wins those of the positives at hand, from (R, P), (R, Q) and (P * Q, S)."""
    block = max(1, _BLOCK_CELLS // max(1, len(won)))
    for start in range(0, len(wins), block):
        rows = slice(start, start + block)
        pairs = of_pos[rows, :, None] * of_neg[rows, None, :]
        wins[rows] += pairs.reshape(len(pairs), -1) @ won


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, S) sum over positives of their share of the positives' weight times the precision at their score.

    NaN unless both kinds have some weight. Arguments as of `weighted_auroc`.
    """
    of_pos = weights[:, positive]
    total = of_pos.sum(axis=1)
    values = np.empty((len(weights), len(scores)))
    for s, score in enumerate(scores):
        called = (score[:, None] >= score[positive]).astype(np.float64)  # (N, P): called at that positive's threshold
        right, all_called = of_pos @ called[positive], weights @ called
        precisions = np.divide(right, all_called, out=np.zeros_like(right), where=all_called > 0)
        values[:, s] = (of_pos * precisions).sum(axis=1)
    values = np.divide(values, total[:, None], out=np.full(values.shape, np.nan), where=total[:, None] > 0)
    return np.where((weights[:, ~positive].sum(axis=1) > 0)[:, None], values, np.nan)


WEIGHTED: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    **{name: partial(_of_counts, of) for name, of in CONFUSION_METRICS.items()},
    "auroc": partial(_macro, weighted_auroc), "average_precision": partial(_macro, weighted_average_precision),
    "brier": partial(_mean, _squared_error), "log_loss": partial(_mean, _surprise), "ece": _ece,
}  # fmt: skip
