"""BUSSAM's image encoder: SAM's vision transformer on 256 pixels, with a CNN branch and adapters.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    ImageEncoderViT,
    PatchEmbed,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn

from busistore.errors import BusistoreError, lookup
from busistore.segmenters.bussam_layers import Bottleneck, CnnBranch, CrossAdapter, PositionBranch, Refinement

IMAGE_PX, PATCH_PX, STRIDE_PX = 256, 16, 8
GRID = IMAGE_PX // STRIDE_PX  # patches overlap by half, so that a quarter of SAM's picture has half its grid
PUBLISHED_GRID = 64  # positions stay as SAM has them; PositionBranch halves them, so no other picture size works
RESIZED_PX = (GRID - 1) * STRIDE_PX + PATCH_PX
EMBEDDING = 256
CNN_SHARE = 0.5

WIRINGS = {
    "released": "as published checkpoints were trained: the cross-branch adapters are built, and never called",
    "paper": "as the paper draws it: an adapter before the attention and one beside the MLP of each global block, "
    "and one more convolution of the CNN branch between them",
}


@dataclass(frozen=True)
class SamSize:
    """How large SAM's image encoder is: width W, blocks, heads, the blocks that attend globally, pixels of a window."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14


VIT_B = SamSize()
TINY = SamSize(32, 3, 2, (2,))  # no weights are published for it


class BussamEncoder(ImageEncoderViT):
    """Grey pictures (B, 1, 256, 256) in [0, 1] to (B, 256, 32, 32).

    SAM's mean and standard deviation of pixels are not applied: the published network was trained without.

    Where `is_adapted` is False, patches enter the blocks as they are, at SAM's own positions: for adapters that were
    neither loaded nor trained.
    """

    def __init__(self, size: SamSize, wiring: str):
        lookup("wiring", wiring, WIRINGS)
        norm = partial(nn.LayerNorm, eps=1e-6)
        super().__init__(GRID * PATCH_PX, PATCH_PX, 3, size.width, 0, size.heads, norm_layer=norm)
        self.size, self.wiring = size, wiring
        self.patch_embed = PatchEmbed((PATCH_PX, PATCH_PX), (STRIDE_PX, STRIDE_PX), (0, 0), 3, size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, PUBLISHED_GRID, PUBLISHED_GRID, size.width))
        self.blocks = nn.ModuleList(self._block(number, norm) for number in range(size.depth))
        self.cnn_embed = CnnBranch(size.width)
        self.post_pos_embed = PositionBranch(size.width)
        self.input_Adapter = Bottleneck(size.width)
        self.is_adapted = True
        self._kept: tuple[tuple, Tensor] | None = None

    def _block(self, number: int, norm: partial) -> Block:
        size, is_global = self.size, number in self.size.global_blocks
        kind = (CrossBlock if self.wiring == "paper" else IdleBlock) if is_global else LeanBlock
        return kind(
            size.width, size.heads, norm_layer=norm, use_rel_pos=True, window_size=0 if is_global else size.window,
            input_size=(GRID, GRID),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 256, 256) to (B, 256, 32, 32)."""
        if self.wiring == "released":
            return self.joined(self.vit_tokens(images), self.cnn(images))
        tokens, cnn = self._entering(images), self.cnn(images)
        for block in self.blocks:
            tokens, cnn = block.crossed(tokens, cnn) if isinstance(block, CrossBlock) else (block(tokens), cnn)
        return self.joined(tokens, cnn)

    def vit_tokens(self, images: Tensor) -> Tensor:
        """(B, 1, 256, 256) to (B, 32, 32, W), what leaves the last block, before the CNN branch is added.

        Raises:
            BusistoreError: in the wiring "paper" no tokens are free of the CNN branch.
        """
        if self.wiring != "released":
            raise BusistoreError(f"wiring '{self.wiring}' has no tokens that could be kept; take wiring 'released'")
        tokens = self._entering(images)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def cnn(self, images: Tensor) -> Tensor:
        """(B, 1, 256, 256) to (B, 32, 32, W)."""
        return self.cnn_embed(_in_three(images))

    def joined(self, tokens: Tensor, cnn: Tensor) -> Tensor:
        """Both branches, (B, 32, 32, W), to (B, 256, 32, 32)."""
        return self.neck((tokens + CNN_SHARE * cnn).permute(0, 3, 1, 2))

    def _entering(self, images: Tensor) -> Tensor:
        resized = F.interpolate(_in_three(images), (RESIZED_PX, RESIZED_PX), mode="bilinear", align_corners=False)
        patches = self.patch_embed(resized).contiguous()  # a permuted view would make every norm copy it
        if not self.is_adapted:
            return patches + F.avg_pool2d(self.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return patches + self.input_Adapter(patches) + self.positions()

    def positions(self) -> Tensor:
        """(1, 32, 32, W); computed once for as long as no gradient is asked of it and its weights stay as they are."""
        parts = [self.pos_embed, *self.post_pos_embed.parameters()]
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
            self._kept = None  # a fused optimiser moves weights without a trace
            return self.post_pos_embed(self.pos_embed)
        state = tuple((part.data_ptr(), 0 if part.is_inference() else part._version) for part in parts)
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._computed())
        return self._kept[1]

    def _computed(self) -> Tensor:
        """Positions at full precision, as a tensor that training may use too."""
        device = self.pos_embed.device.type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            return self.post_pos_embed(self.pos_embed)


def _in_three(images: Tensor) -> Tensor:
    if images.shape[1:] != (1, IMAGE_PX, IMAGE_PX):
        raise ValueError(f"images are (B, 1, {IMAGE_PX}, {IMAGE_PX}), not {tuple(images.shape)}")
    return images.expand(-1, 3, -1, -1)


class LeanBlock(Block):
    """SAM's transformer block on (B, H, W, C), to the same numbers with less work."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attended(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def attended(self, x: Tensor) -> Tensor:
        """Attention within windows, or everywhere.

        A picture is padded to whole windows with zeros, whose queries, keys and values are the bias alone and take
        part: so the bias is added after padding, and what has no place in the picture is never multiplied.
        """
        attention, window = self.attn, self.window_size
        qkv = F.linear(x, attention.qkv.weight)
        bias = attention.qkv.bias.to(qkv.dtype)
        if not window:
            return attention.proj(_attention(attention, qkv + bias))
        qkv, padded = window_partition(qkv, window)
        made = _attention(attention, qkv + bias)
        return attention.proj(window_unpartition(made, window, padded, x.shape[1:3]))


