"""Text towers: prompts to vectors, in fp32."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from busistore.errors import BusistoreError, MissingWeights
from busistore.models import checkpoints, loaders, weights
from busistore.models.registry import MODELS
from busistore.models.spec import Located

BATCH = 32
_UNCASED = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


class TextEncoder:
    """A loaded text tower. `encode` takes prompts and gives vectors; cosines are scaled by `logit_scale`."""

    def __init__(self, located: Located, tokenize: Callable[[list[str]], Any], tower: Callable, scale: float,
                 device: str = "cpu"):  # fmt: skip
        self.located, self.logit_scale, self.device = located, scale, device
        self._tokenize, self._tower = tokenize, tower

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """P prompts to (P, D) float32, as the tower emits them (not normalised)."""
        with torch.inference_mode():
            parts = [
                self._tower(self._tokenize(list(texts[k : k + BATCH])).to(self.device)).float().cpu().numpy()
                for k in range(0, len(texts), BATCH)
            ]
        return np.concatenate(parts) if parts else np.empty((0, self.located.spec.text.dim), np.float32)


def load_text(located: Located, device: str = "cpu", fetch: bool = False) -> TextEncoder:
    """The text tower of a model.

    Args:
        fetch: whether a tokenizer that is not at hand may be downloaded.

    Raises:
        BusistoreError: the model reads no text.
        MissingWeights: its weights or its tokenizer are not at hand.
    """
    spec = located.spec
    if spec.text is None:
        readers = ", ".join(sorted(m.name for m in MODELS.values() if m.has_text))
        raise BusistoreError(f"'{spec.name}' has no text tower; those that have one: {readers}")
    files = weights.text_files(located, fetch)
    if spec.text.weights is not None:
        return _sentences(located, files[spec.text.weights.file].parent, device)
    network = loaders.build(located)
    _to(network, device)
    return TextEncoder(located, _tokenizer(located, files), network.text, network.logit_scale, device)


def _to(network: loaders.Network, device: str) -> None:
    """Move the towers: a text tower is a method of its module."""
    if device != "cpu":
        owner = getattr(network.text, "__self__", None) or network.visual.network
        owner.to(device)


def _tokenizer(located: Located, files: dict[str, Path]) -> Callable[[list[str]], Any]:
    """CLIP's byte-pair tokenizer unless the model publishes another, in files of its own."""
    import open_clip

    text, names = located.spec.text, located.spec.tokenizer_files
    if not names:
        return open_clip.SimpleTokenizer(context_length=text.context_length)
    lost = [name for name in names if name not in files]
    if lost:
        raise MissingWeights(f"'{lost[0]}' of the tokenizer of '{located.spec.name}' is not at hand; "
                             f"`busistore models fetch {located.spec.name}` downloads it")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            (Path(folder) / name).write_bytes(files[name].read_bytes())
        if names == ("vocab.txt",):
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(_UNCASED))
        kind = (located.spec.config or open_clip.get_model_config(located.spec.architecture))["text_cfg"]
        return open_clip.tokenizer.HFTokenizer(folder, context_length=text.context_length,
                                               **kind.get("tokenizer_kwargs", {}))  # fmt: skip


def _sentences(located: Located, folder: Path, device: str) -> TextEncoder:
    """A sentence encoder of transformers: the mean of its tokens (Reimers and Gurevych 2019)."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    reader = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    network = transformers.AutoModel.from_config(config).eval().requires_grad_(False)
    path = folder / located.spec.text.weights.file
    checkpoints.load_strictly(network, checkpoints.read(path), path)
    network.to(device)
    length = located.spec.text.context_length

    def tokenize(texts: list[str]) -> Any:
        return reader(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")

    def tower(tokens: Any) -> Any:
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        return (network(**tokens).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)

    return TextEncoder(located, tokenize, tower, loaders.COSINE_SCALE, device)
