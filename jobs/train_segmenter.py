"""Train a segmenter on the lesions of a training part, once for all that can change its weights.

What an unfinished training goes on from lies in .partial in the folder of the segmenter. The row of the table
`segmenters` is written last.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busistore import checkpoint
from busistore.errors import BusistoreError, lookup
from busistore.ids import content_id, sha256
from busistore.jobs import Report, Track, lesions, silent
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.kept_tokens import kept
from busistore.jobs.run_rows import metric_row
from busistore.jobs.segmenters import WEIGHTS, folder_of, is_whole, key_of, name_of, rows, told_of
from busistore.methods import with_parameters
from busistore.schema import METRICS, SEGMENTERS
from busistore.segmenters import SEGMENTERS as KINDS
from busistore.segmenters import Segmenter, Start
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.segmenters.training import Network, Progress

PARTIAL = ".partial"


@dataclass(frozen=True)
class Plan:
    """A training: the segmenter, what it begins with, the split it is of, and the lesion images of two of its parts."""

    segmenter: Segmenter
    start: Start
    split: Split
    train: list[str]
    val: list[str]
    inputs_sha256: str

    @property
    def segmenter_id(self) -> str:
        """Name and hash of all that can change the weights."""
        key = {"split_id": self.split.split_id, "inputs_sha256": self.inputs_sha256}
        return content_id(name_of(self.segmenter, self.start), key_of(self.segmenter, self.start) | key)


def train_segmenter(
    store: Store,
    name: str,
    *,
    split: str | None = None,
    dataset: str | None = None,
    parameters: dict[str, str] | None = None,
    weights: Path | None = None,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Train it where that is not done; a training that was stopped goes on after its last epoch.

    Args:
        split: split id; the only one of the data set by default.
        parameters: fields of the segmenter to override, as text.
        weights: the file that training begins with, for a segmenter that begins with one.
    """
    started = time.monotonic()
    segmenter = with_parameters(lookup("segmenter", name, KINDS), parameters or {})
    if not segmenter.is_trained:
        raise BusistoreError(f"'{name}' is used as published; `busistore segment --segmenter {name}` needs no training")
    plan = planned(store, segmenter, segmenter.start(weights), load_split(store, split, dataset))
    done = any(map(partial(is_whole, store), rows(store, plan.segmenter_id)))
    report = Report("train-segmenter", 1, int(done))
    if plan.start.init == "random":
        report.notes.append(f"'{name}' begins with RANDOM weights: its results say nothing about the published network")
    if not done and not dry_run:
        _train(store, plan, report, track)
        report.written = 1
    report.notes.append(f"the segmenter is '{plan.segmenter_id}'")
    report.seconds = time.monotonic() - started
    return report


def planned(store: Store, segmenter: Segmenter, start: Start, split: Split) -> Plan:
    """Which images are trained on: the parts are those of the split, whose groups are whole."""
    train, val = (lesions.with_lesions(store, split.parts.get(part, [])) for part in ("train", "val"))
    return Plan(segmenter, start, split, train, val, lesions.inputs_sha256(store, [*train, *val]))


def _train(store: Store, plan: Plan, report: Report, track: Track) -> None:
    from busistore.segmenters import training

    segmenter, folder, n_told = plan.segmenter, folder_of(store, plan.segmenter_id), 0
    network = segmenter.network(plan.start, report.notes)
    tokens = kept(store, segmenter, plan.start, network, [*plan.train, *plan.val], track)
    train, val = (lesions.lesions(store, ids, tokens) for ids in (plan.train, plan.val))
    with track(f"train {segmenter.name}", segmenter.epochs) as advance:

        def tell(progress: Progress) -> None:
            nonlocal n_told
            advance(progress.epoch - n_told)
            n_told = progress.epoch

        network, progress = training.train(
            segmenter, train, val, folder / PARTIAL, plan.segmenter_id, tell, network=network
        )
        row = _row(plan, progress, _keep(network, folder))
        store.put(METRICS, _curves(plan, progress), replace=True)
        store.put(SEGMENTERS, [row], replace=True)
        advance(segmenter.epochs - n_told)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _keep(network: Network, folder: Path) -> str:
    """Write what was trained, and that alone; returns its SHA-256."""
    tensors = {name: p.detach().contiguous() for name, p in network.named_parameters() if p.requires_grad}
    checkpoint.write(folder / WEIGHTS, checkpoint.Checkpoint(tensors, {}), WEIGHTS)
    return sha256((folder / WEIGHTS).read_bytes())


def _row(plan: Plan, progress: Progress, file_sha256: str) -> dict[str, Any]:
    return told_of(plan.segmenter, plan.start) | {
        "segmenter_id": plan.segmenter_id, "dataset": plan.split.dataset, "split_id": plan.split.split_id,
        "inputs_sha256": plan.inputs_sha256, "n_train": len(plan.train), "n_val": len(plan.val),
        "n_trained": progress.n_trained,
        "best_epoch": progress.best_epoch, "n_epochs": progress.epoch, "val_dice": progress.best_dice,
        "file_sha256": file_sha256, "seconds": progress.seconds, "cpu_seconds": progress.cpu_seconds,
    }  # fmt: skip


def _curves(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    n_of = {"val_dice": len(plan.val)}
    return [
        metric_row(plan.segmenter_id, f"epoch:{epoch:03d}", name, value, n_of.get(name, len(plan.train)))
        for epoch, name, value in progress.curves
    ]
