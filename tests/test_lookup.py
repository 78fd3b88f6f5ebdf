"""Vectors by image id are those that were stored, in the order asked for, by whichever way they are read."""

from __future__ import annotations

import math
import zlib
from concurrent.futures import ThreadPoolExecutor

import lancedb.table
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import lookup
from busistore.errors import StoreError
from busistore.schema import embeddings_table
from busistore.store import Store

DIM = 12
TABLE = embeddings_table("alpha-00000000000a", "pad224-000000000001", DIM)
STREAM, TAKE = 0.0, math.inf  # shares of the table from which on its column is streamed

Held = dict[str, np.ndarray]


def image_ids(n: int, prefix: str = "toy/i") -> list[str]:
    return [f"{prefix}-{k:05d}" for k in range(n)]


def put(store: Store, ids: list[str], seed: int = 0, **options) -> Held:
    """Store random vectors in commits of 700, in a shuffled order; returns them by id."""
    rng = np.random.default_rng(seed)
    held = dict(zip(ids, rng.normal(size=(len(ids), DIM)).astype(np.float32), strict=True))
    rows = [
        {"image_id": i, "model_id": "m", "recipe_id": "r", "input_sha256": "x", "crc32": zlib.crc32(held[i].tobytes()),
         "vector": held[i]}
        for i in rng.permutation(ids).tolist()
    ]  # fmt: skip
    for start in range(0, len(rows), 700):
        store.put(TABLE, rows[start : start + 700], **options)
    return held


def check(store: Store, held: Held, ids: list[str]) -> None:
    found = store.vectors(TABLE.name, ids)
    assert (found.shape, found.dtype) == ((len(ids), DIM), np.float32)
    np.testing.assert_array_equal(found, [held[i] for i in ids] if ids else np.empty((0, DIM)))


def some(held: Held, n: int, seed: int = 0) -> list[str]:
    """n ids drawn with replacement."""
    return np.random.default_rng(seed).choice(list(held), n).tolist()


def index_of(store: Store):
    """Rows in the index of the ids and outside it; None without one."""
    handle = store.lancedb.open_table(TABLE.name)
    found = [i for i in handle.list_indices() if i.columns == ["image_id"]]
    if not found:
        return None
    stats = handle.index_stats(found[0].name)
    return stats.num_indexed_rows, stats.num_unindexed_rows


@pytest.fixture
def low(monkeypatch) -> None:
    """An index from a thousand rows on, and never the whole column."""
    monkeypatch.setattr(lookup, "INDEX_ROWS", 1000)
    monkeypatch.setattr(lookup, "SHARE", TAKE)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Store, Held]:
    """3,000 rows in five commits, the last of which is outside the index; nothing but the index is written to it."""
    store = Store.create(tmp_path_factory.mktemp("large") / "store")
    held = put(store, image_ids(2750))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "INDEX_ROWS", 1000)
        check(store, held, some(held, 5))
    return store, held | put(store, image_ids(250, "toy/later"), seed=1)


@pytest.mark.parametrize("share", [STREAM, TAKE])
@pytest.mark.parametrize("index_rows", [1000, math.inf])
@settings(deadline=None, max_examples=25)
@given(places=st.lists(st.integers(0, 2999), max_size=60))
def test_every_way_gives_the_stored_vectors_in_the_order_of_the_ids(large, share, index_rows, places):
    store, held = large
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "SHARE", share)
        patch.setattr(lookup, "INDEX_ROWS", index_rows)
        check(store, held, [list(held)[k] for k in places])


@pytest.mark.parametrize("share", [STREAM, TAKE])
def test_all_rows_in_several_batches_and_any_kind_of_sequence(large, monkeypatch, share):
    store, held = large
    monkeypatch.setattr(lookup, "SHARE", share)
    monkeypatch.setattr(lookup, "ROWS", 128)
    check(store, held, sorted(held, reverse=True))
    asked = np.array(some(held, 500))
    np.testing.assert_array_equal(store.vectors(TABLE.name, asked), [held[i] for i in asked])


def test_the_column_is_streamed_from_a_tenth_of_the_rows_on(store, monkeypatch):
    held = put(store, image_ids(200))
    monkeypatch.setattr(Store, "batches", lambda *_: pytest.fail("streamed"))
    check(store, held, image_ids(19) * 5)  # it is the distinct ids that count
    with pytest.raises(pytest.fail.Exception, match="streamed"):
        store.vectors(TABLE.name, image_ids(20))


@pytest.mark.parametrize("share", [STREAM, TAKE])
def test_ids_without_a_row_are_counted_and_one_is_named(store, monkeypatch, share):
    monkeypatch.setattr(lookup, "SHARE", share)
    put(store, image_ids(30))
    asked = ["toy/i-00003", "toy/gone", "toy/i-00003", "toy/lost", "toy/gone"]
    with pytest.raises(StoreError, match=r"no vector of 2 of 3 images, such as 'toy/gone'; `busistore encode`"):
        store.vectors(TABLE.name, asked)


