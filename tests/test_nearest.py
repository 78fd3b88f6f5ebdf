"""The nearest vectors are those that a plain comparison finds, with and without an index."""

from __future__ import annotations

import zlib

import lancedb.table
import numpy as np
import pytest

from busistore import nearest
from busistore.jobs.verify import verify
from busistore.schema import embeddings_table
from busistore.store import Store

DIM = 24
TABLE = embeddings_table("alpha-00000000000a", "pad224-000000000001", DIM)


def image_ids(n: int, prefix: str = "toy/i") -> list[str]:
    return [f"{prefix}-{k:05d}" for k in range(n)]


def vectors(n: int, seed: int = 0) -> np.ndarray:
    """(n, DIM) float32 in twenty clusters, of very different lengths."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, DIM))[rng.integers(20, size=n)]
    return ((centres + 0.5 * rng.normal(size=(n, DIM))) * rng.uniform(0.1, 50, size=(n, 1))).astype(np.float32)


def put(store: Store, ids: list[str], values: np.ndarray, **options) -> dict[str, np.ndarray]:
    """Store the vectors in commits of a thousand; returns them by id."""
    rows = [
        {"image_id": i, "model_id": "m", "recipe_id": "r", "input_sha256": "x", "crc32": zlib.crc32(v.tobytes()),
         "vector": v}
        for i, v in zip(ids, values, strict=True)
    ]  # fmt: skip
    for start in range(0, len(rows), 1000):
        store.put(TABLE, rows[start : start + 1000], **options)
    return dict(zip(ids, values, strict=True))


def slowly(held: dict[str, np.ndarray], vector: np.ndarray, k: int, only: set[str] | None = None) -> list[tuple]:
    """Every cosine from its definition, one at a time, sorted."""
    found = []
    for image_id, v in held.items():
        if only is None or image_id in only:
            v, q = v.astype(np.float64), vector.astype(np.float64)
            found.append((image_id, sum(v * q) / np.sqrt(sum(v * v)) / np.sqrt(sum(q * q))))
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]


def ids_of(hits) -> list[str]:
    return [i for i, _ in hits]


def recall(store: Store, held: dict[str, np.ndarray], k: int = 10, only: set[str] | None = None) -> float:
    """Share of the true k nearest that are found, over twenty questions; the cosines given must be exact."""
    x = np.stack(list(held.values())).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = np.array(list(held))
    allowed = np.array([only is None or i in only for i in ids])
    hit = 0
    for vector in vectors(20, seed=7).astype(np.float64):
        cosines = np.where(allowed, x @ vector / np.linalg.norm(vector), -np.inf)
        found = dict(store.nearest(TABLE.name, vector, k, only))
        assert len(found) == k
        assert found == pytest.approx({i: cosines[np.flatnonzero(ids == i)[0]] for i in found}, abs=1e-9)
        hit += len(found.keys() & set(ids[np.argsort(-cosines)[:k]]))
    return hit / (20 * k)


@pytest.fixture
def low(monkeypatch) -> None:
    """An index from a thousand rows on."""
    monkeypatch.setattr(nearest, "INDEX_ROWS", 1000)


def index_of(store: Store):
    """Rows in the index and outside it; None without one."""
    handle = store.lancedb.open_table(TABLE.name)
    found = [i for i in handle.list_indices() if i.columns == ["vector"]]
    if not found:
        return None
    stats = handle.index_stats(found[0].name)
    return stats.num_indexed_rows, stats.num_unindexed_rows


def test_a_scan_is_the_plain_comparison(store, monkeypatch):
    monkeypatch.setattr(nearest, "ROWS", 64)  # several batches, the last one short
    held = put(store, image_ids(300), vectors(300))
    for vector in vectors(5, seed=3):
        for k, only in ((1, None), (10, None), (10, set(image_ids(90))), (400, None), (7, {"toy/i-00003", "none"})):
            found, wanted = store.nearest(TABLE.name, vector, k, only), slowly(held, vector, k, only)
            assert ids_of(found) == ids_of(wanted)
            assert [c for _, c in found] == pytest.approx([c for _, c in wanted], abs=1e-12)
    assert index_of(store) is None


def test_equal_vectors_come_by_id_in_whatever_order_they_were_stored(store, monkeypatch):
    monkeypatch.setattr(nearest, "ROWS", 4)
    order = np.random.default_rng(0).permutation(20)
    ids = [image_ids(20)[k] for k in order]
    put(store, ids, np.tile(vectors(1), (20, 1)))
    found = store.nearest(TABLE.name, vectors(1)[0], 5)
    assert found == [(i, 1.0) for i in image_ids(5)]


def test_a_vector_without_length_is_like_nothing(store):
    put(store, image_ids(3), np.array([[0.0] * DIM, [1.0] * DIM, [-1.0] * DIM], np.float32))
    found = store.nearest(TABLE.name, np.full(DIM, 2.0), 3)
    assert found == [("toy/i-00001", 1.0), ("toy/i-00000", 0.0), ("toy/i-00002", -1.0)]


def test_a_table_below_the_limit_gets_no_index(store, low):
    put(store, image_ids(999), vectors(999))
    version = store.version(TABLE.name)
    store.nearest(TABLE.name, vectors(1)[0], 3)
    assert (store.version(TABLE.name), index_of(store)) == (version, None)


def test_an_index_is_made_once_and_finds_what_is_there(store, low):
    held = put(store, image_ids(4000), vectors(4000))
    assert recall(store, held) >= 0.95
    assert index_of(store) == (4000, 0)
    version = store.version(TABLE.name)
    assert recall(store, held, k=25) >= 0.95
    assert store.version(TABLE.name) == version


def test_rows_outside_the_index_are_found_and_join_it_when_they_are_many(store, low):
    held = put(store, image_ids(2000), vectors(2000))
    store.nearest(TABLE.name, vectors(1)[0], 1)
    held |= put(store, image_ids(200, "toy/j"), vectors(200, seed=1))
    assert recall(store, held) >= 0.95
    assert index_of(store) == (2000, 200)
    held |= put(store, image_ids(50, "toy/k"), vectors(50, seed=2))
    assert recall(store, held) >= 0.95
    assert index_of(store) == (2250, 0)


def test_changed_and_deleted_rows_are_seen_through_the_index(store, low):
    held = put(store, image_ids(2000), vectors(2000))
    store.nearest(TABLE.name, vectors(1)[0], 1)
    changed = put(store, image_ids(100), vectors(100, seed=5), replace=True)
    for image_id, vector in list(changed.items())[::10]:
        assert store.nearest(TABLE.name, vector, 1) == [(image_id, 1.0)]
    held |= changed
    store.delete(TABLE.name, "image_id < 'toy/i-00050'")
    held = {i: v for i, v in held.items() if i >= "toy/i-00050"}
    assert recall(store, held) >= 0.95


@pytest.mark.parametrize(("excluded", "indexed"), [(10_000, True), (99, False)])
def test_few_images_are_left_out_by_a_filter_and_many_by_a_scan(store, low, monkeypatch, excluded, indexed):
    monkeypatch.setattr(nearest, "EXCLUDED", excluded)
    held = put(store, image_ids(1500), vectors(1500))
    only = set(image_ids(1500)[100:]) | {"toy/of another table"}
    assert recall(store, held, only=only) >= (0.95 if indexed else 1.0)
    assert (index_of(store) is not None) == indexed


def test_an_image_left_out_with_a_quote_in_its_name(store, low):
    put(store, [*image_ids(1100), "toy/o'clock"], np.vstack([vectors(1100), vectors(1, seed=9)]))
    asked = vectors(1, seed=9)[0]
    assert store.nearest(TABLE.name, asked, 1)[0][0] == "toy/o'clock"
    assert store.nearest(TABLE.name, asked, 1, set(image_ids(1100)))[0][0] != "toy/o'clock"


def test_compaction_and_verify_go_on_working(store, low):
    held = put(store, image_ids(2000), vectors(2000))
    store.nearest(TABLE.name, vectors(1)[0], 1)
    held |= put(store, image_ids(150, "toy/j"), vectors(150, seed=1))
    store.compact()
    assert recall(store, held) >= 0.95
    assert verify(store).damaged == []
    assert store.count(TABLE.name) == 2150


@pytest.mark.parametrize(
    "reason", ["IO error: Permission denied (os error 13)", "lance error: Retryable commit conflict for version 3"]
)
def test_without_an_index_the_answer_is_the_same(store, low, monkeypatch, reason):
    def refuse(*_, **__):
        raise RuntimeError(reason)

    monkeypatch.setattr(lancedb.table.LanceTable, "create_index", refuse)
    held = put(store, image_ids(1200), vectors(1200))
    assert recall(store, held) == 1.0
    assert index_of(store) is None


def test_another_fault_of_the_index_is_not_hidden(store, low, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such thing as a cosine")

    monkeypatch.setattr(lancedb.table.LanceTable, "create_index", fail)
    put(store, image_ids(1000), vectors(1000))
    with pytest.raises(RuntimeError, match="no such thing"):
        store.nearest(TABLE.name, vectors(1)[0], 1)
