"""Seen: what a classifier and a segmenter have learned from an image, or from another picture of the same frame.

A picture that is not of the store by its pixels is looked for among the images whose vectors are nearest to its own,
each laid over it by the registration that finds near-duplicates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from busistore import pixels, registration, splits
from busistore.groups import Grouping
from busistore.jobs.asked import Asked
from busistore.jobs.refit import Classifier
from busistore.schema import IMAGES, embeddings_name
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.jobs.diagnose import Picture

NEAREST = 8  # stored images that are laid over a picture


def near(store: Store, asked: Classifier, picture: Picture, vector: np.ndarray) -> list[str]:
    """The stored images of the same frame as a picture, less those of its own pixels; sorted. Damaged ones are passed.

    Args:
        vector: (D,) float32 of the picture by the classifier's model.
    """
    table, settings = embeddings_name(asked.located.model_id, asked.run["recipe_id"]), Grouping().registration
    known = set(store.read(IMAGES.name, ["image_id"])["image_id"].to_pylist()) - set(picture.ids)
    nearest = [image_id for image_id, _ in store.nearest(table, vector, NEAREST, known)]
    own, found = registration.features(picture.grey, settings), []
    for image_id, data in store.files(IMAGES).try_stream(nearest):
        if isinstance(data, bytes):
            other = registration.features(pixels.grey(data, image_id), settings)
            is_same = registration.register(own, other, settings) >= settings.min_similarity
            found += [image_id] if is_same else []
    return sorted(found)


def part_of(asked: Classifier | Asked, ids: list[str]) -> str | None:
    """The part of a split that an image is in; of several with the same pixels the one most seen in training."""
    return next((name for name in splits.PARTS if set(ids) & set(asked.split.parts.get(name, ()))), None)


def _is_of_frame(asked: Classifier | Asked, ids: list[str], similar: list[str], learned: set[str]) -> bool:
    """Whether an image that was learned from shows the frame of a picture: by the groups, or by registration now."""
    group_of = asked.split.group_of
    own = {group_of.get(i) for i in [*ids, *similar]} - {None}
    return bool(own & {group_of[i] for i in learned} or set(similar) & learned)


def of_class(asked: Classifier, name: str, ids: list[str], similar: list[str]) -> list[str]:
    """Where the class of the picture `name` is no test: `ids` have its pixels, `similar` show the same frame."""
    support = set(asked.cell.episode.ids)
    if set(ids) & support:
        return [f"the classifier learned from '{name}': its class is a resubstitution, not a test"]
    if _is_of_frame(asked, ids, similar, support):
        return [f"the classifier learned from a near-duplicate of '{name}': its class is no fair test"]
    if part_of(asked, ids) == "val":
        return [f"'{name}' is a validation image: the prediction set was made with it"]
    if _is_of_frame(asked, ids, similar, set(asked.val)):
        return [f"the prediction set was made with a near-duplicate of '{name}'"]
    return []


def of_mask(asked: Asked, name: str, ids: list[str], similar: list[str]) -> list[str]:
    """Where the mask of the picture `name` is no test, because of the segmenter or of what proposes its prompts."""
    who = "the segmenter" if asked.row["n_train"] else "what proposes the prompts"
    if not asked.row["n_train"] and asked.chosen is None:
        return []
    is_probe = not asked.row["n_train"] and asked.chosen.row is None  # fitted on the training part, chosen on none
    parts = ("train",) if is_probe else ("train", "val")
    part = part_of(asked, ids)
    if part in parts:
        how = "trained" if part == "train" else "chosen"
        return [f"{who} was {how} on the part that '{name}' is in: its mask is a resubstitution, not a test"]
    learned = {i for part in parts for i in asked.split.parts.get(part, ())}
    if _is_of_frame(asked, ids, similar, learned):
        return [f"{who} learned from a near-duplicate of '{name}': its mask is no fair test"]
    return []
