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
    the first with the best macro-F1 of predictions held out within the support, group by group: no fold has a
    near-duplicate of an image that it leaves out. There are as many folds as the class of fewest groups allows, at
    most `n_folds`; where no two images are of one group, fold i leaves out the i-th image of every class, so that
    what is left stays balanced. A class of one group cannot be left out, and C is then `default_c`.

    `tol` is scikit-learn's default, which the published protocol kept: lbfgs then stops short of the optimum, by
    some 1e-3 in probability at C=1 and more at larger C. Set it to 1e-10 for the optimum.
    """

    name: ClassVar[str] = "linear-probe"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
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
        return ready.outcome(probabilities, chosen | score)

    def _choose_on(self, support: Labelled, val: Labelled, n_classes: int) -> tuple[float, dict[str, float]]:
        scores = {
            c: macro_f1(val.labels, self._fit(support, c).predict(val.features), n_classes) for c in self.c_grid
        }
        best = max(scores, key=scores.__getitem__)  # the first of equals
        return best, {"val_macro_f1": scores[best]}

    def _choose_within(self, support: Labelled, n_classes: int) -> tuple[float, dict[str, float]]:
        fold = _folds(support, n_classes, self.n_folds)
        if fold is None:
            return self.default_c, {}
        scores = {}
        for c in self.c_grid:
            held_out = np.empty_like(support.labels)
            for i in np.unique(fold):
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


def _folds(support: Labelled, n_classes: int, at_most: int) -> np.ndarray | None:
    """(N,) fold of each image, one for all of a group; None unless every class stays wherever a fold is left out.

    Each group goes to the fold that so far has the fewest images of the group's classes, groups of several classes
    first, then the largest. Folds are as even within each class as that makes them: to within the class's largest
    group where no group has several classes. With groups of one image, an image's fold is its rank in its class.
    """
    _, group = np.unique(_groups(support), return_inverse=True)
    counts = np.zeros((int(group.max()) + 1, n_classes), int)  # images by group and class
    np.add.at(counts, (group, support.labels), 1)
    n_folds = min(at_most, int((counts > 0).sum(axis=0).min()))
    first = np.unique(group, return_index=True)[1]
    load = np.zeros((n_folds, n_classes), int)
    fold_of = np.empty(len(counts), int)
    for g in np.lexsort((first, -counts.sum(axis=1), -(counts > 0).sum(axis=1))):
        fold_of[g] = load[:, counts[g] > 0].sum(axis=1).argmin()
        load[fold_of[g]] += counts[g]
    return fold_of[group] if ((load > 0).sum(axis=0) > 1).all() else None


def _groups(support: Labelled) -> np.ndarray:
    return np.arange(len(support.labels)) if support.groups is None else support.groups
