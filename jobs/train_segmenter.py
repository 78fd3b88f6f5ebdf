"""Train a segmenter on the lesions of a training part, once for all that can change its weights.

What was trained lies in SEGMENTERS_FOLDER/SEGMENTER_ID under the store, and in .partial there what an unfinished
training goes on from. The row of the table `segmenters` is written last.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busistore import checkpoint, models
from busistore.errors import BusistoreError, UnknownName, lookup
from busistore.ids import canonical_json, content_id, plain, sha256
from busistore.jobs import Report, Track, lesions, silent
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.run_rows import commit
from busistore.methods import with_parameters
from busistore.schema import METRICS, SEGMENTERS
from busistore.segmenters import SEGMENTERS as KINDS
from busistore.segmenters import Segmenter
from busistore.store import Store, quote

if TYPE_CHECKING:
    from busistore.segmenters.training import Network, Progress

FOLDER, PARTIAL, WEIGHTS = "segmenters", ".partial", "trained.safetensors"


@dataclass(frozen=True)
class Plan:
    """A training: the segmenter, the split it is of, and the lesion images of two of its parts."""

    segmenter: Segmenter
    split: Split
    train: list[str]
    val: list[str]
    inputs_sha256: str

    @property
    def segmenter_id(self) -> str:
        """Name and hash of all that can change the weights."""
        made = self.segmenter
        key = {"code": made.code, "parameters": plain(made), "split_id": self.split.split_id,
               "inputs_sha256": self.inputs_sha256}  # fmt: skip
        return content_id(made.name, key)


def train_segmenter(
    store: Store,
    name: str,
    *,
    split: str | None = None,
    dataset: str | None = None,
    parameters: dict[str, str] | None = None,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Train it where that is not done; a training that was stopped goes on after its last epoch.

    Args:
        split: split id; the only one of the data set by default.
        parameters: fields of the segmenter to override, as text.
    """
    started = time.monotonic()
    segmenter = with_parameters(lookup("segmenter", name, KINDS), parameters or {})
    plan = planned(store, segmenter, load_split(store, split, dataset))
    done = any(map(partial(is_whole, store), _rows(store, plan.segmenter_id)))
    report = Report("train-segmenter", 1, int(done))
    if not done and not dry_run:
        with track(f"train {name}", segmenter.epochs) as advance:
            _train(store, plan, advance)
        report.written = 1
    report.notes.append(f"the segmenter is '{plan.segmenter_id}'")
    report.seconds = time.monotonic() - started
    return report


def planned(store: Store, segmenter: Segmenter, split: Split) -> Plan:
    """Which images are trained on: the parts are those of the split, whose groups are whole."""
    train, val = (lesions.with_lesions(store, split.parts.get(part, [])) for part in ("train", "val"))
    return Plan(segmenter, split, train, val, lesions.inputs_sha256(store, [*train, *val]))


def _train(store: Store, plan: Plan, advance: Callable[[float], None]) -> None:
    from busistore.segmenters import training

    folder, n_told = folder_of(store, plan.segmenter_id), 0

    def tell(progress: Progress) -> None:
        nonlocal n_told
        advance(progress.epoch - n_told)
        n_told = progress.epoch

    parts = (lesions.lesions(store, ids) for ids in (plan.train, plan.val))
    network, progress = training.train(plan.segmenter, *parts, folder / PARTIAL, plan.segmenter_id, tell)
    row = _row(plan, network, progress, _keep(network, folder))
    store.put(METRICS, _curves(plan, progress), replace=True)
    store.put(SEGMENTERS, [row], replace=True)
    advance(plan.segmenter.epochs - n_told)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _keep(network: Network, folder: Path) -> str:
    """Write what was trained, and that alone; returns its SHA-256."""
    tensors = {name: p.detach().contiguous() for name, p in network.named_parameters() if p.requires_grad}
    checkpoint.write(folder / WEIGHTS, checkpoint.Checkpoint(tensors, {}), WEIGHTS)
    return sha256((folder / WEIGHTS).read_bytes())


def _row(plan: Plan, network: Network, progress: Progress, file_sha256: str) -> dict[str, Any]:
    return {
        "segmenter_id": plan.segmenter_id, "segmenter": plan.segmenter.name,
        "parameters": canonical_json(plain(plan.segmenter)), "dataset": plan.split.dataset,
        "split_id": plan.split.split_id, "inputs_sha256": plan.inputs_sha256, "n_train": len(plan.train),
        "n_val": len(plan.val), "n_trained": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "best_epoch": progress.best_epoch, "n_epochs": progress.epoch, "val_dice": progress.best_dice,
        "file_sha256": file_sha256, "versions": canonical_json(models.versions()), "commit": commit(), "device": "cpu",
        "seconds": progress.seconds, "cpu_seconds": progress.cpu_seconds, "finished_at": datetime.now(UTC),
    }  # fmt: skip


def _curves(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    n_of = {"val_dice": len(plan.val)}
    return [
        {"run_id": plan.segmenter_id, "subject": f"epoch:{epoch:03d}", "metric": name, "class": "", "value": value,
         "n_used": n_of.get(name, len(plan.train))}
        for epoch, name, value in progress.curves
    ]  # fmt: skip


def folder_of(store: Store, segmenter_id: str) -> Path:
    """Where the weights of a segmenter lie."""
    return store.path / FOLDER / segmenter_id


def trained(store: Store, name: str, split: Split | None = None) -> dict[str, Any]:
    """The row of a trained segmenter: the one of that id, or the newest of that kind (and split).

    Raises:
        BusistoreError: there is none.
    """
    rows = _rows(store, name)
    if not rows:
        if name not in KINDS:
            raise UnknownName("segmenter", name, [*KINDS, *(k for (k,) in store.keys(SEGMENTERS))])
        where = f"segmenter = {quote(name)}" + (f" AND split_id = {quote(split.split_id)}" if split else "")
        rows = store.read(SEGMENTERS.name, where=where).sort_by("finished_at").to_pylist()
    if not rows:
        of = f" on the split '{split.split_id}'" if split else ""
        raise BusistoreError(f"no '{name}' is trained{of}; `busistore train-segmenter {name}` does it")
    return rows[-1]


def loaded(store: Store, row: dict[str, Any]) -> tuple[Segmenter, Network]:
    """A trained segmenter and its network.

    Raises:
        BusistoreError: its weights are gone, or not what was written.
    """
    kind, made = KINDS[row["segmenter"]], json.loads(row["parameters"])
    segmenter = kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in made.items()})
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    found = checkpoint.read(path, WEIGHTS)
    if found is None or not is_whole(store, row):
        told = "not what was written" if path.exists() else "gone"
        raise BusistoreError(f"'{path}' is {told}; `busistore train-segmenter {row['segmenter']}` trains it again")
    network = segmenter.network()
    network.load_state_dict(found.tensors, strict=False)
    return segmenter, network.eval()


def is_whole(store: Store, row: dict[str, Any]) -> bool:
    """Whether the weights of a trained segmenter are those that were written."""
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    return path.exists() and sha256(path.read_bytes()) == row["file_sha256"]


def _rows(store: Store, segmenter_id: str) -> list[dict[str, Any]]:
    return store.read(SEGMENTERS.name, where=f"segmenter_id = {quote(segmenter_id)}").to_pylist()
