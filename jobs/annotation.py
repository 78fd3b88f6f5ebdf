"""Annotation: how well the true masks of near-duplicate images agree, which no segmenter can be asked to exceed.

Two images of one frame are laid over each other by the registration that found them, one mask is taken along, and the
two are compared where both images have pixels. The masks are of one data set; who drew them, and whether one is a copy
of the other, is not known.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from busistore import pixels, registration
from busistore.groups import Grouping
from busistore.ids import content_id
from busistore.jobs import Report, Track, columns, silent
from busistore.jobs.group import newest
from busistore.jobs.ingest import TRUTH
from busistore.jobs.run_rows import metric_row
from busistore.metrics.masks import mask_metrics
from busistore.registration import Features, Registration
from busistore.schema import IMAGES, MASKS, METRICS
from busistore.store import Store, quote

CODE = 1  # raised when the agreement of the same masks changes
APART = "|"  # between the ids of a pair, which are the subject of its metrics
Pair = tuple[str, str]


def agreement(store: Store, dataset: str | None = None, track: Track = silent) -> Report:
    """Compare the true masks of the near-duplicates of a data set, or of each, where both have a lesion.

    The pairs are those of the newest stored grouping; none are looked for. Metrics of a pair are those of
    `metrics.masks`, the first image's mask taken for the truth; distances are in its pixels. What is stored for these
    pairs, pictures and masks stands; what was stored for others is removed.
    """
    started, report = time.monotonic(), Report("agreement")
    names = [dataset] if dataset else sorted(set(store.read(IMAGES.name, ["dataset"])["dataset"].to_pylist()))
    for name in names:
        _agreement(store, name, report, track)
    report.seconds = time.monotonic() - started
    return report


def _agreement(store: Store, dataset: str, report: Report, track: Track) -> None:
    pairs = comparable(store, dataset)
    run_id = run_of(store, dataset, pairs)
    report.planned += len(pairs)
    stored = {run for run, *_ in store.keys(METRICS, f"starts_with(run_id, {quote(prefix(dataset))})")}
    stored = {run for run in stored if run.rpartition("-")[0] + "-" == prefix(dataset)}
    for old in sorted(stored - {run_id}):
        store.delete(METRICS.name, f"run_id = {quote(old)}")
    if run_id in stored:
        report.skipped += len(pairs)
    elif pairs:
        with track(f"agreement of masks, {dataset}", len(pairs)) as advance:
            scores = {}
            for pair, values in _scores(store, pairs):
                scores[pair] = values
                advance(1)
        store.put(METRICS, _of_pairs(run_id, scores), replace=True)
        compared = {pair for pair, values in scores.items() if values}
        report.written += len(compared)
        if len(compared) < len(pairs):
            n = len(pairs) - len(compared)
            report.notes.append(f"{n} of {len(pairs)} pairs of {dataset} share no lesion that can be laid over another")


def prefix(dataset: str) -> str:
    """What the run ids of a data set's agreement begin with; a hash of twelve digits follows."""
    return f"annotation-{dataset}-"


def comparable(store: Store, dataset: str) -> list[Pair]:
    """Pairs of near-duplicates, by the newest grouping, whose true masks both have a lesion; sorted."""
    found = newest(store, dataset)
    if found is None:
        return []
    with_lesion = store.read(MASKS.name, ["image_id"], f"source_id = {quote(TRUTH)} AND NOT is_empty")
    lesion = set(with_lesion["image_id"].to_pylist())
    where = f"grouping = {quote(found.grouping)} AND dataset = {quote(dataset)}"
    rows = columns(store.read("pairs", ["image_id", "other_id"], where))
    return sorted({(a, b) if a < b else (b, a) for a, b in rows if {a, b} <= lesion})


def run_of(store: Store, dataset: str, pairs: list[Pair]) -> str:
    """The id of the agreement of those pairs, with the pictures and masks of now."""
    picture = dict(columns(store.read(IMAGES.name, ["image_id", "pixels_sha256"], f"dataset = {quote(dataset)}")))
    mask = dict(columns(store.read(MASKS.name, ["image_id", "png_crc32"], f"source_id = {quote(TRUTH)}")))
    members = {i: [picture.get(i), mask[i]] for pair in pairs for i in pair}
    key = {"code": CODE, "registration": Grouping().registration, "pairs": pairs, "members": members}
    return content_id(prefix(dataset)[:-1], key)


def _scores(store: Store, pairs: list[Pair]) -> Iterator[tuple[Pair, dict[str, float]]]:
    """The metrics of each pair; none where the pictures cannot be laid over each other or share no lesion."""
    images, masks = store.files(IMAGES), store.files(MASKS, f"source_id = {quote(TRUTH)}")
    settings = Grouping().registration
    for first, some in itertools.groupby(pairs, key=lambda pair: pair[0]):
        fixed, true = pixels.grey(images[first], first), pixels.mask(masks[first], first)
        at = registration.features(fixed, settings)
        for _, other in some:
            moving, mask = pixels.grey(images[other], other), pixels.mask(masks[other], other)
            to_other = transform(at, fixed, moving, settings)
            yield (first, other), compared(true, mask, to_other) if to_other is not None else {}


def transform(at: Features, fixed: np.ndarray, moving: np.ndarray, settings: Registration) -> np.ndarray | None:
    """(2, 3) affine map from fixed to moving pixel centres (x, y), in original pixels; None where they do not align.

    Args:
        at: the features of `fixed`; both pictures are (H, W) uint8.
    """
    if fixed.shape == moving.shape and np.array_equal(fixed, moving):
        return np.eye(3)[:2]
    other = registration.features(moving, settings)
    to_fixed = registration.align(at, other, settings)
    to_moving = _inverse(to_fixed) if to_fixed is not None else registration.align(other, at, settings)
    if to_moving is None:
        return None
    whole = _scaling(other.image.shape, moving.shape) @ np.vstack([to_moving, [0, 0, 1]])
    return (whole @ _scaling(fixed.shape, at.image.shape))[:2]


def _inverse(affine: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]


def _scaling(of: tuple[int, ...], to: tuple[int, ...]) -> np.ndarray:
    """(3, 3) map of pixel centres from a picture of shape `of` to the same picture resized to shape `to`."""
    y, x = to[0] / of[0], to[1] / of[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def compared(true: np.ndarray, mask: np.ndarray, to_mask: np.ndarray) -> dict[str, float]:
    """The metrics of two masks where both have pixels; none where neither has a lesion there.

    Args:
        true, mask: (H, W) bool, of any sizes.
        to_mask: (2, 3) affine map from the pixels (x, y) of `true` to those of `mask`; the nearest is taken.
    """
    y, x = np.indices(true.shape)
    places = to_mask @ np.stack([x.ravel(), y.ravel(), np.ones(true.size)])
    column, row = np.rint(places).astype(np.int64).reshape(2, *true.shape)
    shared = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    taken = np.zeros_like(true)
    taken[shared] = mask[row[shared], column[shared]]
    if not (taken.any() or (true & shared).any()):
        return {}
    return mask_metrics(taken, true & shared)


def _of_pairs(run_id: str, scores: dict[Pair, dict[str, float]]) -> list[dict[str, Any]]:
    return [
        metric_row(run_id, APART.join(pair), name, value, 1)
        for pair, values in scores.items() for name, value in values.items() if not np.isnan(value)
    ]  # fmt: skip
