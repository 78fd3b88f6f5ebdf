"""SAM on grey images: into its square, through its encoder and decoder, and back to the pixels of the original.

This module imports torch as it loads; import it inside functions.

Source: Kirillov et al. (2023), Segment Anything, ICCV.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from busistore.segmenters.base import IMAGE_PX, Batch
from busistore.segmenters.bussam_encoder import VIT_B, SamSize

SIDE_PX, GRID, EMBEDDING = 1024, 64, 256
PATCHES = 32  # of the grid that a squeezed image is told by


def drawn(size: SamSize = VIT_B, seed: int = 0) -> Sam:
    """A network with random weights that depend on `seed` alone; PyTorch's own generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoderViT(
            SIDE_PX, SIDE_PX // GRID, 3, size.width, size.depth, size.heads, out_chans=EMBEDDING,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=size.window,
            global_attn_indexes=size.global_blocks,
        )  # fmt: skip
        prompts = PromptEncoder(EMBEDDING, (GRID, GRID), (SIDE_PX, SIDE_PX), mask_in_chans=16)
        transformer = TwoWayTransformer(depth=2, embedding_dim=EMBEDDING, num_heads=8, mlp_dim=2048)
        decoder = MaskDecoder(transformer_dim=EMBEDDING, transformer=transformer)
        return Sam(encoder, prompts, decoder).eval()


@torch.no_grad()
def embeddings(network: Sam, images: Sequence[np.ndarray]) -> Tensor:
    """(H, W) uint8 images of any sizes to (B, 256, 64, 64); each is made SIDE_PX long and padded with the mean."""
    transform = ResizeLongestSide(SIDE_PX)
    made = []
    for image in images:
        large = transform.apply_image(np.repeat(image[..., None], 3, axis=2))
        made.append(network.preprocess(torch.from_numpy(large).permute(2, 0, 1)[None].float()))
    return network.image_encoder(torch.cat(made))


def inner(size: Sequence[int]) -> tuple[int, int]:
    """Height and width, in SAM's square, of an image of that height and width."""
    return ResizeLongestSide.get_preprocess_shape(int(size[0]), int(size[1]), SIDE_PX)


def logits(network: Sam, batch: Batch) -> list[Tensor]:
    """(1, H, W) of each image, in its own pixels, from embeddings and one prompt each."""
    made = []
    for k, size in enumerate(batch.sizes.tolist()):
        at, height, width = _in_square(size), *size
        prompt = None if batch.points is None else (at(batch.points[k : k + 1]), batch.labels[k : k + 1])
        boxes = None if batch.boxes is None else at(batch.boxes[k : k + 1].reshape(1, 2, 2)).reshape(1, 4)
        sparse, dense = network.prompt_encoder(prompt, boxes, None)
        low, _ = network.mask_decoder(
            image_embeddings=batch.tokens[k : k + 1].float(), image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        made.append(network.postprocess_masks(low, inner(size), (height, width))[0])
    return made


def _in_square(size: Sequence[int]):
    """A map from pixels of the squeezed image to those of SAM's square, pixel centres to pixel centres."""
    height, width = inner(size)
    scale = torch.tensor([width / IMAGE_PX, height / IMAGE_PX])
    return lambda xy: (xy + 0.5) * scale - 0.5


def patches(tokens: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Embeddings (B, 256, 64, 64) to (B, 32, 32, 256) float32 over the squeezed image; the padding is left out."""
    made = []
    for given, size in zip(torch.from_numpy(np.asarray(tokens, np.float32)), sizes, strict=True):
        height, width = (-(-n * GRID // SIDE_PX) for n in inner(size))
        cut = given[None, :, :height, :width]
        made.append(F.interpolate(cut, (PATCHES, PATCHES), mode="bilinear", align_corners=False)[0].permute(1, 2, 0))
    return torch.stack(made).numpy()
