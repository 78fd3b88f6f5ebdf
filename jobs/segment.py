"""Segment: the mask that a trained segmenter predicts of each image of a part, and how it compares with the truth.

Masks are in original pixels, one a source: a trained segmenter under one protocol of prompts. Metrics of an image have
its id as their subject, those of the part the name of the part. A prompt that is taken from the truth is never mixed
with one that is not: they are sources of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from busistore import models
from busistore.errors import BusistoreError, lookup
from busistore.ids import canonical_json, content_id
from busistore.jobs import Report, Shards, Track, lesions, silent
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.ingest import mask_row
from busistore.jobs.run_rows import commit
from busistore.jobs.train_segmenter import loaded, trained
from busistore.metrics.masks import mask_metrics, summary
from busistore.schema import MASKS, METRICS, SEGMENTATIONS
from busistore.segmenters import PROTOCOLS, SEGMENTERS, Lesions, Segmenter
from busistore.store import Store, quote

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

PARTS = ("test", "val")
CODE = 1  # raised when the masks of the same weights change


def segment(
    store: Store,
    name: str,
    *,
    prompt: str | None = None,
    part: str = "test",
    split: str | None = None,
    dataset: str | None = None,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Predict and score the masks of a part that are not stored.

    Args:
        name: id of a trained segmenter, or its kind: then the newest on the split.
        prompt: one of PROTOCOLS; by default the published click, or none where the segmenter takes no prompt.
        part: test or val; the segmenter was trained on the rest.
    """
    started = time.monotonic()
    lookup("part to segment", part, dict.fromkeys(PARTS))
    row = trained(store, name, None if split is None and dataset is None else load_split(store, split, dataset))
    chosen = load_split(store, row["split_id"], None)
    ids = sorted(chosen.parts.get(part, []))
    prompt, inputs = prompt_of(row, prompt), lesions.inputs_sha256(store, ids)
    source_id = source_of(row, prompt, part, inputs)
    done = {i for i, _ in store.keys(MASKS, f"source_id = {quote(source_id)}")}
    missing = [i for i in ids if i not in done]
    report = Report("segment", len(ids), len(ids) - len(missing), notes=[f"the masks have the source '{source_id}'"])
    if missing and not dry_run:
        segmenter, network = loaded(store, row)
        with Shards(store, report, (METRICS, MASKS)) as shards, track(f"segment {part}", len(missing)) as advance:
            for image_id, mask, scores in _predicted(store, segmenter, network, missing):
                shards.add(image_id, _rows(image_id, source_id, mask, scores))
                shards.checkpoint()
                advance(1)
    report.seconds = time.monotonic() - started
    if ids and not dry_run:
        made = {"source_id": source_id, "prompt": prompt, "part": part, "inputs_sha256": inputs, "n_images": len(ids)}
        _conclude(store, row, made, ids, report.seconds, anew=bool(missing))
    return report


def prompt_of(row: dict[str, Any], prompt: str | None, proposed_by: str | None = None) -> str:
    """The protocol of prompts of a trained segmenter; raises BusistoreError for one that it does not take."""
    kind = SEGMENTERS[row["segmenter"]]
    prompt = prompt or ("oracle-click" if kind.prompted else "auto")
    lookup("prompt", prompt, PROTOCOLS)
    if not kind.prompted and prompt != "auto":
        raise BusistoreError(f"'{kind.name}' takes no prompt: it is 'auto', not '{prompt}'")
    if kind.prompted and prompt != "oracle-click":
        raise BusistoreError(f"'{kind.name}' is prompted by 'oracle-click' alone so far, not '{prompt}'")
    return prompt


def source_of(row: dict[str, Any], prompt: str, part: str, inputs_sha256: str) -> str:
    """The id of the masks that a trained segmenter, as it lies there, gives under a prompt, of a part as it is now."""
    key = {"segmenter_id": row["segmenter_id"], "file_sha256": row["file_sha256"], "prompt": prompt, "part": part,
           "inputs_sha256": inputs_sha256, "code": CODE}  # fmt: skip
    return content_id(f"{row['segmenter']}-{prompt}", key)


def _predicted(
    store: Store, segmenter: Segmenter, network: Network, ids: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, dict[str, float]]]:
    """Each image with its mask, (H, W) bool in original pixels, and the metrics of that.

    The logits are enlarged to the size of the image and then cut, not the other way round.
    """
    from busistore.segmenters import training

    given = lesions.lesions(store, ids)
    each = (one for _, logits in training.answers(segmenter, network, given) for one in logits)
    for image_id, true, logits in zip(ids, given.masks, each, strict=True):
        mask = training.enlarged(logits, true.shape) > 0
        yield image_id, mask, mask_metrics(mask, true)


class Held(NamedTuple):
    """A segmenter that is ready to answer, the protocol of its prompts, and what proposes them where nobody knows."""

    segmenter: Segmenter
    network: Network
    prompt: str
    proposer: Any = None


def named(
    store: Store, name: str, split: str | None, dataset: str | None, parameters: dict[str, str], weights: Path | None
) -> tuple[dict[str, Any], Split]:
    """The row of a segmenter and the split it is of."""
    wanted = None if split is None and dataset is None else load_split(store, split, dataset)
    row = trained(store, name, wanted)
    return row, load_split(store, row["split_id"], None)


def hold(
    store: Store, row: dict[str, Any], split: Split, prompt: str, proposed_by: str | None = None,
    weights: Path | None = None, track: Track = silent,
) -> Held:  # fmt: skip
    """Load a segmenter."""
    return Held(*loaded(store, row), prompt)


def mask_of(held: Held, image: np.ndarray) -> np.ndarray:
    """(H, W) bool of one image (H, W) uint8 that may lie outside the store."""
    from busistore.segmenters import training

    given = Lesions([image], [np.zeros(image.shape, bool)])
    ((_, logits),) = training.answers(held.segmenter, held.network, given)
    return training.enlarged(logits[0], image.shape) > 0


def _rows(image_id: str, source_id: str, mask: np.ndarray, scores: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    row = mask_row(mask, source_id, 1)
    return {
        MASKS.name: [{"image_id": image_id, **row, "n_masks": int(not row["is_empty"])}],
        METRICS.name: [_metric(source_id, image_id, name, v, 1) for name, v in scores.items() if not np.isnan(v)],
    }


def _metric(source_id: str, subject: str, name: str, value: float, n_used: int) -> dict[str, Any]:
    return {"run_id": source_id, "subject": subject, "metric": name, "class": "", "value": value, "n_used": n_used}


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
    found = [_metric(source_id, made["part"], name, m.mean, m.n_used) for name, m in means.items() if m.n_used]
    store.put(METRICS, found, replace=True)
    told = {
        "segmenter_id": row["segmenter_id"], "segmenter": row["segmenter"], "dataset": row["dataset"],
        "split_id": row["split_id"], "versions": canonical_json(models.versions()), "commit": commit(),
        "device": "cpu", "seconds": seconds, "finished_at": datetime.now(UTC),
    }  # fmt: skip
    store.put(SEGMENTATIONS, [made | counts | told], replace=True)
