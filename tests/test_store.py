"""Rows are written whole, once and checked; what is damaged or not a store is named."""

import json
import multiprocessing
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busistore.errors import StoreError
from busistore.schema import IMAGES, MASKS, METRICS, SCHEMA_VERSION, TABLES, embeddings_table
from busistore.store import MANIFEST, Store, quote

VECTORS = embeddings_table("m-1", "r-1", 3)


def image(name: str, data: bytes = b"png", dataset: str = "busi") -> dict:
    return {"image_id": name, "dataset": dataset, "png": data, "png_crc32": zlib.crc32(data)}


def test_put_writes_each_key_once(store):
    assert store.put(IMAGES, [image("a"), image("b")]) == 2
    assert store.put(IMAGES, [image("b", dataset="other"), image("c")]) == 1
    assert store.keys(IMAGES) == {("a",), ("b",), ("c",)}
    assert store.read("images", ["dataset"], "image_id = 'b'").to_pylist() == [{"dataset": "busi"}]


def test_put_replaces_when_asked(store):
    store.put(IMAGES, [image("a", b"one"), image("b")])
    assert store.put(IMAGES, [image("a", b"two")], replace=True) == 1
    assert store.files(IMAGES)["a"] == b"two"
    assert store.count("images") == 2


def test_empty_put_commits_nothing(store):
    store.put(IMAGES, [image("a")])
    before = store.version("images")
    assert store.put(IMAGES, []) == 0
    assert store.version("images") == before


def test_composite_keys(store):
    rows = [{"run_id": "r", "subject": "test", "metric": "f1", "class": c, "value": 0.5} for c in ("benign", "normal")]
    assert store.put(METRICS, rows) == 2
    assert store.put(METRICS, [*rows, dict(rows[0], run_id="s")]) == 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image_id": "a", "vector": [1.0, 2.0]}], "expected 3"),
        ([{"image_id": "a", "vector": [1.0, 2.0, 3.0]}, {"image_id": "b", "vector": [1.0, float("nan"), 0.0]}], "'b'"),
        ([{"image_id": "a", "vector": [1.0, float("inf"), 3.0]}], "not finite"),
        ([{"image_id": None, "vector": [1.0, 2.0, 3.0]}], "null values"),
        ([{"image_id": "a", "vector": [1.0, 2.0, 3.0]}] * 2, "repeat a key"),
        ([{"image_id": "a", "vector": ["x", "y", "z"]}], "do not fit"),
    ],
)
def test_unsound_rows_are_refused_whole(store, rows, words):
    store.put(VECTORS, [{"image_id": "there", "vector": [1.0, 2.0, 3.0]}])
    before = store.version(VECTORS.name)
    with pytest.raises(StoreError, match=words):
        store.put(VECTORS, rows)
    assert store.version(VECTORS.name) == before


def test_a_metric_may_be_null_but_not_infinite(store):
    row = {"run_id": "r", "subject": "test", "metric": "f1", "class": "", "value": None}
    store.put(METRICS, [row])
    with pytest.raises(StoreError, match="value"):
        store.put(METRICS, [dict(row, run_id="s", value=float("inf"))])


named_files = st.dictionaries(st.text(min_size=1, max_size=8), st.binary(max_size=300), min_size=1)


@given(named_files.map(lambda files: list(files.items())))
def test_files_come_back_as_written(tmp_path_factory, some):
    store = Store.create(tmp_path_factory.mktemp("s") / "store")
    store.put(IMAGES, [image(name, data) for name, data in some])
    ids = [name for name, _ in reversed(some)]
    assert list(store.files(IMAGES).stream(ids, batch=2)) == list(reversed(some))


def test_masks_of_one_source(store):
    rows = [dict(image("a", d), source_id=s) for s, d in (("truth", b"t"), ("sam", b"s"))]
    store.put(MASKS, [{k: r[k] for k in ("image_id", "source_id", "png", "png_crc32")} for r in rows])
    assert store.files(MASKS, "source_id = 'sam'")["a"] == b"s"


def test_a_damaged_file_is_named(store):
    store.put(IMAGES, [dict(image("a"), png_crc32=1)])
    with pytest.raises(StoreError, match=r"'images' file of 'a' is damaged"):
        store.files(IMAGES)["a"]


def test_an_unknown_file_is_named(store):
    store.put(IMAGES, [image("a")])
    with pytest.raises(StoreError, match="no row for 'b'"):
        list(store.files(IMAGES).stream(["a", "b"]))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_a_table_reads_empty_before_its_first_row(store, table):
    rows = store.read(table)
    assert rows.num_rows == 0
    assert "png" not in rows.column_names
    assert rows.column_names[0] == TABLES[table].schema.names[0]


def test_quotes_are_doubled(store):
    name = "it's (a) \"name\""
    store.put(IMAGES, [image(name), image("other")])
    assert store.count("images", f"image_id = {quote(name)}") == 1


def test_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "thesis.docx").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        Store.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": "x"}'])
def test_a_damaged_manifest(store, text):
    (store.path / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match="cannot be read"):
        Store.open(store.path)


def test_a_newer_store_is_refused(store):
    (store.path / MANIFEST).write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(StoreError, match="upgrade busistore"):
        Store.open(store.path)


def test_compact_keeps_rows_and_files(store):
    for k in range(5):
        store.put(IMAGES, [image(f"a{k}", bytes([k]))])
    version = store.version("images")
    store.compact()
    assert store.version("images") >= version
    assert [store.files(IMAGES)[f"a{k}"] for k in range(5)] == [bytes([k]) for k in range(5)]
    assert store.dataset("images", version).count_rows() == 5  # the version before still opens


def test_delete(store):
    store.put(IMAGES, [image("a"), image("b")])
    store.delete("images", "image_id = 'a'")
    assert store.keys(IMAGES) == {("b",)}


def _write(path: Path) -> None:
    rows = [{"image_id": f"i{k}", "vector": np.full(3, k, np.float32)} for k in range(40)]
    for k in range(0, 40, 8):
        Store.open(path).put(VECTORS, rows[k : k + 8], replace=True)


def test_two_writers_of_the_same_keys_leave_each_once(store):
    store.put(VECTORS, [{"image_id": "first", "vector": [0.0, 0.0, 0.0]}])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(store.path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0]
    ids = store.read(VECTORS.name, ["image_id"])["image_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 41


def test_arrow_tables_are_taken_too(store):
    rows = pa.table({"image_id": ["a"], "vector": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3))})
    with pytest.raises(StoreError, match="do not fit"):
        store.put(VECTORS, rows)  # a column is missing: say so, rather than write nulls
