"""The layers that BUSSAM adds to SAM's image encoder, under the names of published checkpoints.

This module imports torch as it loads; import it inside functions.

Source: Tu et al. (2024), Ultrasound SAM Adapter, arXiv 2404.14837, and the released implementation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

SIDE = 8  # of a learned map before it is stretched over the picture
CNN_WIDTHS = (64, 128, 256)


class ChannelNorm(LayerNorm2d):
    """SAM's norm over the channels of (B, C, H, W), to the same numbers in one kernel in place of seven.

    What comes out has its channels last in memory, which convolutions and pooling after it are faster on, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Ghpa(nn.Module):
    """Group Hadamard-product attention: (B, `given`, H, W) to (B, `made`, H, W).

    The channels are four groups. Three are multiplied by learned maps of 8 steps an axis, over the planes (H, W),
    (channel, H) and (channel, W), stretched to the size of the picture and convolved; the fourth is convolved alone.

    Source: Ruan et al. (2023), EGE-UNet, MICCAI, section 2.1.
    """

    def __init__(self, given: int, made: int):
        super().__init__()
        c = given // 4
        self.params_xy = nn.Parameter(torch.ones(1, c, SIDE, SIDE))
        self.params_zx = nn.Parameter(torch.ones(1, 1, c, SIDE))
        self.params_zy = nn.Parameter(torch.ones(1, 1, c, SIDE))
        self.conv_xy = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv2d(c, c, 1))
        self.conv_zx = nn.Sequential(nn.Conv1d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv1d(c, c, 1))
        self.conv_zy = nn.Sequential(nn.Conv1d(c, c, 3, padding=1, groups=c), nn.GELU(), nn.Conv1d(c, c, 1))
        self.dw = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU(), nn.Conv2d(c, c, 3, padding=1, groups=c))
        self.norm1, self.norm2 = ChannelNorm(given), ChannelNorm(given)
        self.ldw = nn.Sequential(
            nn.Conv2d(given, given, 3, padding=1, groups=given), nn.GELU(), nn.Conv2d(given, made, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        plane, rows, columns, alone = self.norm1(x).chunk(4, dim=1)
        plane = plane * self.conv_xy(_stretched(self.params_xy, (height, width)))
        rows = rows * self.conv_zx(_stretched(self.params_zx, (rows.shape[1], height))[0])[..., None]
        columns = columns * self.conv_zy(_stretched(self.params_zy, (columns.shape[1], width))[0])[:, :, None]
        return self.ldw(self.norm2(torch.cat([plane, rows, columns, self.dw(alone)], dim=1)))


def _stretched(learned: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(learned, size, mode="bilinear", align_corners=True)


class Down(nn.Module):
    """Half the picture: max-pooling, `Ghpa`, and a norm over four groups of channels."""

    def __init__(self, given: int, made: int):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), Ghpa(given, made), nn.GroupNorm(4, made), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Stem(nn.Module):
    """The picture's first convolution, at full size."""

    def __init__(self, made: int):
        super().__init__()
        self.conv = _conv3(3, made)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _conv3(given: int, made: int) -> nn.Sequential:
    conv = nn.Conv2d(given, made, 3, padding=1, bias=False)
    return nn.Sequential(conv, ChannelNorm(made), nn.GELU())


class CnnBranch(nn.Module):
    """(B, 3, 256, 256) to (B, 32, 32, `width`): local texture beside the transformer's tokens."""

    def __init__(self, width: int):
        super().__init__()
        first, second, third = CNN_WIDTHS
        self.inc = Stem(first)
        self.encoder2 = nn.Sequential(nn.MaxPool2d(2), *_conv3(first, second))
        self.downs = nn.ModuleList([Down(second, third), Down(third, width)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder2(self.inc(x.contiguous(memory_format=torch.channels_last)))
        for down in self.downs:
            x = down(x)
        return x.permute(0, 2, 3, 1).contiguous()


class PositionBranch(nn.Module):
    """SAM's positions of 64 x 64 patches, (1, 64, 64, `width`), to those of 32 x 32."""

    def __init__(self, width: int):
        super().__init__()
        self.downs = nn.ModuleList([Down(width, width)])

    def forward(self, positions: Tensor) -> Tensor:
        return self.downs[0](positions.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


class Bottleneck(nn.Module):
    """Down to a quarter of the width, GELU, and up again: (..., `width`) to the same."""

    def __init__(self, width: int):
        super().__init__()
        self.D_fc1 = nn.Linear(width, width // 4)
        self.D_fc2 = nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.D_fc2(F.gelu(self.D_fc1(x)))


class SpatialAttention(nn.Module):
    """A gate in (0, 1) for each place, (B, 1, H, W), from the largest and the mean of its channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return self.conv(seen).sigmoid()


class CrossAdapter(Bottleneck):
    """What the CNN branch tells the tokens: their sum, gated in space, through a bottleneck; (B, H, W, `width`).

    As the figure of the paper has it: a residual around the gate. The released code has none, and takes the memory of
    (B, H, W, C) for (B, C, H, W); there, no adapter is ever called.
    """

    def __init__(self, width: int):
        super().__init__(width)
        self.spatial_attention = SpatialAttention()

    def forward(self, tokens: Tensor, cnn: Tensor) -> Tensor:
        both = tokens + cnn
        gate = self.spatial_attention(both.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return super().forward(both + both * gate)


class Refinement(nn.Module):
    """One more convolution of the CNN branch, (B, H, W, `width`) to the same."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, cnn: Tensor) -> Tensor:
        return self.conv(cnn.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
