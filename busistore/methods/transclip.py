"""TransCLIP: all test images at once, as Gaussians tied to the prompts, to the support set and to near neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from busistore.methods import base
from busistore.methods.base import Inputs, Labelled, Outcome, TextPrompts, normalise, require, softmax

_ROWS = 1024  # of cosines at a time: 80 MB with 10,000 test images
_LEAST_VARIANCE = 1e-12  # of a coordinate that all images share


@dataclass(frozen=True)
class TransClip:
    """A mixture of Gaussians over the unlabelled test images, one a class, fitted to them and to the support set.

    Transductive: the prediction of a test image depends on which others are there, though on no test label. Its
    numbers compare with those of methods that see one image at a time only where all test images come together.

    Class shares z of test image i are updated `n_inner` times, all images at once, to the softmax of
    `anchor` s t_c.f_i + log N(f_i; mu_c, Sigma) / `tau` + sum_j w_ij z_j / (2 `n_neighbours`), with prompts t_c, the
    logit scale s, and cosines w_ij to test images near i, and to test and support images that i is near to. Means
    (of length 1) and the shared diagonal Sigma are then averages over test images by z and support images by class,
    of total weights 1 and `gamma` `tau`. `n_outer` such rounds, and a last update of z.

    Under "val-tuned" gamma is the first of `gamma_grid` with the best macro-F1 on the validation part, each of its
    images given the class of the nearest test image, as published; under "strict" it is `default_gamma`. Each gamma
    starts afresh. The published code starts each from the last one's end, and takes the neighbours of support
    images for those of test images by a slip of row numbers: ours does neither.

    Source: Zanella et al. (2024), NeurIPS, equations 3-9, few-shot.
    """

    name: ClassVar[str] = "transclip"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    gamma_grid: tuple[float, ...] = (0.002, 0.01, 0.02, 0.2)
    default_gamma: float = 0.01
    anchor: float = 0.5
    tau: float = 50.0
    n_neighbours: int = 3
    n_outer: int = 10
    n_inner: int = 5

    def __post_init__(self) -> None:
        require(len(self.gamma_grid) > 0 and min(*self.gamma_grid, self.default_gamma) > 0, self,
                "every gamma must be above 0")  # fmt: skip
        require(self.anchor >= 0 and self.tau > 0, self, "anchor must be at least 0, and tau above 0")
        require(min(self.n_neighbours, self.n_inner) > 0, self, "n_neighbours and n_inner must be at least 1")
        require(self.n_outer >= 0, self, "n_outer must be at least 0")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; test images are read together, and `chosen` holds "transductive": true besides gamma."""
        ready = base.prepare(self, support, val, queries, n_classes, protocol)
        directions = text.directions(n_classes)
        scores = text.logit_scale * ready.queries @ directions.T
        graph = _graph(ready, self.n_neighbours)
        if ready.val:
            shares, chosen = self._choose(ready, ready.val, scores, graph)
        else:
            shares, chosen = self._fit(ready, scores, graph, self.default_gamma), {"gamma": self.default_gamma}
        return ready.outcome(shares, chosen | {"transductive": True})

    def _choose(
        self, ready: Inputs, val: Labelled, scores: np.ndarray, graph: _Graph
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The shares under the first gamma of the best score, and what was chosen."""
        nearest = (val.features @ ready.queries.T).argmax(axis=1)
        fits = {gamma: self._fit(ready, scores, graph, gamma) for gamma in self.gamma_grid}
        worth = {
            gamma: float(base.macro_f1(val.labels, shares[nearest].argmax(axis=1), scores.shape[1]))
            for gamma, shares in fits.items()
        }
        gamma = max(worth, key=worth.__getitem__)
        return fits[gamma], {"gamma": gamma, "val_macro_f1": worth[gamma]}

    def _fit(self, ready: Inputs, scores: np.ndarray, graph: _Graph, gamma: float) -> np.ndarray:
        """(M, C) class shares of the test images."""
        images = np.concatenate([ready.queries, ready.support.features])
        members = np.eye(scores.shape[1])[ready.support.labels]
        m, n = len(scores), len(members)
        means = normalise(members.T @ images[m:], "class mean")
        variances = np.full(images.shape[1], 1 / images.shape[1])
        shares = self._assign(softmax(scores), members, scores, _log_density(ready.queries, means, variances), graph)
        for _ in range(self.n_outer):
            weights = np.concatenate([shares / m, gamma * self.tau / n * members])
            means = normalise(weights.T @ images, "class mean")
            variances = _variances(images, weights, means)
            shares = self._assign(shares, members, scores, _log_density(ready.queries, means, variances), graph)
        return shares

    def _assign(
        self, shares: np.ndarray, members: np.ndarray, scores: np.ndarray, density: np.ndarray, graph: _Graph
    ) -> np.ndarray:
        """Shares after the inner updates; those of the support images stay what their labels say."""
        for _ in range(self.n_inner):
            pull = graph.sums(np.concatenate([shares, members]), len(shares)) / (2 * self.n_neighbours)
            shares = softmax(self.anchor * scores + density / self.tau + pull)
        return shares


class _Graph(NamedTuple):
    """The test images nearest to each of M test images (itself left out) and then of N support images.

    near: (M + N, k) rows of test images. weight: (M + N, k) their cosines, 0 where there are no more of them.
    """

    near: np.ndarray
    weight: np.ndarray

    def sums(self, shares: np.ndarray, m: int) -> np.ndarray:
        """(M, C) sums of cosine times (M + N, C) shares, over images near a test image and those it is near to."""
        out = (self.weight[:m, :, None] * shares[self.near[:m]]).sum(axis=1)
        np.add.at(out, self.near, self.weight[..., None] * shares[:, None])
        return out


def _graph(ready: Inputs, n_neighbours: int) -> _Graph:
    """As many neighbours as asked for, or all there are; of equally near images the earlier counts as nearer."""
    m = len(ready.queries)
    k = min(n_neighbours, m)
    images = np.concatenate([ready.queries, ready.support.features])
    near, weight = np.empty((len(images), k), np.int64), np.empty((len(images), k))
    for start in range(0, len(images), _ROWS):
        block = images[start : start + _ROWS] @ ready.queries.T
        rows = np.arange(start, start + len(block))
        own = rows[rows < m]
        block[own - start, own] = -np.inf
        near[rows] = np.argsort(-block, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(block, near[rows], axis=1)
        weight[rows] = np.where(np.isfinite(found), found, 0)
    return _Graph(near, weight)


def _log_density(images: np.ndarray, means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """(M, C) log densities, less what all classes share."""
    return np.stack([-np.square(images - mean) @ (0.5 / variances) for mean in means], axis=1)


def _variances(images: np.ndarray, weights: np.ndarray, means: np.ndarray) -> np.ndarray:
    """(D,) weighted mean squares about the class means."""
    squares = sum(w @ np.square(images - mean) for w, mean in zip(weights.T, means))
    return np.maximum(squares / weights.sum(), _LEAST_VARIANCE)
