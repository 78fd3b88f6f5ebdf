"""Tiny random checkpoints in the layouts that are published, each with the network it was saved from as its oracle.

Every entry stands in for one of `MODELS` and keeps its repository, file names, commit and layout; only the network is
small. The oracle runs the towers as their libraries made them, with none of busistore's code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import string
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np

from busistore.models import MODELS, InputTransform, ModelSpec
from busistore.models.spec import IMAGENET_MEAN, IMAGENET_STD

DIM = 32  # of the space that images and texts share
State = dict[str, Any]

_WORDS = ("an", "of", "image", "ultrasound", "breast", "tumor", "tumour", "benign", "malignant", "normal", "lesion")
VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.punctuation, *string.digits, *string.ascii_lowercase,
    *(f"##{c}" for c in string.ascii_lowercase + string.digits), *_WORDS,
]  # fmt: skip
_BERT = {
    "model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256,
}  # fmt: skip
_BERT_TEXT = {
    "hf_config": _BERT, "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 256,
}  # fmt: skip
_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
_NATIVE_VISION = {"image_size": 224, "layers": 7, "width": 64, "head_width": 32, "patch_size": 32}
_CLIP_TEXT = {"context_length": 77, "vocab_size": 49408, "width": DIM, "heads": 2, "layers": 2}


@dataclass(frozen=True)
class Tiny:
    """A published model in small.

    Args:
        state: the tensors under the names that the weight file gives them.
        pack: a state to the bytes of a weight file.
        images: (N, S, S) uint8 to (N, D) float32, by the source network.
        texts: P prompts to (P, D) float32; None without a text tower.
        beside: what else its repository holds.
        elsewhere: files of other repositories that it needs.
    """

    spec: ModelSpec
    state: State
    pack: Callable[[State], bytes]
    images: Callable[[np.ndarray], np.ndarray]
    texts: Callable[[list[str]], np.ndarray] | None = None
    logit_scale: float | None = None
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    elsewhere: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

    def files(self, state: State | None = None) -> dict[str, bytes]:
        """What its repository holds, with other tensors if given."""
        return {self.spec.weights.file: self.pack(self.state if state is None else state), **self.beside}


def clip() -> Tiny:
    """OpenAI's CLIP as open_clip publishes it: native names, safetensors."""
    from open_clip import SimpleTokenizer
    from open_clip.model import CLIP

    config = {"embed_dim": DIM, "quick_gelu": True, "vision_cfg": _NATIVE_VISION, "text_cfg": _CLIP_TEXT}
    network = _drawn(CLIP, **config)
    spec = _small(MODELS["clip"], DIM, config=config)
    read = SimpleTokenizer(context_length=77)
    return Tiny(
        spec, network.state_dict(), as_safetensors, _images(network.visual, spec.input),
        _arrays(lambda texts: network.encode_text(read(texts))), float(network.logit_scale.exp()),
    )  # fmt: skip


