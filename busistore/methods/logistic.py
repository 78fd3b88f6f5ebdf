"""Multinomial logistic regression of many small problems at once, to the optimum.

The optimum is the one that scikit-learn's LogisticRegression defines: cross-entropy weighted by image, an L2 penalty
1 / (2 C) on the weights and none on the intercept. Support sets have fewer images n than features D, and the weights
of the optimum lie in the span of the images (representer theorem), so each problem is solved in at most n coordinates.
Problems of one size are solved together by Newton's method, in float64, along C from small to large. The work grows
with the cube of n: from some 200 images on, lbfgs takes as long.

Classes enter by a basis of K - 1 contrasts: probabilities do not change when all classes' scores are shifted, and the
penalty makes the shift 0. Nor do they when the features are shifted, since the intercept is free: each problem is
centred, which keeps its coordinates well scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-8  # largest component of the gradient as a share of the penalty: no farther off is any weight
FLOOR = 1e-12  # of the gradient of the weighted mean cross-entropy plus penalty: its own rounding
MOST_STEPS = 100
MOST_HALVINGS = 40
FARTHEST = 1e3  # that a step may move a weight: scores of images of length 1 then pass from one end to the other
_DECREASE = 1e-4  # share of the promised decrease that a step must reach (Armijo)
_ROUNDING = 1e-14  # relative to the objective: what its own rounding may hide


class Fits(NamedTuple):
    """The optima of E problems at L penalties.

    weights: (E, L, D, K) and intercepts: (E, L, K), each summing to 0 over the classes.
    converged: (E, L) bool, whether the gradient is within TOLERANCE times the penalty, or FLOOR.
    """

    weights: np.ndarray
    intercepts: np.ndarray
    converged: np.ndarray


def fit(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, n_classes: int, c_grid: Sequence[float]) -> Fits:
    """The optimum of each of E problems at each C, in the order of `c_grid`.

    Args:
        features: (E, n, D) float64, or (1, n, D) where all problems have the same images. labels: (E, n) class
            numbers. weights: (E, n), 0 for images left out; every class has an image that is not.
    """
    centre = features.mean(axis=1, keepdims=True)
    centred = features - centre
    coordinates, back = _coordinates(centred)
    batch = _batch(coordinates, labels, weights, n_classes)
    shape = (len(labels), len(c_grid))
    found, moved = np.zeros((2, shape[0], batch.x.shape[2], n_classes - 1))
    converged = np.empty(shape, bool)
    slopes, intercepts = np.empty((*shape, features.shape[2], n_classes)), np.empty((*shape, n_classes))
    for at in np.argsort(c_grid, kind="stable"):  # from strong penalties to weak ones
        vectors = 2 if n_classes == 2 else 1  # of two classes scikit-learn penalises one vector of weights, not two
        penalty = vectors / (c_grid[at] * weights.sum(axis=1))
        start = _nearer(batch, found, found + moved, penalty)
        optima, converged[:, at] = _newton(batch, start, penalty)
        found, moved = optima, optima - found
        slopes[:, at] = back(found[:, :-1] @ batch.basis.T)
        at_centre = (np.swapaxes(centre, 1, 2) * slopes[:, at]).sum(axis=1)
        intercepts[:, at] = (found[:, -1:] @ batch.basis.T)[:, 0] - at_centre  # one product a problem: bits as if alone
    return Fits(slopes, intercepts, converged)


def _coordinates(centred: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(E, n, min(n, D)) with the same products between images as (E, n, D), and the way back to features for weights.

    They come from the eigenvectors of the Gram matrix. A direction of which it holds rounding alone gets no
    coordinate: the optimum gives it a part in the scores of C times that rounding at most.
    """
    n, d = centred.shape[1:]
    if n > d:
        return centred, lambda weights: weights
    values, vectors = np.linalg.eigh(centred @ np.swapaxes(centred, 1, 2))
    least = n * np.finfo(np.float64).eps * values[:, -1:]
    lengths = np.sqrt(np.where(values > least, values, 0))[:, None]
    inverse = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return vectors * lengths, lambda weights: np.swapaxes(centred, 1, 2) @ (inverse @ weights)


def contrasts(n_classes: int) -> np.ndarray:
    """(K, K - 1) orthonormal columns that sum to 0 (Helmert)."""
    columns = np.triu(np.ones((n_classes, n_classes)), 1)[:, 1:]
    columns[np.arange(1, n_classes), np.arange(n_classes - 1)] = -np.arange(1, n_classes)
    return columns / np.linalg.norm(columns, axis=0)


def balanced(labels: np.ndarray, kept: np.ndarray, n_classes: int) -> np.ndarray:
    """(E, n) weights that make all classes count alike, as class_weight="balanced"; 0 for images that are not kept.

    Args:
        labels: (E, n) class numbers. kept: (E, n) bool, with every class among those kept.
    """
    member = (labels[..., None] == np.arange(n_classes)) & kept[..., None]
    counts = member.sum(axis=1, keepdims=True)
    return (member * (counts.sum(axis=-1, keepdims=True) / (n_classes * counts))).sum(axis=-1)


class _Batch(NamedTuple):
    """x: (E, n, R + 1) coordinates and a 1. target: (E, n, K). shares: (E, n, 1), sum 1. basis: (K, K - 1)."""

    x: np.ndarray
    target: np.ndarray
    shares: np.ndarray
    basis: np.ndarray

    def some(self, which: np.ndarray) -> _Batch:
        return _Batch(self.x[which], self.target[which], self.shares[which], self.basis)


