"""Segment: the mask that a segmenter predicts of each image of a part, and how it compares with the truth.

Masks are in original pixels, one a source: a segmenter under one protocol of prompts. Metrics of an image have its id
as their subject, those of the part the name of the part. A prompt that is taken from the truth is never mixed with one
that is not: they are sources of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from busistore import models
from busistore.errors import BusistoreError, lookup
from busistore.ids import canonical_json, content_id
from busistore.jobs import Report, Shards, Track, lesions, silent
from busistore.jobs.annotation import agreement
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.ingest import mask_row
from busistore.jobs.kept_tokens import asked_once, kept
from busistore.jobs.proposals import Proposer, proposer
from busistore.jobs.run_rows import commit, metric_row
from busistore.jobs.segmenters import loaded, ready, trained
from busistore.methods import with_parameters
from busistore.metrics.masks import mask_metrics, summary
from busistore.schema import MASKS, METRICS, SEGMENTATIONS
from busistore.segmenters import PROTOCOLS, SEGMENTERS, Lesions, Segmenter, Start
from busistore.segmenters.prompts import of_truth
from busistore.store import Store, quote

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

PARTS = ("test", "val")
CODE = 2  # raised when the masks of the same weights change


class Held(NamedTuple):
    """A segmenter that is ready to answer, the protocol of its prompts, and what proposes them where nobody knows."""

    segmenter: Segmenter
    start: Start
    network: Network
    prompt: str
    proposer: Proposer | None


def segment(
    store: Store,
    name: str,
    *,
    prompt: str | None = None,
    proposed_by: str | None = None,
    part: str = "test",
    split: str | None = None,
    dataset: str | None = None,
    parameters: dict[str, str] | None = None,
    weights: Path | None = None,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Predict and score the masks of a part that are not stored; beside them, how well true masks agree.

    Args:
        name: id of a segmenter, or its kind: then the newest that was trained on the split, or, of one that is not
            trained or whose `weights` are named, the published one.
        prompt: one of PROTOCOLS; by default the published click, or none where the segmenter takes no prompt.
        proposed_by: of a prompt that is not taken from the truth: see `proposals.proposer`.
        part: test or val; the segmenter was trained on the rest.
        parameters: fields of a published segmenter to override, as text.
    """
    started = time.monotonic()
    lookup("part to segment", part, dict.fromkeys(PARTS))
    row, chosen = named(store, name, split, dataset, parameters or {}, weights)
    ids = sorted(chosen.parts.get(part, []))
    prompt, inputs = prompt_of(row, prompt, proposed_by), lesions.inputs_sha256(store, ids)
    held = None
    if is_proposed(row, prompt):  # what proposes is part of the key
        held = hold(store, row, chosen, prompt, proposed_by, weights, track)
    proposer_id = held.proposer.proposer_id if held and held.proposer else ""
    source_id = source_of(row, prompt, part, inputs, proposer_id)
    done = {i for i, _ in store.keys(MASKS, f"source_id = {quote(source_id)}")}
    missing = [i for i in ids if i not in done]
    report = Report("segment", len(ids), len(ids) - len(missing), notes=[f"the masks have the source '{source_id}'"])
    if row["init"] == "random":
        report.notes.append(f"'{row['segmenter']}' began with RANDOM weights: see `init` of its rows")
    if missing and not dry_run:
        held = held or hold(store, row, chosen, prompt, proposed_by, weights, track)
        given = lesions.lesions(store, missing, kept(store, *held[:3], missing, track))
        with Shards(store, report, (METRICS, MASKS)) as shards, track(f"segment {part}", len(missing)) as advance:
            for image_id, mask, true in zip(missing, _predicted(held, given), given.masks, strict=True):
                shards.add(image_id, _rows(image_id, source_id, mask, mask_metrics(mask, true)))
                shards.checkpoint()
                advance(1)
    report.seconds = time.monotonic() - started
    if ids and not dry_run:
        made = {"source_id": source_id, "prompt": prompt, "proposer": proposer_id, "part": part,
                "split_id": chosen.split_id, "dataset": chosen.dataset, "inputs_sha256": inputs,
                "n_images": len(ids)}  # fmt: skip
        _conclude(store, row, made, ids, report.seconds, anew=bool(missing))
        report.notes += agreement(store, chosen.dataset, track).notes
    return report


def named(
    store: Store, name: str, split: str | None, dataset: str | None, parameters: dict[str, str], weights: Path | None
) -> tuple[dict[str, Any], Split]:
    """The row of a segmenter that is named as in `segment`, and the split that it is asked on."""
    kind = SEGMENTERS.get(name)
    if kind is not None and (not kind.is_trained or weights is not None):
        inits = getattr(kind, "inits", ())
        given = {"init": "bussam"} if "bussam" in inits else {}
        return ready(store, with_parameters(kind, given | parameters), weights), load_split(store, split, dataset)
    if parameters:
        raise BusistoreError(f"'{name}' is as it was trained; -p is for `train-segmenter`, or with --weights of a file")
    wanted = None if split is None and dataset is None else load_split(store, split, dataset)
    row = trained(store, name, wanted)
    return row, load_split(store, row["split_id"] or split, None if row["split_id"] else dataset)