def biomedclip() -> Tiny:
    """BiomedCLIP: a trunk of timm, a BERT, a pickle with the position counter of older transformers."""
    import timm
    import torch

    trunk = _drawn(timm.create_model, "vit_tiny_patch16_224", num_classes=0)
    head = _drawn(torch.nn.Linear, trunk.num_features, DIM, bias=False)
    bert, project = _bert_and_projection()
    state = (
        _under("visual.trunk", trunk) | _under("visual.head.proj", head)
        | {"logit_scale": torch.tensor(3.9), "text.transformer.embeddings.position_ids": torch.arange(256)[None]}
        | _under("text.transformer", bert) | _under("text.proj", project)
    )  # fmt: skip
    vision = {
        "timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear", "image_size": 224,
    }  # fmt: skip
    spec = _small(MODELS["biomedclip"], DIM, {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": _BERT_TEXT})
    return Tiny(
        spec, OrderedDict(state), as_pickle, _images(lambda x: head(trunk(x)), spec.input), _bert_texts(bert, project),
        float(np.exp(3.9)), tokenizer_files(), _biomedbert(spec),
    )  # fmt: skip


def unimed() -> Tiny:
    """UniMed-CLIP: native image tower, a BERT under a name of its own, in a trainer's checkpoint."""
    import torch
    from open_clip.model import CLIP

    visual = _drawn(CLIP, DIM, _NATIVE_VISION, _CLIP_TEXT, quick_gelu=True).visual
    bert, project = _bert_and_projection()
    state = (
        _under("visual", visual) | {"logit_scale": torch.tensor(4.2)}
        | _under("text_encoder.transformer", bert) | _under("text_encoder.proj", project)
    )  # fmt: skip
    config = {"embed_dim": DIM, "quick_gelu": True, "vision_cfg": _NATIVE_VISION, "text_cfg": _BERT_TEXT}
    spec = _small(MODELS["unimed-clip"], DIM, config)
    return Tiny(
        spec, state, as_trainers_pickle, _images(visual, spec.input), _bert_texts(bert, project),
        float(np.exp(4.2)), elsewhere=_biomedbert(spec),
    )  # fmt: skip


def _timm(name: str, architecture: str) -> Tiny:
    """An image network of timm, classifier and all."""
    import timm

    network = _drawn(timm.create_model, architecture)
    spec = _small(MODELS[name], network.num_features, architecture=architecture, config=None)
    spec = dataclasses.replace(spec, input=InputTransform(160, IMAGENET_MEAN, IMAGENET_STD))
    pooled = _images(lambda x: network.forward_head(network.forward_features(x), pre_logits=True), spec.input)
    return Tiny(spec, network.state_dict(), as_safetensors, pooled)


def transformers_clip() -> Tiny:
    """A CLIP of transformers, as PubMedCLIP is published: with the position counters of older releases."""
    import torch
    from open_clip import SimpleTokenizer
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(text_config=_SHAPE, vision_config=_SHAPE | {"patch_size": 32}, projection_dim=DIM)
    network = _drawn(CLIPModel, config)
    spec = _small(MODELS["pubmedclip"], DIM)
    read = SimpleTokenizer(context_length=77)
    counters = {"text_model.embeddings.position_ids": 77, "vision_model.embeddings.position_ids": 50}
    return Tiny(
        spec, network.state_dict() | {name: torch.arange(n)[None] for name, n in counters.items()}, as_pickle,
        _images(lambda x: network.get_image_features(x).pooler_output, spec.input),
        _arrays(lambda texts: network.get_text_features(read(texts)).pooler_output), float(network.logit_scale.exp()),
        {"config.json": network.config.to_json_string().encode()},
    )  # fmt: skip


def transformers_beit(width: int = 64) -> Tiny:
    """A BEiT of transformers with its pooler, as USFM is published; its vector is the mean of the patches."""
    from transformers import BeitConfig, BeitModel

    shape = _SHAPE | {"hidden_size": width}
    config = BeitConfig(**shape, use_relative_position_bias=True, layer_scale_init_value=0.1)
    network = _drawn(BeitModel, config)
    spec = _small(MODELS["usfm"], width)
    return Tiny(
        spec, network.state_dict(), as_safetensors,
        _images(lambda x: network(x).last_hidden_state[:, 1:].mean(dim=1), spec.input),
        beside={"config.json": network.config.to_json_string().encode()},
    )  # fmt: skip


LAYOUTS: dict[str, Callable[[], Tiny]] = {
    name: cache(make)
    for name, make in {
        "open_clip safetensors": clip, "open_clip bin": biomedclip, "trainer's pt": unimed,
        "timm ViT": partial(_timm, "dinov2-b14", "test_vit.r160_in1k"),
        "timm ResNet": partial(_timm, "resnet50", "test_resnet.r160_in1k"), "transformers CLIP": transformers_clip,
        "transformers BEiT": transformers_beit,
    }.items()
}  # fmt: skip


def as_safetensors(state: State) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={"format": "pt"})


def as_pickle(state: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def as_trainers_pickle(state: State) -> bytes:
    """What a trainer under NumPy 1 left: the optimizer's state and NumPy numbers beside the weights."""
    import torch

    moments = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    # NumPy 2 has moved this function; files written before call it by its old name, which plain loading refuses
    with patch.object(np._core.multiarray.scalar, "__module__", "numpy.core.multiarray"):
        return as_pickle({
            "epoch": 10, "name": "vit_b16", "state_dict": {f"module.{k}": v for k, v in state.items()},
            "optimizer": {"state": {0: moments}, "param_groups": [{"lr": np.float64(5e-4), "params": [0]}]},
            "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        })  # fmt: skip


def tokenizer_files() -> dict[str, bytes]:
    """A WordPiece tokenizer with letters for all that its few words do not cover."""
    options = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 256}
    return {"vocab.txt": "\n".join(VOCABULARY).encode(), "tokenizer_config.json": json.dumps(options).encode()}


def _drawn(make: Callable, *args: Any, **kwargs: Any) -> Any:
    """A network with every number of it random: one that is not taken from the file cannot go unseen."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(*args, **kwargs).eval().requires_grad_(False)
        for name, tensor in network.state_dict().items():
            noise = 0.1 * torch.randn(tensor.shape)
            if tensor.is_floating_point():
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return network


def _bert_and_projection() -> tuple[Any, Any]:
    import torch
    from transformers import BertConfig, BertModel

    bert = _drawn(BertModel, BertConfig(**_BERT), add_pooling_layer=False)
    width = (_BERT["hidden_size"] + DIM) // 2
    layers = (torch.nn.Linear(48, width, bias=False), torch.nn.GELU(), torch.nn.Linear(width, DIM, bias=False))
    return bert, _drawn(torch.nn.Sequential, *layers)


def _under(prefix: str, network: Any) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in network.state_dict().items()}


def _small(spec: ModelSpec, dim: int, config: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    text = spec.text and dataclasses.replace(spec.text, dim=dim)
    return dataclasses.replace(spec, dim=dim, text=text, config=config, **changes)


def _images(network: Callable, given: InputTransform) -> Callable[[np.ndarray], np.ndarray]:
    """The network behind the transform as it is published: three grey channels in [0, 1], less mean, over std."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (given.mean, given.std))
    return _arrays(lambda x: network((torch.from_numpy(x).unsqueeze(1).repeat(1, 3, 1, 1) / 255 - mean) / std))


def _arrays(network: Callable[[Any], Any]) -> Callable[[Any], np.ndarray]:
    import torch

    return lambda given: torch.inference_mode()(network)(given).numpy()


def _bert_texts(bert: Any, project: Any) -> Callable[[list[str]], np.ndarray]:
    """The last state of the first token, projected: what BiomedCLIP and UniMed-CLIP take of their BERT."""
    import torch

    def features(texts: list[str]) -> Any:
        ids = torch.zeros((len(texts), 256), dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            pieces = [piece for word in re.findall(r"\w+|[^\w\s]", text.lower()) for piece in wordpieces(word)]
            tokens = ["[CLS]", *pieces[:254], "[SEP]"]
            row[: len(tokens)] = torch.tensor([VOCABULARY.index(token) for token in tokens])
        return project(bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, 0])

    return _arrays(features)


def wordpieces(word: str) -> list[str]:
    """The longest pieces from the left (Wu et al. 2016), of a word whose letters are all known.

    >>> wordpieces("tumour"), wordpieces("ox")
    (['tumour'], ['o', '##x'])
    """
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        end = next(e for e in range(len(word), start, -1) if mark + word[start:e] in VOCABULARY)
        pieces.append(mark + word[start:end])
        start = end
    return pieces


def _biomedbert(spec: ModelSpec) -> dict[str, dict[str, bytes]]:
    return {spec.text.tokenizer.repo: {"config.json": json.dumps(_BERT).encode(), **tokenizer_files()}}
