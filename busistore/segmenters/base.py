"""What all segmenters have in common: the published schedule of training as fields, and what a batch is.

No network is loaded here: torch is for the modules that a segmenter names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from busistore.errors import BusistoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE_PX = 256  # side of what a network sees
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Start:
    """What a network is before it is trained here.

    `init` is "nothing" (drawn from a seed, as is meant), the kind of weights in the file, or "random": drawn where
    weights are meant, to try the way out. `sha256` is of the file.
    """

    init: str = "nothing"
    path: Path | None = None
    sha256: str = ""


NOTHING = Start()


@dataclass(frozen=True)
class Lesions:
    """Images and the masks of their lesions, one by one: (H, W) uint8 and (H, W) bool of the same size.

    `tokens`, where a part of the network is kept and not computed: rows (B,) to what `Segmenter.tokens` gives of
    them, of any float type.
    """

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray]
    tokens: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)


class Batch(NamedTuple):
    """images (B, 1, 256, 256) in [0, 1]; a click on each, points (B, 1, 2) as (x, y) and labels (B, 1), or boxes
    (B, 4), in those pixels; tokens as in `Lesions`; sizes (B, 2): height and width of each original."""

    images: Tensor
    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    tokens: Tensor | None = None
    sizes: Tensor | None = None

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
    is_trained: ClassVar[bool] = True  # here; else it is used as published
    inits: ClassVar[tuple[str, ...]] = ()  # what it may begin with, where it begins with weights
    exact: ClassVar[bool] = False  # oracle prompts are of the true mask as it lies, not of the one of IMAGE_PX squared
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
        self.require(0 < self.rate <= 1 and self.power > 0, "rate must be above 0 and at most 1, and power above 0")
        self.require(self.weight_decay <= 1, "weight_decay must be at most 1")
        self.require(self.init_seed < 2**63, "init_seed must be below 2^63")
        self.require(self.pos_weight > 0, "pos_weight must be above 0")
        self.require(all(0 <= b < 1 for b in (self.beta_1, self.beta_2)), "beta_1 and beta_2 must be in [0, 1)")
        wanted = f"precision is {' or '.join(PRECISIONS)}, not '{self.precision}'"
        self.require(self.precision in PRECISIONS, wanted)

    def require(self, fits: bool, otherwise: str) -> None:
        """Raises BusistoreError in this segmenter's name."""
        if not fits:
            raise BusistoreError(f"{self.name}: {otherwise}")

    def start(self, weights: Path | None = None) -> Start:
        """The weights that training begins with; raises MissingWeights where there should be some and are not."""
        self.require(weights is None, f"it starts from no weights, and takes no '{weights}'")
        return Start()

    @abstractmethod
    def network(self, start: Start = NOTHING, notes: list[str] | None = None) -> nn.Module:
        """A fresh network, with gradients for what is to be trained and for nothing else; `notes` are added to."""

    @abstractmethod
    def logits(self, network: nn.Module, batch: Batch) -> Tensor | list[Tensor]:
        """For a batch (B, 1, S, S), S 256, or 128 where the network decodes at half size; of a segmenter that is not
        trained here (1, H, W) of each image's own size."""

    @property
    def kept(self) -> str:
        """What of the network is computed once for each image and read from then on; '' for nothing."""
        return ""

    def encoder(self, start: Start) -> dict[str, Any]:
        """All that can change the tokens of an image."""
        raise NotImplementedError

    def tokens(self, network: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
        """The part that is kept, for (H, W) uint8 images: (B, ...) float32."""
        raise NotImplementedError

    def patches(self, tokens: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """Tokens as a grid over the image that was squeezed into a square: (B, 32, 32, C) float32."""
        raise NotImplementedError
