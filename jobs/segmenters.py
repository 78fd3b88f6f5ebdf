"""Segmenters that are there: trained here, or used as published. Their rows, their weights, and both put together.

What was trained lies in FOLDER/SEGMENTER_ID under the store; what it began with stays where it is, and is known by
its hash.
"""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busistore import checkpoint, models
from busistore.errors import BusistoreError, MissingWeights, StoreError, UnknownName
from busistore.ids import canonical_json, content_id, plain, sha256
from busistore.jobs import lesions
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.run_rows import commit
from busistore.methods.parameters import from_json
from busistore.schema import SEGMENTERS
from busistore.segmenters import SEGMENTERS as KINDS
from busistore.segmenters import Segmenter, Start
from busistore.store import Store, quote

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

FOLDER, WEIGHTS = "segmenters", "trained.safetensors"


def folder_of(store: Store, segmenter_id: str) -> Path:
    """Where the weights of a segmenter lie."""
    return store.path / FOLDER / segmenter_id


def key_of(segmenter: Segmenter, start: Start) -> dict[str, Any]:
    """What a segmenter is before it is trained: all that can change it but the images."""
    return {"code": segmenter.code, "parameters": plain(segmenter), "weights_sha256": start.sha256}


def name_of(segmenter: Segmenter, start: Start) -> str:
    """What its id begins with: random weights are told from others there."""
    return segmenter.name + ("-random" if start.init == "random" else "")


def told_of(segmenter: Segmenter, start: Start) -> dict[str, Any]:
    """What every row of a segmenter says."""
    return {
        "segmenter": segmenter.name, "init": start.init,
        "weights_source": "" if start.path is None else str(start.path.absolute()),
        "weights_sha256": start.sha256, "parameters": canonical_json(plain(segmenter)),
        "versions": canonical_json(models.versions()), "commit": commit(), "device": "cpu",
        "finished_at": datetime.now(UTC),
    }  # fmt: skip


def published(store: Store, segmenter: Segmenter, weights: Path | None = None) -> dict[str, Any]:
    """The row of a segmenter that is used as published; `keep` writes it, once its weights are known to fit.

    Raises:
        MissingWeights: its weights are not at hand.
    """
    start = segmenter.start(weights)
    segmenter_id = content_id(name_of(segmenter, start), key_of(segmenter, start))
    nothing = {"dataset": "", "split_id": "", "inputs_sha256": "", "n_train": 0, "n_val": 0, "n_trained": 0,
               "best_epoch": 0, "n_epochs": 0, "file_sha256": "", "seconds": 0.0, "cpu_seconds": 0.0}  # fmt: skip
    made = {"segmenter_id": segmenter_id, **told_of(segmenter, start), **nothing}
    stored = rows(store, segmenter_id)
    return stored[0] | {"weights_source": made["weights_source"]} if stored else made


def keep(store: Store, row: dict[str, Any]) -> None:
    """Write the row of a segmenter where it is not there."""
    if not rows(store, row["segmenter_id"]):
        store.put(SEGMENTERS, [row])


def trained(store: Store, name: str, split: Split | None = None) -> dict[str, Any]:
    """The row of a trained segmenter: the one of that id, or the newest of that kind (and split).

    Raises:
        BusistoreError: there is none, or the one of that id is of another split.
    """
    found = rows(store, name)
    if not found:
        if name not in KINDS:
            raise UnknownName("segmenter", name, [*KINDS, *(k for (k,) in store.keys(SEGMENTERS))])
        where = f"segmenter = {quote(name)} AND n_train > 0"
        where += f" AND split_id = {quote(split.split_id)}" if split else ""
        found = store.read(SEGMENTERS.name, where=where).sort_by("finished_at").to_pylist()
    if not found:
        of = f" on the split '{split.split_id}'" if split else ""
        raise BusistoreError(f"no '{name}' is trained{of}; `busistore train-segmenter {name}` does it")
    row = found[-1]
    if split and row["n_train"] and row["split_id"] != split.split_id:
        raise BusistoreError(f"'{name}' was trained on the split '{row['split_id']}', not on '{split.split_id}'")
    return row


