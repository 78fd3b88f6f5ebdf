"""What segmenters that begin with published weights have in common: which weights, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from busistore.errors import MissingWeights, lookup
from busistore.segmenters.base import Segmenter, Start

if TYPE_CHECKING:
    from busistore.segmenters.bussam_encoder import SamSize

INITS = {
    "sam": "SAM's published ViT-B, checked by its hash",
    "fine-tuned": "a file with the tensors of SAM's ViT-B that was trained on elsewhere, such as MedSAM's",
    "bussam": "a whole checkpoint of BUSSAM, as its published code writes them",
    "random": "drawn from a seed: to try the way out, and said in every record",
}
SIZES = ("vit_b", "tiny")


@dataclass(frozen=True)
class Weighted(Segmenter):
    """A network that begins with weights of `init`; `size` "tiny" is there to try the way out."""

    inits: ClassVar[tuple[str, ...]] = ("sam", "fine-tuned", "random")
    size: str = "vit_b"
    init: str = "sam"

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("init", self.init, {name: INITS[name] for name in self.inits})
        lookup("size", self.size, dict.fromkeys(SIZES))
        self.require(self.size == "vit_b" or self.init != "sam", f"SAM has no size={self.size}; add init=random")

    def start(self, weights: Path | None = None) -> Start:
        """See Segmenter."""
        if self.init == "random":
            self.require(weights is None, f"init=random takes no weights, and '{weights}' is named")
            return Start("random")
        from busistore.segmenters import checkpoints

        path = weights or (checkpoints.default_path() if self.init == "sam" else None)
        if path is None:
            raise MissingWeights(f"{self.name}: init={self.init} needs a file; name it with --weights")
        return Start(self.init, path, checkpoints.identity(path, self.init))

    def check(self, start: Start) -> None:
        """Random weights stand in for others only where they are asked for."""
        fits = (start.path is None) == (self.init == "random") and start.init in ("nothing", self.init)
        self.require(fits, f"a network of init={self.init} is not made from '{start.init}'")

    def encoder(self, start: Start) -> dict[str, Any]:
        """See Segmenter."""
        seed = self.init_seed if start.init == "random" else None
        return {"name": self.name, "size": self.size, "init": start.init, "sha256": start.sha256, "seed": seed,
                "code": 1}  # fmt: skip

    @property
    def sam_size(self) -> SamSize:
        """How large the image encoder is."""
        from busistore.segmenters.bussam_encoder import TINY, VIT_B

        return VIT_B if self.size == "vit_b" else TINY
