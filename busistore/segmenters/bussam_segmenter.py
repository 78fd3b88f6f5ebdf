"""BUSSAM as a segmenter: trained as published, or on tokens of its frozen branch that are computed once an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from busistore.errors import lookup
from busistore.segmenters.base import NOTHING, Batch, Start
from busistore.segmenters.weighted import Weighted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from busistore.segmenters.bussam import Bussam
    from busistore.segmenters.checkpoints import LoadReport

CACHES = {"none": "the whole network in every step", "vit": "tokens of the frozen transformer branch are kept"}
TRAIN_AS = {"none": "published", "vit": "cnn+decoder"}


@dataclass(frozen=True)
class BussamSegmenter(Weighted):
    """SAM adapted to breast ultrasound, a click to a mask.

    With `cache` "vit" the transformer branch is frozen whole and read from a table of tokens; then `train` is
    "cnn+decoder", and images are augmented in grey values alone, since tokens are of the image as it is. Adapters of
    that branch which are neither trained nor loaded would disturb what SAM has learned: they are left out then, and
    positions are SAM's own, averaged over the patches of 2 x 2.

    What the release does not say: its cross-branch adapters never run, so that 1,444,864 of the 25,052,432 numbers it
    calls trainable are trained; its "HD" is no Hausdorff distance; and all its results are for a click that is taken
    from the true mask.

    Source: Tu et al. (2024), arXiv 2404.14837, and the released implementation.
    """

    name: ClassVar[str] = "bussam"
    summary: ClassVar[str] = "SAM's ViT-B with ultrasound adapters, from a click or a box; cache=vit trains on tokens"
    prompted: ClassVar[bool] = True
    inits: ClassVar[tuple[str, ...]] = ("sam", "fine-tuned", "bussam", "random")
    wiring: str = "released"
    cache: str = "none"
    train: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        lookup("cache", self.cache, CACHES)
        if not self.train:
            object.__setattr__(self, "train", TRAIN_AS[self.cache])
        from busistore.segmenters.bussam_groups import TRAIN

        lookup("set of weights to train", self.train, TRAIN)
        is_kept, is_released = bool(self.kept), self.wiring == "released"
        self.require(is_released or self.init != "bussam", "init=bussam needs wiring=released, which they are of")
        self.require(not is_kept or is_released, "cache=vit needs wiring=released: no tokens are apart")
        self.require(not is_kept or self.train == "cnn+decoder", "cache=vit freezes what train=published trains")

    def network(self, start: Start = NOTHING, notes: list[str] | None = None) -> nn.Module:
        """See Segmenter."""
        from busistore.segmenters import bussam, bussam_groups, checkpoints

        self.check(start)
        model = bussam.drawn(self.sam_size, self.wiring, self.init_seed)
        if start.path is not None:
            whole = start.init == "bussam"
            load = checkpoints.load_bussam if whole else checkpoints.load_sam
            told = _told(load(model, start.path))
            if notes is not None:
                notes.append(f"of '{start.path.name}' {told}")
        model.image_encoder.is_adapted = self._is_adapted
        return bussam_groups.trainable(model, self.train)

    @property
    def _is_adapted(self) -> bool:
        return self.train == "published" or self.init == "bussam"

    def logits(self, network: Bussam, batch: Batch) -> Tensor:
        """(B, 1, 128, 128)."""
        images, tokens = batch.images, batch.tokens
        embedded = network.image_encoder(images) if tokens is None else network.embed(tokens, images)
        return network.decode(embedded, batch.points, batch.labels, batch.boxes)

    @property
    def kept(self) -> str:
        """See Segmenter."""
        return "vit" if self.cache == "vit" else ""

    def encoder(self, start: Start) -> dict[str, Any]:
        """See Segmenter."""
        return super().encoder(start) | {"name": "bussam-vit", "adapted": self._is_adapted}

    def tokens(self, network: Bussam, images: Sequence[np.ndarray]) -> Tensor:
        """(B, 32, 32, W); see Segmenter."""
        import torch

        from busistore.segmenters.augment import plain

        squares = np.stack([plain(image, np.zeros(image.shape, bool)).image for image in images])
        with torch.no_grad():
            return network.vit_tokens(torch.from_numpy(squares)[:, None].float() / 255)

    def patches(self, tokens: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """(B, 32, 32, W); see Segmenter."""
        return np.asarray(tokens, np.float32)


def _told(report: LoadReport) -> str:
    told = f"{len(report.copied)} tensors are copied, {len(report.resized)} resized"
    return f"{told}, {len(report.left_at_init)} that it does not have are drawn from the seed"
