"""Votes of the nearest support images."""

from __future__ import annotations

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
        n = len(ready.support.labels)
        if ready.val:
            ks = list(dict.fromkeys(min(k, n) for k in self.k_grid))
            scores = {k: self._score(ready.support, ready.val, n_classes, k) for k in ks}
            k = max(scores, key=scores.__getitem__)  # the first of equals
            chosen = {"k": k, "val_macro_f1": scores[k]}
        else:
            chosen = {"k": min(self.default_k, n)}
        return ready.outcome(_votes(ready.support, ready.queries, n_classes, chosen["k"]), chosen)

    def _score(self, support: Labelled, val: Labelled, n_classes: int, k: int) -> float:
        return macro_f1(val.labels, _votes(support, val.features, n_classes, k).argmax(axis=1), n_classes)


def _votes(support: Labelled, queries: np.ndarray, n_classes: int, k: int) -> np.ndarray:
    """(M, C) share of the weight that each class has among the k nearest; rows of all features have length 1."""
    distance = np.maximum(1 - queries @ support.features.T, 0)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
    d = np.take_along_axis(distance, nearest, axis=1)
    same = d < _SAME
    weight = np.where(same.any(axis=1, keepdims=True), same, 1 / np.maximum(d, _SAME))
    votes = (weight[:, :, None] * np.eye(n_classes)[support.labels[nearest]]).sum(axis=1)
    return votes / votes.sum(axis=1, keepdims=True)
