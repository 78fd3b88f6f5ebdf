"""The nearest class mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from busistore.methods.base import Inputs, Labelled, Outcome, normalise, prepare, require, softmax


@dataclass(frozen=True)
class Prototype:
    """Nearest mean of the L2-normalised support vectors of each class, by cosine.

    Nothing is chosen, so both protocols give the same and neither looks at the validation part. Probabilities are
    the softmax of `scale` times the cosine: they rank and classify, but are not calibrated, since no data set the
    scale.

    Source: Snell et al. (2017), NeurIPS, with cosine in place of Euclidean distance.
    """

    name: ClassVar[str] = "prototype"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    scale: float = 10.0

    def __post_init__(self) -> None:
        require(self.scale > 0, self, "scale must be above 0")

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str
    ) -> Outcome:
        """See base.Method; nothing is chosen, and the labelled images consulted are the support alone."""
        ready = prepare(self, support, val, queries, n_classes, protocol, chooses=False)
        logits = self.scale * ready.queries @ _means(ready, n_classes).T
        return ready.outcome(softmax(logits), {})


def _means(ready: Inputs, n_classes: int) -> np.ndarray:
    """(C, D) class means of length 1."""
    support = ready.support
    means = [support.features[support.labels == c].mean(axis=0) for c in range(n_classes)]
    return normalise(np.stack(means), "class mean")
