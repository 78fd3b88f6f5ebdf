"""BUSSAM: SAM with ultrasound adapters, from a grey picture and a prompt to the mask of a lesion.

This module imports torch as it loads; import it inside functions.

Source: Tu et al. (2024), Ultrasound SAM Adapter, arXiv 2404.14837, and the released implementation; Kirillov et al.
(2023), Segment Anything, ICCV.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from busistore.segmenters.bussam_encoder import EMBEDDING, GRID, IMAGE_PX, VIT_B, BussamEncoder, SamSize


class Bussam(nn.Module):
    """Pictures (B, 1, 256, 256) in [0, 1], one prompt each, to masks.

    `vit_tokens`, `embed` and `decode` are its parts, so that what is frozen may be computed once and kept. Points are
    (B, N, 2) as (x, y) in pixels of the 256 x 256 picture, their labels (B, N): 1 lesion, 0 background, -1 none. Boxes
    are (B, 4), two corners as (x, y, x, y).

    Every weight is as PyTorch draws it, until one of `checkpoints` is loaded: the caller says which is meant.

    Args:
        wiring: one of `WIRINGS`; both have the same weights by name.
    """

    def __init__(self, size: SamSize = VIT_B, wiring: str = "released"):
        super().__init__()
        self.size, self.wiring = size, wiring
        self.image_encoder = BussamEncoder(size, wiring)
        self.prompt_encoder = PromptEncoder(EMBEDDING, (GRID, GRID), (IMAGE_PX, IMAGE_PX), mask_in_chans=16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, num_heads=8, mlp_dim=2048)
        self.mask_decoder = MaskDecoder(transformer_dim=EMBEDDING, transformer=transformer)

    def forward(
        self, images: Tensor, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, 128, 128), which training compares, and (B, 1, 256, 256), which a mask is read from."""
        logits = self.decode(self.image_encoder(images), points, labels, boxes)
        return logits, upscaled(logits)

    def vit_tokens(self, images: Tensor) -> Tensor:
        """(B, 1, 256, 256) to (B, 32, 32, W): the transformer branch, before the join. Wiring "released" only."""
        return self.image_encoder.vit_tokens(images)

    def embed(self, tokens: Tensor, images: Tensor) -> Tensor:
        """Tokens of `vit_tokens`, of any float type, with the CNN branch of their pictures, to (B, 256, 32, 32)."""
        return self.image_encoder.joined(tokens.to(images.dtype), self.image_encoder.cnn(images))

    def decode(
        self, embeddings: Tensor, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None = None
    ) -> Tensor:
        """Embeddings (B, 256, 32, 32), one prompt each, to logits (B, 1, 128, 128)."""
        return self.candidates(embeddings, points, labels, boxes)[0][:, :1]

    def candidates(
        self, embeddings: Tensor, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, 4, 128, 128) and the quality SAM expects of them, (B, 4): its single answer, then three more.

        SAM's decoder takes one picture with many prompts. Dense prompts are all that differs from prompt to prompt in
        its map, and are added to the picture's: so pictures go in as dense prompts, and the empty one as the picture.
        """
        prompt = None if points is None else (points, labels)
        sparse, dense = self.prompt_encoder(prompt, boxes, None)
        positions = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder.predict_masks(dense[:1], positions, sparse, embeddings)


def upscaled(logits: Tensor) -> Tensor:
    """(B, C, 128, 128) to (B, C, 256, 256)."""
    return F.interpolate(logits, (IMAGE_PX, IMAGE_PX), mode="bilinear", align_corners=False)


def drawn(size: SamSize = VIT_B, wiring: str = "released", seed: int = 0) -> Bussam:
    """A network with random weights that depend on `seed` alone; PyTorch's own generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bussam(size, wiring)
