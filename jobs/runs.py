"""Runs: one method on one model and one episode, under a key that says all that can change its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from busistore import models, sampling, splits
from busistore.errors import BusistoreError
from busistore.ids import content_id, plain, sha256
from busistore.jobs.encode import current_vectors
from busistore.jobs.episodes import Episode, Split
from busistore.jobs.preprocess import current_pictures
from busistore.methods import Labelled, Outcome, TextPrompts, fit_predict_many, needs_support, needs_text, timed
from busistore.preprocess import recipes
from busistore.schema import embeddings_name
from busistore.store import Store


@dataclass(frozen=True)
class Source:
    """The images of a split as one model sees them under one recipe; `inputs_sha256` says which pixels they have."""

    model: str
    model_id: str
    recipe: str
    recipe_id: str
    inputs_sha256: str


@dataclass(frozen=True)
class Vectors(Source):
    """The vectors of one model under one recipe, by image id."""

    row_of: dict[str, int]
    values: np.ndarray

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids), D) float32, in the order of `ids`."""
        return self.values[[self.row_of[i] for i in ids]]


@dataclass(frozen=True)
class Texts:
    """Which prompts a run reads, and with what: ids alone, so that a stored run is known without its text tower.

    `map_id` names a map from image to text space by all that can change it but the vectors; None without one.
    """

    set_id: str
    text_id: str
    map_id: str | None = None


@dataclass(frozen=True)
class Read:
    """What `Texts` stands for: prompts as vectors, and, where a map was learned, the image vectors under it.

    `n_labelled` images taught the map, and `details` tell how.
    """

    prompts: TextPrompts
    mapped: Vectors | None = None
    n_labelled: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a grid: a method with its parameters, on a model and an episode, under a protocol.

    Where the method trains the tower itself, `vectors` has no values: it says which pictures they would be of.
    """

    method: Any
    vectors: Source
    episode: Episode
    protocol: str
    texts: Texts | None = None

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The method's fields, and the id of the prompt set where it reads one: other texts are other runs."""
        return plain(self.method) | ({"prompts": self.texts.set_id} if self.texts else {})

    @cached_property
    def run_id(self) -> str:
        key = {
            "method": self.method.name, "code": self.method.code, "parameters": self.parameters,
            "model_id": self.vectors.model_id, "recipe_id": self.vectors.recipe_id,
            "episode_id": self.episode.episode_id, "protocol": self.protocol,
            "inputs_sha256": self.vectors.inputs_sha256,
        }  # fmt: skip
        if self.texts:  # only then, so that the runs of other methods keep their ids
            key["text_id"] = self.texts.text_id
            if self.texts.map_id is not None:
                key["map_id"] = self.texts.map_id
        return content_id(self.method.name, key)


def no_images(split: Split) -> Episode:
    """The episode of a method that learns from no image; one for each split, so that models are paired on it."""
    return Episode(sampling.episode_id(split.split_id, 0, 0, {}), 0, 0, {})


def whole_training_part(split: Split) -> Episode:
    """The episode of what learns from every training label: no number of shots, and no draw."""
    train = split.parts["train"]
    support = {c: tuple(i for i in train if split.label_of[i] == c) for c in split.classes}
    key = {"split_id": split.split_id, "support": {c: sorted(ids) for c, ids in support.items()}}
    return Episode(content_id("train-seed0", key), None, 0, support)


