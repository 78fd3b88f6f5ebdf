"""Evaluate: a grid of shots, seeds, methods and models over stored vectors. Each run is stored once and whole.

Episodes are drawn from (split, shots, seed) alone and written to the ledger, so every model and method of a grid
answers on the same support sets, and their differences are paired.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from busistore import metrics, models, splits
from busistore.errors import BusistoreError, UnknownName, lookup
from busistore.ids import canonical_json, content_id, sha256
from busistore.jobs import Report, Shards, Track, silent
from busistore.jobs.encode import encoded_from, vectors
from busistore.jobs.episodes import Episode, Split, draw_episodes, episode_rows, load_split
from busistore.jobs.preprocess import current_pictures
from busistore.methods import METHODS, Labelled, with_parameters
from busistore.preprocess import recipes
from busistore.schema import EPISODES, PREDICTIONS, RUNS
from busistore.schema import METRICS as METRICS_TABLE
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


def evaluate(
    store: Store,
    methods: Sequence[str],
    model_names: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    *,
    split: str | None = None,
    dataset: str | None = None,
    recipe: str = "pad224",
    protocol: str = "val-tuned",
    parameters: dict[str, str] | None = None,
    weights: Path | None = None,
    precision: str = "fp32",
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Run every (method, model, shots, seed) that is not stored, and store its run, predictions and metrics.

    Args:
        split: split id; the only one of the data set by default.
        parameters: fields of the methods to override, as text.
        weights, precision: as given to `encode`, since they are part of which vectors are meant.
    """
    started = time.monotonic()
    _refuse_empty(methods=methods, models=model_names, shots=shots, seeds=seeds)
    fitted = [_method(name, parameters or {}, protocol) for name in dict.fromkeys(methods)]
    located = [models.locate(name, weights, precision) for name in dict.fromkeys(model_names)]
    recipes.recipe(recipe)
    chosen = load_split(store, split, dataset)
    episodes = draw_episodes(chosen, sorted(set(shots)), seeds)
    caches = [load_vectors(store, one, recipe, chosen) for one in located]  # what is missing stops the grid here
    grid = [(one, cached, episode) for cached in caches for one in fitted for episode in episodes]
    done = {k for (k,) in store.keys(RUNS, "status = 'done'")}
    missing = {run_id: cell for cell in grid if (run_id := _run_id(*cell, protocol)) not in done}
    report = Report("evaluate", len(grid), len(grid) - len(missing))
    if not dry_run and missing:
        _run_all(store, report, missing, chosen, protocol, track)
    report.seconds = time.monotonic() - started
    return report


def _method(name: str, parameters: dict[str, str], protocol: str) -> Any:
    """A method with its parameters; raises UnknownName where it has no such protocol."""
    fitted = with_parameters(lookup("method", name, METHODS), parameters)
    if protocol not in fitted.protocols:
        raise UnknownName(f"protocol of '{name}'", protocol, fitted.protocols)
    return fitted


def _run_all(
    store: Store, report: Report, missing: dict[str, tuple], split: Split, protocol: str, track: Track
) -> None:
    episodes = {episode.episode_id: episode for _, _, episode in missing.values()}
    # the ledger comes first: a run never names an episode that is not there
    store.put(EPISODES, [row for episode in episodes.values() for row in episode_rows(split, episode)])
    tables = (PREDICTIONS, METRICS_TABLE, RUNS)
    with Shards(store, report, tables) as shards, track("evaluate", len(missing)) as advance:
        for run_id, (fitted, cached, episode) in missing.items():
            shards.add(run_id, run(run_id, fitted, cached, split, episode, protocol))
            shards.checkpoint()
            advance(1)


def _refuse_empty(**lists: Sequence) -> None:
    for name, some in lists.items():
        if not len(some):
            raise BusistoreError(f"no {name} are named; a grid needs at least one of methods, models, shots and seeds")


def _run_id(fitted: Any, cached: Vectors, episode: Episode, protocol: str) -> str:
    return content_id(
        fitted.name,
        {
            "method": fitted.name, "code": fitted.code, "parameters": fitted, "model_id": cached.model_id,
            "recipe_id": cached.recipe_id, "episode_id": episode.episode_id, "protocol": protocol,
            "inputs_sha256": cached.inputs_sha256,
        },
    )  # fmt: skip


