"""Group: near-duplicate images of a data set, and images of one patient, as groups that no split may cut."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from busistore import groups, pixels
from busistore.ids import canonical_json, content_id, sha256
from busistore.jobs import Track, silent
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
    """The groups of a data set: the newest that are stored for exactly these pixels and settings, or found now.

    Args:
        embeddings: stored vectors whose cosine proposes further candidates; then only groups found with just these
            vectors will do.
    """
    wanted = ["image_id", "label", "patient_id", "pixels_sha256", "ingested_at"]
    rows = store.read("images", wanted, f"dataset = {quote(dataset)}").sort_by("image_id").to_pylist()
    settings = groups.Grouping()
    members = {r["image_id"]: [r["pixels_sha256"], r["patient_id"]] for r in rows}
    basis = sha256(canonical_json({"settings": settings, "members": members}).encode())
    proposed_by = embeddings and sha256(canonical_json(embeddings[:2]).encode() + embeddings[2].tobytes())
    grouping = content_id("frames", {"basis": basis, "embeddings": proposed_by})
    same_basis = f"basis_sha256 = {quote(basis)}"
    this_one = f"grouping = {quote(grouping)}"
    found = newest(store, dataset, this_one if embeddings else same_basis)
    if found is not None or not rows:
        return _current(store, dataset, found, rows) if found else Groups(grouping, {}, False)
    _find(store, dataset, (grouping, basis), rows, settings, embeddings, track)
    return replace(newest(store, dataset, this_one), is_new=True)


def _current(store: Store, dataset: str, found: Groups, images: list[dict]) -> Groups:
    """The groups found, dated anew where later ones are stored, or images were written again with the same pixels."""
    rows = store.read("groups", where=f"grouping = {quote(found.grouping)}").to_pylist()
    older = rows[0]["grouped_at"] < max(image["ingested_at"] for image in images)
    if older or newest(store, dataset).grouping != found.grouping:
        now = datetime.now(UTC)
        store.put(GROUPS, [dict(row, grouped_at=now) for row in rows], replace=True)
    return found


def newest(store: Store, dataset: str, where: str = "true") -> Groups | None:
    """The newest stored groups of a data set (that satisfy a Lance filter); None if there are none."""
    where = f"dataset = {quote(dataset)} AND {where}"
    rows = store.read("groups", ["grouping", "grouped_at", "image_id", "group_id"], where).to_pylist()
    if not rows:
        return None
    last = max((r["grouped_at"], r["grouping"]) for r in rows)[1]
    return Groups(last, {r["image_id"]: r["group_id"] for r in rows if r["grouping"] == last}, False)


def _find(
    store: Store, dataset: str, named: tuple[str, str], rows: list[dict], settings: groups.Grouping,
    embeddings: Embeddings | None, track: Track,
) -> None:  # fmt: skip
    """Find and store the groups under (grouping, basis)."""
    ids = [r["image_id"] for r in rows]
    files = store.files(IMAGES)
    with Stages(track) as progress:
        pairs = groups.find_pairs(
            lambda k: pixels.grey(files[ids[k]], ids[k]), _aligned(ids, embeddings), progress, settings, len(ids)
        )
    numbers = groups.components(len(ids), pairs, [r["patient_id"] for r in rows])
    store.put(PAIRS, _pair_rows(named[0], dataset, ids, pairs), replace=True)
    store.put(GROUPS, _group_rows(named, dataset, rows, numbers, pairs), replace=True)  # last: marks it as done


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


def _group_rows(named: tuple[str, str], dataset: str, rows: list[dict], numbers: np.ndarray, pairs) -> list[dict]:
    """One row an image; a group is named after its first image, so that its name says where to look."""
    best: dict[int, float] = {}
    for pair in pairs:
        for end in (pair.a, pair.b):
            best[end] = max(best.get(end, -1.0), float(pair.similarity))
    now = datetime.now(UTC)  # the newest grouping of a data set is the current one
    sizes, classes, first = Counter(numbers.tolist()), defaultdict(set), {}
    for number, row in zip(numbers.tolist(), rows):
        classes[number].add(row["label"])
        first.setdefault(number, row["image_id"])
    return [
        {
            "image_id": row["image_id"], "grouping": named[0], "basis_sha256": named[1], "dataset": dataset,
            "group_id": f"group of {first[n]}", "size": sizes[n], "max_similarity": best.get(k),
            "spans_classes": len(classes[n]) > 1, "grouped_at": now,
        }
        for k, (n, row) in enumerate(zip(numbers.tolist(), rows))
    ]  # fmt: skip
