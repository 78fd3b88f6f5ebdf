"""Which vision transformers the lean twin knows, and where each of them keeps its weights.

Towers are read strictly: every module must be of a known class, every tensor must find its place, and every switch
that moves a number must stand where it is expected. A tower that does anything else is not read at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


class NotKnown(Exception):
    """The tower has something that the twin would not reproduce."""


@dataclass(frozen=True)
class Linear:
    """weight (out, in), bias (out,) or None; `scale` (out,), where there is one, multiplies the result."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor | None = None


@dataclass(frozen=True)
class Block:
    """One transformer block, normalised before attention and before its MLP.

    `qkv` has the rows of all queries, then keys, then values. `gate` names the activation: "quick" is
    x * sigmoid(1.702 x), "erf" and "tanh" are the two forms of GELU.
    """

    n_heads: int
    norm_1: nn.LayerNorm
    qkv: Linear
    out: Linear
    norm_2: nn.LayerNorm
    up: Linear
    gate: str
    down: Linear


@dataclass(frozen=True)
class Tower:
    """A vision transformer in pieces.

    Args:
        patch: weight (W, 3, P, P) of the patch embedding, with its bias.
        prefix: class token, then register tokens, W numbers each, in the order of the sequence.
        position: W numbers for every token, or for the patches alone; None where there are no positions.
        norm_pre, norm, norm_pooled: before the blocks, after them, and after pooling; an Identity where there is none.
        pool: None where the first token stands for the picture; else the module that pools the patches.
        project: from the pooled vector to the one that is emitted: modules, and matrices (in, out).
    """

    grid: tuple[int, int]
    patch: Linear
    prefix: tuple[torch.Tensor, ...]
    position: torch.Tensor | None
    norm_pre: nn.Module
    blocks: tuple[Block, ...]
    norm: nn.Module
    pool: nn.Module | None
    norm_pooled: nn.Module
    project: tuple[nn.Module | torch.Tensor, ...]


def read(visual: nn.Module) -> Tower | None:
    """The pieces of an image tower, sharing its tensors; None where it is of a kind that is not known."""
    try:
        _need(_kind(visual) in READERS and all(_known(module) for module in visual.modules()))
        tower = READERS[_kind(visual)](visual)
    except (NotKnown, AttributeError):  # a library of another release may lack a switch that is asked for here
        return None
    found = _tensors(tower)
    whole = {id(t) for t in found} == {id(t) for t in _tensors(visual)}
    return tower if whole and all(t.dtype == torch.float32 for t in found) else None


def _need(holds: bool) -> None:
    if not holds:
        raise NotKnown


def _kind(module: nn.Module) -> str:
    """Library and class: files move between releases, but timm has namesakes that only their file tells apart.

    >>> _kind(nn.GELU())
    'torch.GELU'
    """
    file, name = type(module).__module__, type(module).__qualname__
    namesakes = file.startswith("timm.models.") and file != "timm.models.vision_transformer"
    return f"{file if namesakes else file.partition('.')[0]}.{name}"


GATES = {
    "torch.GELU": "erf", "timm.GELU": "erf", "timm.GELUTanh": "tanh", "timm.QuickGELU": "quick",
    "open_clip.QuickGELU": "quick",
}  # fmt: skip
NORMS = {"torch.LayerNorm", "timm.LayerNorm", "timm.LayerNormFp32", "open_clip.LayerNorm", "open_clip.LayerNormFp32"}
DROPS = {
    "torch.Dropout": "p", "timm.DropPath": "drop_prob", "timm.PatchDropout": "prob", "open_clip.PatchDropout": "prob",
}  # fmt: skip
PLAIN = {
    "torch.Conv2d", "torch.Identity", "torch.Linear", "torch.ModuleList", "torch.MultiheadAttention",
    "torch.NonDynamicallyQuantizableLinear", "torch.Sequential",
    "open_clip.LayerScale", "open_clip.ResidualAttentionBlock", "open_clip.TimmModel", "open_clip.Transformer",
    "open_clip.VisionTransformer",
    "timm.Attention", "timm.AttentionPoolLatent", "timm.Block", "timm.LayerScale", "timm.Mlp", "timm.PatchEmbed",
    "timm.VisionTransformer",
}  # fmt: skip


def _known(module: nn.Module) -> bool:
    kind = _kind(module)
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if kind in DROPS:
        return not module.training or getattr(module, DROPS[kind]) == 0
    if kind in NORMS:  # with weights, so that a norm nobody reads is missed among the tensors
        return module.weight is not None and module.bias is not None
    return kind in GATES or kind in PLAIN


