"""A U-Net that is trained from nothing: the yardstick beside SAM's kin, and no prompt is needed.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

GROUPS = 8


class UNet(nn.Module):
    """Grey (B, 1, H, W) in [0, 1] -> logits (B, 1, H, W) of the lesion; H and W are multiples of 2 ** depth.

    Differs from the publication: pixels at the edge are padded, so that the map is as large as the image; group norm,
    which does not depend on the batch, follows each convolution.

    Args:
        width: channels at full resolution; each of the `depth` halvings doubles them. A multiple of GROUPS.
        seed: of the first weights, which do not depend on what was drawn from PyTorch before.

    Source: Ronneberger et al. (2015), MICCAI, figure 1; Wu & He (2018), ECCV; weights as He et al. (2015), ICCV.
    """

    def __init__(self, width: int = 16, depth: int = 4, seed: int = 0):
        super().__init__()
        if width < 1 or width % GROUPS or depth < 1:
            raise ValueError(f"width {width} is no multiple of {GROUPS}, or depth {depth} is below 1")
        widths = [width * 2**level for level in range(depth + 1)]
        with torch.random.fork_rng(devices=[]):  # PyTorch's own first weights are drawn, and drawn over
            self.down = nn.ModuleList(_double(i, o) for i, o in zip([1, *widths], widths))
            self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
            self.join = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
            self.out = nn.Conv2d(width, 1, 1)
        self._start(seed)
        # All that follows it takes its layout over: a quarter less time on a processor. The other weights keep the
        # layout that files want.
        self.down[0][0].to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _start(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=rng)
            elif isinstance(module, nn.ConvTranspose2d):  # each pixel comes from one: fan-in is the channels
                module.weight.normal_(0, module.in_channels**-0.5, generator=rng)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        self.out.weight.mul_(0.1)  # so that training starts near a probability of one half everywhere

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        step = 2 ** len(self.up)
        if images.shape[-2] % step or images.shape[-1] % step:
            raise ValueError(f"images of {tuple(images.shape[-2:])} pixels are no multiple of {step}")
        x, passed = images, []
        for block in self.down[:-1]:
            x = block(x)
            passed.append(x)
            x = max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([passed.pop(), up(x)], dim=1))
        return self.out(x)


def _double(i: int, o: int) -> nn.Sequential:
    """Two 3 x 3 convolutions from `i` to `o` channels, each with its norm and ReLU."""
    pieces: list[nn.Module] = []
    for before in (i, o):
        conv = nn.Conv2d(before, o, 3, padding=1, bias=False)  # the norm takes its mean off again
        pieces += [conv, nn.GroupNorm(GROUPS, o), nn.ReLU(inplace=True)]
    return nn.Sequential(*pieces)
