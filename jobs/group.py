"""Group: near-duplicate images of a data set, and images of one patient, as groups that no split may cut."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from busistore import groups, pixels
from busistore.ids import content_id
from busistore.jobs import Track, columns, silent
from busistore.schema import GROUPS, IMAGES, PAIRS
from busistore.store import Store, quote

Embeddings = tuple[str, list[str], np.ndarray]  # model id, image ids, (N, D) vectors


@dataclass(frozen=True)
class Groups:
    """The groups of a data set under one grouping: image id to group id."""

    grouping: str
    group_of: dict[str, str]
    is_new: bool


def group(
    store: Store, dataset: str, *, embeddings: Embeddings | None = None, track: Track = silent
) -> Groups:
    """The groups of a data set, found now unless they are stored for exactly these pixels and settings.

    Args:
        embeddings: stored vectors whose cosine proposes further candidates.
    """
    rows = store.read("images", ["image_id", "label", "patient_id", "pixels_sha256"], f"dataset = {quote(dataset)}")
    rows = rows.sort_by("image_id").to_pylist()
    settings = groups.Grouping()
    members = {r["image_id"]: [r["pixels_sha256"], r["patient_id"]] for r in rows}
    key = {"settings": settings, "members": members, "model": embeddings and embeddings[0]}
    grouping = content_id("frames", key)
    stored = dict(columns(store.read("groups", ["image_id", "group_id"], f"grouping = {quote(grouping)}")))
    if not stored and rows:
        _find(store, dataset, grouping, rows, settings, embeddings, track)
        stored = dict(columns(store.read("groups", ["image_id", "group_id"], f"grouping = {quote(grouping)}")))
        return Groups(grouping, stored, True)
    return Groups(grouping, stored, False)


def _find(store: Store, dataset: str, grouping: str, rows: list[dict], settings, embeddings, track: Track) -> None:
    ids = [r["image_id"] for r in rows]
    files = store.files(IMAGES)
    with Stages(track) as progress:
        pairs = groups.find_pairs(
            lambda k: pixels.grey(files[ids[k]], ids[k]), _aligned(ids, embeddings), progress, settings, len(ids)
        )
    numbers = groups.components(len(ids), pairs, [r["patient_id"] for r in rows])
    store.put(PAIRS, _pair_rows(grouping, dataset, ids, pairs), replace=True)
    store.put(GROUPS, _group_rows(grouping, dataset, rows, numbers, pairs), replace=True)  # last: marks it as done


class Stages(contextlib.ExitStack):
    """Shows progress that is told as (stage, done, total): one bar for each stage, in turn."""

    def __init__(self, track: Track):
        super().__init__()
        self.track, self.stage, self.done = track, "", 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.stage:
            self.close()
            self.stage, self.done = stage, 0
            self.advance = self.enter_context(self.track(stage, total))
        self.advance(done - self.done)
        self.done = done


def _aligned(ids: list[str], embeddings) -> np.ndarray | None:
    """The vectors in the order of `ids`; zeros, which are like nothing, where an image has none."""
    if embeddings is None:
        return None
    _, known, vectors = embeddings
    place = {image_id: k for k, image_id in enumerate(known)}
    out = np.zeros((len(ids), vectors.shape[1]), np.float32)
    for row, image_id in enumerate(ids):
        if image_id in place:
            out[row] = vectors[place[image_id]]
    return out


def _pair_rows(grouping: str, dataset: str, ids: list[str], pairs) -> list[dict]:
    return [
        {
            "grouping": grouping, "image_id": ids[p.a], "other_id": ids[p.b], "dataset": dataset,
            "similarity": float(p.similarity), "reason": p.reason,
        }
        for p in pairs
    ]  # fmt: skip


def _group_rows(grouping: str, dataset: str, rows: list[dict], numbers: np.ndarray, pairs) -> list[dict]:
    """One row an image; a group is named after its first image, so that its name says where to look."""
    best: dict[int, float] = {}
    for pair in pairs:
        for end in (pair.a, pair.b):
            best[end] = max(best.get(end, -1.0), float(pair.similarity))
    sizes, classes, first = Counter(numbers.tolist()), defaultdict(set), {}
    for number, row in zip(numbers.tolist(), rows):
        classes[number].add(row["label"])
        first.setdefault(number, row["image_id"])
    return [
        {
            "image_id": row["image_id"], "grouping": grouping, "dataset": dataset, "group_id": f"group of {first[n]}",
            "size": sizes[n], "max_similarity": best.get(k), "spans_classes": len(classes[n]) > 1,
        }
        for k, (n, row) in enumerate(zip(numbers.tolist(), rows))
    ]  # fmt: skip
