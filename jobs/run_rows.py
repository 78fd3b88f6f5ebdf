"""The rows of finished runs: predictions, metrics and the runs themselves, of many runs at once."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from busistore import metrics, models, splits
from busistore.ids import canonical_json
from busistore.jobs.episodes import Split
from busistore.jobs.runs import Cell, Read, labelled
from busistore.methods import Outcome, needs_support
from busistore.schema import METRICS, PREDICTIONS, RUNS

Done = tuple[Cell, Outcome]
OF_SUPPORT = ("train_loss", "learning_rate")  # of the curves; the others are of the validation part


def rows(done: Sequence[Done], split: Split, read: Read | None) -> dict[str, pa.Table]:
    """The rows of runs on one split, by table."""
    run_ids = pa.array([cell.run_id for cell, _ in done])
    probabilities = np.stack([outcome.probabilities for _, outcome in done])
    test, val = ([split.group_of[i] for i in split.parts.get(part, [])] for part in ("test", "val"))
    exposed_to_val = splits.exposure(test, val)
    each = [_run_row(cell, split, outcome, test, exposed_to_val) for cell, outcome in done]
    scored = [_metrics(run_ids, split, probabilities)]
    scored += [_of_prompts(cell, split, outcome, read) for cell, outcome in done if not needs_support(cell.method)]
    scored += [_of_epochs(cell, split, outcome) for cell, outcome in done if outcome.curves]
    return {
        PREDICTIONS.name: _predictions(run_ids, split, probabilities),
        METRICS.name: pa.concat_tables(scored),
        RUNS.name: pa.Table.from_pylist(each, RUNS.schema),
    }


def _predictions(run_ids: pa.Array, split: Split, probabilities: np.ndarray) -> pa.Table:
    n_runs, n, n_classes = probabilities.shape
    test, every = split.parts["test"], np.tile(np.arange(n), n_runs)
    ends = np.arange(0, probabilities.size + 1, n_classes)
    made = {
        "run_id": run_ids.take(pa.array(np.repeat(np.arange(n_runs), n))),
        "image_id": pa.array(test).take(pa.array(every)),
        "part": pa.repeat("test", n_runs * n),
        "label": pa.array([split.label_of[i] for i in test]).take(pa.array(every)),
        "predicted": pa.array(split.classes).take(pa.array(probabilities.argmax(axis=-1).ravel())),
        "probabilities": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(probabilities.ravel())),
    }
    return pa.table(made, schema=PREDICTIONS.schema)


def metric_row(
    run_id: str, subject: str, metric: str, value: float, n_used: int, class_: str = ""
) -> dict[str, Any]:
    """One row of the table `metrics`; `class_` is '' for a metric that is of no class."""
    return {"run_id": run_id, "subject": subject, "metric": metric, "class": class_, "value": value, "n_used": n_used}


def _metrics(run_ids: pa.Array, split: Split, probabilities: np.ndarray) -> pa.Table:
    """Those that are defined, run by run."""
    truth = [split.label_of[i] for i in split.parts["test"]]
    scored = metrics.classification_scores(truth, probabilities, split.classes)
    values = np.stack([s.values for s in scored], axis=1)
    run, which = np.nonzero(~np.isnan(values))
    made = {
        "run_id": run_ids.take(pa.array(run)),
        "subject": pa.repeat("test", len(run)),
        "metric": pa.array([s.metric for s in scored]).take(pa.array(which)),
        "class": pa.array([s.class_ for s in scored]).take(pa.array(which)),
        "value": pa.array(values[run, which]),
        "n_used": pa.array([s.n_used for s in scored], pa.int32()).take(pa.array(which)),
    }
    return pa.table(made, schema=METRICS.schema)


def _of_prompts(cell: Cell, split: Split, outcome: Outcome, read: Read) -> pa.Table:
    """The scores of single prompts, each under a subject of part and prompt: `test:bi-rads-0a1b2c3d4e5f/benign/03`."""
    cached = read.mapped or cell.vectors
    parts = ("test", "val") if outcome.saw_val else ("test",)  # labels not consulted are not reported on either
    found = [
        metric_row(cell.run_id, f"{part}:{prompt}", m.metric, m.value, m.n_used, m.class_)
        for part in parts
        for images in [labelled(cached, split, split.parts[part])]
        for prompt, m in cell.method.prompt_metrics(images, read.prompts, split.classes)
    ]
    return pa.Table.from_pylist(found, METRICS.schema)


def _of_epochs(cell: Cell, split: Split, outcome: Outcome) -> pa.Table:
    """What was followed in training, each epoch under a subject of its own, `epoch:012`; not what overflowed."""
    n_support, n_val = len(cell.episode.ids), len(split.parts.get("val", []))
    found = [
        metric_row(cell.run_id, f"epoch:{epoch:03d}", metric, value, n_support if metric in OF_SUPPORT else n_val)
        for epoch, metric, value in outcome.curves if math.isfinite(value)
    ]  # fmt: skip
    return pa.Table.from_pylist(found, METRICS.schema)


def _run_row(cell: Cell, split: Split, outcome: Outcome, test: list[str], exposed_to_val: float) -> dict[str, Any]:
    """`test` are the groups of the test images, `exposed_to_val` the share of them with a twin in validation."""
    cached, episode = cell.vectors, cell.episode
    support = {split.group_of[i] for i in episode.ids}
    details = outcome.chosen | ({"text_id": cell.texts.text_id} if cell.texts else {})
    return {
        "run_id": cell.run_id, "method": cell.method.name, "model": cached.model, "model_id": cached.model_id,
        "recipe": cached.recipe, "recipe_id": cached.recipe_id, "dataset": split.dataset, "split_id": split.split_id,
        "episode_id": episode.episode_id, "shots": episode.shots, "ratio": episode.ratio, "seed": episode.seed,
        "protocol": cell.protocol, "parameters": canonical_json(cell.parameters), "classes": split.classes,
        "details": canonical_json(details), "n_labelled": outcome.n_labelled,
        "n_groups_support": len(support), "n_test": len(test),
        "inputs_sha256": cached.inputs_sha256, "exposure_support": splits.exposure(test, support),
        "exposure_val": exposed_to_val if outcome.saw_val else None,
        "versions": _versions(), "commit": commit(), "device": "cpu", "seconds": outcome.seconds, "status": "done",
        "finished_at": datetime.now(UTC),
    }  # fmt: skip


@cache
def _versions() -> str:
    return canonical_json(models.versions())


@cache
def commit() -> str:
    """The commit of a source checkout; '' for an installed package, whose version says as much."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
