"""The lean twin of a vision transformer: the same vectors from grey pictures, in less time.

What the three equal channels, their scaling, QuickGELU and LayerScale cost is folded into the weights beforehand, in
double precision; the last block works for the pooled token alone. In "bf16" the matrix products are bfloat16, while
the residual stream, every norm, the patch embedding and the projection stay fp32.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from busistore.models import vit_parts
from busistore.models.spec import InputTransform

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
QUICK = 1.702  # of QuickGELU, x * sigmoid(1.702 x), which is silu(1.702 x) / 1.702


def lean(visual: nn.Module, given: InputTransform, precision: str = "fp32") -> LeanViT | None:
    """The lean twin of an image tower as it is in eval mode; None where the tower is of a kind it does not know.

    The twin shares the tower's matrices where nothing is folded into them, and changes nothing of the tower.
    """
    tower = vit_parts.read(visual)
    return None if tower is None else LeanViT(tower, given, DTYPES[precision]).eval().requires_grad_(False)


class LeanViT(nn.Module):
    """A vision transformer that takes grey pictures.

    T tokens are `n_prefix` class and register tokens, then `grid` rows and columns of patches; each of `width` W.
    """

    def __init__(self, tower: vit_parts.Tower, given: InputTransform, dtype: torch.dtype):
        super().__init__()
        self.grid, self.width, self.n_blocks = tower.grid, tower.patch.weight.shape[0], len(tower.blocks)
        self.patch_px = tuple(tower.patch.weight.shape[2:])
        weight, patches, prefix = _embedding(tower, given)
        self.n_prefix = len(prefix)
        self.patch, self.position, self.prefix = _frozen(weight), _frozen(patches), _frozen(prefix)
        self.norm_pre, self.norm = copy.deepcopy(tower.norm_pre), copy.deepcopy(tower.norm)
        self.blocks = nn.ModuleList(Block(block, dtype) for block in tower.blocks)
        self.pool, self.norm_pooled = copy.deepcopy(tower.pool), copy.deepcopy(tower.norm_pooled)
        self.project = nn.Sequential(*(_as_module(step) for step in tower.project))

    def forward(self, grey: Tensor, layers: Iterable[str] = ()) -> dict[str, Tensor]:
        """Vectors of (N, S, S) uint8 pictures, all float32.

        Always "pooled" (N, D); on request "unprojected" (N, W), "grid" (N, gh, gw, D) of the patches after the final
        norm, projected like the pooled vector, and "h5" (N, T, W): all tokens after block 5, counted from 0. What is
        asked for does not change a bit of "pooled".

        Raises:
            KeyError: there is no such layer.
        """
        wanted, found = ("pooled", *layers), {}
        x = self._embed(grey)
        for k, block in enumerate(self.blocks[:-1]):
            x = block(x)
            if f"h{k}" in wanted:
                found[f"h{k}"] = x
        token = self._last(x)
        unprojected = self._pooled(token)
        found |= {"pooled": self.project(unprojected), "unprojected": unprojected}
        last = f"h{self.n_blocks - 1}"
        if "grid" in wanted or last in wanted:
            x = token if self.pool else _with_first(token, self.blocks[-1](x))
            found |= {last: x, "grid": self._patches(x)}
        return {name: found[name] for name in wanted}

    def resume(self, states: Tensor, after: int) -> Tensor:
        """(N, D) float32 "pooled" from all tokens (N, T, W) as they left block `after`; `states` is left as it is.

        In fp32 the same bits that `forward` gives at the same batch size.
        """
        x = states.float().contiguous()
        for block in self.blocks[after + 1 : -1]:
            x = block(x)
        token = self._last(x) if after < self.n_blocks - 1 else x if self.pool else x[:, :1].contiguous()
        return self.project(self._pooled(token))

    def _embed(self, grey: Tensor) -> Tensor:
        """(N, S, S) uint8 to (N, T, W), ready for the first block."""
        (rows, columns), (high, wide) = self.grid, self.patch_px
        pixels = grey[:, : rows * high, : columns * wide].reshape(-1, rows, high, columns, wide).transpose(2, 3)
        patches = F.linear(pixels.reshape(-1, rows * columns, high * wide).float(), self.patch) + self.position
        return self.norm_pre(torch.cat([self.prefix.expand(len(grey), -1, -1), patches], 1))

    def _last(self, x: Tensor) -> Tensor:
        """What pooling needs of the last block: the first token (N, 1, W), or all of them (N, T, W)."""
        return self.blocks[-1](x) if self.pool else self.blocks[-1].first(x)

    def _pooled(self, x: Tensor) -> Tensor:
        """(N, W) from what `_last` gives."""
        x = self.norm(x)
        return self.norm_pooled(self.pool(x[:, self.n_prefix :]) if self.pool else x[:, 0])

    def _patches(self, x: Tensor) -> Tensor:
        """(N, gh, gw, D) from all tokens after the last block."""
        return self.project(self.norm_pooled(self.norm(x)[:, self.n_prefix :])).unflatten(1, self.grid)


class Block(nn.Module):
    """Attention and MLP on an fp32 residual stream (N, T, W); matrix products in `dtype`."""

    def __init__(self, parts: vit_parts.Block, dtype: torch.dtype):
        super().__init__()
        self.n_heads, self.dtype, self.gate = parts.n_heads, dtype, parts.gate
        self.norm_1, self.norm_2 = copy.deepcopy(parts.norm_1), copy.deepcopy(parts.norm_2)
        squeeze = QUICK if parts.gate == "quick" else 1
        self.qkv, self.out = Dense(parts.qkv, dtype), Dense(parts.out, dtype)
        self.up, self.down = Dense(parts.up, dtype, squeeze), Dense(parts.down, dtype, over=squeeze)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, W) fp32 to the same; `x` is left as it is."""
        query, key, value = self._heads(self.qkv(self.norm_1(x).to(self.dtype)))
        return self._mlp(x + self.out(_attend(query, key, value)))

    def first(self, x: Tensor) -> Tensor:
        """(N, 1, W): what `forward` gives for the first token of each picture, and only that."""
        normed, width = self.norm_1(x).to(self.dtype), self.qkv.weight.shape[0] // 3
        (query,) = self._heads(self.qkv(normed[:, :1], slice(0, width)))
        key, value = self._heads(self.qkv(normed, slice(width, None)))
        return self._mlp(x[:, :1] + self.out(_attend(query, key, value)))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, T, k * heads * d) to k views (N, heads, T, d)."""
        width = self.qkv.weight.shape[0] // 3
        return x.unflatten(-1, (-1, self.n_heads, width // self.n_heads)).permute(2, 0, 3, 1, 4).unbind(0)

    def _mlp(self, x: Tensor) -> Tensor:
        """Adds the MLP to `x` in place, which is this block's own."""
        return x.add_(self.down(self._bend(self.up(self.norm_2(x).to(self.dtype)))))

    def _bend(self, x: Tensor) -> Tensor:
        """The activation, in place: the widest array of all is costly to allocate twice."""
        if self.gate == "quick":
            return F.silu(x, inplace=True)
        return torch.ops.aten.gelu_(x, approximate="tanh" if self.gate == "tanh" else "none")