def _batch(coordinates: np.ndarray, labels: np.ndarray, weights: np.ndarray, n_classes: int) -> _Batch:
    coordinates = np.broadcast_to(coordinates, (*labels.shape, coordinates.shape[2]))
    x = np.concatenate([coordinates, np.ones((*labels.shape, 1))], axis=2)
    shares = weights / weights.sum(axis=1, keepdims=True)
    return _Batch(x, np.eye(n_classes)[labels], shares[..., None], contrasts(n_classes))


class _State(NamedTuple):
    """where: (E, R + 1, K - 1). probabilities: (E, n, K) there. value: (E,) objective there."""

    where: np.ndarray
    probabilities: np.ndarray
    value: np.ndarray

    def some(self, which: np.ndarray) -> _State:
        return _State(*(field[which] for field in self))


def _state(batch: _Batch, where: np.ndarray, penalty: np.ndarray) -> _State:
    scores = batch.x @ (where @ batch.basis.T)
    scores -= scores.max(axis=-1, keepdims=True)
    odds = np.exp(scores)
    total = odds.sum(axis=-1, keepdims=True)
    loss = np.log(total[..., 0]) - (scores * batch.target).sum(axis=-1)
    slopes = where[:, :-1].reshape(len(where), -1)
    value = (loss * batch.shares[..., 0]).sum(axis=1) + penalty / 2 * (slopes * slopes).sum(axis=1)
    return _State(where, odds / total, value)


def _nearer(batch: _Batch, last: np.ndarray, beyond: np.ndarray, penalty: np.ndarray) -> _State:
    """Where to begin: at the last optimum, or as far beyond as it was from the one before, whichever is lower.

    Where classes can be separated, weights grow like log C, and steps of a grid are equal on that scale.
    """
    one, other = _state(batch, last, penalty), _state(batch, beyond, penalty)
    return _either(other.value < one.value, other, one)


def _either(first: np.ndarray, one: _State, other: _State) -> _State:
    """Of each problem the one state where `first` (E,), else the other."""
    return _State(*(np.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other)))


def _newton(batch: _Batch, start: _State, penalty: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E, R + 1, K - 1) optima, and (E,) bool whether each is one; problems that are done take no further step."""
    optima, converged = start.where.copy(), np.zeros(len(penalty), bool)
    left, here = np.arange(len(penalty)), start
    for _ in range(MOST_STEPS):
        gradient = _gradient(batch, here, penalty)
        going = ~(np.abs(gradient).max(axis=(1, 2)) <= np.maximum(TOLERANCE * penalty, FLOOR))  # NaN is no optimum
        if not going.all():
            optima[left], converged[left[~going]] = here.where, True
            if not going.any():
                break
            left, batch, here = left[going], batch.some(going), here.some(going)
            penalty, gradient = penalty[going], gradient[going]
        here = _step(batch, here, penalty, gradient)
    optima[left] = here.where
    return optima, converged


def _step(batch: _Batch, here: _State, penalty: np.ndarray, gradient: np.ndarray) -> _State:
    """Newton's step, halved for each problem until its objective goes down enough."""
    direction = _direction(_hessian(batch, here.probabilities, penalty), gradient)
    slope = (gradient * direction).sum(axis=(1, 2))
    length = np.ones(len(slope))
    for _ in range(MOST_HALVINGS):
        there = _state(batch, here.where + length[:, None, None] * direction, penalty)
        bound = here.value + _DECREASE * length * slope + _ROUNDING * np.abs(here.value)
        short = ~(there.value <= bound)  # NaN is no decrease
        if not short.any():
            break
        length[short] /= 2
    return _either(short, here, there)


def _direction(hessian: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Newton's direction of each problem, by the solver that lets other threads run meanwhile.

    Where classes are so far apart that the curvature is lost to rounding, it is the gradient's.
    """
    flat = -np.swapaxes(gradient, 1, 2).reshape(len(gradient), -1, 1)
    try:
        solved = np.linalg.solve(hessian, flat)
    except np.linalg.LinAlgError:
        solved = np.stack([np.linalg.lstsq(a, b)[0] for a, b in zip(hessian, flat)])
    down = (solved * flat).sum(axis=(1, 2)) > 0
    solved = np.where(down[:, None, None], solved, flat)
    solved = solved / np.maximum(np.abs(solved).max(axis=(1, 2), keepdims=True) / FARTHEST, 1)
    return np.swapaxes(solved.reshape(len(gradient), gradient.shape[2], -1), 1, 2)


def _gradient(batch: _Batch, here: _State, penalty: np.ndarray) -> np.ndarray:
    error = batch.shares * ((here.probabilities - batch.target) @ batch.basis)
    gradient = np.swapaxes(batch.x, 1, 2) @ error
    gradient[:, :-1] += penalty[:, None, None] * here.where[:, :-1]
    return gradient


def _hessian(batch: _Batch, p: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """(E, (K - 1)(R + 1), same), contrast by contrast: sum over images of x x' times the contrasts' covariance."""
    x, basis = batch.x, batch.basis
    (e, _, r), k = x.shape, basis.shape[1]
    first, second = np.triu_indices(k)
    apart = basis - (p @ basis)[:, :, None]  # of mean squares less squared means nothing is left where p is near 1
    covariance = batch.shares * (p[..., None] * apart[..., first] * apart[..., second]).sum(axis=2)
    hessian = np.empty((e, k, r, k, r))
    for pair, (a, b) in enumerate(zip(first, second)):
        block = np.swapaxes(x, 1, 2) @ (covariance[..., pair, None] * x)
        hessian[:, a, :, b] = block
        if a != b:
            hessian[:, b, :, a] = block
    hessian = hessian.reshape(e, k * r, k * r)
    diagonal = np.arange(k * r).reshape(k, r)[:, :-1].ravel()
    hessian[:, diagonal, diagonal] += penalty[:, None]
    return hessian
