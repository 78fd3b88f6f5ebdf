"""Alignment: image vectors in the space of a text tower that was never trained with the image tower.

The map is learned when it is asked for, from the training part of a split, so no other image can influence it. What
is read through it is supervised: the labels of the training part stand in the captions that it is learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from busistore import alignment, captions, models
from busistore.errors import BusistoreError
from busistore.jobs import columns
from busistore.jobs.encode import vectors
from busistore.jobs.episodes import Split
from busistore.jobs.ingest import TRUTH
from busistore.jobs.runs import load_vectors
from busistore.methods.base import normalise
from busistore.store import Store, quote

# Chosen on the training part of real images (265 of BUSI; five folds of whole groups, drawn three times): the mean
# cosine between the mapped vector of a held-out image and its caption, both less the mean text, is .486 here, .477 at
# 0.1, .474 at 1, and .44 ten times lower or higher. Image vectors have length 1, so a network's scale does not matter.
ALPHA = 0.3
KEY = {"alpha": ALPHA, "alignment": alignment.CODE, "captions": captions.CODE}  # what can change a map, beside its data


@dataclass(frozen=True)
class Mapped:
    """All images that a model has encoded, in the space of its text tower.

    ids: sorted image ids; vectors: (N, T) float64 in that order; n_train: the labelled images that taught the map;
    details: how it was learned, as JSON types.
    """

    ids: list[str]
    vectors: np.ndarray
    n_train: int
    details: dict[str, Any]


def text_space(store: Store, located: models.Located, recipe: str, split: Split, alpha: float = ALPHA) -> Mapped:
    """The stored image vectors under a ridge from images to the captions of the split's training part.

    Raises:
        BusistoreError: an image of the split has no vector of its present pixels, a training image has lost its
            mask, or alpha is not positive.
        MissingWeights: the text tower is not at hand.
    """
    cached = load_vectors(store, located, recipe, split)
    train = sorted(split.parts["train"])
    sentences = training_captions(store, split, train)
    distinct = sorted(set(sentences))
    texts = normalise(models.load_text(located).encode(distinct), "caption")
    fitted = alignment.Alignment.fit(cached.of(train), texts[np.searchsorted(distinct, sentences)], alpha)
    _, ids, values = vectors(store, located.model_id, cached.recipe_id)
    details = {"supervised": True, "n_labelled": len(train), "n_captions": len(distinct), **KEY, "alpha": alpha}
    return Mapped(ids, fitted.map(values), len(train), details)


def training_captions(store: Store, split: Split, ids: Sequence[str]) -> list[str]:
    """The caption of each image, from its label in the split and its true mask.

    Raises:
        BusistoreError: an image has lost its mask.
    """
    sizes = {i: (w, h) for i, w, h in columns(store.read("images", ["image_id", "width_px", "height_px"]))}
    masks = store.read("masks", ["image_id", "area_px", "bbox_px"], f"source_id = {quote(TRUTH)}")
    shapes = {i: (area, box) for i, area, box in columns(masks)}
    lost = [i for i in ids if i not in shapes]
    if lost:
        raise BusistoreError(f"the mask of '{lost[0]}' is lost; `busistore ingest` brings it again")
    return [captions.caption(split.label_of[i], *sizes[i], *shapes[i]) for i in ids]
