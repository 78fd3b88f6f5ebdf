"""What an encoder is, as data: its network, its weights, its towers, and the id of the vectors it makes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from busistore.ids import content_id, plain

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
DESCRIPTION = "config.json"  # of a network of transformers: it moves every vector, as weights do

PRECISIONS = {
    "auto": "bf16 where the processor has it and every vector that is checked keeps its direction, else fp32",
    "fp32": "32-bit floating point throughout",
    "bf16": "matrix products in bfloat16; sums, normalisation and the result in fp32",
}
OUTPUTS = ("pooled", "unprojected")  # the vectors of an image that a model emits, each under a model id of its own


@dataclass(frozen=True)
class InputTransform:
    """What a network is fed: a square of `size_px`, three equal grey channels in [0, 1], less `mean`, over `std`."""

    size_px: int = 224
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD


@dataclass(frozen=True)
class Weights:
    """A published file of weights, with the files that must lie beside it: where they come from, what they allow.

    Args:
        package: the Python package that carries the file; None where a hub does.
        repo, revision: the hub's repository and its commit (40 hexadecimal digits). Without a revision the commit
            found at first use is recorded, and held to ever after.
        sha256: pinned where the published file is known; else recorded at first use and compared ever after.
        gate: what the publisher asks before it lets anyone download; '' for nothing.
        beside: further files of the same source that the model needs, such as a tokenizer's; `beside_sha256` is the
            SHA-256 of their SHA-256s, where the source has no commit that fixes them.
    """

    file: str
    size_mb: float
    licence: str
    package: str | None = None
    repo: str | None = None
    revision: str | None = None
    sha256: str | None = None
    gate: str = ""
    beside: tuple[str, ...] = ()
    beside_sha256: str | None = None

    @property
    def source(self) -> str:
        """Where it is published, in words: 'hf.co/org/name@revision', or the package."""
        if self.repo is None:
            return f"the Python package {self.package}"
        return f"hf.co/{self.repo}" + (f"@{self.revision[:12]}" if self.revision else "")


@dataclass(frozen=True)
class TextTower:
    """How a model reads text.

    Args:
        context_length: tokens at most; longer prompts are cut.
        tokenizer: the files of the tokenizer where they are published apart from the weights; None where they lie
            beside the weights or in the loading library itself.
        weights: the file of the text tower where it is apart from the image tower's.
        aligned: whether text and images share one space. False: a map must be learned first, which takes labels.
    """

    context_length: int
    dim: int
    tokenizer: Weights | None = None
    weights: Weights | None = None
    aligned: bool = True


@dataclass(frozen=True)
class ModelSpec:
    """One encoder. `kind` names its loader: "open_clip", "timm" or "transformers"; `architecture` its network there.

    Args:
        dim: length of the vector that it emits for an image.
        config: the network's configuration where the loading library has none of that name.
        layout: how the weight file names its tensors; 'stock' for the loading library's own names.
        precisions: what it runs in; "bf16" is offered where it keeps a vector's direction.
    """

    name: str
    kind: str
    architecture: str
    dim: int
    weights: Weights
    input: InputTransform = InputTransform()
    text: TextTower | None = None
    config: dict[str, Any] | None = None
    layout: str = "stock"
    precisions: tuple[str, ...] = ("fp32",)
    note: str = ""

    @property
    def has_text(self) -> bool:
        return self.text is not None

    @property
    def apart(self) -> tuple[Weights, ...]:
        """What the text tower needs beyond the model's own weights: a tokenizer, or weights of its own."""
        return tuple(w for w in (self.text.tokenizer, self.text.weights) if w) if self.text else ()

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """Names of the files that the tokenizer is read from; none where it comes with the loading library."""
        if self.text is None:
            return ()
        own = self.text.tokenizer
        return (own.file, *own.beside) if own else tuple(n for n in self.weights.beside if n != DESCRIPTION)

    @property
    def architecture_id(self) -> str:
        """The network in words, with a hash of its configuration where it has one of its own."""
        named = f"{self.kind}/{self.architecture}"
        return content_id(named, self.config) if self.config else named


@dataclass(frozen=True)
class Located:
    """A spec together with its weights, known by their hash; `model_id` says exactly which vectors it makes.

    `sha256` is of the weights, and of the description of the network where one lies beside them; `tokenizer` of one
    that the user put in place of the published one. `origin` says in words where the weights are from. `files` maps
    the names of the files at hand to their paths. It is empty where the store alone remembers the weights: enough to
    read what is stored, not to encode.
    """

    spec: ModelSpec
    sha256: str
    precision: str = "fp32"
    output: str = "pooled"
    tokenizer: str = ""
    origin: str = field(default="", compare=False)
    files: dict[str, Path] = field(default_factory=dict, compare=False, repr=False)

    @property
    def model_id(self) -> str:
        """Name and hash of architecture, weights, input transform, output and precision."""
        return content_id(self.spec.name, self.identity())

    @property
    def text_id(self) -> str:
        """Name and hash of what makes the text vectors; image precision and transform do not move them."""
        return content_id(f"{self.spec.name}-text", self._text_identity())

    def identity(self) -> dict[str, Any]:
        """All that can change an image vector."""
        return {
            "architecture": self.spec.architecture_id, "weights_sha256": self.sha256, "input": plain(self.spec.input),
            "output": self.output, "precision": self.precision,
        }  # fmt: skip

    def _text_identity(self) -> dict[str, Any]:
        text = self.spec.text
        return {
            "architecture": self.spec.architecture_id, "weights_sha256": self.sha256,
            "context_length": text and text.context_length,
            "tokenizer": self.tokenizer or (text and text.tokenizer and text.tokenizer.source),
            "text_weights": text and text.weights and text.weights.sha256,
        }  # fmt: skip

    def at(self, precision: str | None = None, output: str | None = None) -> Located:
        """The same weights at another precision, or for another output."""
        return replace(self, precision=precision or self.precision, output=output or self.output)
