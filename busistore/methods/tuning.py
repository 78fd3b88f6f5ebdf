"""Methods that train the image tower itself: the schedule that they share, and how one run of them goes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from busistore.methods.base import Labelled, Outcome, prepare, require, softmax

if TYPE_CHECKING:
    from torch import nn

    from busistore.methods.dropout import Noise
    from busistore.models.trainable import TrainableViT

PRECISIONS = ("fp32", "bf16")
TOKENS = ("float32", "float16")


@dataclass(frozen=True)
class TowerTuning(ABC):
    """A linear head on the L2-normalised vectors of an image tower, trained together with some of the tower.

    The last `blocks` blocks of the tower take part, or all of them. Cross-entropy, AdamW with a learning rate and a
    weight decay for the head and one for the tower, half a cosine by epoch down to `least_rate`. A step is the mean
    over `batch_size` x `accumulate` images, or over those left at the end of an epoch; `batch_size` alone is what is
    held in memory. Gradients are clipped to a length of `clip`, head and tower together. Under "val-tuned" the first
    epoch of the best macro-F1 on the validation part counts, and training ends after `patience` epochs without a
    better one; under "strict" the last of `epochs` counts.

    The order of batches and what dropout hides are drawn by `init_seed` and the number of the epoch, so that a run
    that goes on from its checkpoint, written every `checkpoint_every` epochs, ends in the same numbers as one that was
    never stopped.

    `precision` is of the products with frozen weights, `tokens` what states are rounded to before they are given.
    """

    name: ClassVar[str]
    protocols: ClassVar[tuple[str, ...]] = ("val-tuned", "strict")
    code: ClassVar[int] = 1
    needs_tower: ClassVar[bool] = True
    blocks: int | None = None
    head_rate: float = 1e-3
    adapter_rate: float = 1e-4
    head_decay: float = 1e-3
    adapter_decay: float = 1e-5
    beta_1: float = 0.9
    beta_2: float = 0.95
    batch_size: int = 8
    accumulate: int = 4
    epochs: int = 100
    least_rate: float = 1e-7
    clip: float = 1.0
    patience: int = 18
    precision: str = "fp32"
    tokens: str = "float32"
    init_seed: int = 0
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        counts = ("batch_size", "accumulate", "epochs", "patience", "checkpoint_every")
        for name in counts:
            require(getattr(self, name) >= 1, self, f"{name} must be at least 1")
        require(self.blocks is None or self.blocks >= 1, self, "blocks must be at least 1, or none for all of them")
        require(0 <= self.least_rate <= min(self.head_rate, self.adapter_rate), self,
                "least_rate must be at least 0, and neither head_rate nor adapter_rate below it")  # fmt: skip
        require(0 < max(self.head_rate, self.adapter_rate) < math.inf, self, "one of the rates must be above 0")
        require(min(self.head_decay, self.adapter_decay) >= 0, self, "head_decay and adapter_decay must be at least 0")
        require(all(0 <= b < 1 for b in (self.beta_1, self.beta_2)), self, "beta_1 and beta_2 must be in [0, 1)")
        require(self.clip > 0, self, "clip must be above 0")
        require(self.init_seed >= 0, self, "init_seed must be at least 0")
        require(self.precision in PRECISIONS, self, f"precision is {' or '.join(PRECISIONS)}, not '{self.precision}'")
        require(self.tokens in TOKENS, self, f"tokens are {' or '.join(TOKENS)}, not '{self.tokens}'")

    @abstractmethod
    def open(self, network: TrainableViT, noise: Noise) -> nn.Module:
        """The network, changed in place or wrapped, with gradients for what is to be trained and for nothing else."""

    @abstractmethod
    def keep(self, network: nn.Module, folder: Path) -> None:
        """Write what was trained in the network that `open` gave."""

    def fit_predict(
        self, support: Labelled, val: Labelled | None, queries: np.ndarray, n_classes: int, protocol: str, *,
        tower: Callable[[], TrainableViT], folder: Path | None = None, on_epoch: Callable[[], None] | None = None,
    ) -> Outcome:  # fmt: skip
        """Train on the support set and give the class probabilities of the M queries.

        Args:
            support, val: features (N, T, W) of any float type: states that enter the first block that is trained.
                Only `len`, and rows by an array of numbers, are asked of them, so they need not lie in memory.
            queries: (M, T, W), likewise.
            tower: a fresh frozen network; it is not called under wrong inputs.
            folder: where an unfinished run has its checkpoint (`.partial/`), and a finished one its weights
                (`head.safetensors`, and those of the method) and `curves.json`. Without it nothing is kept.
            on_epoch: called after each epoch that is run now, not for those of a checkpoint.

        Returns:
            `chosen` holds the epoch that counts and its score where epochs were compared, how many epochs were run,
            the trained numbers of the tower and of the head, the process' CPU-seconds over all attempts, and the
            SHA-256 of the weights that were kept;
            `seconds` are over all attempts too.

        Raises:
            BusistoreError: a class without support, no validation images under "val-tuned", states that are not finite.
            RunFailed: the loss is not finite any more, or memory ends.
            StoreError: the disk is full, or `folder` cannot be written to.
        """
        checked = prepare(
            self, _without_states(support), None if val is None else _without_states(val), _ones(queries), n_classes,
            protocol,
        )  # fmt: skip
        from busistore.methods import training

        seen = None if checked.val is None else Labelled(val.features, checked.val.labels)
        images = Labelled(support.features, checked.support.labels)
        logits, progress, told = training.run(
            self, images, seen, queries, n_classes, tower, folder, on_epoch or (lambda: None)
        )
        chosen = {"epoch": progress.best_epoch, "n_epochs": progress.epoch, **told}
        if seen is not None:
            chosen["val_macro_f1"] = progress.best_score
        return Outcome(
            softmax(logits), chosen, checked.n_labelled, seen is not None, progress.seconds, curves=progress.curves
        )


def _without_states(images: Labelled) -> Labelled:
    """What `prepare` checks of every method's images; states may not fit into memory."""
    return images._replace(features=_ones(images.features))


def _ones(states: np.ndarray) -> np.ndarray:
    return np.ones((len(states), 1))
