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
from typing import Any

import numpy as np

from busistore import models
from busistore.errors import BusistoreError, lookup
from busistore.ids import canonical_json
from busistore.jobs import Report, Shards, Track, lesions, silent
from busistore.jobs.annotation import agreement
from busistore.jobs.asked import Asked, Held, ask
from busistore.jobs.ingest import mask_row
from busistore.jobs.kept_tokens import asked_once, kept, rounded
from busistore.jobs.run_rows import commit, metric_row
from busistore.jobs.segmenters import keep
from busistore.metrics.masks import mask_metrics, summary
from busistore.schema import MASKS, METRICS, SEGMENTATIONS
from busistore.segmenters import Lesions
from busistore.segmenters.base import IMAGE_PX
from busistore.segmenters.prompts import of_truth, squeezed
from busistore.store import Store, quote

PARTS = ("test", "val")


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
        proposed_by: of a prompt that is not taken from the truth: see `proposals.choose`.
        part: test or val; the segmenter was trained on the rest.
        parameters: fields of a published segmenter to override, as text.
    """
    started = time.monotonic()
    lookup("part to segment", part, dict.fromkeys(PARTS))
    asked = ask(store, name, prompt=prompt, proposed_by=proposed_by, split=split, dataset=dataset,
                parameters=parameters, weights=weights)  # fmt: skip
    ids = sorted(asked.split.parts.get(part, []))
    inputs = lesions.inputs_sha256(store, ids)
    source_id = asked.source_id(part, inputs)
    done = {i for i, _ in store.keys(MASKS, f"source_id = {quote(source_id)}")}
    missing = [i for i in ids if i not in done]
    report = Report("segment", len(ids), len(ids) - len(missing), notes=[f"the masks have the source '{source_id}'"])
    report.notes += asked.warnings(store)
    if missing and not dry_run:
        _fill(store, asked, missing, source_id, report, track)
    report.seconds = time.monotonic() - started
    if ids and not dry_run:
        made = {"source_id": source_id, "part": part, "inputs_sha256": inputs, "n_images": len(ids)}
        _conclude(store, asked, made, ids, report.seconds, anew=bool(missing))
        report.notes += agreement(store, asked.split.dataset, track).notes
    return report


def _fill(store: Store, asked: Asked, missing: list[str], source_id: str, report: Report, track: Track) -> None:
    """Masks and metrics of those images, a shard at a time."""
    held = asked.hold(store, track)
    keep(store, asked.row)
    given = lesions.lesions(store, missing, kept(store, *held[:3], missing, track))
    with Shards(store, report, (METRICS, MASKS)) as shards, track("segment", len(missing)) as advance:
        for k, (image_id, mask) in enumerate(zip(missing, _predicted(held, given), strict=True)):
            shards.add(image_id, _rows(image_id, source_id, mask, mask_metrics(mask, given.masks[k])))
            shards.checkpoint()
            advance(1)


def mask_of(held: Held, image: np.ndarray) -> np.ndarray:
    """(H, W) bool of one image (H, W) uint8 that may lie outside the store; raises BusistoreError for an oracle."""
    if held.prompt.startswith("oracle"):
        raise BusistoreError(f"prompt '{held.prompt}' needs the true mask, which an image alone has not; take 'auto'")
    segmenter, network = held.segmenter, held.network

    def tokens(rows: np.ndarray) -> np.ndarray:  # as they would be kept
        return rounded(segmenter.tokens(network, [image]).numpy(), segmenter, "the image").astype(np.float32)

    blind = Lesions([image], [np.zeros(image.shape, bool)], tokens if segmenter.kept else None)
    return next(_predicted(held, blind))


def _predicted(held: Held, given: Lesions) -> Iterator[np.ndarray]:
    """The mask of each image, (H, W) bool in original pixels: logits are enlarged and then cut."""
    from busistore.segmenters import answers

    given = replace(given, tokens=asked_once(given.tokens))
    ask = partial(_prompts, held, given)
    for k, (_, logits) in enumerate(answers.answers(held.segmenter, held.network, given, ask)):
        yield answers.enlarged(logits, given.masks[k].shape) > 0


def _prompts(held: Held, given: Lesions, rows: np.ndarray, samples: Sequence[Any]) -> list[Any]:
    if held.proposer is None and held.segmenter.exact:
        true = [given.masks[k] for k in rows]
        return [squeezed(of_truth(held.prompt, mask), mask.shape, IMAGE_PX) for mask in true]
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


def _conclude(store: Store, asked: Asked, made: dict[str, Any], ids: list[str], seconds: float, anew: bool) -> None:
    """The means over the part, and the row that says what the masks are; nothing where it stands for these masks."""
    source_id, row = made["source_id"], asked.row
    if not anew and (source_id,) in store.keys(SEGMENTATIONS):
        return
    means = summary(scores_of(store, source_id, ids))
    some = next(iter(means.values()))
    counts = {"n_missed": some.n_missed, "n_false_positive": some.n_false_positive}
    found = [metric_row(source_id, made["part"], name, m.mean, m.n_used) for name, m in means.items() if m.n_used]
    store.put(METRICS, found, replace=True)
    told = {
        "segmenter_id": row["segmenter_id"], "segmenter": row["segmenter"], "init": row["init"],
        "prompt": asked.prompt, "proposer": asked.proposer_id, "split_id": asked.split.split_id,
        "dataset": asked.split.dataset, "versions": canonical_json(models.versions()), "commit": commit(),
        "device": "cpu", "seconds": seconds, "finished_at": datetime.now(UTC),
    }  # fmt: skip
    store.put(SEGMENTATIONS, [made | counts | told], replace=True)
