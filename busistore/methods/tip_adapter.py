"""Tip-Adapter: the support set as a cache of keys and classes beside the prompts; with fixed or with trained keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from busistore.methods.base import Inputs, Labelled, Outcome, TextPrompts, macro_f1, prepare, require, softmax
from busistore.methods.descent import AdamW, batches, chosen_epoch, cosine, in_order, residuals

_GRID_START = 0.1


class _Cache(NamedTuple):
    """keys: (N, D). members: (N, C), 1 where the image is of the class. text: (C, D) prototypes times the scale."""

    keys: np.ndarray
    members: np.ndarray
    text: np.ndarray

    def votes(self, queries: np.ndarray, beta: float) -> np.ndarray:
        """(M, C) sums of exp(-beta (1 - cosine)) over the keys of each class."""
        return np.exp(beta * (queries @ self.keys.T - 1)) @ self.members

    def logits(self, queries: np.ndarray, alpha: float, beta: float) -> np.ndarray:
        return queries @ self.text.T + alpha * self.votes(queries, beta)


@dataclass(frozen=True)
class TipAdapter:
    """Zero-shot logits plus `alpha` times votes of the support images, exp(-`beta` (1 - cosine)) each.

    Under "val-tuned" beta and alpha are the first pair of the best macro-F1 on the validation part, beta the slower
    of the two, each from 0.1 up in `grid_steps` even steps that stop short of `grid_end`. Under "strict" they are
    the fields. No image is augmented: the cache holds the stored vectors.

    Source: Zhang et al. (2022), ECCV, equations 2-6; alpha and beta as its ablation found on ImageNet.
    """

    name: ClassVar[str] = "tip-adapter"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    alpha: float = 1.0
    beta: float = 5.5
    grid_steps: int = 200
    grid_end: float = 50.0

    def __post_init__(self) -> None:
        require(self.alpha >= 0 and self.beta > 0, self, "alpha must be at least 0, and beta above 0")
        require(self.grid_steps > 0, self, "grid_steps must be at least 1")
        require(self.grid_end > _GRID_START, self, f"grid_end must be above {_GRID_START}")

    @property
    def grid(self) -> np.ndarray:
        """(grid_steps,) what alpha and beta may be."""
        return _GRID_START + np.arange(self.grid_steps) * (self.grid_end - _GRID_START) / self.grid_steps

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; `chosen` holds alpha and beta, and their score where pairs were compared."""
        ready = prepare(self, support, val, queries, n_classes, protocol)
        cache, chosen = self._cache(ready, text, n_classes)
        chosen |= self._search(cache, ready.val) if ready.val else {"alpha": self.alpha, "beta": self.beta}
        return ready.outcome(softmax(cache.logits(ready.queries, chosen["alpha"], chosen["beta"])), chosen)

    def _cache(self, ready: Inputs, text: TextPrompts, n_classes: int) -> tuple[_Cache, dict[str, Any]]:
        """The cache, and what was chosen in making it."""
        prototypes = text.logit_scale * text.directions(n_classes)
        return _Cache(ready.support.features, np.eye(n_classes)[ready.support.labels], prototypes), {}

    def _search(self, cache: _Cache, val: Labelled) -> dict[str, float]:
        """The first pair of the best macro-F1."""
        grid = self.grid
        base = (val.features @ cache.text.T).T[:, None]
        affinity = val.features @ cache.keys.T - 1
        scores = np.empty((len(grid), len(grid)))
        for row, beta in zip(scores, grid):
            votes = (np.exp(beta * affinity) @ cache.members).T[:, None]
            called = _largest(base + grid[:, None] * votes)
            row[:] = macro_f1(val.labels, called, len(base))
        b, a = np.unravel_index(scores.argmax(), scores.shape)
        return {"alpha": float(grid[a]), "beta": float(grid[b]), "val_macro_f1": float(scores[b, a])}


def _largest(logits: np.ndarray) -> np.ndarray:
    """(...) argmax of (C, ...): a pass a class, many times faster than numpy's own where classes are few."""
    best, called = logits[0], np.zeros(logits.shape[1:], np.int64)
    for c in range(1, len(logits)):
        called = np.where(logits[c] > best, c, called)
        best = np.maximum(best, logits[c])
    return called


@dataclass(frozen=True)
class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained on the support images, from their own vectors: AdamW, cosine schedule.

    Training uses the fields `alpha` and `beta`. Under "val-tuned" the keys are those of the first epoch of the best
    macro-F1 on the validation part, for which alpha and beta are then searched as in Tip-Adapter; under "strict" the
    last epoch and the fields count. The published code keeps the epoch that does best on the test images, and
    reports the better of two test scores: nothing here looks at test. It augments the images anew each epoch, which
    stored vectors do not allow. More than `batch_size` images are shuffled into batches by `batch_seed`.

    Source: Zhang et al. (2022), ECCV, section 3.2; optimiser as published.
    """

    name: ClassVar[str] = "tip-adapter-f"
    epochs: int = 20
    rate: float = 1e-3
    decay: float = 0.01
    epsilon: float = 1e-4
    batch_size: int = 256
    batch_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.epochs > 0 and self.batch_size > 0, self, "epochs and batch_size must be at least 1")
        require(self.rate > 0 and self.epsilon > 0, self, "rate and epsilon must be above 0")
        require(self.decay >= 0 and self.batch_seed >= 0, self, "decay and batch_seed must be at least 0")

    def _cache(self, ready: Inputs, text: TextPrompts, n_classes: int) -> tuple[_Cache, dict[str, Any]]:
        ready = ready._replace(support=in_order(ready.support))
        start, _ = super()._cache(ready, text, n_classes)

        def logits(keys: np.ndarray, images: np.ndarray) -> np.ndarray:
            return start._replace(keys=keys).logits(images, self.alpha, self.beta)

        keys, chosen = chosen_epoch(self._train(start, ready.support), logits, ready.val, n_classes)
        return start._replace(keys=keys), {"epoch": chosen["epoch"]}

    def _train(self, cache: _Cache, support: Labelled) -> Iterator[np.ndarray]:
        """The keys after each epoch."""
        optimiser = AdamW(self.decay, self.epsilon)
        rng = np.random.Generator(np.random.PCG64(self.batch_seed))
        n_batches = -(-len(support.labels) // self.batch_size)
        rates = iter(cosine(self.rate, self.epochs * n_batches))
        for _ in range(self.epochs):
            for rows in batches(len(support.labels), self.batch_size, rng):
                gradient = self._gradient(cache, support.features[rows], support.labels[rows])
                (keys,) = optimiser.step((cache.keys,), (gradient,), next(rates))
                cache = cache._replace(keys=keys)
            yield cache.keys

    def _gradient(self, cache: _Cache, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N, D) of the mean cross-entropy by the keys."""
        near = np.exp(self.beta * (images @ cache.keys.T - 1))
        error = residuals(images @ cache.text.T + self.alpha * near @ cache.members, labels)
        return (self.alpha * self.beta * (error @ cache.members.T) * near).T @ images
