"""Runs: one method on one model's vectors and one episode, under a key that says all that can change its numbers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from busistore import metrics, models, splits
from busistore.errors import BusistoreError
from busistore.ids import canonical_json, content_id, plain, sha256
from busistore.jobs.encode import current_vectors, vectors
from busistore.jobs.episodes import Episode, Split
from busistore.methods import Labelled, Outcome, TextPrompts, needs_support, needs_text
from busistore.preprocess import recipes
from busistore.schema import METRICS, PREDICTIONS, RUNS
from busistore.store import Store


@dataclass(frozen=True)
class Vectors:
    """The vectors of one model under one recipe, by image id; `inputs_sha256` says from which pixels."""

    model: str
    model_id: str
    recipe: str
    recipe_id: str
    inputs_sha256: str
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
    """One run of a grid: a method with its parameters, on stored vectors and an episode, under a protocol."""

    method: Any
    vectors: Vectors
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
    return Episode(splits.episode_id(split.split_id, 0, 0, {}), 0, 0, {})


def whole_training_part(split: Split) -> Episode:
    """The episode of what learns from every training label: no number of shots, and no draw."""
    train = split.parts["train"]
    support = {c: tuple(i for i in train if split.label_of[i] == c) for c in split.classes}
    key = {"split_id": split.split_id, "support": {c: sorted(ids) for c, ids in support.items()}}
    return Episode(content_id("train-seed0", key), None, 0, support)


def run(cell: Cell, split: Split, read: Read | None = None) -> dict[str, list[dict[str, Any]]]:
    """The rows of one run: fit on the support set, choose on validation if the protocol may, predict the test part."""
    started = time.perf_counter()
    cached = read.mapped if read and read.mapped else cell.vectors
    outcome = _outcome(cell, split, cached, read)
    seconds = time.perf_counter() - started
    test_ids, classes = split.parts["test"], split.classes
    truth = [split.label_of[i] for i in test_ids]
    predicted = np.argmax(outcome.probabilities, axis=1)
    scored = [("test", m) for m in metrics.classification_metrics(truth, outcome.probabilities, classes)]
    if read and not needs_support(cell.method):
        parts = ("test", "val") if outcome.saw_val else ("test",)  # labels not consulted are not reported on either
        scored += _of_prompts(cell.method, split, cached, parts, read.prompts)
    return {
        PREDICTIONS.name: [
            {
                "run_id": cell.run_id, "image_id": image_id, "part": "test", "label": label, "predicted": classes[k],
                "probabilities": row,
            }
            for image_id, label, k, row in zip(test_ids, truth, predicted, outcome.probabilities.tolist())
        ],
        METRICS.name: [
            {
                "run_id": cell.run_id, "subject": subject, "metric": m.metric, "class": m.class_, "value": m.value,
                "n_used": m.n_used,
            }
            for subject, m in scored
        ],
        RUNS.name: [_run_row(cell, split, outcome, seconds)],
    }  # fmt: skip


def _outcome(cell: Cell, split: Split, cached: Vectors, read: Read | None) -> Outcome:
    """What the method answers; the labels that a map took, and its story, are added to the method's own."""
    support = _labelled(cached, split, _support_ids(cell)) if needs_support(cell.method) else None
    val, queries = _labelled(cached, split, split.parts.get("val", [])), cached.of(split.parts["test"])
    text = {"text": read.prompts} if needs_text(cell.method) else {}
    outcome = cell.method.fit_predict(support, val, queries, len(split.classes), cell.protocol, **text)
    if not read or not read.mapped:
        return outcome
    told = outcome.chosen | {"supervised": True, "map": read.details}
    return replace(outcome, n_labelled=outcome.n_labelled + read.n_labelled, chosen=told)


def _of_prompts(
    method: Any, split: Split, cached: Vectors, parts: Sequence[str], prompts: TextPrompts
) -> Iterator[tuple[str, metrics.Metric]]:
    """The scores of single prompts, each under a subject of part and prompt: `test:bi-rads-0a1b2c3d4e5f/benign/03`."""
    for part in parts:
        images = _labelled(cached, split, split.parts[part])
        for prompt, m in method.prompt_metrics(images, prompts, split.classes):
            yield f"{part}:{prompt}", m


def _support_ids(cell: Cell) -> list[str]:
    return sorted(i for ids in cell.episode.support.values() for i in ids)


def _labelled(cached: Vectors, split: Split, ids: list[str]) -> Labelled:
    labels = np.searchsorted(split.classes, [split.label_of[i] for i in ids])
    _, groups = np.unique([split.group_of[i] for i in ids], return_inverse=True)
    return Labelled(cached.of(ids), labels, groups)


def _run_row(cell: Cell, split: Split, outcome: Outcome, seconds: float) -> dict[str, Any]:
    cached, episode = cell.vectors, cell.episode
    members = {"support": _support_ids(cell), "val": split.parts.get("val", []), "test": split.parts["test"]}
    groups = {part: [split.group_of[i] for i in ids] for part, ids in members.items()}
    details = outcome.chosen | ({"text_id": cell.texts.text_id} if cell.texts else {})
    return {
        "run_id": cell.run_id, "method": cell.method.name, "model": cached.model, "model_id": cached.model_id,
        "recipe": cached.recipe, "recipe_id": cached.recipe_id, "dataset": split.dataset, "split_id": split.split_id,
        "episode_id": episode.episode_id, "shots": episode.shots, "seed": episode.seed, "protocol": cell.protocol,
        "parameters": canonical_json(cell.parameters), "classes": split.classes, "details": canonical_json(details),
        "n_labelled": outcome.n_labelled, "n_groups_support": len(set(groups["support"])),
        "n_test": len(groups["test"]), "inputs_sha256": cached.inputs_sha256,
        "exposure_support": splits.exposure(groups["test"], groups["support"]),
        "exposure_val": splits.exposure(groups["test"], groups["val"]) if outcome.saw_val else None,
        "versions": canonical_json(models.versions()), "commit": _commit(), "device": "cpu", "seconds": seconds,
        "status": "done", "finished_at": datetime.now(UTC),
    }  # fmt: skip


def load_vectors(store: Store, located: models.Located, recipe: str, split: Split) -> Vectors:
    """The stored vectors that a split needs.

    Raises:
        BusistoreError: an image of the split is not encoded, or was encoded from other pixels than it has now.
    """
    recipe_id = recipes.recipe(recipe).recipe_id
    _, ids, values = vectors(store, located.model_id, recipe_id)
    sound = current_vectors(store, located.model_id, recipe_id)
    used = sorted(i for part in splits.PARTS for i in split.parts.get(part, []))
    gone = [i for i in used if i not in sound]
    lost = sorted(set(used) - set(store.read("images", ["image_id"])["image_id"].to_pylist()))
    if lost:
        some = f"{len(lost)} images of the split, such as '{lost[0]}', are gone"
        raise BusistoreError(f"{some}; `busistore ingest` brings them again")
    if gone:
        name = located.spec.name
        some = f"{len(gone)} images of the split, such as '{gone[0]}', are not encoded by '{name}' under '{recipe}'"
        layer = "" if located.output == "pooled" else f" --layers {located.output}"
        raise BusistoreError(f"{some}; `busistore encode --model {name} --recipe {recipe}{layer}` does it")
    inputs = sha256("\n".join(f"{i} {sound[i]}" for i in used).encode())
    rows = {image_id: k for k, image_id in enumerate(ids)}
    return Vectors(located.spec.name, located.model_id, recipe, recipe_id, inputs, rows, values)


@cache
def _commit() -> str:
    """The commit of a source checkout; '' for an installed package, whose version says as much."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
