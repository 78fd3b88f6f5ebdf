"""Training the weights of the image tower themselves: all of them, or the biases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from busistore.methods.base import require
from busistore.methods.tuning import TowerTuning

if TYPE_CHECKING:
    from busistore.methods.dropout import Noise
    from busistore.models.trainable import TrainableViT

_BEHIND = ("stem.norm.", "stem.pool.", "stem.norm_pooled.", "stem.project.")


@dataclass(frozen=True)
class FullTuning(TowerTuning):
    """`TowerTuning` of every weight from the first of `blocks` on; the patch embedding stays as it was.

    The factor of QuickGELU is folded into the weights around it and LayerScale is not trained. `tower.safetensors`
    in the folder of a run has what was trained, under the names of `models.trainable`: as large as the tower.
    """

    name: ClassVar[str] = "full-tuning"
    qkv: ClassVar[str] = "split"
    adapter_rate: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.precision == "fp32", self, "weights that are trained need precision=fp32")

    def opens(self, name: str) -> bool:
        """Whether the tensor of that name is trained."""
        return name.startswith(("blocks.", *_BEHIND))

    def open(self, network: TrainableViT, noise: Noise) -> TrainableViT:
        """See TowerTuning."""
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(self.opens(name))
        return network

    def keep(self, network: TrainableViT, folder: Path) -> None:
        """See TowerTuning."""
        from safetensors.torch import save_file

        trained = {name: p.detach().contiguous() for name, p in network.named_parameters() if p.requires_grad}
        save_file(trained, folder / "tower.safetensors")


@dataclass(frozen=True)
class BitFit(FullTuning):
    """`FullTuning` of the biases alone, those of the norms with them.

    Source: Ben Zaken, Goldberg & Ravfogel (2022), ACL, short papers, 1-9.
    """

    name: ClassVar[str] = "bitfit"
    adapter_rate: float = 1e-3

    def opens(self, name: str) -> bool:
        """See FullTuning."""
        return super().opens(name) and name.endswith(".bias")