def _attention(attention: Attention, qkv: Tensor) -> Tensor:
    """(N, S, S, 3 C) to (N, S, S, C), with decomposed relative positions."""
    n, side, heads = qkv.shape[0], qkv.shape[1], attention.num_heads
    q, k, v = qkv.reshape(n, side * side, 3, heads, -1).permute(2, 0, 3, 1, 4)
    at = q.reshape(n, heads, side, side, -1)
    rows = torch.einsum("nahwc,hkc->nahwk", at, get_rel_pos(side, side, attention.rel_pos_h))
    columns = torch.einsum("nahwc,wkc->nahwk", at, get_rel_pos(side, side, attention.rel_pos_w))
    attend = _spelt_out if qkv.requires_grad and qkv.device.type == "cpu" else _fused
    made = attend(q * attention.scale, k, v, rows, columns)
    return made.transpose(1, 2).reshape(n, side, side, -1)


def _spelt_out(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attention as products and a softmax: on a processor, the backward pass of the fused kernel takes longer."""
    n, heads, tokens = q.shape[:3]
    side = rows.shape[-1]
    near = (q @ k.transpose(-2, -1)).view(n, heads, side, side, side, side)
    near = near + rows[..., None] + columns[..., None, :]
    return near.view(n, heads, tokens, tokens).softmax(dim=-1).to(v.dtype) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same by the fused kernel, which never holds the matrix over all pairs of tokens.

    What SAM adds to that matrix comes from one product: a query's products with the positions of rows and of columns
    are set beside it, and ones where a key stands are set beside the key.
    """
    n, heads, side, width = *q.shape[:2], rows.shape[-1], v.shape[-1]
    q = torch.cat([q, rows.flatten(2, 3), columns.flatten(2, 3)], dim=-1)
    k = torch.cat([k, _places(side, k).expand(n, heads, -1, -1)], dim=-1)
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, 2 * side)), scale=1.0)[..., :width]


def _places(side: int, like: Tensor) -> Tensor:
    """(S S, 2 S): ones at the row and at the column of each place."""
    one = torch.eye(side, dtype=like.dtype, device=like.device)
    return torch.cat([one.repeat_interleave(side, dim=0), one.repeat(side, 1)], dim=-1)


class IdleBlock(LeanBlock):
    """A global block with the adapters of published checkpoints, which it never calls."""

    def __init__(self, width: int, *args, **kwargs):
        super().__init__(width, *args, **kwargs)
        self.MLP_Adapter1, self.MLP_Adapter = CrossAdapter(width), CrossAdapter(width)
        self.refine_Adapter = Refinement(width)


class CrossBlock(IdleBlock):
    """A global block whose adapters work, to be called as `crossed`."""

    def crossed(self, tokens: Tensor, cnn: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches, (B, H, W, C) each, after the block.

        The MLP's adapter reads the CNN branch as this block has refined it.
        """
        normed = self.norm1(tokens)
        normed = normed + self.MLP_Adapter1(normed, cnn)
        cnn = self.refine_Adapter(cnn)
        tokens = tokens + self.attended(normed)
        normed = self.norm2(tokens)
        return tokens + self.mlp(normed) + CNN_SHARE * self.MLP_Adapter(normed, cnn), cnn
