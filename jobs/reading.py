"""Reading: which methods may read prompts with which models, the prompts as vectors, and the map where one is needed.

A model whose two towers share no space is never zero-shot: its images are carried into text space by a map that was
learned from the training labels, and its runs are kept under the name `text-readout`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from busistore import models
from busistore.errors import BusistoreError
from busistore.ids import content_id
from busistore.jobs import Track, alignment
from busistore.jobs import prompts as stored_prompts
from busistore.jobs.episodes import Split
from busistore.jobs.runs import Cell, Read, Texts, Vectors
from busistore.methods import TextPrompts, TextReadout, ZeroShot, needs_text
from busistore.models import Located, ModelSpec
from busistore.prompts import PromptSet
from busistore.store import Store

Reads = dict[tuple[str, Texts | None], Read]


def fitting(method: Any, spec: ModelSpec) -> Any:
    """The method as it may be called on the model: zero-shot on towers that share no space is a text readout.

    Raises:
        BusistoreError: the model has no text tower, or not the kind that the method reads with.
    """
    if not needs_text(method):
        return method
    if spec.text is None:
        raise BusistoreError(f"'{spec.name}' has no text tower for '{method.name}'; these have: {_with_text()}")
    if isinstance(method, TextReadout):
        if spec.text.aligned:
            raise BusistoreError(f"'{spec.name}' needs no map to read text; use --method zero-shot")
        return method
    if spec.text.aligned:
        return method
    if isinstance(method, ZeroShot):
        return TextReadout(rank=method.rank)
    raise BusistoreError(
        f"images and texts of '{spec.name}' share no space, as '{method.name}' needs; these share one: {_with_text()}"
    )


def _with_text() -> str:
    return ", ".join(m.name for m in models.MODELS.values() if m.text is not None and m.text.aligned)


def notes(asked: Sequence[Any], fits: Mapping[str, Sequence[Any]]) -> list[str]:
    """What the user must be told: for each model, the methods that its runs are not stored under.

    Args:
        asked: the methods of the grid.
        fits: by model, those that took their places.
    """
    return [
        f"'{model}' reads text through a map learned from the training labels: its runs are stored as '{new.name}', "
        f"not as '{old.name}'"
        for model, fitted in fits.items() for old, new in zip(asked, fitted) if new.name != old.name
    ]  # fmt: skip


def prompt_sets(store: Store, names: Sequence[str], split: Split) -> list[PromptSet]:
    """The sets of prompts called `names`, each for exactly the classes of the split.

    Raises:
        BusistoreError: no set is named, or one is for other classes.
    """
    if not names:
        raise BusistoreError("no prompts are named; a method that reads text needs a set, as in --prompts bi-rads")
    found = {s.set_id: s for s in (stored_prompts.known(store, name) for name in names)}
    for one in found.values():
        if set(one.classes) != set(split.classes):
            has, wanted = (", ".join(sorted(classes)) for classes in (one.classes, split.classes))
            raise BusistoreError(f"the prompts '{one.name}' are for {has}; the split '{split.split_id}' has {wanted}")
    return list(found.values())


def texts_of(store: Store, located: Located, prompt_set: PromptSet, split: Split) -> Texts:
    """The ids of what a run reads. A map is named by how it is learned and by every caption that it is learned from."""
    if located.spec.text.aligned:
        return Texts(prompt_set.set_id, located.text_id)
    captions = alignment.training_captions(store, split, sorted(split.parts["train"]))
    learned = content_id("map", {"how": alignment.KEY, "captions": captions})
    return Texts(prompt_set.set_id, located.text_id, learned)


def read(
    store: Store, cells: Iterable[Cell], located: Sequence[Located], sets: Sequence[PromptSet], recipe: str,
    split: Split, track: Track,
) -> Reads:  # fmt: skip
    """What the cells read, by model_id and texts: each prompt is embedded once, and each map learned once."""
    models_by_id, sets_by_id = {m.model_id: m for m in located}, {s.set_id: s for s in sets}
    cached = {(c.vectors.model_id, c.texts): c.vectors for c in cells if c.texts}
    apart = {model_id: own for (model_id, _), own in cached.items() if not models_by_id[model_id].spec.text.aligned}
    maps = {model_id: _mapped(store, models_by_id[model_id], own, recipe, split) for model_id, own in apart.items()}
    return {
        (model_id, texts): Read(
            _prompts(store, models_by_id[model_id], sets_by_id[texts.set_id], split, track), *maps.get(model_id, ())
        )
        for model_id, texts in cached
    }


def _prompts(store: Store, located: Located, prompt_set: PromptSet, split: Split, track: Track) -> TextPrompts:
    embedded = stored_prompts.embed(store, located, prompt_set, track=track)
    labels = np.searchsorted(split.classes, embedded.classes)
    return TextPrompts(np.asarray(embedded.vectors, np.float32), labels, list(embedded.ids), embedded.logit_scale)


def _mapped(
    store: Store, located: Located, cached: Vectors, recipe: str, split: Split
) -> tuple[Vectors, int, dict[str, Any]]:
    """The image vectors in text space, the number of labelled images that taught the map, and what is told of it."""
    found = alignment.text_space(store, located, recipe, split)
    rows = {image_id: k for k, image_id in enumerate(found.ids)}
    return replace(cached, row_of=rows, values=found.vectors), found.n_train, found.details
