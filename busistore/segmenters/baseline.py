"""A U-Net trained from nothing on the images at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from busistore.segmenters.base import NOTHING, Batch, Segmenter, Start

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Unet(Segmenter):
    """`width` channels at full resolution, doubled by each of `depth` halvings. It has no prompt, and needs none.

    The loss is taken at 256 pixels. The rate is higher than for adapters, since nothing was learned before.

    Source: Ronneberger et al. (2015), MICCAI; see unet.py.
    """

    name: ClassVar[str] = "unet"
    summary: ClassVar[str] = "U-Net trained from nothing: the baseline, without a prompt"
    prompted: ClassVar[bool] = False
    width: int = 16
    depth: int = 4
    rate: float = 1e-3
    epochs: int = 60
    warm_up: int = 60
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        from busistore.segmenters.unet import GROUPS

        self.require(self.width >= GROUPS and self.width % GROUPS == 0, f"width must be a multiple of {GROUPS}")
        self.require(1 <= self.depth <= 6, "depth must be from 1 to 6")

    def network(self, start: Start = NOTHING, notes: list[str] | None = None) -> nn.Module:
        """See Segmenter."""
        from busistore.segmenters.unet import UNet

        return UNet(self.width, self.depth, self.init_seed)

    def logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """(B, 1, 256, 256)."""
        return network(batch.images)
