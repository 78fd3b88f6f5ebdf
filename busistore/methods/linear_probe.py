"""Logistic regression on frozen embeddings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from busistore.methods import logistic
from busistore.methods.base import Draws, Labelled, Outcome, macro_f1, prepare_draws, require, softmax
from busistore.methods.blocks import in_threads, of_one_size
from busistore.methods.folds import folds

SOLVERS = ("newton", "lbfgs")
LEAST_C, MOST_C = 1e-8, 1e8  # beyond, the optimum is lost to rounding
FALL_BACK_TOL = 1e-10  # of lbfgs, for a problem on which Newton's method does not converge
_CELLS = 8 * 96**2  # a block of 8 support sets of 96 images: less, and threads wait for one another's Python


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression on L2-normalised embeddings, balanced class weights, C chosen.

    Under "val-tuned" C is the first of `c_grid` with the best macro-F1 on the validation part. Under "strict" it is
    the first with the best macro-F1 of predictions held out within the support, group by group: no fold has a
    near-duplicate of an image that it leaves out. There are as many folds as the class of fewest groups allows, at
    most `n_folds`; where no two images are of one group, fold i leaves out the i-th image of every class, so that
    what is left stays balanced. A class of one group cannot be left out, and C is then `default_c`.

    `solver` "newton" finds the optimum (see `logistic`), of all support sets of a grid together. "lbfgs" is
    scikit-learn's at `tol` and `max_iter`, one fit after another: the published protocol kept its defaults, at which
    it stops short of the optimum by some 1e-3 in probability at C=1 and by much more at larger C.
    """

    name: ClassVar[str] = "linear-probe"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 2
    c_grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    solver: str = "newton"
    max_iter: int = 5000
    tol: float = 1e-4
    default_c: float = 1.0
    n_folds: int = 8

    def __post_init__(self) -> None:
        every = (*self.c_grid, self.default_c)
        require(len(self.c_grid) > 0 and min(every) > 0, self, "every C must be above 0")
        require(min(every) >= LEAST_C and max(every) <= MOST_C, self, f"every C must be from {LEAST_C} to {MOST_C:.0e}")
        require(self.solver in SOLVERS, self, f"solver is {' or '.join(SOLVERS)}, not '{self.solver}'")
        require(self.max_iter > 0 and self.tol > 0, self, "max_iter and tol must be above 0")
        require(self.n_folds > 1, self, "n_folds must be at least 2")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str
    ) -> Outcome:
        """See base.Method; `chosen` holds C, its score where one was compared, and whether all fits converged.

        With "newton" also how many of the fits did not, and were made by scikit-learn: `n_fell_back`.
        """
        everything = [np.arange(len(support.labels))]
        return next(iter(self.fit_predict_many(support, everything, val, queries, n_classes, protocol)))

    def fit_predict_many(
        self, train: Labelled, draws: Sequence[np.ndarray], val: Labelled | None, queries: np.ndarray, n_classes: int,
        protocol: str,
    ) -> Iterator[Outcome]:  # fmt: skip
        """See base.fit_predict_many."""
        ready = prepare_draws(self, train, draws, val, queries, n_classes, protocol)

        def fitted(block: list[int]) -> list[Outcome]:
            started = time.perf_counter()
            outcomes = self._block(ready, block, n_classes)
            each = (time.perf_counter() - started) / len(block)
            return [replace(outcome, seconds=each) for outcome in outcomes]

        blocks = of_one_size([len(rows) for rows in ready.rows], _CELLS)
        for outcomes in in_threads(fitted, blocks):
            yield from outcomes

    def _block(self, ready: Draws, block: list[int], n_classes: int) -> list[Outcome]:
        """The outcomes of support sets of one size."""
        rows = np.stack([ready.rows[k] for k in block])
        x, labels = ready.pool.features[rows], ready.pool.labels[rows]
        kept, grid = np.ones(labels.shape, bool), (*self.c_grid, self.default_c)
        if ready.val:
            probes = self._fit(x, labels, kept, n_classes, self.c_grid)
            scores = macro_f1(ready.val.labels, probes.scores(ready.val.features).argmax(axis=-1), n_classes)
            choices = [_Choice(int(s.argmax()), {"val_macro_f1": float(s.max())}) for s in scores]
        else:
            probes = self._fit(x, labels, kept, n_classes, grid)
            choices = [self._within(ready.inputs(k).support, n_classes) for k in block]
        best = probes.some((np.arange(len(block)), [choice.at for choice in choices]))
        probabilities = softmax(best.scores(ready.queries))
        made = []
        for e, (k, choice) in enumerate(zip(block, choices)):
            chosen = {"C": grid[choice.at], "converged": choice.converged and bool(probes.converged[e].all())}
            if self.solver == "newton":
                chosen["n_fell_back"] = choice.n_fell_back + int(probes.fell_back[e].sum())
            made.append(ready.inputs(k).outcome(probabilities[e], chosen | choice.told))
        return made

    def _within(self, support: Labelled, n_classes: int) -> _Choice:
        """Which C of the grid, or the default behind it, and its score on images held out within the support."""
        fold = folds(support, n_classes, self.n_folds)
        if fold is None:
            return _Choice(len(self.c_grid), {})
        kept = fold != np.arange(fold.max() + 1)[:, None]
        labels = np.broadcast_to(support.labels, kept.shape)
        probes = self._fit(support.features[None], labels, kept, n_classes, self.c_grid)
        held_out = probes.scores(support.features).argmax(axis=-1)[fold, :, np.arange(len(fold))]
        scores = macro_f1(support.labels, held_out.T, n_classes)
        told = {"held_out_macro_f1": float(scores.max())}
        return _Choice(int(scores.argmax()), told, bool(probes.converged.all()), int(probes.fell_back.sum()))

    def _fit(
        self, x: np.ndarray, labels: np.ndarray, kept: np.ndarray, n_classes: int, c_grid: Sequence[float]
    ) -> _Probes:
        """Probes of E problems at each C, on the images of (E, n, D) or (1, n, D) that are kept, (E, n) bool."""
        images = np.broadcast_to(x, (*kept.shape, x.shape[2]))
        if self.solver == "lbfgs":
            each = [(one[k], own[k]) for one, own, k in zip(images, labels, kept)]
            fits = [[_lbfgs(*data, c, self.tol, self.max_iter) for c in c_grid] for data in each]
            weights, intercepts, ended = (np.array([[f[k] for f in row] for row in fits]) for k in range(3))
            return _Probes(weights, intercepts, ended, np.zeros(ended.shape, bool))
        found = logistic.fit(x, labels, logistic.balanced(labels, kept, n_classes), n_classes, c_grid)
        ended = found.converged.copy()
        for e, k in np.argwhere(~found.converged):
            again = _lbfgs(images[e][kept[e]], labels[e][kept[e]], c_grid[k], FALL_BACK_TOL, self.max_iter)
            found.weights[e, k], found.intercepts[e, k], ended[e, k] = again
        return _Probes(found.weights, found.intercepts, ended, ~found.converged)


