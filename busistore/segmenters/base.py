"""What all segmenters have in common: the published schedule of training as fields, and what a batch is.

No network is loaded here: torch is for the modules that a segmenter names.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from busistore.errors import BusistoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_PX = 256  # side of what a network sees
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Lesions:
    """Images and the masks of their lesions, one by one: (H, W) uint8 and (H, W) bool of the same size.

    `tokens`, where a branch of the network is kept and not computed: rows (B,) to (B, 32, 32, W) of any float type.
    """

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]
    tokens: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)


class Batch(NamedTuple):
    """images (B, 1, 256, 256) in [0, 1]; a click on each, points (B, 1, 2) as (x, y) and labels (B, 1), or boxes
    (B, 4); tokens as in `Lesions`."""

    images: Tensor
    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    tokens: Tensor | None = None

    def part(self, rows: slice) -> Batch:
        """Some of the images."""
        return Batch(*(None if tensor is None else tensor[rows] for tensor in self))


@dataclass(frozen=True)
class Segmenter(ABC):
    """How a segmenter is trained; defaults are the published protocol of BUSSAM.

    A step is made on `batch_size` images; no more than `at_once` of them are held in memory with their gradients, at
    the cost of a second pass, and the step stays the same: the loss is of the whole batch. Training ends after
    `epochs`, or after `patience` of them without a better Dice on validation (0: never); the first epoch of the best
    counts.

    Source: Tu et al. (2024), arXiv 2404.14837, as released.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    code: ClassVar[int] = 1
    prompted: ClassVar[bool]
    epochs: int = 100
    batch_size: int = 8
    at_once: int = 8
    rate: float = 5e-4
    warm_up: int = 250
    power: float = 0.9
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    bce_weight: float = 0.2
    dice_weight: float = 0.8
    pos_weight: float = 2.0
    augment: bool = True
    patience: int = 0
    precision: str = "fp32"
    init_seed: int = 1234
    checkpoint_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "at_once", "checkpoint_every"):
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in ("warm_up", "patience", "init_seed", "weight_decay", "bce_weight", "dice_weight"):
            self.require(getattr(self, name) >= 0, f"{name} must be at least 0")
        self.require(self.bce_weight + self.dice_weight > 0, "bce_weight or dice_weight must be above 0")
        self.require(0 < self.rate < math.inf and self.power > 0, "rate and power must be above 0")
        self.require(self.pos_weight > 0, "pos_weight must be above 0")
        self.require(all(0 <= b < 1 for b in (self.beta_1, self.beta_2)), "beta_1 and beta_2 must be in [0, 1)")
        wanted = f"precision is {' or '.join(PRECISIONS)}, not '{self.precision}'"
        self.require(self.precision in PRECISIONS, wanted)

    def require(self, fits: bool, otherwise: str) -> None:
        """Raises BusistoreError in this segmenter's name."""
        if not fits:
            raise BusistoreError(f"{self.name}: {otherwise}")

    @abstractmethod
    def network(self) -> nn.Module:
        """A fresh network, with gradients for what is to be trained and for nothing else."""

    @abstractmethod
    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B, 1, S, S) for a batch; S is 256, or 128 where the network decodes at half size."""
