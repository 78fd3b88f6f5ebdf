"""No SQL writes, reads a file, or leaves the store's tables; all reading of them is allowed."""

from __future__ import annotations

import duckdb
import pytest

from busistore import readonly, sql
from busistore.errors import BusistoreError

SECRET = "a line that no query may return"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.csv"
    path.write_text(f"said\n{SECRET}\n")
    return path


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
def test_sql_that_writes_or_reaches_out_is_refused(filled, con, secret, tmp_path, text):
    before = {name: filled.version(name) for name in filled.names()}
    folder = sorted(tmp_path.iterdir())
    with pytest.raises(BusistoreError) as raised:
        sql.ask(con, text.format(secret, tmp_path))
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == folder
    assert {name: filled.version(name) for name in filled.names()} == before
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
def test_the_engine_alone_refuses_files_and_settings(filled, secret, tmp_path, text):
    con = sql.connect(filled)
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
        ("VALUES (1), (2)", 2), ("SHOW TABLES", None), ("DESCRIBE failures", 5), ("SUMMARIZE failures", 5),
        ("SELECT table_name FROM information_schema.tables", None), ("SELECT 1 -- that is all ;", 1),
        ("SELECT 'DROP TABLE images; COPY' AS words;", 1), ("SELECT [x * 2 FOR x IN [1, 2]]", 1),
        ("SELECT i.label, count(*) FROM images i, LATERAL (SELECT 1) GROUP BY ALL", 3),
    ],
)  # fmt: skip
def test_reading_in_all_its_forms_is_allowed(con, text, n_rows):
    answer = sql.ask(con, text)
    assert answer.height == n_rows if n_rows is not None else answer.height > 0


@pytest.mark.parametrize(
    "where",
    [
        "", "true) UNION (SELECT 'x'", "true); SELECT ('x'", "1 FROM images WHERE (true",
        "true) FROM images WHERE (true", "true LIMIT 1", "lable = 'benign'",
        "label", "true) ORDER BY (1", "count(*) > 1", "true -- )\n) LIMIT (1",
        "label IN (SELECT said FROM read_csv('x.csv'))", "getenv('HOME') = 'x'", "true, false", "$label = 'x'",
    ],
)  # fmt: skip
def test_image_ids_take_one_condition_and_nothing_else(filled, where):
    with pytest.raises(BusistoreError) as raised:
        sql.image_ids(filled, where)
    assert "\n" not in str(raised.value)
