"""SQL sees every table and no file, changes nothing, and says its errors in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from busistore import sql, views
from busistore.errors import BusistoreError, UnknownName
from busistore.schema import GROUPS, TABLES, embeddings_name
from busistore.store import Store
from tests.filled import GROUPING, IMAGE_IDS, MODEL_IDS, RECIPE_ID, filled_store, put_runs

ALPHA = embeddings_name(MODEL_IDS["alpha"], RECIPE_ID)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Store:
    return Store.create(tmp_path_factory.mktemp("empty") / "store")


def _visible(name: str) -> list[str]:
    return [f.name for f in TABLES[name].schema if f.name != "png"]


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_a_view_without_its_files(con, filled, name):
    shown = sql.ask(con, f"SELECT * FROM {name}")
    assert shown.columns == _visible(name)
    assert shown.height == filled.count(name)


@pytest.mark.parametrize("name", TABLES)
def test_each_table_of_an_empty_store_is_an_empty_view_with_its_columns(empty, name):
    assert sql.run(empty, f"SELECT * FROM {name}").columns == _visible(name)


def test_embeddings_of_an_empty_store_have_types(empty):
    shown = sql.run(empty, "SELECT * FROM embeddings")
    assert shown.height == 0
    assert shown.schema["vector"] == pl.List(pl.Float32)
    assert shown.schema["model"] == pl.String


def test_embeddings_join_all_models_and_stand_under_their_own_names(con, filled):
    counts = sql.ask(con, "SELECT model, recipe, count(*), min(len(vector)) FROM embeddings GROUP BY ALL ORDER BY 1")
    assert counts.rows() == [("alpha", "pad224", 12, 4), ("beta", "pad224", 11, 6)]
    vectors = sql.ask(con, f'SELECT image_id, vector FROM "{ALPHA}" ORDER BY 1')
    stored = filled.read(ALPHA, ["image_id", "vector"]).sort_by("image_id")
    assert vectors["vector"].to_list() == stored["vector"].to_pylist()
    union = sql.ask(con, "SELECT vector FROM embeddings WHERE model = 'alpha' ORDER BY image_id")
    assert union["vector"].to_list() == stored["vector"].to_pylist()


def test_cosine_similarity_works_on_a_models_own_view(con):
    found = sql.ask(con, f"""
        SELECT array_cosine_similarity(a.vector, b.vector) AS s FROM "{ALPHA}" a, "{ALPHA}" b
        WHERE a.image_id = 'toy/benign-0001' AND b.image_id = 'toy/malignant-0001'""")
    assert found["s"].item() == pytest.approx(0.0)  # (1, 0, 0, 0) and (0, 1, 0, 1/4)


def test_results_hold_done_runs_only(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS")])
    put_runs(store, [("alpha", 1, 1, "WWW")], status="failed")
    accuracy = sql.run(store, "SELECT run_id, value FROM results WHERE metric = 'accuracy'")
    assert accuracy.rows() == [("run-alpha-1-0", 1.0)]


def test_large_tables_are_scanned_in_place_and_look_the_same(filled, con, monkeypatch):
    monkeypatch.setattr(views, "SNAPSHOT_ROWS", 0)
    scanned = sql.connect(filled)
    assert views.view_names(scanned) == views.view_names(con)
    for name in views.view_names(con):
        text = f'SELECT * FROM "{name}" ORDER BY ALL'
        assert sql.ask(scanned, text).equals(sql.ask(con, text)), name
    with pytest.raises(UnknownName, match="no table"):
        sql.ask(scanned, f'SELECT png FROM "{views.HIDDEN}images"')


@pytest.mark.parametrize("snapshot_rows", [0, views.SNAPSHOT_ROWS])
def test_a_connection_shows_one_state_of_the_store(tmp_path, monkeypatch, snapshot_rows):
    monkeypatch.setattr(views, "SNAPSHOT_ROWS", snapshot_rows)
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS")])
    before = sql.connect(store)
    put_runs(store, [("alpha", 1, 1, "SSS")])
    assert sql.ask(before, "SELECT count(*) FROM runs").item() == 1
    assert sql.run(store, "SELECT count(*) FROM runs").item() == 2


def test_tables_lists_views_rows_and_columns(filled):
    listed = {row["table"]: row for row in sql.tables(filled).to_dicts()}
    assert set(TABLES) | {ALPHA, "embeddings", "results", "image_facts"} <= set(listed)
    assert listed["images"]["rows"] == 12
    assert listed["failures"]["columns"] == (
        "job VARCHAR, key VARCHAR, source VARCHAR, reason VARCHAR, failed_at TIMESTAMP WITH TIME ZONE"
    )


def test_times_are_in_utc(con):
    assert sql.ask(con, "SELECT hour(finished_at) FROM runs LIMIT 1").item() == 3


def test_parameters_are_bound_and_never_part_of_the_text(con):
    text = "SELECT count(*) FROM images WHERE label = $label"
    assert sql.ask(con, text, {"label": "benign"}).item() == 4
    assert sql.ask(con, text, {"label": "benign' OR 'a' = 'a"}).item() == 0
    assert sql.ask(con, "SELECT count(*) FROM runs WHERE shots = $shots", {"shots": "2"}).item() == 6
    assert sql.ask(con, "SELECT $a::INTEGER + 1", {"a": 1}).item() == 2


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        ("SELECT $label", {}, r"no value is given; add -p label=VALUE"),
        ("SELECT $label", {"lable": "x"}, r"no parameter called 'lable'; did you mean 'label'\?"),
        ("SELECT 1", {"a": "x"}, r"no parameter called 'a' \(known: none yet\)"),
        ("SELECT 1 WHERE 1 = CAST($a AS INTEGER)", {"a": "x"}, "Could not convert string 'x' to INT32"),
        ("SELEC 1 FROM images", {}, "syntax error at or near"),
        ("SELECT lable FROM images", {}, r'"lable" not found in FROM clause! Candidate bindings: "label"'),
        ("SELECT * FROM imges", {}, "no table 'imges'; did you mean 'images'"),
        ("SELECT * FROM main.imges", {}, "no table 'main.imges'"),
        ("SELECT nosuch(1)", {}, "nosuch does not exist"),
        ("SELECT 'a'::INTEGER", {}, "Could not convert"),
        ("SELECT error('said')", {}, "said"),
        ("SELECT INTERVAL 1 DAY", {}, "cast it"),
        ("SELECT '\udcff'", {}, "not valid UTF-8"),
        ("leaderbord", {}, "no query 'leaderbord'; did you mean 'leaderboard'"),
        ("leaderboard", {"metrc": "x"}, "did you mean 'metric'"),
        ("paired-difference", {"a": "alpha"}, "needs -p b=VALUE"),
        ("SELECT " + "(" * 20_000 + "1" + ")" * 20_000, {}, "SQL|nested"),
    ],
)
def test_faults_are_one_line(con, text, given, said):
    with pytest.raises(BusistoreError, match=said) as raised:
        sql.ask(con, text, given)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("label = 'benign'", IMAGE_IDS[:4]),
        ("n_lesions > 1", ["toy/benign-0002"]),
        ("is_empty AND label <> 'normal' -- a comment", ["toy/benign-0003"]),
        ("spans_classes", ["toy/benign-0001", "toy/benign-0002", "toy/malignant-0001"]),
        ("image_id IN (SELECT image_id FROM splits WHERE part = 'test')", [i for i in IMAGE_IDS if i.endswith("4")]),
        ("true", IMAGE_IDS), ("false", []),
    ],
)  # fmt: skip
def test_image_ids_are_those_that_satisfy_a_condition(filled, where, expected):
    assert sql.image_ids(filled, where) == expected


def _grouping(name: str, year: int | None, dataset: str = "toy") -> dict:
    at = None if year is None else datetime(year, 1, 1, tzinfo=UTC)
    return {"image_id": IMAGE_IDS[0], "grouping": name, "dataset": dataset, "group_id": name, "grouped_at": at}


@pytest.mark.parametrize(
    ("stored", "current"),
    [
        ([("a", 2026), ("b", 2025), ("c", None)], "a"),
        ([("a", 2026), ("b", 2026)], "b"),
        ([("a", None), ("b", None)], "b"),
    ],
)
def test_the_newest_grouping_of_a_data_set_is_the_current_one(tmp_path, stored, current):
    store = Store.create(tmp_path / "store")
    store.put(GROUPS, [_grouping(*one) for one in stored] + [_grouping("z", 2030, "other")])
    shown = sql.run(store, "SELECT dataset, grouping FROM current_groups ORDER BY dataset")
    assert shown.rows() == [("other", "z"), ("toy", current)]


def test_an_image_of_many_groupings_and_mask_sources_is_one_row_of_facts(tmp_path):
    store = filled_store(tmp_path / "store")
    store.put(GROUPS, [_grouping("old", 2020), _grouping("older", 2019)])
    masks = sql.run(store, "SELECT * FROM masks").to_dicts()
    store.put(TABLES["masks"], [{**m, "source_id": "medsam", "n_lesions": 9, "png": b""} for m in masks])
    facts = sql.run(store, "SELECT image_id, grouping, n_lesions FROM image_facts ORDER BY 1")
    assert facts["image_id"].to_list() == IMAGE_IDS
    assert set(facts["grouping"]) == {GROUPING}
    assert max(facts["n_lesions"]) == 2


def test_a_run_made_anew_takes_the_place_of_the_old(tmp_path):
    store = Store.create(tmp_path / "store")
    put_runs(store, [("alpha", 1, 0, "SSS"), ("alpha", 1, 1, "WWW")])
    (run,) = sql.run(store, "SELECT * FROM runs WHERE seed = 0").to_dicts()
    later = {**run, "run_id": "a-later-one", "finished_at": run["finished_at"] + timedelta(days=1)}
    undated = {**run, "run_id": "z-undated", "finished_at": None}
    failed = {**later, "run_id": "failed", "status": "failed", "finished_at": run["finished_at"] + timedelta(days=2)}
    tuned = {**run, "run_id": "tuned", "parameters": '{"k":2}'}
    store.put(TABLES["runs"], [later, undated, failed, tuned])
    shown = sql.run(store, "SELECT run_id FROM current_runs ORDER BY 1")["run_id"].to_list()
    assert shown == ["a-later-one", "run-alpha-1-1", "tuned"]
    accuracy = sql.run(store, "SELECT run_id, value FROM results WHERE metric = 'accuracy'")
    assert accuracy.rows() == [("run-alpha-1-1", 0.0)]


ENDLESS = "SELECT count(*) FROM range(100000000) a, range(1000000) b WHERE a.range % 7 = b.range % 3"


def test_a_query_is_interrupted_when_its_time_is_up(con):
    start = time.monotonic()
    with pytest.raises(BusistoreError, match=r"took longer than 0\.2 s"):
        sql.ask(con, ENDLESS, timeout_s=0.2)
    assert time.monotonic() - start < 5
    assert sql.ask(con, "SELECT 1 AS one", timeout_s=60).item() == 1


def test_ctrl_c_interrupts_a_query(con):
    start = time.monotonic()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sql.ask(con, ENDLESS)
    timer.join()
    assert time.monotonic() - start < 5
    assert sql.ask(con, "SELECT 1").item() == 1


def test_a_query_beyond_the_memory_limit_is_refused(filled, monkeypatch):
    monkeypatch.setattr(sql, "LOCK", [re.sub("2GB", "30MB", setting) for setting in sql.LOCK])
    with pytest.raises(BusistoreError, match="memory"):
        sql.run(filled, "SELECT * FROM range(50000000) ORDER BY hash(range)")


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_asking_loads_no_learning_package(filled):
    ask = f"sql.run(Store.open({str(filled.path)!r}), 'coverage')"
    loaded = _modules_after(f"from busistore import sql; from busistore.store import Store; {ask}")
    assert not loaded & {"torch", "lancedb", "sklearn", "scipy", "cv2", "pandas", "matplotlib"}


def test_the_list_of_queries_loads_no_package_of_size():
    loaded = _modules_after("from busistore import queries; queries.load(queries.names()[0])")
    assert not loaded & {"duckdb", "polars", "pyarrow", "lance", "numpy"}
