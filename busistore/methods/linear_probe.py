"""Logistic regression on frozen embeddings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from busistore.methods.base import Labelled, Outcome, macro_f1, prepare, require


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on L2-normalised embeddings (lbfgs, balanced class weights).

    Under "val-tuned" C is the first of `c_grid` with the best macro-F1 on the validation part. Under "strict" it is
    the first with the best macro-F1 of predictions held out within the support: fold i leaves out the i-th image of
    every class, so that what is left stays balanced, with at most `n_folds` folds; with one shot there is nothing to
    leave out and C is `default_c`.

    `tol` is scikit-learn's default, which the published protocol kept: lbfgs then stops short of the optimum, by
    some 1e-3 in probability at C=1 and more at larger C. Set it to 1e-10 for the optimum.
    """

    name: ClassVar[str] = "linear-probe"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    c_grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    max_iter: int = 5000
    tol: float = 1e-4
    default_c: float = 1.0
    n_folds: int = 8

    def __post_init__(self) -> None:
        require(len(self.c_grid) > 0 and min(*self.c_grid, self.default_c) > 0, self, "every C must be above 0")
        require(self.max_iter > 0 and self.tol > 0, self, "max_iter and tol must be above 0")
        require(self.n_folds > 1, self, "n_folds must be at least 2")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str
    ) -> Outcome:
        """See base.Method; `chosen` holds C, its score where one was compared, and whether lbfgs converged."""
        from threadpoolctl import threadpool_limits

        ready = prepare(self, support, val, queries, n_classes, protocol)
        with threadpool_limits(1):  # the matrices are too small to share out, and sums keep one order
            if ready.val:
                c, score = self._choose_on(ready.support, ready.val, n_classes)
            else:
                c, score = self._choose_within(ready.support, n_classes)
            probe = self._fit(ready.support, c)
            probabilities = probe.predict_proba(ready.queries)
        chosen = {"C": c, "converged": bool(probe.n_iter_.max() < self.max_iter)}
        return Outcome(probabilities, chosen | score, ready.n_labelled)

    def _choose_on(self, support: Labelled, val: Labelled, n_classes: int) -> tuple[float, dict[str, float]]:
        scores = {
            c: macro_f1(val.labels, self._fit(support, c).predict(val.features), n_classes) for c in self.c_grid
        }
        best = max(scores, key=scores.__getitem__)  # the first of equals
        return best, {"val_macro_f1": scores[best]}

    def _choose_within(self, support: Labelled, n_classes: int) -> tuple[float, dict[str, float]]:
        n_folds = min(self.n_folds, int(np.bincount(support.labels).min()))
        if n_folds < 2:
            return self.default_c, {}
        fold = _folds(support.labels, n_folds)
        scores = {}
        for c in self.c_grid:
            held_out = np.empty_like(support.labels)
            for i in range(n_folds):
                rest = Labelled(support.features[fold != i], support.labels[fold != i])
                held_out[fold == i] = self._fit(rest, c).predict(support.features[fold == i])
            scores[c] = macro_f1(support.labels, held_out, n_classes)
        best = max(scores, key=scores.__getitem__)
        return best, {"held_out_macro_f1": scores[best]}

    def _fit(self, data: Labelled, c: float):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(C=c, max_iter=self.max_iter, tol=self.tol, class_weight="balanced")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stored with the run as `converged`
            return probe.fit(data.features, data.labels)


def _folds(labels: np.ndarray, n_folds: int) -> np.ndarray:
    """(N,) fold of each row: its rank within its class, modulo `n_folds`."""
    rank = np.empty_like(labels)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return rank % n_folds
