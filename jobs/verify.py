"""Verify: is everything stored what was written? Lance keeps no checksums of its data; busistore does."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from busistore.errors import StoreError
from busistore.ids import sha256
from busistore.jobs import Track, columns, silent
from busistore.jobs.ingest import TRUTH
from busistore.jobs.prompts import checksum
from busistore.jobs.segmenters import WEIGHTS, command, is_whole
from busistore.jobs.segmenters import folder_of as folder_of_segmenter
from busistore.jobs.towers import folder_of
from busistore.schema import IMAGES, MASKS, PREPROCESSED, RUNS, SEGMENTERS, TEXT_EMBEDDINGS, TOKENS, Table
from busistore.store import Store, quote


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written. `where` selects the row to take out; None if no row can be named."""

    table: str
    image_id: str
    reason: str
    where: str | None


@dataclass
class Verdict:
    """How many files, vectors and tables were read, what is damaged, and what a repair took out."""

    n_read: int = 0
    damaged: list[Damage] = field(default_factory=list)
    taken_out: list[Damage] = field(default_factory=list)


OF_VECTORS = ("embeddings.", TOKENS)
Check = Callable[[], Iterator[Damage | None]]


def verify(store: Store, *, repair: bool = False, track: Track = silent) -> Verdict:
    """Read everything that is stored and compare it with its checksum.

    With `repair`, rows that can be made again are taken out: pictures and vectors by `encode`, images and masks by
    `ingest` from the original folder, runs with altered adapters by `evaluate`, segmenters by `train-segmenter`. A
    table that cannot be read at all is only named, and so are adapters that are gone.
    """
    verdict, checks = Verdict(), list(_checks(store))
    with track("verify", len(checks)) as advance:
        for table, check in checks:
            for found in _guarded(store, table, check):
                verdict.n_read += 1
                verdict.damaged += [found] if found else []
            advance(1)
    for damage in (d for d in verdict.damaged if repair and d.where):
        store.delete(damage.table, damage.where)
        verdict.taken_out.append(damage)
    return verdict


def _checks(store: Store) -> Iterator[tuple[str, Check]]:
    names = store.names()
    for name in names:
        if not name.startswith(OF_VECTORS):
            yield name, lambda n=name: _rows(store, n)
    for table, column in ((IMAGES, "dataset"), (MASKS, "source_id"), (PREPROCESSED, "recipe_id")):
        if table.name in names:
            yield table.name, lambda t=table, c=column: _files(store, t, c)
    if "images" in names:
        yield "masks", lambda: _without_masks(store)
    for name in names:
        if name.startswith(OF_VECTORS):
            yield name, lambda n=name: _vectors(store, n)
    if RUNS.name in names:
        yield RUNS.name, lambda: _adapters(store)
    if SEGMENTERS.name in names:
        yield SEGMENTERS.name, lambda: _segmenters(store)
    if TEXT_EMBEDDINGS.name in names:
        yield TEXT_EMBEDDINGS.name, lambda: _text_vectors(store)


def _guarded(store: Store, table: str, check: Check) -> Iterator[Damage | None]:
    try:
        yield from check()
    except (StoreError, OSError) as error:
        yield Damage(table, "", str(error), None)


def _rows(store: Store, name: str) -> Iterator[Damage | None]:
    """All columns of a table but its files and vectors, which have checks of their own."""
    store.read(name)
    yield None


def _files(store: Store, table: Table, column: str) -> Iterator[Damage | None]:
    """One source or recipe at a time, since an image has a file under each."""
    for value in sorted(set(store.read(table.name, [column])[column].to_pylist())):
        where = f"{column} = {quote(value)}"
        files = store.files(table, where)
        for image_id, data in files.try_stream(sorted(files.found)):
            bad = isinstance(data, StoreError)
            row = f"image_id = {quote(image_id)} AND {where}"
            yield Damage(table.name, image_id, str(data), row) if bad else None


def _without_masks(store: Store) -> Iterator[Damage | None]:
    """An image is written after its mask; one without has lost it."""
    masked = {i for i, _ in store.keys(MASKS, f"source_id = {quote(TRUTH)}")}
    for (image_id,) in columns(store.read("images", ["image_id"])):
        lost = image_id not in masked
        yield Damage(MASKS.name, image_id, "its mask is lost; `ingest` brings it again", None) if lost else None


def _vectors(store: Store, name: str) -> Iterator[Damage | None]:
    """Vectors and tokens, some at a time: a table of tokens may be larger than memory."""
    for rows in store.batches(name, ["image_id", "crc32", "vector"]):
        yield from _vectors_of(name, rows)


def _vectors_of(name: str, rows: pa.RecordBatch) -> Iterator[Damage | None]:
    vectors = rows["vector"]
    values = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), vectors.type.list_size)
    for image_id, crc, vector in zip(rows["image_id"].to_pylist(), rows["crc32"].to_pylist(), values):
        sound = zlib.crc32(np.ascontiguousarray(vector).tobytes()) == crc and np.isfinite(vector).all()
        reason = "the vector is not what was written; --repair takes it out"
        yield None if sound else Damage(name, image_id, reason, f"image_id = {quote(image_id)}")


def _adapters(store: Store) -> Iterator[Damage | None]:
    """The weights that runs kept."""
    for run_id, details in columns(store.read(RUNS.name, ["run_id", "details"])):
        for name, kept in json.loads(details).get("kept", {}).items():
            file = folder_of(store, run_id) / name
            if not file.is_file():
                yield Damage(RUNS.name, run_id, f"'{file}' is gone; what the run predicted stands", None)
            else:
                reason = f"'{file}' is not what was written; --repair takes the run out"
                sound = sha256(file.read_bytes()) == kept
                yield None if sound else Damage(RUNS.name, run_id, reason, f"run_id = {quote(run_id)}")


def _segmenters(store: Store) -> Iterator[Damage | None]:
    """The weights of segmenters that were trained here."""
    for row in store.read(SEGMENTERS.name, where="n_train > 0").to_pylist():
        segmenter_id = row["segmenter_id"]
        file = folder_of_segmenter(store, segmenter_id) / WEIGHTS
        reason = f"'{file}' is not what was written; --repair takes the segmenter out, `{command(row)}` trains it again"
        sound = is_whole(store, row)
        yield None if sound else Damage(SEGMENTERS.name, segmenter_id, reason, f"segmenter_id = {quote(segmenter_id)}")


def _text_vectors(store: Store) -> Iterator[Damage | None]:
    rows = store.read(TEXT_EMBEDDINGS.name, ["prompt_id", "model_id", "logit_scale", "crc32", "vector"])
    for prompt_id, model_id, scale, crc, values in columns(rows):
        vector = np.array(values, np.float32)
        sound = checksum(vector, scale) == crc and np.isfinite(vector).all()
        reason = "the vector is not what was written; --repair takes it out"
        where = f"prompt_id = {quote(prompt_id)} AND model_id = {quote(model_id)}"
        yield None if sound else Damage(TEXT_EMBEDDINGS.name, prompt_id, reason, where)
