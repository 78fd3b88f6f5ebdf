"""A vision transformer whose last blocks are open to adapters: the trainable twin of `vit.LeanViT`.

Everything before the first open block is the lean twin itself, frozen, so that what enters that block (the "states")
may be computed once and kept: trained from kept states or from pictures, a network gives the same numbers in fp32.
In the open blocks the attention is made of plain linear layers, which adapters of peft can wrap. peft's own wrapper of
`nn.MultiheadAttention` is not used: in its release 0.21.2 it applies the update of the output projection twice and
leaves dropout out.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from busistore.errors import BusistoreError, lookup
from busistore.models import loaders, vit_parts
from busistore.models.registry import MODELS
from busistore.models.spec import OUTPUTS, InputTransform, Located
from busistore.models.vit import DTYPES, QUICK, Dense, LeanViT, linear

# Whole names of the layers that take an adapter, by the form of attention; peft matches a string against all of a name.
TARGETS = {
    "split": r"blocks\.\d+\.attn\.(q_proj|k_proj|v_proj|out_proj)",
    "fused": r"blocks\.\d+\.attn\.(qkv|out_proj)",
}


def trainable(
    located: Located, blocks: int | None = None, qkv: str = "split", precision: str = "fp32"
) -> TrainableViT:
    """The image tower of a located model, with its weights, its last `blocks` blocks (None: all) open to adapters.

    Args:
        qkv: "split" gives queries, keys and values a linear layer each, and so the same capacity to every tower;
            "fused" keeps them in one, as timm does.
        precision: "fp32", or "bf16" for the products with frozen weights.

    Raises:
        BusistoreError: a network without plain attention, a number of blocks that it does not have, an unknown `qkv`
            or `precision`, or (MissingWeights) no weights at hand.
    """
    _check_words(qkv, precision)
    visual, spec = loaders.build(located).visual, located.spec
    return of_tower(visual, spec.input, blocks, qkv, precision, output=located.output, name=f"'{spec.name}'")


def of_tower(
    visual: nn.Module,
    given: InputTransform,
    blocks: int | None = None,
    qkv: str = "split",
    precision: str = "fp32",
    output: str = "pooled",
    name: str = "the network",
) -> TrainableViT:
    """`trainable` of an image tower as it is in eval mode.

    The open blocks are copies, so that nothing done to them reaches the tower; the blocks before them may share its
    memory.

    `output` is "pooled", or "unprojected" for the vector before the projection; `name` is how errors call the tower.
    """
    _check_words(qkv, precision)
    lookup("output", output, dict.fromkeys(OUTPUTS))
    tower = _read(visual, name)
    n_blocks = len(tower.blocks)
    blocks = n_blocks if blocks is None else blocks
    if not 1 <= blocks <= n_blocks:
        raise BusistoreError(f"{name} has {n_blocks} blocks, {blocks} cannot be adapted; take 1 to {n_blocks}")
    if output == "unprojected":
        tower = replace(tower, project=())
    return TrainableViT(tower, given, n_blocks - blocks, qkv, DTYPES[precision]).eval()


def merge_into(visual: nn.Module, network: TrainableViT) -> None:
    """Write the attention weights of a network, its adapters merged, into the stock tower that it was made from.

    They are written bit for bit, for nothing is folded into them; the names of the tower's tensors stay as they are.

    Raises:
        ValueError: the adapters are not merged, or the tower is another one.
    """
    tower = _read(visual, "the tower")
    if len(tower.blocks) != network.n_blocks:
        raise ValueError(f"the tower has {len(tower.blocks)} blocks, the network {network.n_blocks}")
    with torch.no_grad():
        for number, block in network.blocks.items():
            block.attn.write(tower.blocks[int(number)])


class TrainableViT(nn.Module):
    """Blocks `first`.. of a plain vision transformer, open to adapters; all that is loaded is frozen.

    `blocks` has the open blocks by their number in the tower (from 0, as text), each with `norm_1`, `attn`, `norm_2`,
    `up` and `down`; `n_tokens` T and `width` W are of the residual stream, which is fp32, and `dim` D of the vector
    that is emitted.
    """

    def __init__(
        self, tower: vit_parts.Tower, given: InputTransform, first: int, qkv: str = "split",
        dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        super().__init__()
        self.first, self.n_blocks, self.width = first, len(tower.blocks), tower.patch.weight.shape[0]
        self.stem = LeanViT(replace(tower, blocks=tower.blocks[:first]), given, dtype)
        self.n_tokens = self.stem.n_prefix + self.stem.grid[0] * self.stem.grid[1]
        opened = enumerate(tower.blocks[first:], first)
        self.blocks = nn.ModuleDict({str(number): Block(block, qkv, dtype) for number, block in opened})
        self.requires_grad_(False)
        with torch.no_grad():
            self.dim = self._emitted(self.stem.prefix.new_zeros(1, self.n_tokens, self.width)).shape[-1]

    @torch.no_grad()
    def states(self, grey: Tensor) -> Tensor:
        """(N, S, S) uint8 pictures to (N, T, W) fp32, what enters block `first`.

        The bits of the lean twin's layer "h{first - 1}" at the same batch size and precision; for `first` 0 the
        embedded patches with their positions.
        """
        x = self.stem._embed(grey)
        for block in self.stem.blocks:
            x = block(x)
        return x

    def forward(self, states: Tensor) -> Tensor:
        """(N, T, W) of any float type to (N, D), as the encoder emits it (not normalised); `states` stays as it is."""
        *before, last = self.blocks.values()
        x = states.to(last.norm_1.weight.dtype).contiguous()
        for block in before:
            x = block(x)
        return self._emitted(last(x, only_first=self.stem.pool is None))

    def train(self, mode: bool = True) -> TrainableViT:
        """What is frozen stays in eval mode: dropout is the adapters' alone."""
        super().train(mode)
        self.stem.eval()
        return self

    def _emitted(self, x: Tensor) -> Tensor:
        return self.stem.project(self.stem._pooled(x))