class _Choice(NamedTuple):
    """Which C, its score, and how the fits went that it rests on beside those of the whole support set."""

    at: int
    told: dict[str, float]
    converged: bool = True
    n_fell_back: int = 0


class _Probes(NamedTuple):
    """weights: (..., D, K). intercepts: (..., K). converged, and fell_back to scikit-learn: (...) bool."""

    weights: np.ndarray
    intercepts: np.ndarray
    converged: np.ndarray
    fell_back: np.ndarray

    def some(self, which: Any) -> _Probes:
        return _Probes(*(field[which] for field in self))

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(..., M, K) of (M, D) images."""
        return features @ self.weights + self.intercepts[..., None, :]


def _lbfgs(x: np.ndarray, labels: np.ndarray, c: float, tol: float, most: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """scikit-learn's weights (D, K) and intercepts (K,), and whether it converged; of two classes the first has 0."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stored with the run as `converged`
        probe = LogisticRegression(C=c, max_iter=most, tol=tol, class_weight="balanced").fit(x, labels)
    weights, intercepts = probe.coef_.T, probe.intercept_
    if len(intercepts) == 1:
        weights, intercepts = np.hstack([0 * weights, weights]), np.append(0.0, intercepts)
    return weights, intercepts, bool(probe.n_iter_.max() < most)