def _tensors(piece: Any) -> list[torch.Tensor]:
    """Every tensor of a module, or of the pieces of a tower."""
    if isinstance(piece, torch.Tensor):
        return [piece]
    if isinstance(piece, nn.Module):
        return [*piece.parameters(), *piece.buffers()]
    parts = vars(piece).values() if isinstance(piece, Tower | Block | Linear) else piece
    return [t for part in parts for t in _tensors(part)] if isinstance(piece, Tower | Block | Linear | tuple) else []


def _gate(module: nn.Module) -> str:
    _need(_kind(module) in GATES)
    return "tanh" if getattr(module, "approximate", "none") == "tanh" else GATES[_kind(module)]


def _patches(conv: nn.Conv2d, size_px: tuple[int, int]) -> tuple[tuple[int, int], Linear]:
    """Rows and columns of patches, and their embedding: one that takes each pixel of each channel once."""
    patch = conv.kernel_size
    _need(conv.stride == patch and conv.dilation == (1, 1) and conv.padding == (0, 0))
    _need(conv.in_channels == 3 and conv.groups == 1)
    return (size_px[0] // patch[0], size_px[1] // patch[1]), Linear(conv.weight, conv.bias)


def _gamma(scale: nn.Module) -> torch.Tensor | None:
    return None if isinstance(scale, nn.Identity) else scale.gamma


def _open_clip(visual: Any) -> Tower:
    """open_clip's own VisionTransformer, where its class token stands for the picture."""
    _need(visual.attn_pool is None and visual.pool_type == "tok")
    _need(not visual.output_tokens and not visual.final_ln_after_pool)
    grid, patch = _patches(visual.conv1, visual.image_size)
    return Tower(
        grid, patch, (visual.class_embedding,), visual.positional_embedding, visual.ln_pre,
        tuple(_open_clip_block(block) for block in visual.transformer.resblocks),
        norm=visual.ln_post, pool=None, norm_pooled=nn.Identity(),
        project=() if visual.proj is None else (visual.proj,),
    )  # fmt: skip


def _open_clip_block(block: Any) -> Block:
    attention, mlp = block.attn, block.mlp
    _need(attention._qkv_same_embed_dim and not attention.add_zero_attn)
    _need(not attention.training or attention.dropout == 0)
    out, down = attention.out_proj, mlp.c_proj
    return Block(
        attention.num_heads, block.ln_1,
        qkv=Linear(attention.in_proj_weight, attention.in_proj_bias),
        out=Linear(out.weight, out.bias, _gamma(block.ls_1)),
        norm_2=block.ln_2, up=Linear(mlp.c_fc.weight, mlp.c_fc.bias), gate=_gate(mlp.gelu),
        down=Linear(down.weight, down.bias, _gamma(block.ls_2)),
    )  # fmt: skip


def _timm_in_open_clip(visual: Any) -> Tower:
    """open_clip's adapter: a trunk of timm's, and a head that projects."""
    return _timm(visual.trunk, (visual.head,))


def _timm(trunk: Any, project: tuple[nn.Module, ...] = ()) -> Tower:
    """timm's VisionTransformer, pooled by its class token or by attention."""
    _need(trunk.global_pool in ("token", "map"))
    pooled_by_attention = trunk.global_pool == "map"
    _need(pooled_by_attention == (trunk.attn_pool is not None) and not trunk.pool_include_prefix)
    embed = trunk.patch_embed
    _need(embed.img_size is not None and not embed.dynamic_img_pad)
    grid, patch = _patches(embed.proj, embed.img_size)
    return Tower(
        grid, patch, tuple(t for t in (trunk.cls_token, trunk.reg_token) if t is not None), trunk.pos_embed,
        trunk.norm_pre, tuple(_timm_block(block) for block in trunk.blocks),
        norm=trunk.norm, pool=trunk.attn_pool, norm_pooled=trunk.fc_norm, project=(trunk.head, *project),
    )  # fmt: skip


def _timm_block(block: Any) -> Block:
    attention, mlp = block.attn, block.mlp
    _need(attention.scale == attention.head_dim**-0.5)
    out, down = attention.proj, mlp.fc2
    return Block(
        attention.num_heads, block.norm1, qkv=Linear(attention.qkv.weight, attention.qkv.bias),
        out=Linear(out.weight, out.bias, _gamma(block.ls1)),
        norm_2=block.norm2, up=Linear(mlp.fc1.weight, mlp.fc1.bias), gate=_gate(mlp.act),
        down=Linear(down.weight, down.bias, _gamma(block.ls2)),
    )  # fmt: skip


READERS = {
    "open_clip.VisionTransformer": _open_clip,
    "open_clip.TimmModel": _timm_in_open_clip,
    "timm.VisionTransformer": _timm,
}
