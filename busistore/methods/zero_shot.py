"""Classes by prompts alone: no image is learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from busistore import prompts
from busistore.errors import BusistoreError
from busistore.methods import prompt_scores
from busistore.methods.base import Labelled, Outcome, TextPrompts, check_protocol, normalise, require, softmax
from busistore.metrics import Metric

RANKS = ("none", "val")


@dataclass(frozen=True)
class ZeroShot:
    """Softmax of the scaled cosine between an image and the mean prompt of each class, all of length 1.

    A class's prompts are L2-normalised, averaged and normalised again. With `rank` "none" all prompts of the set
    count, and no label is looked at under any protocol. With "val" they are ranked on the validation part and the
    ensemble is chosen there (see `prompt_scores.choose`); its images then count as consulted, and "strict" forbids it.

    Source: Radford et al. (2021), ICML, section 3.1.4.
    """

    name: ClassVar[str] = "zero-shot"
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_text: ClassVar[bool] = True
    needs_support: ClassVar[bool] = False
    rank: str = "none"

    def __post_init__(self) -> None:
        require(self.rank in RANKS, self, f"rank is {' or '.join(RANKS)}, not '{self.rank}'")

    @property
    def looks_at_val(self) -> bool:
        return self.rank == "val"

    def fit_predict(
        self, support: None, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        text: TextPrompts,
    ) -> Outcome:  # fmt: skip
        """See base.Method; `chosen` names the prompts of the ensemble and, where it was chosen, what that cost.

        Raises:
            BusistoreError: also where a class has no prompt, or prompts that cancel out.
        """
        check_protocol(self, protocol)
        labels = np.asarray(text.labels, np.int64)
        directions = prompts.ensemble(text.vectors, labels, n_classes)
        taken, found, n_val = self._choose(val, text, n_classes)
        if self.looks_at_val:
            among = sorted(taken)  # as the set has them, so that sums do not depend on the order of the search
            directions = prompts.ensemble(text.vectors[among], labels[among], n_classes)
        cosines = normalise(queries, "test") @ directions.T
        chosen = {"prompts": [text.ids[p] for p in taken], "logit_scale": float(text.logit_scale), **found}
        return Outcome(softmax(text.logit_scale * cosines), chosen, n_val, self.looks_at_val)

    def _choose(self, val: Labelled | None, text: TextPrompts, n_classes: int) -> tuple[list[int], dict[str, Any], int]:
        """The prompts that count, what is to be told of their choice, and how many labels it took."""
        if not self.looks_at_val:
            return list(range(len(text.ids))), {}, 0
        if val is None or not len(val.labels):
            raise BusistoreError(f"{self.name} has no validation images to rank prompts on; use rank=none")
        taken, found = prompt_scores.choose(prompt_scores.bank(val, text, n_classes, "validation"))
        return taken, found | {"n_val": len(val.labels)}, len(val.labels)

    def prompt_metrics(
        self, images: Labelled, text: TextPrompts, classes: Sequence[str]
    ) -> Iterator[tuple[str, Metric]]:
        """What each prompt, and each set of n-th prompts, is worth on these images; see `prompt_scores`."""
        return prompt_scores.prompt_metrics(prompt_scores.bank(images, text, len(classes)), text.ids, classes)


@dataclass(frozen=True)
class TextReadout(ZeroShot):
    """Prompts read through a map from image to text space that was learned from the training labels: not zero-shot.

    For a pair of towers that share no space. The vectors it is given are mapped ones, and whoever maps them adds the
    labels that the map took to those consulted here.
    """

    name: ClassVar[str] = "text-readout"
