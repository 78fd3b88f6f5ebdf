"""LoRA: low-rank adapters in the attention of the image tower, with a linear head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from busistore.methods.base import require
from busistore.methods.tuning import TowerTuning

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    from busistore.methods.dropout import Noise
    from busistore.models.trainable import TrainableViT

FORMS = ("split", "fused")
_ADAPTER = "default"  # peft's name of the only adapter


@dataclass(frozen=True)
class Lora(TowerTuning):
    """`TowerTuning` of adapters: each weight W of the attention becomes W + alpha / rank B A.

    A (rank, in) starts uniform within 1 / sqrt(in), B (out, rank) at 0; dropout acts on what A reads. `qkv` "split"
    adapts the weights of queries, keys, values and outputs each on its own, the same numbers in every tower; "fused"
    gives queries, keys and values one A between them, which is what the published study had in timm's towers.

    The folder of a run is one of peft: `PeftModel.from_pretrained(network, folder)` loads it.

    Differs from the published run, which augments the images anew each epoch.

    Source: Hu et al. (2022), ICLR, equation 3.
    """

    name: ClassVar[str] = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1
    qkv: str = "split"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rank >= 1 and self.alpha > 0, self, "rank must be at least 1, and alpha above 0")
        require(0 <= self.dropout < 1, self, "dropout must be at least 0 and below 1")
        require(self.qkv in FORMS, self, f"qkv is {' or '.join(FORMS)}, not '{self.qkv}'")

    def open(self, network: TrainableViT, noise: Noise) -> PeftModel:
        """See TowerTuning."""
        from peft import LoraConfig, get_peft_model

        from busistore.models.trainable import TARGETS

        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=TARGETS[self.qkv]
        )
        adapted = get_peft_model(network, config)
        self._start(adapted, noise)
        return adapted

    def _start(self, adapted: PeftModel, noise: Noise) -> None:
        """Draw every A by `init_seed`, whatever was drawn from PyTorch before, and hand dropout its generator."""
        import torch

        from busistore.methods.dropout import Dropout, generator

        rng = generator(self.init_seed, 0, 1)
        for layer in _layers(adapted):
            down = layer.lora_A[_ADAPTER].weight
            drawn = rng.uniform(-1, 1, tuple(down.shape)) / down.shape[1] ** 0.5
            with torch.no_grad():
                down.copy_(torch.from_numpy(drawn))
            if self.dropout:
                layer.lora_dropout[_ADAPTER] = Dropout(self.dropout, noise)

    def keep(self, network: PeftModel, folder: Path) -> None:
        """`adapter_model.safetensors` and `adapter_config.json`, in peft's layout."""
        network.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in


def _layers(network: PeftModel) -> Iterator[LoraLayer]:
    """Those with an adapter, in the order of the network."""
    from peft.tuners.lora import LoraLayer

    return (module for module in network.modules() if isinstance(module, LoraLayer))