def run(
    run_id: str, fitted: Any, cached: Vectors, split: Split, episode: Episode, protocol: str
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one run: fit on the support set, choose on validation if the protocol may, predict the test part."""
    started = time.perf_counter()
    classes = split.classes
    support_ids = sorted(i for ids in episode.support.values() for i in ids)
    support, val = (_labelled(cached, split, ids) for ids in (support_ids, split.parts.get("val", [])))
    test_ids = split.parts["test"]
    outcome = fitted.fit_predict(support, val, cached.of(test_ids), len(classes), protocol)
    seconds = time.perf_counter() - started
    truth = [split.label_of[i] for i in test_ids]
    predicted = np.argmax(outcome.probabilities, axis=1)
    return {
        PREDICTIONS.name: [
            {
                "run_id": run_id, "image_id": image_id, "part": "test", "label": label, "predicted": classes[k],
                "probabilities": row,
            }
            for image_id, label, k, row in zip(test_ids, truth, predicted, outcome.probabilities.tolist())
        ],
        METRICS_TABLE.name: [
            {
                "run_id": run_id, "subject": "test", "metric": m.metric, "class": m.class_, "value": m.value,
                "n_used": m.n_used,
            }
            for m in metrics.classification_metrics(truth, outcome.probabilities, classes)
        ],
        RUNS.name: [_run_row(run_id, fitted, cached, split, episode, protocol, outcome, seconds, support_ids)],
    }  # fmt: skip


def _labelled(cached: Vectors, split: Split, ids: list[str]) -> Labelled:
    labels = np.searchsorted(split.classes, [split.label_of[i] for i in ids])
    _, groups = np.unique([split.group_of[i] for i in ids], return_inverse=True)
    return Labelled(cached.of(ids), labels, groups)


def _run_row(
    run_id: str, fitted: Any, cached: Vectors, split: Split, episode: Episode, protocol: str, outcome: Any,
    seconds: float, support_ids: list[str],
) -> dict[str, Any]:  # fmt: skip
    members = {"support": support_ids, "val": split.parts.get("val", []), "test": split.parts["test"]}
    groups = {part: [split.group_of[i] for i in ids] for part, ids in members.items()}
    return {
        "run_id": run_id, "method": fitted.name, "model": cached.model, "model_id": cached.model_id,
        "recipe": cached.recipe, "recipe_id": cached.recipe_id, "dataset": split.dataset, "split_id": split.split_id,
        "episode_id": episode.episode_id, "shots": episode.shots, "seed": episode.seed, "protocol": protocol,
        "parameters": canonical_json(fitted), "classes": split.classes, "details": canonical_json(outcome.chosen),
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
    sound = _sound(store, located.model_id, recipe_id)
    used = sorted(i for part in splits.PARTS for i in split.parts.get(part, []))
    gone = [i for i in used if i not in sound]
    lost = sorted(set(used) - set(store.read("images", ["image_id"])["image_id"].to_pylist()))
    if lost:
        some = f"{len(lost)} images of the split, such as '{lost[0]}', are gone"
        raise BusistoreError(f"{some}; `busistore ingest` brings them again")
    if gone:
        name = located.spec.name
        some = f"{len(gone)} images of the split, such as '{gone[0]}', are not encoded by '{name}' under '{recipe}'"
        raise BusistoreError(f"{some}; `busistore encode --model {name} --recipe {recipe}` does it")
    inputs = sha256("\n".join(f"{i} {sound[i]}" for i in used).encode())
    rows = {image_id: k for k, image_id in enumerate(ids)}
    return Vectors(located.spec.name, located.model_id, recipe, recipe_id, inputs, rows, values)


def _sound(store: Store, model_id: str, recipe_id: str) -> dict[str, str]:
    """For each image whose vector is of the pixels that it has now, the hash of the picture that was encoded."""
    now = current_pictures(store, recipe_id)
    return {i: sha for i, sha in encoded_from(store, model_id, recipe_id).items() if now.get(i) == sha}


@cache
def _commit() -> str:
    """The commit of a source checkout; '' for an installed package, whose version says as much."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