class Block(nn.Module):
    """Attention and MLP on a residual stream (N, T, W) that is never bfloat16; products with weights in `dtype`.

    QuickGELU's factor is folded into `up` and `down`. LayerScale is not folded: `scale_1` and `scale_2` (W,), or None.
    """

    def __init__(self, parts: vit_parts.Block, qkv: str, dtype: torch.dtype):
        super().__init__()
        self.gate = parts.gate
        squeeze = QUICK if parts.gate == "quick" else 1
        self.norm_1, self.norm_2 = copy.deepcopy(parts.norm_1), copy.deepcopy(parts.norm_2)
        self.attn = Attention(parts, qkv, dtype)
        # a copy: where nothing is folded, Dense has the tower's own memory
        self.up = copy.deepcopy(Dense(parts.up, dtype, squeeze))
        self.down = copy.deepcopy(Dense(replace(parts.down, scale=None), dtype, over=squeeze))
        self.register_buffer("scale_1", _copied(parts.out.scale))
        self.register_buffer("scale_2", _copied(parts.down.scale))

    def forward(self, x: Tensor, only_first: bool = False) -> Tensor:
        """(N, T, W) to the same, or to (N, 1, W) of the first token; differentiable, `x` is left as it is."""
        attended = self.attn(self.norm_1(x), only_first)
        x = (x[:, :1] if only_first else x) + _scaled(attended, self.scale_1)
        wide = self._bend(self.up(self.norm_2(x).to(self.up.weight.dtype)))
        return x + _scaled(self.down(wide).to(x.dtype), self.scale_2)

    def _bend(self, x: Tensor) -> Tensor:
        if self.gate == "quick":
            return F.silu(x, inplace=not x.requires_grad)
        return F.gelu(x, approximate="tanh" if self.gate == "tanh" else "none")


