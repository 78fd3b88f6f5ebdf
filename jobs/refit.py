"""Refit: a stored run's method, fitted again on the run's own support set, to answer on an image that it never saw.

A run keeps predictions and no weights. What it takes to fit it again lies in the store, and the id of the run says
whether it is all there as it was: only then is it the same classifier.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from busistore import models
from busistore.errors import BusistoreError, MissingWeights, UnknownName, lookup
from busistore.jobs import columns, reading, silent
from busistore.jobs import prompts as stored_prompts
from busistore.jobs.episodes import Episode, Split, load_split
from busistore.jobs.models import find
from busistore.jobs.runs import Cell, Read, load_vectors, no_images, run_many
from busistore.methods import METHODS, TextReadout, needs_support, needs_text, needs_tower
from busistore.methods.parameters import from_json
from busistore.methods.transclip import TransClip
from busistore.models import Located
from busistore.schema import EPISODES, MODELS, RUNS
from busistore.store import Store, quote

METHOD = "linear-probe"
NEW = ""  # the id of an image that is not in the store


@dataclass(frozen=True)
class Classifier:
    """A stored run that can be asked again: its row, what it was made of, and the split it belongs to."""

    run: dict[str, Any]
    cell: Cell
    split: Split
    located: Located
    read: Read | None

    @property
    def val(self) -> list[str]:
        """The validation images, on which its probabilities are told beside those of a new image."""
        return self.split.parts.get("val", [])

    def answer(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (C,) of a new image from its (D,) vector, and (N, C) of the validation images, of one fit."""
        cached, split = self.cell.vectors, self.split
        rows = {**cached.row_of, NEW: len(cached.values)}
        vectors = replace(cached, row_of=rows, values=np.vstack([cached.values, vector]))
        asked = {**split.parts, "test": [NEW, *self.val]}
        labels = {**split.label_of, NEW: split.classes[0]}  # no label of a test image is looked at
        ((_, outcome),) = run_many(
            [replace(self.cell, vectors=vectors)], replace(split, parts=asked, label_of=labels), self.read
        )
        return outcome.probabilities[0], outcome.probabilities[1:]


def classifier(
    store: Store, model: str | None = None, method: str | None = None, run_id: str | None = None,
    weights: Path | None = None,
) -> Classifier:  # fmt: skip
    """A stored run to ask again: the one of that id, else the newest of those with the largest support set.

    Args:
        model: may be left out where a run is named.
        method: "linear-probe" by default, or what the run that is named has.
        weights: as given to `encode`.

    Raises:
        BusistoreError: there is no such run, it was made from other data or by another version, or of a method that
            cannot answer on one image alone.
        MissingWeights: the run's vectors are of weights that are neither here nor known to the store.
    """
    run = _named(store, run_id, model, method) if run_id else _largest(store, model, method or METHOD)
    fitted, split = _method(run), load_split(store, run["split_id"], None)
    located = _located(store, run, weights)
    episode = _episode(store, run) if needs_support(fitted) else no_images(split)
    vectors = load_vectors(store, located, run["recipe"], split)
    texts, read = None, None
    if needs_text(fitted):
        prompt_set = stored_prompts.known(store, json.loads(run["parameters"])["prompts"])
        texts = reading.texts_of(store, located, prompt_set, split)
    cell = Cell(fitted, vectors, episode, run["protocol"], texts)
    if cell.run_id != run["run_id"]:
        raise _changed(run)
    if texts:
        found = reading.read(store, [cell], [located], [prompt_set], run["recipe"], split, silent)
        read = found[located.model_id, texts]
    return Classifier(run, cell, split, located, read)


def _named(store: Store, run_id: str, model: str | None, method: str | None) -> dict[str, Any]:
    found = store.read(RUNS.name, where=f"run_id = {quote(run_id)} AND status = 'done'").to_pylist()
    if not found:
        raise UnknownName("run", run_id, store.read(RUNS.name, ["run_id"])["run_id"].to_pylist())
    for what, asked in (("model", model), ("method", method)):
        if asked not in (None, found[0][what]):
            raise BusistoreError(f"'{run_id}' has {what} '{found[0][what]}', not '{asked}'; leave --{what} out")
    return found[0]


def _largest(store: Store, model: str | None, method: str) -> dict[str, Any]:
    lookup("method", method, METHODS)
    if model is None:
        raise BusistoreError("no classifier is named; give --model, or --run with the id of a stored run")
    models.model(model)
    where = f"method = {quote(method)} AND model = {quote(model)} AND status = 'done'"
    runs = store.read(RUNS.name, where=where).to_pylist()
    if not runs:
        remedy = f"`busistore evaluate --method {method} --model {model}` makes some"
        if not store.count(MODELS.name, f"model = {quote(model)}"):
            first = f"`busistore encode --model {model}` does it"
            raise BusistoreError(f"nothing is encoded by '{model}'; {first}, and {remedy}")
        raise BusistoreError(f"no run of '{method}' on '{model}' is stored; {remedy}")
    n_train = Counter(s for (s,) in columns(store.read("splits", ["split_id"], "part = 'train'")))

    def order(run: dict[str, Any]) -> tuple:
        of_ratio = (run["ratio"] or 0) * n_train[run["split_id"]]
        size = of_ratio if run["shots"] is None else run["shots"] * len(run["classes"])
        return size, run["finished_at"], run["run_id"]

    return max(runs, key=order)


def _method(run: dict[str, Any]) -> Any:
    """The method with its parameters, as the run had it."""
    kind, made = lookup("method", run["method"], METHODS), json.loads(run["parameters"])
    if needs_tower(kind) or kind in (TransClip, TextReadout):
        why = "reads all test images together" if kind is TransClip else "does not answer from stored vectors alone"
        raise BusistoreError(f"'{kind.name}' {why}, so it is not asked about one image; use another --method")
    if needs_text(kind):
        made.pop("prompts", None)
    if made.keys() - {f.name for f in dataclasses.fields(kind)}:
        raise _changed(run)
    return kind(**from_json(made))


def _changed(run: dict[str, Any]) -> BusistoreError:
    what = f"the run '{run['run_id']}' was made from other pictures, or by another version"
    remedy = f"`busistore evaluate --method {run['method']} --model {run['model']}` makes it anew"
    return BusistoreError(f"{what}; {remedy}, or name another with --run")


def _located(store: Store, run: dict[str, Any], weights: Path | None) -> Located:
    """The model whose vectors the run is of, in the precision and of the layer that they have."""
    found = find(store, run["model"], weights, recipe=run["recipe"])
    for precision, output in product(models.PRECISIONS.keys() - {"auto"}, models.OUTPUTS):
        if found.at(precision, output).model_id == run["model_id"]:
            return found.at(precision, output)
    told = f"the run '{run['run_id']}' is of other weights of '{run['model']}' ({run['model_id']})"
    raise MissingWeights(f"{told} than those here ({found.model_id}); give them with --weights, or name another --run")


def _episode(store: Store, run: dict[str, Any]) -> Episode:
    """The support set of the run, from the ledger."""
    where = f"episode_id = {quote(run['episode_id'])}"
    support: dict[str, tuple[str, ...]] = {}
    for label, image_id in sorted(columns(store.read(EPISODES.name, ["label", "image_id"], where))):
        support[label] = (*support.get(label, ()), image_id)
    if not support:
        raise _changed(run)
    return Episode(run["episode_id"], run["shots"], run["seed"], support, run["ratio"])
