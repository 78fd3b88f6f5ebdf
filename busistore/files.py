"""The PNG files of a table, read by image_id and checked against their checksums."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from busistore.errors import StoreError
from busistore.faults import read_error
from busistore.schema import Table

if TYPE_CHECKING:
    from busistore.store import Store


class Files:
    """The files of one table (that satisfy `where`). Built by `Store.files`."""

    def __init__(self, store: Store, table: Table, where: str | None):
        self.store, self.table = store, table
        self.found: dict[str, tuple[int, int]] = {}
        if store.has(table.name):
            rows = self._read(lambda: self._dataset.to_table(["image_id", "png_crc32"], where, with_row_id=True))
            places = zip(rows["_rowid"].to_pylist(), rows["png_crc32"].to_pylist())
            self.found = dict(zip(rows["image_id"].to_pylist(), places))

    def __getitem__(self, image_id: str) -> bytes:
        """One file; raises StoreError when it has no row or is damaged."""
        return next(self.stream([image_id]))[1]

    def stream(self, ids: Iterable[str], batch: int = 64) -> Iterator[tuple[str, bytes]]:
        """(image_id, PNG bytes) in the order of `ids`, `batch` files in memory at a time.

        Raises:
            StoreError: an id has no row, or a file no longer matches its checksum.
        """
        for image_id, data in self.try_stream(ids, batch):
            if isinstance(data, StoreError):
                raise data
            yield image_id, data

    def try_stream(self, ids: Iterable[str], batch: int = 64) -> Iterator[tuple[str, bytes | StoreError]]:
        """As `stream`, with the error in place of a file that cannot be given: one bad file stops nothing."""
        ids = list(ids)
        for start in range(0, len(ids), batch):
            part = [i for i in ids[start : start + batch] if i in self.found]
            data = dict(zip(part, self._fetch([self.found[i][0] for i in part]), strict=True))
            for image_id in ids[start : start + batch]:
                yield image_id, self._checked(image_id, data.get(image_id))

    def _checked(self, image_id: str, data: bytes | None) -> bytes | StoreError:
        if image_id not in self.found:
            return StoreError(f"the table '{self.table.name}' has no row for '{image_id}'")
        if data is None or zlib.crc32(data) != self.found[image_id][1]:
            return StoreError(
                f"the '{self.table.name}' file of '{image_id}' is damaged; `busistore verify --repair` takes it out"
            )
        return data

    def _fetch(self, row_ids: list[int]) -> list[bytes | None]:
        if not row_ids:
            return []
        if "png" in self.table.blobs:
            return self._read(lambda: self._table.fetch_blobs("png", row_ids).to_pylist())
        wanted = f"_rowid in ({', '.join(map(str, row_ids))})"
        taken = self._read(lambda: self._dataset.to_table(["png"], wanted, with_row_id=True))
        data = dict(zip(taken["_rowid"].to_pylist(), taken["png"].to_pylist()))
        return [data.get(i) for i in row_ids]

    def _read(self, work):
        try:
            return work()
        except (OSError, ValueError, RuntimeError) as error:
            raise read_error(self.store.path, self.table.name, error) from error

    @cached_property
    def _dataset(self):
        return self.store.dataset(self.table.name)

    @cached_property
    def _table(self):
        return self.store.lancedb.open_table(self.table.name)
