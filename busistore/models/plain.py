"""Any network of images as its library made it, fed with grey pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from busistore.errors import BusistoreError
from busistore.models.spec import InputTransform


class Plain(torch.nn.Module):
    """A network of (N, 3, S, S) images; its feature map is the "grid", where timm gives one."""

    def __init__(self, visual: Any, given: InputTransform, precision: str):
        super().__init__()
        self.visual, self.precision = visual.to(memory_format=torch.channels_last), precision
        # the network sees (grey/255 - mean) / std, folded into one multiplication and one addition per channel
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (given.mean, given.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, grey: torch.Tensor, layers: Iterable[str] = ()) -> dict[str, torch.Tensor]:
        """(N, S, S) uint8 to "pooled" (N, D) float32 and, where asked for, "grid" (N, h, w, D)."""
        images = (grey.unsqueeze(1).float() * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        with torch.autocast(grey.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._with_map(images, list(layers)) if layers else {"pooled": self.visual(images).float()}

    def _with_map(self, images: torch.Tensor, layers: list[str]) -> dict[str, torch.Tensor]:
        has_map = hasattr(self.visual, "forward_features") and hasattr(self.visual, "forward_head")
        known = ("grid",) if has_map else ()
        for name in layers:
            if name not in known:
                raise BusistoreError(f"this network has no layer '{name}'; it gives {', '.join(('pooled', *known))}")
        features = self.visual.forward_features(images)
        return {"pooled": self.visual.forward_head(features).float(), "grid": self._grid(features).float()}

    def _grid(self, features: torch.Tensor) -> torch.Tensor:
        """(N, h, w, D) of a feature map, or of tokens once class and register tokens are left out."""
        if features.ndim == 4:
            channels_last = getattr(self.visual, "output_fmt", "NCHW") == "NHWC"
            return features if channels_last else features.permute(0, 2, 3, 1)
        patches = features[:, getattr(self.visual, "num_prefix_tokens", 0) :]
        side = round(patches.shape[1] ** 0.5)
        return patches.reshape(len(patches), side, side, -1)