class Attention(nn.Module):
    """Self-attention whose weights are plain linear layers: `q_proj`, `k_proj`, `v_proj` or one `qkv`; `out_proj`.

    Attention itself is computed in the type of the residual stream. In bfloat16 its gradients are off by up to 2 %
    where it is sharp, and on a processor the fused kernel's backward pass takes longer than in fp32.
    """

    def __init__(self, parts: vit_parts.Block, qkv: str, dtype: torch.dtype):
        super().__init__()
        self.n_heads = parts.n_heads
        if qkv == "fused":
            self.qkv = Projection(parts.qkv.weight, parts.qkv.bias, dtype)
        else:
            biases = (None,) * 3 if parts.qkv.bias is None else parts.qkv.bias.chunk(3)
            for name, weight, bias in zip(THIRDS, parts.qkv.weight.chunk(3), biases, strict=True):
                self.add_module(name, Projection(weight, bias, dtype))
        self.out_proj = Projection(parts.out.weight, parts.out.bias, dtype)

    def forward(self, x: Tensor, only_first: bool = False) -> Tensor:
        """(N, T, W) to the same, or to (N, 1, W): what the first token attends to."""
        if hasattr(self, "qkv"):
            query, key, value = self.qkv(x).chunk(3, -1)
            query = query[:, :1] if only_first else query
        else:
            # contiguous: F.linear is many times slower on slices of a batch in bfloat16
            query = self.q_proj(x[:, :1].contiguous() if only_first else x)
            key, value = self.k_proj(x), self.v_proj(x)
        query, key, value = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (query, key, value))
        return self.out_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def write(self, block: vit_parts.Block) -> None:
        """Copy the weights into a tower's block, without gradients."""
        names = ("qkv",) if hasattr(self, "qkv") else THIRDS
        _write([getattr(self, name) for name in names], block.qkv)
        _write([self.out_proj], block.out)


THIRDS = ("q_proj", "k_proj", "v_proj")  # in the order of a tower's rows


class Projection(nn.Linear):
    """A linear layer with weights of its own in full precision; its product is in bfloat16 where `dtype` is.

    So an adapter merges into it without loss, and reads an input that nothing has rounded.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        n_out, n_in = weight.shape
        super().__init__(n_in, n_out, bias is not None, device="meta")
        self.in_bf16 = dtype == torch.bfloat16
        self.weight = nn.Parameter(_copied(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(_copied(bias), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, in) to (N, T, out), of the type of `x`."""
        if not self.in_bf16:
            return linear(x, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.bfloat16()
        return linear(x.bfloat16(), self.weight.bfloat16(), bias).to(x.dtype)


def _write(layers: list[nn.Module], into: vit_parts.Linear) -> None:
    if not all(type(layer) is Projection for layer in layers):
        raise ValueError("the network still has adapters; merge_and_unload() gives it without")
    weight = torch.cat([layer.weight for layer in layers])
    if weight.shape != into.weight.shape or (into.bias is None) != (layers[0].bias is None):
        raise ValueError(f"the tower has weights {tuple(into.weight.shape)}, the network {tuple(weight.shape)}")
    into.weight.copy_(weight)
    if into.bias is not None:
        into.bias.copy_(torch.cat([layer.bias for layer in layers]))


def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    return x if scale is None else x * scale


def _copied(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().clone(memory_format=torch.contiguous_format)


def _check_words(qkv: str, precision: str) -> None:
    lookup("form of qkv", qkv, TARGETS)
    lookup("precision", precision, DTYPES)


def _read(visual: nn.Module, name: str) -> vit_parts.Tower:
    tower = vit_parts.read(visual)
    if tower is None or not tower.blocks:
        known = ", ".join(spec.name for spec in MODELS.values() if "bf16" in spec.precisions)
        raise BusistoreError(f"{name} has no plain attention to adapt; these models have: {known}")
    return tower
