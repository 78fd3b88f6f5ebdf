"""Verify: is every stored file and vector what was written? Lance keeps no checksums of its data; busistore does."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from busistore.errors import StoreError
from busistore.jobs import Track, silent
from busistore.schema import IMAGES, MASKS, PREPROCESSED, Table
from busistore.store import Store, quote


def verify(store: Store, *, repair: bool = False, track: Track = silent) -> tuple[int, list[tuple[str, str, str]]]:
    """How many files and vectors were read, and (table, image_id, fault) of each that is not as written.

    With `repair`, damaged pictures and vectors are taken out, so that the next job makes them again; images and
    masks as scanned are left, since only the user has others.
    """
    checks = [lambda t=t, w=w: _files(store, t, w) for t, w in _file_tables(store)]
    checks += [lambda n=n: _vectors(store, n) for n in store.names() if n.startswith("embeddings.")]
    n_read, faults = 0, []
    with track("verify", len(checks)) as advance:
        for check in checks:
            for table, image_id, fault in check():
                n_read += 1
                faults += [(table, image_id, fault)] if fault else []
            advance(1)
    for table, image_id, _ in faults if repair else []:
        if table not in (IMAGES.name, MASKS.name):
            store.delete(table, f"image_id = {quote(image_id)}")
    return n_read, faults


def _file_tables(store: Store) -> Iterator[tuple[Table, str | None]]:
    """Tables with files; where one image has several, one source or recipe at a time."""
    yield IMAGES, None
    for table, column in ((MASKS, "source_id"), (PREPROCESSED, "recipe_id")):
        for value in sorted(set(store.read(table.name, [column])[column].to_pylist())):
            yield table, f"{column} = {quote(value)}"


def _files(store: Store, table: Table, where: str | None) -> Iterator[tuple[str, str, str]]:
    files = store.files(table, where)
    for image_id in sorted(files.found):
        try:
            files[image_id]
            yield table.name, image_id, ""
        except StoreError as error:
            yield table.name, image_id, str(error)


def _vectors(store: Store, name: str) -> Iterator[tuple[str, str, str]]:
    rows = store.read(name, ["image_id", "crc32", "vector"])
    vectors = rows["vector"].combine_chunks()
    values = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    for image_id, crc, vector in zip(rows["image_id"].to_pylist(), rows["crc32"].to_pylist(), values):
        sound = zlib.crc32(np.ascontiguousarray(vector).tobytes()) == crc and np.isfinite(vector).all()
        yield name, image_id, "" if sound else "the vector is not what was written; --repair takes it out"