def run_many(cells: Sequence[Cell], split: Split, read: Read | None = None) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell with its predictions of the test part, from its support set and what the protocol lets it see.

    The cells differ in their episodes alone.
    """
    method, cached = cells[0].method, read.mapped if read and read.mapped else cells[0].vectors
    val, queries = labelled(cached, split, split.parts.get("val", [])), cached.of(split.parts["test"])
    given = (val, queries, len(split.classes), cells[0].protocol)
    text = {"text": read.prompts} if needs_text(method) else {}
    if needs_support(method):
        used = sorted({i for cell in cells for i in cell.episode.ids})
        row_of = {image_id: k for k, image_id in enumerate(used)}
        draws = [np.array([row_of[i] for i in cell.episode.ids]) for cell in cells]
        outcomes = fit_predict_many(method, labelled(cached, split, used), draws, *given, **text)
    else:
        outcomes = (timed(method.fit_predict, None, *given, **text) for _ in cells)
    for cell, outcome in zip(cells, outcomes):
        yield cell, _told(outcome, read)


def _told(outcome: Outcome, read: Read | None) -> Outcome:
    """The outcome with the labels that a map took, and its story, added to the method's own."""
    if not read or not read.mapped:
        return outcome
    told = outcome.chosen | {"supervised": True, "map": read.details}
    return replace(outcome, n_labelled=outcome.n_labelled + read.n_labelled, chosen=told)


def labelled(cached: Vectors, split: Split, ids: Sequence[str]) -> Labelled:
    """The vectors, labels and groups of those images, as a method sees them."""
    labels = np.searchsorted(split.classes, [split.label_of[i] for i in ids])
    _, groups = np.unique([split.group_of[i] for i in ids], return_inverse=True)
    return Labelled(cached.of(ids), labels, groups)


def load_vectors(store: Store, located: models.Located, recipe: str, split: Split) -> Vectors:
    """The stored vectors that a split needs.

    Raises:
        BusistoreError: an image of the split is not encoded, or was encoded from other pixels than it has now.
    """
    recipe_id = recipes.recipe(recipe).recipe_id
    table = embeddings_name(located.model_id, recipe_id)
    if not store.has(table):
        nothing = f"nothing is encoded by '{located.model_id}' under '{recipe_id}'"
        raise BusistoreError(f"{nothing}; `busistore encode` does it")
    sound = current_vectors(store, located.model_id, recipe_id)
    used = _images(store, split)
    gone = [i for i in used if i not in sound]
    if gone:
        name = located.spec.name
        some = f"{len(gone)} images of the split, such as '{gone[0]}', are not encoded by '{name}' under '{recipe}'"
        layer = "" if located.output == "pooled" else f" --layers {located.output}"
        raise BusistoreError(f"{some}; `busistore encode --model {name} --recipe {recipe}{layer}` does it")
    rows, inputs = {image_id: k for k, image_id in enumerate(used)}, _inputs_sha256(used, sound)
    return Vectors(located.spec.name, located.model_id, recipe, recipe_id, inputs, rows, store.vectors(table, used))


def load_pictures(store: Store, located: models.Located, recipe: str, split: Split) -> Source:
    """The pictures that a split needs, which no encoder need have seen.

    Raises:
        BusistoreError: an image of the split has no picture under the recipe of the pixels that it has now.
    """
    recipe_id = recipes.recipe(recipe).recipe_id
    sound, used = current_pictures(store, recipe_id), _images(store, split)
    gone = [i for i in used if i not in sound]
    if gone:
        some = f"{len(gone)} images of the split, such as '{gone[0]}', have no picture under '{recipe}'"
        raise BusistoreError(f"{some}; `busistore preprocess --recipe {recipe}` makes them")
    inputs = _inputs_sha256(used, sound)
    return Source(located.spec.name, located.model_id, recipe, recipe_id, inputs)


def _images(store: Store, split: Split) -> list[str]:
    """The images of the parts of a split, sorted; raises BusistoreError where one is no longer stored."""
    used = sorted(i for part in splits.PARTS for i in split.parts.get(part, []))
    lost = sorted(set(used) - set(store.read("images", ["image_id"])["image_id"].to_pylist()))
    if lost:
        some = f"{len(lost)} images of the split, such as '{lost[0]}', are gone"
        raise BusistoreError(f"{some}; `busistore ingest` brings them again")
    return used


def _inputs_sha256(used: Sequence[str], picture_of: dict[str, str]) -> str:
    """The hash of the images of a split with the hashes of their pictures: the view `split_inputs` makes the same."""
    return sha256("\n".join(f"{i} {picture_of[i]}" for i in used).encode())