def begun(row: dict[str, Any], weights: Path | None = None) -> tuple[Segmenter, Start]:
    """A segmenter and what it began with.

    Args:
        weights: where the file that it began with lies now, if it was moved.

    Raises:
        MissingWeights: that file is gone, or another.
    """
    segmenter, name, digest = KINDS[row["segmenter"]](**_fields(row)), row["segmenter_id"], row["weights_sha256"] or ""
    path = weights or (Path(row["weights_source"]) if row["weights_source"] else None)
    remedy = f"name the file of sha256 {digest[:12]}: --segmenter {name} --weights PATH (diagnose: --segmenter-weights)"
    if path is not None and not path.is_file():
        raise MissingWeights(f"'{name}' began with the weights at '{path}', where no file is; {remedy}")
    start = segmenter.start(path)
    if start.sha256 != digest:
        raise MissingWeights(f"'{name}' began with other weights than those at '{start.path}'; {remedy}")
    return segmenter, start


def network_of(store: Store, row: dict[str, Any], segmenter: Segmenter, start: Start) -> Network:
    """The network of a segmenter as it was trained; raises BusistoreError where what was trained is gone or altered."""
    network = segmenter.network(start)
    if row["file_sha256"]:
        found = _found(store, row).tensors
        own = {name: p.shape for name, p in network.named_parameters() if p.requires_grad}
        if own != {name: tensor.shape for name, tensor in found.items()}:
            told = f"'{row['segmenter_id']}' was trained by another version, and has other tensors"
            remedy = f"remove the folder '{folder_of(store, row['segmenter_id'])}', and `{command(row)}` trains it anew"
            raise BusistoreError(f"{told}; {remedy}")
        network.load_state_dict(found, strict=False)
    return network.eval()


def changed_since(store: Store, row: dict[str, Any]) -> str:
    """A line where the pictures or true masks that a segmenter was trained on are others by now; else ''."""
    if not row["n_train"]:
        return ""
    try:
        parts = load_split(store, row["split_id"], None).parts
        ids = [i for part in ("train", "val") for i in lesions.with_lesions(store, parts.get(part, []))]
        changed = lesions.inputs_sha256(store, ids) != row["inputs_sha256"]
    except StoreError:
        raise
    except BusistoreError as error:
        return f"'{row['segmenter_id']}' was trained on other data than there is: {error}"
    told = f"'{row['segmenter_id']}' was trained on pictures or true masks that have changed since"
    return f"{told}; `{command(row)}` trains another" if changed else ""


def _found(store: Store, row: dict[str, Any]) -> checkpoint.Checkpoint:
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    found = checkpoint.read(path, WEIGHTS)
    if found is None or not is_whole(store, row):
        told = "not what was written" if path.exists() else "gone"
        raise BusistoreError(f"'{path}' is {told}; `{command(row)}` trains it again")
    return found


def command(row: dict[str, Any]) -> str:
    """What trains a segmenter again."""
    changed = {n: v for n, v in _fields(row).items() if v != getattr(KINDS[row["segmenter"]], n)}
    given = "".join(f" -p {name}={value}" for name, value in changed.items())
    given += f" --weights {shlex.quote(row['weights_source'])}" if row["weights_source"] else ""
    return f"busistore train-segmenter {row['segmenter']} --split {row['split_id']}{given}"


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    return from_json(json.loads(row["parameters"]))


def is_whole(store: Store, row: dict[str, Any]) -> bool:
    """Whether the weights of a trained segmenter are those that were written."""
    path = folder_of(store, row["segmenter_id"]) / WEIGHTS
    return path.exists() and sha256(path.read_bytes()) == row["file_sha256"]


def rows(store: Store, segmenter_id: str) -> list[dict[str, Any]]:
    """The row of that id, if there is one."""
    return store.read(SEGMENTERS.name, where=f"segmenter_id = {quote(segmenter_id)}").to_pylist()
