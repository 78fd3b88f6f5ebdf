"""SS-Text: class prototypes from support images and prompts in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from busistore.methods.base import Labelled, Outcome, TextPrompts, normalise, prepare, softmax

LEAST_PULL = 1e-3  # of the prompts on their class, as published: beyond 1,000 images it falls no further


@dataclass(frozen=True)
class SsText:
    """Cosine, times the logit scale s, to prototypes s / (N l_c) sum_{i in c} f_i + t_c of images f and prompts t.

    l_c is how hard the prompts pull: 1/N, so that all images count alike. With `plus` it is 1/n_c of the class, which
    lets images outweigh prompts in large classes, and the prototypes w are then pushed apart by subtracting the
    direction of 2 w - mean w (SS-Text+, for classes of unequal size).

    Nothing is chosen, so both protocols give the same and neither looks at the validation part.

    Source: Silva-Rodríguez et al. (2025), IPMI and MICCAI, training-free solvers of text-constrained prototypes.
    """

    name: ClassVar[str] = "ss-text"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    plus: bool = False

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; nothing is chosen, and the labelled images consulted are the support alone."""
        ready = prepare(self, support, val, queries, n_classes, protocol, chooses=False)
        directions = text.directions(n_classes)
        weights = self._prototypes(ready.support, directions, text.logit_scale)
        cosines = ready.queries @ normalise(weights, "class prototype").T
        return ready.outcome(softmax(text.logit_scale * cosines), {})

    def _prototypes(self, support: Labelled, directions: np.ndarray, scale: float) -> np.ndarray:
        """(C, D), of any length."""
        members = np.eye(len(directions))[support.labels]
        counts = members.sum(axis=0) if self.plus else np.full(len(directions), len(members))
        pull = np.maximum(1 / counts, LEAST_PULL)
        found = scale / (len(members) * pull)[:, None] * (members.T @ support.features) + directions
        if self.plus:
            found = found - normalise(2 * found - found.mean(axis=0), "class prototype")
        return found
