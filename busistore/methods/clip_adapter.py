"""CLIP-Adapter: a small network that moves the image vectors, read by the prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from busistore.methods.base import Labelled, Outcome, TextPrompts, prepare, require, softmax
from busistore.methods.descent import Arrays, Sgd, batches, chosen_epoch, cosine, in_order, residuals


@dataclass(frozen=True)
class ClipAdapter:
    """Cosine to the prompts of f + `ratio` (A(f) - f), times the logit scale; A is a network of two layers.

    A(f) = relu(V relu(U f)) with D / `reduction` hidden units and no bias, f of length 1. Its weights start uniform
    within 1 / sqrt(number of inputs), drawn by `init_seed`, as does the order of batches. Momentum and weight decay,
    a cosine schedule by epoch. Under "val-tuned" the first epoch of the best macro-F1 on the validation part counts,
    under "strict" the last.

    Differs from the published code, which augments the images anew each epoch, warms up for one epoch, and feeds the
    adapter vectors of whatever length the tower gives.

    Source: Gao et al. (2024), International Journal of Computer Vision 132, 581-595, equations 3-6.
    """

    name: ClassVar[str] = "clip-adapter"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    ratio: float = 0.2
    reduction: int = 4
    epochs: int = 200
    rate: float = 0.002
    momentum: float = 0.9
    decay: float = 5e-4
    batch_size: int = 32
    init_seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.ratio < 1, self, "ratio must be at least 0 and below 1")
        require(0 <= self.momentum < 1, self, "momentum must be at least 0 and below 1")
        require(self.rate > 0 and self.decay >= 0, self, "rate must be above 0, and decay at least 0")
        require(min(self.epochs, self.batch_size, self.reduction) > 0 and self.init_seed >= 0, self,
                "epochs, batch_size and reduction must be at least 1, and init_seed at least 0")  # fmt: skip

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; `chosen` holds the epoch, and its score where epochs were compared."""
        ready = prepare(self, support, val, queries, n_classes, protocol)
        scaled = text.logit_scale * text.directions(n_classes)

        def logits(layers: Arrays, images: np.ndarray) -> np.ndarray:
            moved = _forward(layers, images, self.ratio)[-1]
            return moved / np.linalg.norm(moved, axis=1, keepdims=True) @ scaled.T

        layers, chosen = chosen_epoch(self._train(in_order(ready.support), scaled), logits, ready.val, n_classes)
        return ready.outcome(softmax(logits(layers, ready.queries)), chosen)

    def start(self, dim: int, rng: np.random.Generator) -> Arrays:
        """(hidden, dim) and (dim, hidden) weights before training."""
        hidden = max(1, dim // self.reduction)
        return tuple(rng.uniform(-1, 1, (b, a)) / np.sqrt(a) for a, b in ((dim, hidden), (hidden, dim)))

    def _train(self, support: Labelled, scaled: np.ndarray) -> Iterator[Arrays]:
        """The layers after each epoch."""
        rng = np.random.Generator(np.random.PCG64(self.init_seed))
        layers, optimiser = self.start(scaled.shape[1], rng), Sgd(self.momentum, self.decay)
        for rate in cosine(self.rate, self.epochs):
            for rows in batches(len(support.labels), self.batch_size, rng):
                found = gradients(layers, support.features[rows], support.labels[rows], scaled, self.ratio)
                layers = optimiser.step(layers, found, rate)
            yield layers


def gradients(layers: Arrays, images: np.ndarray, labels: np.ndarray, scaled: np.ndarray, ratio: float) -> Arrays:
    """Of the mean cross-entropy by both layers.

    Args:
        images: (N, D) of length 1. scaled: (C, D) prompts of length 1 times the logit scale.
    """
    hidden, added, moved = _forward(layers, images, ratio)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = moved / length
    by_unit = residuals(unit @ scaled.T, labels) @ scaled
    by_moved = (by_unit - (by_unit * unit).sum(axis=1, keepdims=True) * unit) / length
    by_added = ratio * by_moved * (added > 0)
    by_hidden = (by_added @ layers[1]) * (hidden > 0)
    return by_hidden.T @ images, by_added.T @ hidden


def _forward(layers: Arrays, images: np.ndarray, ratio: float) -> Arrays:
    """(N, hidden) units, (N, D) what the network gives, and (N, D) images moved towards it."""
    hidden = np.maximum(images @ layers[0].T, 0)
    added = np.maximum(hidden @ layers[1].T, 0)
    return hidden, added, ratio * added + (1 - ratio) * images
