"""Read-only SQL over a store: DuckDB in memory, views of every table, and no way out of it.

Two locks hold user SQL. The engine's: no access to files or network, no extensions, no spilling, no change of
settings. And `readonly.check`: one SELECT that names only views of the store and harmless table functions.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import duckdb
import polars as pl

from busistore import queries, readonly
from busistore.errors import BusistoreError, UnknownName
from busistore.store import Store
from busistore.views import create_views, quoted, view_names

LOCK = (
    "SET TimeZone = 'UTC'", "SET enable_progress_bar = false", "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false", "SET enable_external_access = false",
    "SET python_enable_replacements = false", "SET memory_limit = '2GB'", "SET max_temp_directory_size = '0KB'",
    "SET lock_configuration = true",
)  # fmt: skip


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """A locked connection whose views show the store as it is now; later writes are not seen.

    Text from a user goes through `ask`, which refuses what the engine's lock alone would let pass.
    """
    con = duckdb.connect()
    create_views(con, store)
    for setting in LOCK:
        con.execute(setting)
    return con


def run(
    store: Store, name_or_sql: str, parameters: Mapping[str, Any] | None = None, timeout_s: float | None = None
) -> pl.DataFrame:
    """The answer to a named query or to one SELECT statement, over the store as it is now.

    Args:
        parameters: values for the query's `$names`; text is cast by the query where it compares numbers.
        timeout_s: interrupt after so many seconds; no limit by default.

    Raises:
        BusistoreError: the text is not one harmless SELECT, DuckDB refuses it, or the time is up.
    """
    with contextlib.closing(connect(store)) as con:
        return ask(con, name_or_sql, parameters, timeout_s)


def ask(
    con: duckdb.DuckDBPyConnection, name_or_sql: str, parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
) -> pl.DataFrame:  # fmt: skip
    """As `run`, on a connection that is open: many questions to one state of the store."""
    text, values = _question(con, name_or_sql, parameters)
    with _one_line_errors():
        return _answer(con, text, values, timeout_s)


def image_ids(store: Store, where: str, timeout_s: float | None = None) -> list[str]:
    """Sorted ids of the images that satisfy a boolean SQL expression over the view `image_facts`.

    >>> image_ids(store, "label = 'benign' AND n_lesions > 1")  # doctest: +SKIP
    ['busi/benign-0004']
    """
    with contextlib.closing(connect(store)) as con:
        with _one_line_errors():
            readonly.check_expression(con, where)
        found = ask(con, f"SELECT DISTINCT image_id FROM image_facts WHERE (\n{where}\n) ORDER BY 1", None, timeout_s)
    return found["image_id"].to_list()


def tables(store: Store) -> pl.DataFrame:
    """One row per view: its name, its number of rows, and its columns with their types."""
    with contextlib.closing(connect(store)) as con:
        return pl.DataFrame([_described(con, name) for name in view_names(con)], orient="row")


def _described(con: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    columns = con.execute(f"DESCRIBE {quoted(name)}").fetchall()
    rows = con.execute(f"SELECT count(*) FROM {quoted(name)}").fetchall()
    return {"table": name, "rows": rows[0][0], "columns": ", ".join(f"{c[0]} {c[1]}" for c in columns)}


def _question(con, name_or_sql: str, parameters: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The SQL and its bound values, once found harmless. One word is the name of a query."""
    if re.fullmatch(r"[\w-]+", name_or_sql.strip()):
        query = queries.load(name_or_sql.strip())
        text, values = query.text, query.bind(parameters)
    else:
        text, values = name_or_sql, dict(parameters or {})
    with _one_line_errors():
        wanted = readonly.check(con, text, view_names(con))
    for name in values.keys() - wanted:
        raise UnknownName("parameter called", name, wanted)
    for name in sorted(wanted - values.keys()):
        raise BusistoreError(f"the SQL names ${name} but no value is given; add -p {name}=VALUE")
    return text, values


def _answer(con: duckdb.DuckDBPyConnection, text: str, values: dict, timeout_s: float | None) -> pl.DataFrame:
    """Execute in a thread and look up every 0.1 s, since DuckDB at work heeds neither Ctrl-C nor the clock."""
    last = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: con.sql(text, params=values).pl())
        try:
            while not answer.done() and time.monotonic() < last:
                wait([answer], timeout=min(0.1, last - time.monotonic()))
            if answer.done():
                return answer.result()
            raise BusistoreError(f"the query took longer than {timeout_s} s; narrow it or allow more time")
        finally:
            while not answer.done():  # again and again: an interrupt that comes before the query begins is lost
                con.interrupt()
                wait([answer], timeout=0.1)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Say what DuckDB says, without the copy of the statement that follows it."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise BusistoreError("the query needs more than 2 GB of memory; select fewer rows or columns") from None
    except pl.exceptions.PolarsError:
        raise BusistoreError("a column of the answer has a type that has no form here; cast it: x::VARCHAR") from None
    except duckdb.Error as error:
        said = re.split(r"\n+LINE \d+:", str(error))[0]
        raise BusistoreError("SQL: " + " ".join(said.split())[:400]) from None
