"""SQL sees every table and no file, changes nothing, and says its errors in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import duckdb
import polars as pl
import pytest

from busistore import readonly, sql, views
from busistore.errors import BusistoreError, UnknownName
from busistore.schema import GROUPS, TABLES, embeddings_name
from busistore.store import Store
from tests.filled import IMAGE_IDS, MODEL_IDS, RECIPE_ID, filled_store, put_runs

ALPHA = embeddings_name(MODEL_IDS["alpha"], RECIPE_ID)
SECRET = "a line that no query may return"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return filled_store(tmp_path_factory.mktemp("filled") / "store")


@pytest.fixture(scope="module")
def con(store):
    return sql.connect(store)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Store:
    return Store.create(tmp_path_factory.mktemp("empty") / "store")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.csv"
    path.write_text(f"said\n{SECRET}\n")
    return path


def _visible(name: str) -> list[str]:
    return [f.name for f in TABLES[name].schema if f.name != "png"]


@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_a_view_without_its_files(con, store, name):
    shown = sql.ask(con, f"SELECT * FROM {name}")
    assert shown.columns == _visible(name)
    assert shown.height == store.count(name)


@pytest.mark.parametrize("name", TABLES)
def test_each_table_of_an_empty_store_is_an_empty_view_with_its_columns(empty, name):
    assert sql.run(empty, f"SELECT * FROM {name}").columns == _visible(name)


def test_embeddings_of_an_empty_store_have_types(empty):
    shown = sql.run(empty, "SELECT * FROM embeddings")
    assert shown.height == 0
    assert shown.schema["vector"] == pl.List(pl.Float32)
    assert shown.schema["model"] == pl.String


def test_embeddings_join_all_models_and_stand_under_their_own_names(con, store):
    counts = sql.ask(con, "SELECT model, recipe, count(*), min(len(vector)) FROM embeddings GROUP BY ALL ORDER BY 1")
    assert counts.rows() == [("alpha", "pad224", 12, 4), ("beta", "pad224", 11, 6)]
    vectors = sql.ask(con, f'SELECT image_id, vector FROM "{ALPHA}" ORDER BY 1')
    stored = store.read(ALPHA, ["image_id", "vector"]).sort_by("image_id")
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


def test_large_tables_are_scanned_in_place_and_look_the_same(store, con, monkeypatch):
    monkeypatch.setattr(views, "SNAPSHOT_ROWS", 0)
    scanned = sql.connect(store)
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


def test_tables_lists_views_rows_and_columns(store):
    listed = {row["table"]: row for row in sql.tables(store).to_dicts()}
    assert set(TABLES) | {ALPHA, "embeddings", "results", "image_facts"} <= set(listed)
    assert listed["images"]["rows"] == 12
    assert listed["failures"]["columns"] == (
        "job VARCHAR, key VARCHAR, reason VARCHAR, failed_at TIMESTAMP WITH TIME ZONE"
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
    "text",
    [
        "", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW images", "DELETE FROM images",
        "INSERT INTO images (image_id) VALUES ('x')", "UPDATE runs SET shots = 3", "DROP VIEW images",
        "CREATE TABLE t AS SELECT 1", "CREATE MACRO f(x) AS x", "ALTER TABLE images RENAME TO i", "VACUUM",
        "CHECKPOINT", "SET threads = 1", "RESET threads", "PRAGMA version", "USE memory", "BEGIN",
        "CALL pragma_version()",
        "INSTALL httpfs", "LOAD httpfs", "ATTACH '{0}' AS other", "EXPORT DATABASE '{1}'", "IMPORT DATABASE '{1}'",
        "COPY images TO '{1}/x.csv'", "COPY (SELECT 1) TO '{1}/x.parquet'", "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1", "PREPARE p AS SELECT 1", "EXECUTE p", "PIVOT images ON label",
        "WITH t AS (COPY images TO '{1}/x.csv') SELECT 1", "WITH t AS (DELETE FROM images RETURNING *) SELECT 1",
        "WITH t AS (INSERT INTO images (image_id) VALUES ('x') RETURNING *) FROM t",
        "SELECT * FROM '{0}'", "FROM \"{0}\"", "DESCRIBE '{0}'", "SUMMARIZE '{0}'", "SELECT (SELECT said FROM '{0}')",
        "SELECT * FROM read_csv('{0}')", "SELECT * FROM read_text('{0}')", "SELECT * FROM read_blob('{0}')",
        "SELECT * FROM glob('{1}/*')", "SELECT * FROM sniff_csv('{0}')", "SELECT * FROM read_duckdb('{0}')",
        "SELECT * FROM images WHERE label IN (SELECT said FROM read_csv('{0}'))",
        "WITH x AS (FROM read_csv('{0}')) SELECT * FROM x", 'WITH "{0}" AS (SELECT 1) SELECT * FROM \'{0}s\'',
        "SELECT * FROM 'https://example.com/x.csv'", "SELECT * FROM read_parquet('s3://bucket/x')",
        "SELECT * FROM sqlite_scan('{0}', 'x')", "SELECT * FROM query('SELECT 1')",
        "SELECT * FROM query_table('images')", 'SELECT * FROM "a\nb"', "SELECT * FROM \"a\nb\"()",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))", "SELECT getenv('HOME')",
        "SELECT write_log('x')", "SELECT sleep_ms(1)", "SELECT nextval('s')", "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()", "SELECT * FROM enable_logging(storage = 'file')", "SELECT * FROM store",
        "SELECT * FROM ITEMS.x", "SELECT png FROM images", "SELECT png FROM masks",
        "SELECT * FROM images AT (VERSION => 1)",
    ],
)  # fmt: skip
def test_sql_that_writes_or_reaches_out_is_refused(store, con, secret, tmp_path, text):
    before = {name: store.version(name) for name in store.names()}
    folder = sorted(tmp_path.iterdir())
    with pytest.raises(BusistoreError) as raised:
        sql.ask(con, text.format(secret, tmp_path))
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == folder
    assert {name: store.version(name) for name in store.names()} == before
    assert sql.ask(con, "SELECT count(*) FROM images").item() == 12


def _functions(kinds: str) -> list[str]:
    names = f"SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ({kinds}) ORDER BY 1"
    return [name for (name,) in duckdb.connect().execute(names).fetchall()]


def test_every_table_function_but_the_listed_ones_is_refused(con):
    found = set(_functions("'table', 'table_macro'"))
    assert "read_csv" in found
    for name in found - readonly.TABLE_FUNCTIONS:
        with pytest.raises(BusistoreError, match="not allowed in FROM"):
            sql.ask(con, f'SELECT * FROM "{name}"()')


def test_no_scalar_function_reads_a_file(con, secret):
    for name in _functions("'scalar', 'macro', 'aggregate'"):
        try:
            said = sql.ask(con, f"SELECT \"{name}\"('{secret}')::VARCHAR AS said")
        except BusistoreError:
            continue
        assert SECRET not in str(said.to_dicts()), name


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('{0}')", "SELECT * FROM '{0}'", "COPY (SELECT 1 AS x) TO '{1}/x.csv'",
        "ATTACH '{1}/x.db'", "INSTALL httpfs", "LOAD httpfs", "SET enable_external_access = true",
        "RESET lock_configuration", "SELECT * FROM glob('{1}/*')", "WITH t AS (COPY images TO '{1}/x.csv') SELECT 1",
        "SELECT * FROM enable_logging(storage = 'file')", "EXPORT DATABASE '{1}/x'", "SELECT * FROM secret",
    ],
)  # fmt: skip
def test_the_engine_alone_refuses_files_and_settings(store, secret, tmp_path, text):
    con = sql.connect(store)
    with pytest.raises(duckdb.Error):
        con.execute(text.format(secret, tmp_path)).fetchall()
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize(
    ("text", "n_rows"),
    [
        ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) FROM r", 3),
        ("SELECT * FROM (PIVOT images ON label IN ('benign') USING count(*) GROUP BY dataset)", 1),
        ("FROM Images SELECT image_id UNION ALL SELECT image_id FROM main.masks", 24),
        ("SELECT unnest(probabilities) FROM predictions", 108),
        ("SELECT * FROM range(3), generate_series(1, 2)", 6),
        ("VALUES (1), (2)", 2), ("SHOW TABLES", None), ("DESCRIBE failures", 4), ("SUMMARIZE failures", 4),
        ("SELECT table_name FROM information_schema.tables", None), ("SELECT 1 -- that is all ;", 1),
        ("SELECT 'DROP TABLE images; COPY' AS words;", 1), ("SELECT [x * 2 FOR x IN [1, 2]]", 1),
        ("SELECT i.label, count(*) FROM images i, LATERAL (SELECT 1) GROUP BY ALL", 3),
    ],
)  # fmt: skip
def test_reading_in_all_its_forms_is_allowed(con, text, n_rows):
    answer = sql.ask(con, text)
    assert answer.height == n_rows if n_rows is not None else answer.height > 0


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
def test_image_ids_are_those_that_satisfy_a_condition(store, where, expected):
    assert sql.image_ids(store, where) == expected


def test_an_image_of_two_groupings_is_named_once(tmp_path):
    store = filled_store(tmp_path / "store")
    store.put(GROUPS, [{"image_id": IMAGE_IDS[0], "grouping": "frames-000000000002", "dataset": "toy", "size": 1}])
    assert sql.image_ids(store, "label = 'benign'") == IMAGE_IDS[:4]


@pytest.mark.parametrize(
    "where",
    [
        "", "true) UNION (SELECT 'x'", "true); SELECT ('x'", "1 FROM images WHERE (true",
        "true) FROM images WHERE (true", "true LIMIT 1", "lable = 'benign'",
        "label", "true) ORDER BY (1", "count(*) > 1", "true -- )\n) LIMIT (1",
        "label IN (SELECT said FROM read_csv('x.csv'))", "getenv('HOME') = 'x'", "true, false", "$label = 'x'",
    ],
)  # fmt: skip
def test_image_ids_take_one_condition_and_nothing_else(store, where):
    with pytest.raises(BusistoreError) as raised:
        sql.image_ids(store, where)
    assert "\n" not in str(raised.value)


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


def test_a_query_beyond_the_memory_limit_is_refused(store, monkeypatch):
    monkeypatch.setattr(sql, "LOCK", [re.sub("2GB", "30MB", setting) for setting in sql.LOCK])
    with pytest.raises(BusistoreError, match="memory"):
        sql.run(store, "SELECT * FROM range(50000000) ORDER BY hash(range)")


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_asking_loads_no_learning_package(store):
    ask = f"sql.run(Store.open({str(store.path)!r}), 'coverage')"
    loaded = _modules_after(f"from busistore import sql; from busistore.store import Store; {ask}")
    assert not loaded & {"torch", "lancedb", "sklearn", "scipy", "cv2", "pandas", "matplotlib"}


def test_the_list_of_queries_loads_no_package_of_size():
    loaded = _modules_after("from busistore import queries; queries.load(queries.names()[0])")
    assert not loaded & {"duckdb", "polars", "pyarrow", "lance", "numpy"}
