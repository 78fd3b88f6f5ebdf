"""Votes of the nearest support images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from busistore.methods.base import Labelled, Outcome, macro_f1, prepare, require

_SAME = 1e-12  # cosine distance below which two vectors are the same one


@dataclass(frozen=True)
class KNearest:
    """k nearest neighbours by cosine distance d, votes weighted by 1/d.

    Under "val-tuned" k is the first of `k_grid` with the best macro-F1 on the validation part; under "strict" it is
    `default_k`. k never exceeds the support set. Of equally near images the earlier row counts as nearer; images
    equal to the query outvote all others. The probabilities are shares of votes, so they may be 0 or 1.
    """

    name: ClassVar[str] = "knn"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    k_grid: tuple[int, ...] = (1, 3, 5, 7, 9, 15, 25)
    default_k: int = 5

    def __post_init__(self) -> None:
        require(len(self.k_grid) > 0 and min(*self.k_grid, self.default_k) > 0, self, "every k must be at least 1")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str
    ) -> Outcome:
        """See base.Method; `chosen` holds k, and its score where one was compared."""
        ready = prepare(self, support, val, queries, n_classes, protocol)
        asked = self.k_grid if ready.val else (self.default_k,)
        ks = list(dict.fromkeys(min(k, len(ready.support.labels)) for k in asked))
        chosen = {"k": ks[0]}
        if ready.val:
            called = _votes(ready.support, ready.val.features, n_classes, ks).argmax(axis=-1)
            scores = macro_f1(ready.val.labels, called, n_classes)
            best = int(scores.argmax())  # the first of equals
            chosen = {"k": ks[best], "val_macro_f1": float(scores[best])}
        return ready.outcome(_votes(ready.support, ready.queries, n_classes, [chosen["k"]])[0], chosen)


def _votes(support: Labelled, queries: np.ndarray, n_classes: int, ks: Sequence[int]) -> np.ndarray:
    """(len(ks), M, C) share of the weight of each class among the k nearest; rows of all features have length 1."""
    distance = np.maximum(1 - queries @ support.features.T, 0)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : max(ks)]
    d = np.take_along_axis(distance, nearest, axis=1)
    same = d < _SAME
    weight = np.where(same[:, :1], same, 1 / np.maximum(d, _SAME))  # the nearest is the same one if any is
    votes = (weight[:, :, None] * np.eye(n_classes)[support.labels[nearest]]).cumsum(axis=1)
    votes = np.moveaxis(votes[:, np.asarray(ks) - 1], 1, 0)
    return votes / votes.sum(axis=-1, keepdims=True)
