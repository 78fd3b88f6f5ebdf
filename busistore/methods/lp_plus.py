"""LP++: a linear probe that blends in the prompts, with step sizes from the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from busistore.errors import BusistoreError
from busistore.methods.base import Labelled, Outcome, TextPrompts, prepare, require, softmax
from busistore.methods.descent import Sgd, chosen_epoch, residuals

_TINY = np.finfo(np.float64).tiny  # in place of 0 below a step size: the gradient that it multiplies is 0 too


class _Probe(NamedTuple):
    """weights: (C, D). bias: (C,). blend: (C,), what multiplies the cosine to the prompts of each class."""

    weights: np.ndarray
    bias: np.ndarray
    blend: np.ndarray


@dataclass(frozen=True)
class LpPlus:
    """Logits w_c.f + b_c + a_c f.t_c of image f and prompts t_c, both of length 1; all of w, b and a are learned.

    Full batches: w and b by momentum at the step 4 N / lambda_max(F'F) from the sum of each class's images and 0;
    a by plain steps of N / (4 max_c sum_i (f_i.t_c)^2), every `blend_every` epochs, from `blend_start` times the mean
    cosine of an image to the prompts of its class. With `accumulate` the gradient of a is summed over all epochs so
    far, as the published code does by never setting it to zero; without, it is that of the epoch. The model's logit
    scale is not used.

    Under "val-tuned" the first epoch of the best macro-F1 on the validation part counts (the published code takes
    the last of equals, by accuracy), under "strict" the last. Every class needs the same number of images.

    Source: Huang et al. (2024), CVPR, LP++; its code starts b at random.
    """

    name: ClassVar[str] = "lp++"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    needs_balance: ClassVar[bool] = True
    epochs: int = 300
    momentum: float = 0.9
    blend_start: float = 250.0
    blend_every: int = 10
    accumulate: bool = True

    def __post_init__(self) -> None:
        require(self.epochs > 0 and self.blend_every > 0, self, "epochs and blend_every must be at least 1")
        require(0 <= self.momentum < 1, self, "momentum must be at least 0 and below 1")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; `chosen` holds the epoch, and its score where epochs were compared.

        Raises:
            BusistoreError: also where classes differ in their number of support images.
        """
        ready = prepare(self, support, val, queries, n_classes, protocol)
        self._check_balance(np.bincount(ready.support.labels, minlength=n_classes))
        prototypes = text.directions(n_classes)

        def logits(probe: _Probe, images: np.ndarray) -> np.ndarray:
            return images @ probe.weights.T + probe.bias + probe.blend * (images @ prototypes.T)

        probe, chosen = chosen_epoch(self._train(ready.support, prototypes), logits, ready.val, n_classes)
        return ready.outcome(softmax(logits(probe, ready.queries)), chosen)

    def _check_balance(self, counts: np.ndarray) -> None:
        if counts.min() < counts.max():
            has = ", ".join(map(str, counts.tolist()))
            raise BusistoreError(f"{self.name} needs as many support images of each class, not {has}; draw by shots")

    def _train(self, support: Labelled, prototypes: np.ndarray) -> Iterator[_Probe]:
        """The probe after each epoch."""
        x, labels, n = support.features, support.labels, len(support.labels)
        members, cosines = np.eye(len(prototypes))[labels], x @ prototypes.T
        blend = np.full(len(prototypes), self.blend_start * cosines[np.arange(n), labels].mean())
        learned = (members.T @ x, np.zeros(len(prototypes)))
        rate = 4 * n / np.linalg.norm(x, 2) ** 2
        blend_rate = n / (4 * max(np.square(cosines).sum(axis=0).max(), _TINY))
        optimiser, summed = Sgd(self.momentum), np.zeros_like(blend)
        for epoch in range(1, self.epochs + 1):
            weights, bias = learned
            error = residuals(x @ weights.T + bias + blend * cosines, labels)
            pull = (error * cosines).sum(axis=0)
            summed = summed + pull if self.accumulate else pull
            learned = optimiser.step(learned, (error.T @ x, error.sum(axis=0)), rate)
            if epoch % self.blend_every == 0:
                blend = blend - blend_rate * summed
            yield _Probe(*learned, blend)
