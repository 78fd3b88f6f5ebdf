"""Gradient descent for methods that train: loss, optimisers, batches, and which epoch counts. All float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from busistore.methods.base import Labelled, macro_f1, softmax

State = TypeVar("State")
Arrays = tuple[np.ndarray, ...]


def residuals(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, C) gradient of the mean cross-entropy of (N,) class numbers by the (N, C) logits."""
    gradient = softmax(logits)
    gradient[np.arange(len(labels)), labels] -= 1
    return gradient / len(labels)


def cosine(rate: float, n_steps: int) -> np.ndarray:
    """(n_steps,) learning rates from `rate` down towards 0 by half a cosine.

    Source: Loshchilov & Hutter (2017), ICLR, equation 5, without restarts.

    >>> cosine(1.0, 2).round(12).tolist()
    [1.0, 0.5]
    """
    return rate * (1 + np.cos(np.pi * np.arange(n_steps) / n_steps)) / 2


class Sgd:
    """Gradient descent with heavy-ball momentum; `decay` times the parameter is added to each gradient."""

    def __init__(self, momentum: float, decay: float = 0.0) -> None:
        self.momentum, self.decay = momentum, decay
        self._velocity: Sequence[np.ndarray] | None = None

    def step(self, parameters: Arrays, gradients: Arrays, rate: float) -> Arrays:
        """New arrays; those given stay as they are."""
        pulls = [g + self.decay * p for p, g in zip(parameters, gradients)]
        last = self._velocity or [np.zeros_like(g) for g in pulls]
        self._velocity = [self.momentum * v + g for v, g in zip(last, pulls)]
        return tuple(p - rate * v for p, v in zip(parameters, self._velocity))


class AdamW:
    """Adam with decoupled weight decay.

    Source: Loshchilov & Hutter (2019), ICLR, algorithm 2; the decay is multiplied by the learning rate.
    """

    def __init__(self, decay: float, epsilon: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.decay, self.epsilon, self.betas = decay, epsilon, betas
        self._n_steps = 0
        self._moments: list[tuple[np.ndarray, np.ndarray]] | None = None

    def step(self, parameters: Arrays, gradients: Arrays, rate: float) -> Arrays:
        """New arrays; those given stay as they are."""
        (a, b), self._n_steps = self.betas, self._n_steps + 1
        last = self._moments or [(np.zeros_like(g), np.zeros_like(g)) for g in gradients]
        self._moments = [(a * m + (1 - a) * g, b * v + (1 - b) * g * g) for (m, v), g in zip(last, gradients)]
        moved = []
        for p, (m, v) in zip(parameters, self._moments):
            width = np.sqrt(v / (1 - b**self._n_steps)) + self.epsilon
            moved.append(p * (1 - rate * self.decay) - rate * m / (1 - a**self._n_steps) / width)
        return tuple(moved)


def in_order(images: Labelled) -> Labelled:
    """The images by class and then by vector, so that batches depend on what they hold and not on their order."""
    order = np.lexsort(np.column_stack([images.labels, images.features]).T[::-1])
    return Labelled(images.features[order], images.labels[order])


def batches(n: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows 0 to n - 1 of one epoch, shuffled into batches of `size`; all in order where one batch holds them."""
    if n <= size:
        return [np.arange(n)]
    return np.split(rng.permutation(n), range(size, n, size))


def chosen_epoch(
    epochs: Iterable[State], logits: Callable[[State, np.ndarray], np.ndarray], val: Labelled | None, n_classes: int
) -> tuple[State, dict[str, Any]]:
    """The first epoch of the best macro-F1 on validation, or the last one where there is no validation part.

    Args:
        epochs: what was learned by the end of each, at least one.
        logits: of what was learned and (M, D) images, (M, C).

    Returns:
        That state, and {"epoch": from 1} with "val_macro_f1" where it was compared.
    """
    kept, chosen = None, {}
    for number, state in enumerate(epochs, 1):
        if val is None:
            kept, chosen = state, {"epoch": number}
            continue
        score = float(macro_f1(val.labels, logits(state, val.features).argmax(axis=1), n_classes))
        if not chosen or score > chosen["val_macro_f1"]:
            kept, chosen = state, {"epoch": number, "val_macro_f1": score}
    return kept, chosen