def test_a_table_that_is_not_there(store):
    with pytest.raises(StoreError, match="has no table 'embeddings of nothing'"):
        store.vectors("embeddings of nothing", ["toy/i-00000"])


@pytest.mark.parametrize("share", [STREAM, TAKE])
def test_a_table_whose_data_is_lost(store, monkeypatch, share):
    monkeypatch.setattr(lookup, "SHARE", share)
    put(store, image_ids(30))
    for path in (store.path / f"{TABLE.name}.lance" / "data").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match=r"cannot be read .*busistore verify"):
        store.vectors(TABLE.name, image_ids(3))


def test_names_with_quotes_and_letters_of_any_script(store, low):
    names = ["toy/o'clock", "toy/''", "toy/läsion 3", "toy/病变", 'toy/"a"', "toy/a', 'toy/b", "toy/%_", "toy/\\n"]
    held = put(store, names + image_ids(1100))
    check(store, held, names)
    assert index_of(store) == (1108, 0)


def test_below_the_limit_nothing_is_written(store, low):
    held = put(store, image_ids(999))
    version = store.version(TABLE.name)
    check(store, held, some(held, 40))
    assert (store.version(TABLE.name), index_of(store)) == (version, None)


def test_the_index_is_made_once_for_all_later_stores(store, low):
    held = put(store, image_ids(2500))
    check(store, held, some(held, 40))
    assert index_of(store) == (2500, 0)
    version = store.version(TABLE.name)
    check(store, held, some(held, 40, seed=1))
    check(Store.open(store.path), held, some(held, 40, seed=2))
    assert store.version(TABLE.name) == version


def test_rows_outside_the_index_are_found_and_join_it_when_they_are_many(store, low):
    held = put(store, image_ids(2000))
    check(store, held, some(held, 3))
    held |= put(store, image_ids(200, "toy/j"), seed=1)
    check(store, held, list(held)[1900:])
    assert index_of(store) == (2000, 200)
    held |= put(store, image_ids(50, "toy/k"), seed=2)
    check(store, held, list(held)[1900:])
    assert index_of(store) == (2250, 0)


def test_replaced_and_deleted_rows_are_seen_through_the_index(store, low):
    held = put(store, image_ids(2000))
    check(store, held, some(held, 3))
    held |= put(store, image_ids(150), seed=5, replace=True)
    check(store, held, list(held)[:300])
    store.delete(TABLE.name, "image_id < 'toy/i-00050'")
    check(store, held, list(held)[50:300])
    with pytest.raises(StoreError, match="no vector of 50 of 300 images, such as 'toy/i-00000'"):
        store.vectors(TABLE.name, list(held)[:300])
    assert store.count(TABLE.name) == 1950


def test_writing_goes_on_as_before_under_the_index(store, low):
    """A key is new once, also when four writers bring it at the same time."""
    held = put(store, image_ids(1500))
    check(store, held, some(held, 3))
    version = store.version(TABLE.name)
    put(store, image_ids(700))
    assert store.version(TABLE.name) == version
    with ThreadPoolExecutor(4) as pool:
        more = list(pool.map(lambda _: put(Store.open(store.path), image_ids(300, "toy/j"), seed=3), range(4)))
    held |= more[0]
    assert store.count(TABLE.name) == 1800
    check(store, held, list(held)[1400:])


def test_compaction_keeps_what_is_found(store, low):
    held = put(store, image_ids(2000))
    check(store, held, some(held, 3))
    held |= put(store, image_ids(150, "toy/j"), seed=1)
    held |= put(store, image_ids(90), seed=2, replace=True)
    store.compact()
    check(store, held, list(held))


def test_several_readers_may_make_the_index_at_once(store, low):
    held = put(store, image_ids(1500))
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda k: check(Store.open(store.path), held, some(held, 50, seed=k)), range(8)):
            pass
    assert index_of(store) == (1500, 0)


@pytest.mark.parametrize(
    "reason", ["IO error: Permission denied (os error 13)", "lance error: Retryable commit conflict for version 3"]
)
def test_without_an_index_the_answer_is_the_same(store, low, monkeypatch, reason):
    def refuse(*_, **__):
        raise RuntimeError(reason)

    monkeypatch.setattr(lancedb.table.LanceTable, "create_index", refuse)
    held = put(store, image_ids(1200))
    check(store, held, some(held, 100))
    assert index_of(store) is None


def test_another_fault_of_the_index_is_not_hidden(store, low, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such thing as a tree")

    monkeypatch.setattr(lancedb.table.LanceTable, "create_index", fail)
    put(store, image_ids(1000))
    with pytest.raises(RuntimeError, match="no such thing"):
        store.vectors(TABLE.name, ["toy/i-00000"])
