"""The store: LanceDB tables under one folder, written by key, read by column.

Only this module and its indexes (`nearest`, `lookup`) know LanceDB and Lance. A row is written whole and once: every
batch is one commit, checked before it is written, and a key that is there already is left alone (or replaced, when
asked).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from busistore.errors import StoreError
from busistore.faults import read_error, readable_errors
from busistore.files import Files
from busistore.lookup import vectors
from busistore.nearest import Hits, nearest
from busistore.rows import checked
from busistore.schema import SCHEMA_VERSION, TABLES, Table

os.environ.setdefault("LANCE_LOG", "error")  # Lance warns on stderr about every table that it creates

MANIFEST = "busistore.json"
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}  # lets concurrent merges of one key see each other
KEEP_VERSIONS_S = 100 * 365 * 86400  # compaction never drops a version that a query or report may still name


class Store:
    """One folder of tables. `Store.open(path)` for what exists, `Store.create(path)` to begin or go on."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """The store at `path`.

        Raises:
            StoreError: no store is there, or a newer busistore made it.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            made_by = int(manifest["schema_version"])
        except FileNotFoundError:
            raise StoreError(f"no store at '{path}'; `busistore ingest DATASET PATH` makes one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"'{path / MANIFEST}' cannot be read ({error}); is it a busistore folder?") from None
        if made_by > SCHEMA_VERSION:
            raise StoreError(
                f"the store '{path}' has schema {made_by}, this busistore knows {SCHEMA_VERSION}; upgrade busistore"
            )
        return cls(path)

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """The store at `path`, made empty first if none is there."""
        path = Path(path)
        if os.fsencode(path) != str(path).encode("utf-8", "replace"):
            raise StoreError(f"the store's name {os.fsencode(path)!r} is not UTF-8; name it in plain letters")
        if not (path / MANIFEST).exists():
            with readable_errors(path):
                if path.is_dir() and any(not p.name.startswith(MANIFEST) for p in path.iterdir()):
                    raise StoreError(f"'{path}' holds other files; name an empty or a new folder as the store")
                _write_manifest(path)
        return cls.open(path)

    def names(self) -> list[str]:
        """Names of the tables that hold something, sorted."""
        return sorted(name for p in self.path.glob("*.lance") if self.has(name := p.name.removesuffix(".lance")))

    def has(self, table: str) -> bool:
        """Whether the table exists. A folder without a manifest is what a killed or full-disk creation left."""
        return any((self.path / f"{table}.lance" / "_versions").glob("*.manifest"))

    def dataset(self, table: str, version: int | None = None):
        """The Lance dataset of a table, at its newest or a given version: what DuckDB scans."""
        import lance

        if not self.has(table):
            raise StoreError(f"the store '{self.path}' has no table '{table}' yet")
        try:
            return lance.dataset(str(self.path / f"{table}.lance"), version=version)
        except (OSError, ValueError, RuntimeError) as error:
            raise read_error(self.path, table, error) from error

    def version(self, table: str) -> int:
        """The version that a read of the table would see now; 0 before its first row."""
        return self.dataset(table).version if self.has(table) else 0

    def count(self, table: str, where: str | None = None) -> int:
        """Number of rows (that satisfy `where`)."""
        return self.dataset(table).count_rows(filter=where) if self.has(table) else 0

    def read(self, table: str, columns: Iterable[str] | None = None, where: str | None = None) -> pa.Table:
        """Rows as an Arrow table without its blob columns; empty, with its columns, before the first write.

        Args:
            columns: which columns, in this order; all but the blobs by default.
            where: a Lance filter, such as "dataset = 'busi'"; build values into it with `quote`.
        """
        if not self.has(table):
            empty = TABLES[table].schema.empty_table() if table in TABLES else pa.table({c: [] for c in columns or ()})
            return empty.select(list(columns)) if columns else empty.drop(_blobs(table))
        dataset = self.dataset(table)
        wanted = list(columns) if columns else [n for n in dataset.schema.names if n not in _blobs(table)]
        try:
            return dataset.to_table(columns=wanted, filter=where)
        except (OSError, ValueError, RuntimeError) as error:
            raise read_error(self.path, table, error) from error

    def batches(self, table: str, columns: list[str], rows: int = 256) -> Iterator[pa.RecordBatch]:
        """The rows of a table that exists, some at a time."""
        try:
            yield from self.dataset(table).to_batches(columns=columns, batch_size=rows)
        except (OSError, ValueError, RuntimeError) as error:
            raise read_error(self.path, table, error) from error

    def keys(self, table: Table, where: str | None = None) -> set[tuple]:
        """The keys that are stored, as tuples in the order of `table.key`."""
        rows = self.read(table.name, table.key, where)
        return set(zip(*(rows[name].to_pylist() for name in table.key)))

    def files(self, table: Table, where: str | None = None) -> Files:
        """The PNG files of a table's rows (that satisfy `where`), to be read by image_id."""
        return Files(self, table, where)

    def nearest(self, table: str, vector: np.ndarray, k: int, only: set[str] | None = None) -> Hits:
        """(image_id, cosine) of the k nearest stored vectors, best first; see `nearest.nearest`."""
        return nearest(self, table, vector, k, only)

    def vectors(self, table: str, ids: Sequence[str]) -> np.ndarray:
        """(len(ids), D) float32 in the order of `ids`; a StoreError names an id without a row; see `lookup.vectors`."""
        return vectors(self, table, ids)

    def put(self, table: Table, rows: pa.Table | Iterable[dict[str, Any]], *, replace: bool = False) -> int:
        """Write rows in one commit; returns how many were new or replaced.

        Rows whose key is stored are left alone, or replaced when `replace` is set. Nothing at all is written when a
        row is not sound.

        Raises:
            StoreError: a vector or number is not finite or of the wrong width, a key repeats, the disk is full, or
                the store cannot be written.
        """
        source = checked(table, rows)
        if not replace:
            source = self._new(table, source)
        if not source.num_rows:
            return 0
        with readable_errors(self.path):
            merge = self._table(table).merge_insert(list(table.key)).when_not_matched_insert_all()
            merge = merge.use_index(False)  # through one, two writers may both insert a key
            if replace:
                merge = merge.when_matched_update_all()
            result = merge.execute(_with_key_marks(table, source))
        return result.num_inserted_rows + result.num_updated_rows

    def _new(self, table: Table, source: pa.Table) -> pa.Table:
        """The rows whose key is not stored: a merge of nothing new would still commit a version."""
        if not self.has(table.name):
            return source
        keys = list(table.key)
        numbered = source.select(keys).append_column("row", pa.array(range(source.num_rows), pa.int64()))
        new = numbered.join(self.read(table.name, keys), keys, join_type="left anti")
        return source.take(new["row"].combine_chunks().sort())

    def delete(self, table: str, where: str) -> None:
        """Remove the rows that satisfy a Lance filter; nothing happens where there are none."""
        if self.count(table, where):
            with readable_errors(self.path):
                self.lancedb.open_table(table).delete(where)

    @cached_property
    def lancedb(self):
        """The connection through which rows are written, and blobs read."""
        import lancedb

        return lancedb.connect(str(self.path))

    def _table(self, table: Table):
        """Open the table, made first if this is its first row."""
        if self.has(table.name):
            return self._with_later_columns(table)
        options = {"new_table_enable_stable_row_ids": "true"}
        return self.lancedb.create_table(
            table.name, schema=_stored_schema(table), exist_ok=True, storage_options=options
        )

    def _with_later_columns(self, table: Table):
        """A table that exists, with the columns that there were not when the store was begun."""
        while True:
            handle = self.lancedb.open_table(table.name)
            later = [f for f in table.schema if f.name not in handle.schema.names]
            if not later:
                return handle
            try:
                handle.add_columns(pa.schema(later))
            except RuntimeError as error:
                if "conflict" not in str(error):  # another writer was first: see what it left to do
                    raise

    def compact(self) -> None:
        """Merge small fragments of every table and sweep what killed writers left; no version is dropped."""
        from datetime import timedelta

        for name in self.names():
            with readable_errors(self.path):
                handle = self.lancedb.open_table(name)
                handle.checkout_latest()
                handle.optimize(cleanup_older_than=timedelta(seconds=KEEP_VERSIONS_S))
            for left in (self.path / f"{name}.lance" / "data").glob(".tmp*"):
                if time.time() - left.stat().st_mtime > 3600:  # younger ones may belong to a writer at work
                    left.unlink(missing_ok=True)


def _write_manifest(path: Path) -> None:
    """Whole or not at all: a crash leaves no manifest, or a temporary one that the next call ignores."""
    path.mkdir(parents=True, exist_ok=True)
    temporary = path / f"{MANIFEST}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps({"schema_version": SCHEMA_VERSION}))
        temporary.replace(path / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def quote(value: str) -> str:
    """A value as a literal of a Lance filter: its quotes doubled.

    >>> quote("o'clock")
    "'o''clock'"
    """
    return "'" + value.replace("'", "''") + "'"


def _blobs(table: str) -> list[str]:
    """Columns that hold files, which a plain read leaves out."""
    return [f.name for f in TABLES[table].schema if f.type == pa.large_binary()] if table in TABLES else []


def _stored_schema(table: Table) -> pa.Schema:
    """The table's schema as Lance is told it: primary keys marked, files as blobs."""
    return pa.schema([_stored_field(table, field) for field in table.schema], table.schema.metadata)


def _stored_field(table: Table, field: pa.Field) -> pa.Field:
    if field.name in table.blobs:
        from lancedb.schema import blob

        return blob(field.name)
    if field.name in table.key:
        return field.with_metadata(PRIMARY_KEY)
    if field.type == pa.large_binary():  # small PNGs: trying zstd on every page costs ten times the write
        return field.with_metadata({b"lance-encoding:compression": b"none"})
    return field


def _with_key_marks(table: Table, source: pa.Table) -> pa.Table:
    """The rows under the stored fields, which a merge compares; blob columns are sent as plain bytes."""
    fields = [f if f.name in table.blobs else _stored_field(table, f) for f in table.schema]
    return source.cast(pa.schema(fields))
