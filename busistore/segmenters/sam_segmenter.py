"""SAM as published, without training: from a click or a box to a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from busistore.segmenters.base import NOTHING, Batch, Start
from busistore.segmenters.weighted import Weighted

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SamSegmenter(Weighted):
    """Segment Anything's ViT-B on images of 1,024 pixels; its single answer, as for a prompt that is not ambiguous.

    What its encoder makes of an image is kept, so that another prompt costs the small decoder alone.

    Source: Kirillov et al. (2023), Segment Anything, ICCV.
    """

    name: ClassVar[str] = "sam"
    summary: ClassVar[str] = "Segment Anything ViT-B as published, from a click or a box; it is not trained"
    prompted: ClassVar[bool] = True
    is_trained: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def network(self, start: Start = NOTHING, notes: list[str] | None = None) -> nn.Module:
        """See Segmenter."""
        from busistore.segmenters import checkpoints, sam

        self.check(start)
        model = sam.drawn(self.sam_size, self.init_seed)
        if start.path is not None:
            checkpoints.load_stock(model, start.path)
        return model.requires_grad_(False)

    def logits(self, network: nn.Module, batch: Batch) -> list[Tensor]:
        """(1, H, W) of each image."""
        from busistore.segmenters import sam

        return sam.logits(network, batch)

    @property
    def kept(self) -> str:
        """See Segmenter."""
        return "embedding"

    def tokens(self, network: nn.Module, images: Sequence[np.ndarray]) -> Tensor:
        """(B, 256, 64, 64); see Segmenter."""
        from busistore.segmenters import sam

        return sam.embeddings(network, images)

    def patches(self, tokens: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """(B, 32, 32, 256); see Segmenter."""
        from busistore.segmenters import sam

        return sam.patches(tokens, sizes)