def prompt_of(row: dict[str, Any], prompt: str | None, proposed_by: str | None = None) -> str:
    """The protocol of prompts of a segmenter; raises BusistoreError for one that it does not take."""
    kind = SEGMENTERS[row["segmenter"]]
    prompt = prompt or ("auto" if proposed_by or not kind.prompted else "oracle-click")
    lookup("prompt", prompt, PROTOCOLS)
    if not kind.prompted and (prompt != "auto" or proposed_by):
        raise BusistoreError(f"'{kind.name}' takes no prompt: it is 'auto', not '{proposed_by or prompt}'")
    if proposed_by and prompt.startswith("oracle"):
        raise BusistoreError(f"prompt '{prompt}' is taken from the truth; --proposer is for 'auto' and 'auto-box'")
    return prompt


def is_proposed(row: dict[str, Any], prompt: str) -> bool:
    """Whether a segmenter needs a proposer under that protocol."""
    return SEGMENTERS[row["segmenter"]].prompted and not prompt.startswith("oracle")


def hold(
    store: Store, row: dict[str, Any], split: Split, prompt: str, proposed_by: str | None = None,
    weights: Path | None = None, track: Track = silent,
) -> Held:  # fmt: skip
    """Load a segmenter, and fit or load its proposer if the protocol needs one."""
    own = loaded(store, row, weights)
    return Held(*own, prompt, proposer(store, proposed_by, split, own, track) if is_proposed(row, prompt) else None)


def source_of(row: dict[str, Any], prompt: str, part: str, inputs_sha256: str, proposer_id: str = "") -> str:
    """The id of the masks that a segmenter, as it lies there, gives under a prompt, of a part as it is now."""
    key = {"segmenter_id": row["segmenter_id"], "file_sha256": row["file_sha256"], "prompt": prompt, "part": part,
           "proposer": proposer_id, "inputs_sha256": inputs_sha256, "code": CODE}  # fmt: skip
    return content_id(f"{row['segmenter']}-{prompt}", key)


def mask_of(held: Held, image: np.ndarray) -> np.ndarray:
    """(H, W) bool of one image (H, W) uint8 that may lie outside the store; raises BusistoreError for an oracle."""
    if held.prompt.startswith("oracle"):
        raise BusistoreError(f"prompt '{held.prompt}' needs the true mask, which an image alone has not; take 'auto'")
    segmenter, network = held.segmenter, held.network
    tokens = (lambda rows: segmenter.tokens(network, [image]).numpy()) if segmenter.kept else None
    return next(_predicted(held, Lesions([image], [np.zeros(image.shape, bool)], tokens)))


def _predicted(held: Held, given: Lesions) -> Iterator[np.ndarray]:
    """The mask of each image, (H, W) bool in original pixels: logits are enlarged and then cut."""
    from busistore.segmenters import answers

    given = replace(given, tokens=asked_once(given.tokens))
    ask = partial(_prompts, held, given)
    for k, (_, logits) in enumerate(answers.answers(held.segmenter, held.network, given, ask)):
        yield answers.enlarged(logits, given.masks[k].shape) > 0


def _prompts(held: Held, given: Lesions, rows: np.ndarray, samples: Sequence[Any]) -> list[Any]:
    if held.proposer is None:
        return [of_truth(held.prompt, sample.mask) for sample in samples]
    return held.proposer.prompts(held.prompt, given, [int(k) for k in rows])


def _rows(image_id: str, source_id: str, mask: np.ndarray, scores: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    row = mask_row(mask, source_id, 1)
    return {
        MASKS.name: [{"image_id": image_id, **row, "n_masks": int(not row["is_empty"])}],
        METRICS.name: [metric_row(source_id, image_id, name, v, 1) for name, v in scores.items() if not np.isnan(v)],
    }


def scores_of(store: Store, source_id: str, ids: Sequence[str]) -> list[dict[str, float]]:
    """The stored metrics of each image under a source, in the order of `ids`."""
    of: dict[str, dict[str, float]] = {image_id: {} for image_id in ids}
    rows = store.read(METRICS.name, ["subject", "metric", "value"], f"run_id = {quote(source_id)}")
    for subject, name, value in zip(*(rows[c].to_pylist() for c in ("subject", "metric", "value"))):
        if subject in of:
            of[subject][name] = value
    return list(of.values())


def _conclude(
    store: Store, row: dict[str, Any], made: dict[str, Any], ids: list[str], seconds: float, anew: bool
) -> None:
    """The means over the part, and the row that says what the masks are; nothing where it stands for these masks."""
    source_id = made["source_id"]
    if not anew and (source_id,) in store.keys(SEGMENTATIONS):
        return
    means = summary(scores_of(store, source_id, ids))
    some = next(iter(means.values()))
    counts = {"n_missed": some.n_missed, "n_false_positive": some.n_false_positive}
    found = [metric_row(source_id, made["part"], name, m.mean, m.n_used) for name, m in means.items() if m.n_used]
    store.put(METRICS, found, replace=True)
    told = {
        "segmenter_id": row["segmenter_id"], "segmenter": row["segmenter"], "init": row["init"],
        "versions": canonical_json(models.versions()), "commit": commit(), "device": "cpu", "seconds": seconds,
        "finished_at": datetime.now(UTC),
    }  # fmt: skip
    store.put(SEGMENTATIONS, [made | counts | told], replace=True)
