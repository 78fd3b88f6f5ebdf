"""The three loaders: a network of open_clip, timm or transformers, every tensor of it from the weight file.

open_clip and timm are asked for the bare network and given the tensors by this module, strictly; transformers reads
one file by itself, and is held to it. Left to themselves they warn and go on with random numbers when a file is
missing, and they look names up on the hub.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busistore.errors import MissingWeights
from busistore.models import checkpoints
from busistore.models.spec import DESCRIPTION, Located

COSINE_SCALE = 100.0  # what CLIP's temperature is clipped at in training; for towers that carry none


@dataclass
class Network:
    """Towers ready for use.

    visual: (N, 3, S, S) float32 normalised images to (N, D).
    text: (P, L) token ids to (P, D); None without a text tower.
    logit_scale: what cosines are multiplied by before the softmax.
    """

    visual: Any
    text: Callable[[Any], Any] | None = None
    logit_scale: float = COSINE_SCALE


def build(located: Located) -> Network:
    """The network of a located model, in evaluation mode and without gradients.

    Raises:
        MissingWeights: no file is at hand, or it does not fit the network to the last tensor.
    """
    path = located.files.get(located.spec.weights.file)
    if path is None:
        raise MissingWeights(
            f"the store knows '{located.spec.name}', but its weights are not on this machine; "
            f"`busistore models fetch {located.spec.name}` downloads them, or name a copy with --weights"
        )
    return LOADERS[located.spec.kind](located, path)


def _state(located: Located, path: Path) -> checkpoints.State:
    return checkpoints.LAYOUTS[located.spec.layout](path, located.sha256)


def _frozen(network: Any) -> Any:
    return network.eval().requires_grad_(False)


def _open_clip(located: Located, path: Path) -> Network:
    """A CLIP of open_clip, by the name it has there or by the configuration of the spec."""
    import math

    import open_clip

    config = located.spec.config or open_clip.get_model_config(located.spec.architecture)
    assert config is not None, located.spec.architecture
    with tempfile.TemporaryDirectory() as folder:
        network = _bare_clip({k: v for k, v in config.items() if k != "custom_text"}, Path(folder))
    checkpoints.load_strictly(_frozen(network), _state(located, path), path)
    return Network(network.visual, network.encode_text, math.exp(float(network.logit_scale)))


def _bare_clip(config: dict[str, Any], folder: Path) -> Any:
    """The network without weights. A text tower of transformers is described by a file, so that no hub is asked."""
    from open_clip.model import CLIP, CustomTextCLIP

    text = dict(config["text_cfg"])
    bert = text.pop("hf_config", None)
    if bert is not None:
        (folder / "config.json").write_text(json.dumps(bert))
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    kind = CustomTextCLIP if bert is not None or "timm_model_name" in config["vision_cfg"] else CLIP
    return kind(**{**config, "text_cfg": text})


def _timm(located: Located, path: Path) -> Network:
    """An image network of timm with its classifier, loaded whole, then without the classifier."""
    import sys

    import timm

    network = timm.create_model(located.spec.architecture, pretrained=False, **(located.spec.config or {}))
    state = _state(located, path)
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:  # timm's own renaming, and positions resampled to the size of the pictures
        try:
            state = adapt(state, network)
        except Exception as error:  # of another network's names
            raise checkpoints.misfit(path, " ".join(str(error).split())[:160]) from None
    checkpoints.load_strictly(_frozen(network), state, path)
    network.reset_classifier(0)
    return Network(network)


def _transformers(located: Located, path: Path) -> Network:
    """A network of transformers, described by the config.json that lies beside its weights."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = _description(located, path)
    with tempfile.TemporaryDirectory() as folder:  # with nothing else in it: adapters beside weights would be applied
        (Path(folder) / path.name).symlink_to(path.resolve())
        (Path(folder) / DESCRIPTION).symlink_to(config.resolve())
        try:
            network, told = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype="float32", ignore_mismatched_sizes=True,
                use_safetensors=path.suffix == ".safetensors", **_NO_POOLER.get(located.spec.architecture, {}),
            )  # fmt: skip
        except Exception as error:  # its readers raise errors of many kinds
            said = " ".join(str(error).split())[:160]
            raise MissingWeights(f"'{path}' cannot be loaded ({said}); get the published file") from None
    bad = {k if isinstance(k, str) else k[0] for kind in _MISFITS for k in told.get(kind, ())}
    bad = sorted(name for name in bad if not name.startswith("pooler."))  # which is left out on purpose
    if bad:
        raise checkpoints.misfit(path, bad[0])
    kind, dim = network.config.model_type, getattr(network.config, "projection_dim", None) or network.config.hidden_size
    if (kind, dim) != (located.spec.architecture, located.spec.dim):
        raise MissingWeights(f"'{config}' does not fit '{located.spec.name}': it describes a {kind} "
                             f"of {dim} numbers; get the published file")  # fmt: skip
    return _TOWERS[located.spec.architecture](_frozen(network))


_MISFITS = ("missing_keys", "mismatched_keys", "unexpected_keys")
_NO_POOLER = {"beit": {"add_pooling_layer": False}}


def _description(located: Located, path: Path) -> Path:
    """The config.json of the network, once it names no other file to read and no other arithmetic."""
    config = located.files[DESCRIPTION]
    if path.name != located.spec.weights.file:
        raise MissingWeights(f"'{path}' must be named '{located.spec.weights.file}', as published")
    try:
        told = json.loads(config.read_text())
    except ValueError:
        raise MissingWeights(f"'{config}' is not JSON; get the published file") from None
    for key in ("transformers_weights", "quantization_config", "auto_map"):
        if key in told:
            raise MissingWeights(f"'{config}' sets '{key}', which is not followed here; get the published file")
    return config


def _clip_towers(network: Any) -> Network:
    import math

    def visual(images: Any) -> Any:
        return network.visual_projection(network.vision_model(pixel_values=images).pooler_output)

    def text(ids: Any) -> Any:
        return network.text_projection(network.text_model(input_ids=ids).pooler_output)

    return Network(_module(network, visual), text, math.exp(float(network.logit_scale)))


def _mean_of_patches(network: Any) -> Network:
    def visual(images: Any) -> Any:
        return network(pixel_values=images).last_hidden_state[:, 1:].mean(dim=1)

    return Network(_module(network, visual))


def _module(network: Any, forward: Callable[[Any], Any]) -> Any:
    """A module that holds a network and calls it in one way."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            return forward(images)

    return Tower().eval()


_TOWERS = {"clip": _clip_towers, "beit": _mean_of_patches}
LOADERS: dict[str, Callable[[Located, Path], Network]] = {
    "open_clip": _open_clip, "timm": _timm, "transformers": _transformers,
}  # fmt: skip