class Dense(nn.Module):
    """A linear layer with what surrounds it folded in: `times` its result, from an input `over` times too large."""

    def __init__(self, parts: vit_parts.Linear, dtype: torch.dtype, times: float = 1, over: float = 1):
        super().__init__()
        weight, bias = parts.weight, parts.bias
        if parts.scale is not None or times != 1 or over != 1:
            scale = times * (1 if parts.scale is None else parts.scale.double())
            weight = weight.double() * torch.as_tensor(scale / over, device=weight.device).view(-1, 1)
            bias = None if bias is None else bias.double() * scale
        self.weight = _frozen(weight, dtype)
        self.bias = None if bias is None else _frozen(bias, dtype)

    def forward(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """(N, T, in) to (N, T, out), contiguous; `rows` picks some of the outputs."""
        bias = None if self.bias is None else self.bias[rows]
        return linear(x, self.weight[rows], bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, T, in) to (N, T, out), contiguous.

    On a CPU it is a 1 x 1 convolution, which oneDNN computes: on a Zen 4 processor 10-30 % faster than F.linear, which
    is MKL's in fp32. The dilation, along an axis of length one, only keeps PyTorch off its slow path for small batches.
    """
    if x.shape[1] == 1 or not x.is_cpu or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    rows = x.unsqueeze(1).permute(0, 3, 1, 2)  # (N, in, 1, T), channels last: the same memory
    return F.conv2d(rows, weight[:, :, None, None], bias, dilation=(2, 1)).permute(0, 2, 3, 1).squeeze(1)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, heads, T, d) each to (N, T, heads * d), contiguous."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _embedding(tower: vit_parts.Tower, given: InputTransform) -> tuple[Tensor, Tensor, Tensor]:
    """Weight (W, P * P) on grey values 0..255, what to add to the patches (L, W), and the prefix (n, W), as doubles.

    The network sees (grey / 255 - mean) / std in three channels.
    """
    weight = tower.patch.weight.double()
    mean, std = (torch.tensor(v, dtype=torch.float64, device=weight.device) for v in (given.mean, given.std))
    shift = -torch.einsum("wcij,c->w", weight, mean / std)
    if tower.patch.bias is not None:
        shift = shift + tower.patch.bias.double()
    width, n_patches = weight.shape[0], tower.grid[0] * tower.grid[1]
    prefix = torch.cat([weight.new_zeros(0, width), *(t.double().view(-1, width) for t in tower.prefix)])
    position = weight.new_zeros(n_patches, width) if tower.position is None else tower.position.double().view(-1, width)
    if len(position) > n_patches:
        prefix, position = prefix + position[:-n_patches], position[-n_patches:]
    return torch.einsum("wcij,c->wij", weight, 1 / (255 * std)).flatten(1), shift + position, prefix


def _with_first(token: Tensor, x: Tensor) -> Tensor:
    """All tokens, the first of them as pooling saw it, so that resuming from here gives the same bits."""
    x[:, :1] = token
    return x


def _as_module(step: nn.Module | Tensor) -> nn.Module:
    """A projection (in, out) as a module; of a module, a copy."""
    if isinstance(step, nn.Module):
        return copy.deepcopy(step)
    layer = nn.Linear(*step.shape, bias=False, device="meta")
    layer.weight = _frozen(step.T)
    return layer


def _frozen(x: Tensor, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(x.detach().to(dtype).contiguous(), requires_grad=False)
