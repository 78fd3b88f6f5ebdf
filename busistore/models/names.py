"""Names of tensors, where a weight file calls them otherwise than the network that loads it."""

from __future__ import annotations

from typing import Any

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_INVERTED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage; the file counts them through


def efficientnet_lite0(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of `efficientnet-lite0.pth` under timm's names; names it does not know stay and fail a strict load.

    >>> list(efficientnet_lite0({"_blocks.2._bn0.weight": 0, "_fc.bias": 1}))
    ['blocks.1.1.bn1.weight', 'classifier.bias']
    """
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    part, _, rest = name.partition(".")
    if part != "_blocks":
        return f"{_STEM.get(part, part)}.{rest}"
    number, part, rest = rest.split(".", 2)
    stage, block = _place(int(number))
    layers = _SEPARABLE if stage == 0 else _INVERTED
    return f"blocks.{stage}.{block}.{layers.get(part, part)}.{rest}"


def _place(number: int) -> tuple[int, int]:
    for stage, n_blocks in enumerate(LITE0_BLOCKS):
        if number < n_blocks:
            return stage, number
        number -= n_blocks
    return len(LITE0_BLOCKS), number


def unimed(state: dict[str, Any]) -> dict[str, Any]:
    """UniMed-CLIP's tensors under open_clip's names: its text tower is called otherwise, and counts its positions.

    >>> list(unimed({"text_encoder.proj.0.weight": 0, "text_encoder.transformer.embeddings.position_ids": 1}))
    ['text.proj.0.weight']
    """
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
    return {
        f"text.{name.removeprefix('text_encoder.')}" if name.startswith("text_encoder.") else name: tensor
        for name, tensor in kept.items()
    }
