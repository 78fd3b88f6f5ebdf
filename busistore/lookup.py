"""Stored vectors by image id: the whole column read once, or only the rows asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from busistore.errors import StoreError
from busistore.faults import read_error, readable_errors

if TYPE_CHECKING:
    from busistore.store import Store

SHARE = 0.1  # of the rows: from here on the whole column is read sooner than the rows one by one, at any size
INDEX_ROWS = 200_000  # below, a scan of the ids finds rows as fast as an index does
UNINDEXED = 0.1  # share of the rows that may lie outside an index before it is made anew; they are scanned
ROWS = 1024  # in one batch of the column; larger ones take more memory and no less time
WIDE, WIDE_ROWS = 16_384, 16  # numbers in a row, as of tokens: from here on few rows a batch, and only those asked for
COLUMNS = ["image_id", "vector"]


def vectors(store: Store, table: str, ids: Sequence[str]) -> np.ndarray:
    """The vectors of these images in an embeddings table: (len(ids), D) float32, as the model emitted them.

    Where the ids are a tenth of the table or more (all of it, of rows as wide as tokens are), its column is streamed
    once into the answer. Otherwise the rows
    of the distinct ids are taken by one filter: from INDEX_ROWS rows on through a B-tree over the ids, made at the
    first question and again once a tenth of the rows lie outside it. Either way the memory is that of the answer
    and some batches, never a copy of the table.

    960 distinct rows of 512 numbers, on one core: 25 ms of 100,000 rows, and of a million 65 ms, or 120 ms in a
    store opened anew, half of it for reading the rows; a scan of a million ids instead takes 75 ms, and grows with
    them. The index takes 0.3 s to make. See benchmarks/draw_episodes.py.

    Args:
        ids: image ids in any order, repeated or not; row k of the answer is the vector of ids[k].

    Raises:
        StoreError: no such table, it cannot be read, or it has no row for an id; says for how many, and names one.
    """
    dataset = store.dataset(table)
    place = {image_id: k for k, image_id in enumerate(dict.fromkeys(ids))}
    dim = dataset.schema.field("vector").type.list_size
    share, rows = (1, WIDE_ROWS) if dim >= WIDE else (SHARE, ROWS)
    streamed = len(place) >= share * dataset.count_rows()
    batches = store.batches(table, COLUMNS, rows) if streamed else _taken(store, table, list(place), rows)
    values, found = _placed(batches, place, dim)
    missing = [image_id for image_id, k in place.items() if not found[k]]
    if missing:
        lost = f"{len(missing)} of {len(place)} images, such as '{missing[0]}'"
        raise StoreError(f"the table '{table}' has no vector of {lost}; `busistore encode` makes them")
    return values if len(place) == len(ids) else values[[place[image_id] for image_id in ids]]


def _placed(batches: Iterable[pa.RecordBatch], place: dict[str, int], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(U, dim) float32 with each vector at its id's place, and (U,) bool: the places that were filled."""
    values, found = np.empty((len(place), dim), np.float32), np.zeros(len(place), bool)
    for batch in batches:
        at = np.array([place.get(image_id, -1) for image_id in batch["image_id"].to_pylist()], np.intp)
        kept = at >= 0
        values[at[kept]] = batch["vector"].flatten().to_numpy().reshape(len(batch), dim)[kept]
        found[at[kept]] = True
    return values, found


def _taken(store: Store, table: str, ids: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """The rows of these ids in any order, from one version of the table; an id that has no row is left out."""
    from busistore.store import quote

    if not ids:
        return
    dataset, where = store.dataset(table), f"image_id IN ({', '.join(map(quote, ids))})"
    indexed = dataset.count_rows() >= INDEX_ROWS
    if indexed:
        _keep_key_index(store, table)
    try:
        if indexed:  # this connection keeps the index in memory; a dataset opened anew would read it again
            yield from store.lancedb.open_table(table).search().where(where).select(COLUMNS).to_batches(rows)
        else:
            yield from dataset.to_batches(columns=COLUMNS, filter=where, batch_size=rows)
    except (OSError, ValueError, RuntimeError) as error:
        raise read_error(store.path, table, error) from error


def _keep_key_index(store: Store, table: str) -> None:
    from lancedb.index import BTree

    keep_index(store, table, "image_id", BTree())


def keep_index(store: Store, table: str, column: str, config) -> None:
    """Make an index if there is none, or too few of the rows are in it; without one an answer only takes longer.

    It is made through LanceDB, whose Lance is the older one here: it does not read what a newer one makes. Writers
    must not merge through an index over their key, or two that bring the same new key at once both insert it.

    Args:
        config: the kind of index, one of `lancedb.index`.
    """
    try:
        with readable_errors(store.path):
            handle = store.lancedb.open_table(table)
            found = [i.name for i in handle.list_indices() if i.columns == [column]]
            stats = handle.index_stats(found[0]) if found else None
            if stats is None or stats.num_unindexed_rows > UNINDEXED * handle.count_rows():
                handle.create_index(column, config=config, replace=True)
    except StoreError:  # a disk that is full or may not be written
        return
    except RuntimeError as error:
        if "conflict" not in str(error):  # another process is making it at this moment
            raise
