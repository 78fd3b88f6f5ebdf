"""The encoders: where their weights come from, and how they are loaded. Random weights never pass as a model.

A model's id is a hash of everything that can change its vectors, weights included; it is known without loading the
network, so that a job with nothing to do costs nothing. Only this package imports open_clip, timm and transformers.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

from busistore.models.registry import MODELS
from busistore.models.spec import (
    OUTPUTS,
    PRECISIONS,
    InputTransform,
    Located,
    ModelSpec,
    TextTower,
    Weights,
)
from busistore.models.weights import locate, model, text_files

if TYPE_CHECKING:
    from busistore.models.encoder import Encoder
    from busistore.models.text import TextEncoder

__all__ = [
    "MODELS", "OUTPUTS", "PRECISIONS", "InputTransform", "Located", "ModelSpec", "TextTower", "Weights", "fetch",
    "load", "load_text", "locate", "model", "versions",
]  # fmt: skip

NUMBER_MOVERS = (
    "torch", "torchvision", "timm", "open_clip_torch", "transformers", "numpy", "pillow", "scikit-learn", "busistore",
)  # fmt: skip


def fetch(name: str, quiet: bool = True) -> Located:
    """All files of a model at hand, downloaded where they are not, and verified."""
    located = locate(name, fetch=True, quiet=quiet)
    return replace(located, files=text_files(located, fetch=True))


def load(located: Located, device: str = "cpu") -> Encoder:
    """The image tower of a located model: see encoder.py."""
    from busistore.models import encoder

    return encoder.load(located, device)


def load_text(located: Located, device: str = "cpu", fetch: bool = False) -> TextEncoder:
    """The text tower of a located model: see text.py."""
    from busistore.models import text

    return text.load_text(located, device, fetch)


@cache
def versions() -> dict[str, str]:
    """Installed versions of what can move a number, with Python's own."""
    found = {"python": platform.python_version()}
    for name in NUMBER_MOVERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
