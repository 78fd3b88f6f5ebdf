"""Which weights of BUSSAM belong together, which are trained, and how many there are.

It reads the names of a network's weights alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from busistore.errors import lookup

if TYPE_CHECKING:
    from busistore.segmenters.bussam import Bussam

# The first pattern that a name begins with; those of SAM come after those that BUSSAM adds.
GROUPS = {
    "cnn_embed": r"image_encoder\.cnn_embed\.",
    "post_pos_embed": r"image_encoder\.post_pos_embed\.",
    "input_adapter": r"image_encoder\.input_Adapter\.",
    "cross_adapters": r"image_encoder\.blocks\.\d+\.(MLP_Adapter1?|refine_Adapter)\.",
    "rel_pos": r"image_encoder\.blocks\.(GLOBAL)\.attn\.rel_pos_[hw]$",
    "pos_embed": r"image_encoder\.pos_embed$",
    "patch_embed": r"image_encoder\.patch_embed\.",
    "blocks": r"image_encoder\.blocks\.",
    "neck": r"image_encoder\.neck\.",
    "prompt_encoder": r"prompt_encoder\.",
    # What a single mask is not made of: the answers to an ambiguous prompt, and how good SAM thinks each is. Their
    # gradient is zero, so that weight decay alone would move them.
    "decoder_unused": r"mask_decoder\.(output_hypernetworks_mlps\.[123]|iou_prediction_head)\.",
    "mask_decoder": r"mask_decoder\.",
}
ADDED = ("cnn_embed", "post_pos_embed", "input_adapter", "cross_adapters")
TRAIN = {
    "published": ("cnn_embed", "post_pos_embed", "input_adapter", "cross_adapters", "rel_pos"),
    "cnn+decoder": ("cnn_embed", "neck", "mask_decoder"),
}


class Count(NamedTuple):
    """One group: tensors and numbers; those that are open to training, and those of them that ever get a gradient."""

    tensors: int = 0
    parameters: int = 0
    trainable: int = 0
    effective: int = 0

    def plus(self, other: Count) -> Count:
        """The sum, field by field."""
        return Count(*(a + b for a, b in zip(self, other, strict=True)))


def group(name: str, global_blocks: tuple[int, ...]) -> str:
    """The group of a weight by its name.

    >>> group("image_encoder.blocks.2.attn.rel_pos_h", (2, 5)), group("image_encoder.blocks.3.attn.rel_pos_h", (2, 5))
    ('rel_pos', 'blocks')
    """
    among = "|".join(map(str, global_blocks)) or "(?!)"
    return next(own for own, pattern in GROUPS.items() if re.match(pattern.replace("GLOBAL", among), name))


def trainable(model: Bussam, train: str = "published") -> Bussam:
    """Open a set of weights to training and freeze the rest.

    "published" is the released protocol: the CNN branch, the adapters and the relative positions of global blocks; in
    the wiring "released" the cross-branch adapters among them never get a gradient. "cnn+decoder" freezes the whole
    transformer branch, whose tokens may then be kept, and opens what comes after it: the CNN branch, the neck, and
    what the mask decoder makes its single answer with.

    Raises:
        UnknownName: of a set that is not there.
    """
    chosen = lookup("set of weights to train", train, TRAIN)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group(name, model.size.global_blocks) in chosen)
    return model


def count(model: Bussam) -> dict[str, Count]:
    """Every group that the network has, in the order of `GROUPS`, and their sum under "total"."""
    found = dict.fromkeys(GROUPS, Count())
    for name, parameter in model.named_parameters():
        own, n = group(name, model.size.global_blocks), parameter.numel()
        is_open = n * parameter.requires_grad
        is_idle = own == "decoder_unused" or (own == "cross_adapters" and model.wiring == "released")
        found[own] = found[own].plus(Count(1, n, is_open, 0 if is_idle else is_open))
    total = Count()
    for counted in found.values():
        total = total.plus(counted)
    return {own: counted for own, counted in found.items() if counted.tensors} | {"total": total}
