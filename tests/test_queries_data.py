"""Queries over images, groups and stages: their values on filled.py, worked by hand."""

from __future__ import annotations

import polars as pl
import pytest

from busistore import schema, sql
from tests.filled import IMAGE_IDS, SPLIT, filled_store


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    return sql.connect(filled_store(tmp_path_factory.mktemp("filled") / "store"))


def _rows(con, name: str, columns: str, **parameters) -> list[tuple]:
    return sql.ask(con, name, parameters).select(columns.split()).rows()


def test_coverage(con):
    rows = _rows(con, "coverage", "dataset recipe model n_images n_preprocessed n_encoded share n_stale")
    assert rows == [("toy", "pad224", "alpha", 12, 12, 12, 1.0, 0), ("toy", "pad224", "beta", 12, 12, 11, 11 / 12, 0)]


def test_coverage_names_data_that_nothing_was_done_with(tmp_path):
    store = filled_store(tmp_path / "store")
    image = sql.run(store, "SELECT * FROM images LIMIT 1").to_dicts()[0]
    store.put(schema.IMAGES, [{**image, "image_id": "new/benign-0001", "dataset": "new", "png": b""}])
    row = sql.run(store, "coverage", {"dataset": "new"})
    assert row.select("recipe", "model", "n_images", "n_preprocessed", "n_encoded").rows() == [(None, None, 1, 0, 0)]


def test_stale_rows_are_those_whose_pixels_changed(tmp_path):
    store = filled_store(tmp_path / "store")
    image = sql.run(store, "SELECT * FROM images WHERE image_id = 'toy/benign-0001'").to_dicts()[0]
    store.put(schema.IMAGES, [{**image, "pixels_sha256": "0" * 64, "png": b""}], replace=True)
    assert sql.run(store, "stale").select("stage", "image_id", "now").rows() == [
        ("preprocessed", "toy/benign-0001", "0" * 64)
    ]
    prepared = sql.run(store, "SELECT * FROM preprocessed WHERE image_id = 'toy/benign-0002'").to_dicts()[0]
    store.put(schema.PREPROCESSED, [{**prepared, "pixels_sha256": "1" * 64, "png": b""}], replace=True)
    found = sql.run(store, "stale").filter(pl.col("stage") == "embedding")
    assert found.select("image_id", "model", "now").rows() == [("toy/benign-0002", "alpha", "1" * 64),
                                                               ("toy/benign-0002", "beta", "1" * 64)]  # fmt: skip
    assert sql.run(store, "coverage")["n_stale"].to_list() == [1, 1]


def test_near_duplicates(con):
    assert _rows(con, "near_duplicates", "image_id other_id similarity group_id group_size crosses_classes") == [
        ("toy/benign-0001", "toy/malignant-0001", 1.0, "G0", 3, True),
        ("toy/normal-0001", "toy/normal-0002", 1.0, "G1", 2, False),
        ("toy/benign-0001", "toy/benign-0002", 0.93, "G0", 3, False),
    ]


def test_label_conflicts(con):
    both = "toy/benign-0001, toy/malignant-0001"
    assert _rows(con, "label_conflicts", "kind n_images labels image_ids") == [
        ("identical file", 2, "benign, malignant", both),
        ("near-duplicates", 3, "benign, malignant", "toy/benign-0001, toy/benign-0002, toy/malignant-0001"),
    ]


def test_identical_files(con):
    assert _rows(con, "identical_files", "same n_images labels image_ids") == [
        ("file", 2, "benign, malignant", "toy/benign-0001, toy/malignant-0001"),
        ("pixels", 2, "normal", "toy/normal-0001, toy/normal-0002"),
    ]


def test_image_sizes(con):
    rows = _rows(con, "image_sizes", "width_px height_px mode label n_images example")
    assert rows[0] == (48, 44, "L", "normal", 2, "toy/normal-0001")
    assert (56, 44, "RGB", "benign", 1, "toy/benign-0003") in rows
    assert sum(row[4] for row in rows) == len(IMAGE_IDS)


def test_split_parts(con):
    rows = _rows(con, "split_parts", "part label n_images n_groups share_of_class", split_id=SPLIT)
    assert rows[0] == ("train", "benign", 2, 1, 0.5)
    assert rows[1] == ("train", "malignant", 2, 2, 0.5)
    assert rows[3] == ("val", "benign", 1, 1, 0.25)
    assert [row[0] for row in rows] == ["train"] * 3 + ["val"] * 3 + ["test"] * 3


def test_failures(con):
    assert _rows(con, "failures", "key reason", job="ingest")[1] == ("toy/benign (9).png", "truncated file")
    assert _rows(con, "failures", "key", job="encode") == []


def test_audit(con):
    found = {(r["finding"], r["value"]): (r["n"], r["n_sets"], r["examples"]) for r in sql.ask(con, "audit").to_dicts()}
    frame = "benign-0001 ~ benign-0002 ~ malignant-0001"
    assert found == {
        ("images", ""): (12, None, ""),
        ("images of a class", "benign"): (4, None, ""),
        ("images of a class", "malignant"): (4, None, ""),
        ("images of a class", "normal"): (4, None, ""),
        ("image mode", "L"): (11, None, "benign-0001; benign-0002; benign-0004"),
        ("image mode", "RGB"): (1, None, "benign-0003"),
        ("image width", "48 to 60 px, median 54"): (12, None, ""),
        ("image height", "40 to 44 px, median 42"): (12, None, ""),
        ("image without a mask", ""): (0, None, ""),
        ("several masks", "benign"): (1, None, "benign-0002"),
        ("several lesions", "benign"): (1, None, "benign-0002"),
        ("lesion touches the edge", "malignant"): (1, None, "malignant-0003"),
        ("empty mask", "benign"): (1, None, "benign-0003"),
        ("empty mask", "normal"): (4, None, "normal-0001; normal-0002; normal-0003"),
        ("identical files", ""): (2, 1, "benign-0001 = malignant-0001"),
        ("identical pixels, other file", ""): (2, 1, "normal-0001 = normal-0002"),
        ("near-duplicates", "frames-000000000001"): (
            5, 2, f"{frame} (1.000); normal-0001 ~ normal-0002 (1.000)"),
        ("near-duplicates across classes", "frames-000000000001"): (3, 1, frame),
        ("mask of another size", ""): (1, None, "benign (8).png"),
        ("not taken for another reason", "truncated file"): (1, None, "benign (9).png"),
    }  # fmt: skip


def test_audit_tells_a_search_that_found_nothing_from_none(tmp_path):
    store = filled_store(tmp_path / "store")
    image = sql.run(store, "SELECT * FROM images LIMIT 1").to_dicts()[0]
    store.put(schema.IMAGES, [{**image, "image_id": "new/benign-0001", "dataset": "new", "png": b""}])
    new = {"image_id": "new/benign-0001", "grouping": "frames-1", "dataset": "new", "group_id": "G", "size": 1}
    asked = "near-duplicates"
    before = sql.run(store, "audit", {"dataset": "new"}).filter(pl.col("finding") == asked)
    assert before.select("value", "n").rows() == [("not searched yet", None)]
    store.put(schema.GROUPS, [new])
    after = sql.run(store, "audit", {"dataset": "new"}).filter(pl.col("finding") == asked)
    assert after.select("value", "n").rows() == [("", 0)]
