"""Queries over images, groups and stages: their values on filled.py, worked by hand."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest
from PIL import Image

from busistore import schema, sql
from busistore.ids import sha256
from busistore.jobs.encode import encode
from busistore.jobs.evaluate import evaluate
from busistore.jobs.ingest import ingest
from busistore.jobs.split import split
from tests.fakes import busi_folder, speckle
from tests.filled import (
    GROUPING,
    IMAGE_IDS,
    MODEL_IDS,
    NOW,
    RECIPE_ID,
    SPLIT,
    filled_store,
    inputs_sha256,
    put_runs,
)


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


def _changed(store, table: schema.Table, image_id: str, **changes) -> None:
    (row,) = sql.run(store, f"SELECT * FROM {table.name} WHERE image_id = $image", {"image": image_id}).to_dicts()
    store.put(table, [{**row, **changes, "png": b""}], replace=True)


def _stale(store, *stages: str) -> list[tuple]:
    rows = sql.run(store, "stale").filter(pl.col("stage").is_in(stages))
    return rows.select("stage", "image_id", "model", "now").rows()


def test_runs_are_stale_whose_vectors_are_not_those_they_learned_from(tmp_path):
    """beta lacks the vector of a val image, alpha none; then an image changes, and an image outside of the split."""
    store = filled_store(tmp_path / "store")
    rows = sql.run(store, "stale").select("stage", "model", "run_id", "made_from", "now").rows()
    beta = [f"run-beta-{shots}-{seed}" for shots in (1, 2) for seed in range(3)]
    assert rows == [("run", "beta", run_id, inputs_sha256(), None) for run_id in beta]
    image = sql.run(store, "SELECT * FROM images LIMIT 1").to_dicts()[0]
    store.put(schema.IMAGES, [{**image, "image_id": "toy/benign-0005", "png": b""}])
    assert len(_stale(store, "run")) == 6
    _changed(store, schema.IMAGES, "toy/benign-0001", pixels_sha256="0" * 64)
    assert len(_stale(store, "run")) == 12


def test_a_run_on_other_pixels_is_stale_whatever_was_encoded_since(tmp_path):
    """Image, preprocessed image and vector are replaced together: all agree, and only the runs are of before."""
    store = filled_store(tmp_path / "store")
    _changed(store, schema.IMAGES, "toy/benign-0001", pixels_sha256="0" * 64)
    _changed(store, schema.PREPROCESSED, "toy/benign-0001", source_sha256="0" * 64, pixels_sha256="1" * 64)
    name = schema.embeddings_name(MODEL_IDS["alpha"], RECIPE_ID)
    rows = [r for r in store.read(name).to_pylist() if r["image_id"] == "toy/benign-0001"]
    store.put(schema.embeddings_table(MODEL_IDS["alpha"], RECIPE_ID, 4),
              [{**rows[0], "input_sha256": "1" * 64}], replace=True)  # fmt: skip
    stale = sql.run(store, "stale").filter(pl.col("model") == "alpha")
    pictures = {r["image_id"]: r["input_sha256"] for r in store.read(name).to_pylist()}
    now = sha256("\n".join(f"{i} {pictures[i]}" for i in sorted(pictures)).encode())
    assert set(stale.select("stage", "made_from", "now").rows()) == {("run", inputs_sha256(), now)}
    again = [("alpha", 1, seed, "WWW") for seed in range(3)]
    put_runs(store, again, prefix="anew", inputs_sha256=now, finished_at=NOW - timedelta(days=1))
    left = sql.run(store, "stale").filter(pl.col("model") == "alpha")["run_id"].to_list()
    assert left == [f"run-alpha-2-{seed}" for seed in range(3)]
    board = sql.run(store, "leaderboard", {"metric": "accuracy", "shots": 1}).filter(pl.col("model") == "alpha")
    assert board.select("n_seeds", "mean").rows() == [(3, 0.0)]


def test_stale_and_the_results_follow_a_replaced_image_and_its_return(store, tmp_path, fake_model):
    """Runs are stale from the replacement to the second grid; when the first picture is back, the first runs count."""
    folder = busi_folder(tmp_path / "busi", 8)
    job = {"methods": ["prototype"], "model_names": [fake_model], "shots": [1], "seeds": range(2), "dataset": "busi"}
    ingest(store, "busi", folder)
    encode(store, fake_model)
    split(store, "busi")
    evaluate(store, **job)
    first = _counted(store)
    assert _stale(store, "run") == []
    text = "SELECT image_id FROM splits WHERE part = 'train' AND label = 'normal' ORDER BY 1"
    picture = folder / "normal" / f"normal ({int(sql.run(store, text)['image_id'][0][-4:])}).png"
    kept = picture.read_bytes()
    Image.fromarray(speckle(12345)).save(picture)
    ingest(store, "busi", folder, replace=True)
    assert len(_stale(store, "run")) == 2
    encode(store, fake_model)
    assert len(_stale(store, "run")) == 2
    evaluate(store, **job)
    assert _stale(store, "preprocessed", "embedding", "run") == []
    assert len(_counted(store)) == 2
    assert not _counted(store) & first
    picture.write_bytes(kept)
    ingest(store, "busi", folder, replace=True)
    encode(store, fake_model)
    assert evaluate(store, **job).skipped == 2
    assert _counted(store) == first
    assert _stale(store, "run") == []


def _counted(store) -> set[str]:
    return set(sql.run(store, "SELECT run_id FROM results")["run_id"])


def test_a_grouping_is_stale_where_an_image_is_newer(tmp_path):
    store = filled_store(tmp_path / "store")
    _changed(store, schema.IMAGES, "toy/benign-0001", ingested_at=NOW + timedelta(days=1))
    image = sql.run(store, "SELECT * FROM images WHERE image_id = 'toy/benign-0002'").to_dicts()[0]
    store.put(schema.IMAGES, [{**image, "image_id": "toy/benign-0005", "png": b""}])
    rows = sql.run(store, "stale").filter(pl.col("stage") == "grouping").select("image_id", "grouping").rows()
    assert rows == [("toy/benign-0001", GROUPING), ("toy/benign-0005", GROUPING)]


def test_stale_rows_are_those_whose_pixels_changed(tmp_path):
    store = filled_store(tmp_path / "store")
    _changed(store, schema.IMAGES, "toy/benign-0001", pixels_sha256="0" * 64)
    stages = ("preprocessed", "embedding")
    assert _stale(store, *stages) == [("preprocessed", "toy/benign-0001", None, "0" * 64)]
    _changed(store, schema.PREPROCESSED, "toy/benign-0002", pixels_sha256="1" * 64)
    assert _stale(store, "embedding") == [("embedding", "toy/benign-0002", "alpha", "1" * 64),
                                          ("embedding", "toy/benign-0002", "beta", "1" * 64)]  # fmt: skip
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


def test_audit_counts_sets_that_only_a_patient_joins(tmp_path):
    """Two images of one patient beside the two sets of like frames: no similarity is known of them."""
    store = filled_store(tmp_path / "store")
    rows = [r for r in store.read("groups").to_pylist() if r["image_id"] in ("toy/benign-0003", "toy/benign-0004")]
    store.put(schema.GROUPS, [r | {"group_id": "G2", "size": 2} for r in rows], replace=True)
    row = sql.run(store, "audit").filter(pl.col("finding") == "near-duplicates")
    assert row.select("n", "n_sets").rows() == [(7, 3)]
    assert "benign-0003 ~ benign-0004 (one patient)" in row["examples"].item().split("; ")
