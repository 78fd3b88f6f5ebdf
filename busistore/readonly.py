"""Whether an SQL text is one SELECT that only reads views, found from the parsed statement and not from its words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from busistore.errors import BusistoreError, UnknownName

TABLE_FUNCTIONS = {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
NODES = {"CTE_NODE", "RECURSIVE_CTE_NODE", "SELECT_NODE", "SET_OPERATION_NODE"}
FORBIDDEN_FUNCTIONS = {"current_setting", "getenv", "nextval", "pg_sleep", "setval", "sleep_ms", "write_log"}
SPECIAL_TABLES = {'"tables"', "__show_tables_expanded"}  # how the parser names SHOW TABLES and SHOW ALL TABLES
CATALOGS = {"information_schema"}


def check(con, text: str, views: Iterable[str]) -> set[str]:
    """Names of the statement's parameters, if it may be run.

    Raises:
        BusistoreError: not exactly one SELECT, or one that writes, or that reaches for anything but `views`.
        duckdb.Error: the text is not SQL.
    """
    statements = _statements(con, text)
    if len(statements) != 1:
        raise BusistoreError(f"one SQL statement at a time, not {len(statements) or 'none'}")
    kind = statements[0].type.name
    if kind != "SELECT":
        raise BusistoreError(f"only SELECT is allowed, not {kind}; the store is changed by its own commands")
    known = {name.lower(): name for name in views}
    parts = list(_parts(_parsed(con, text)))
    local = {key["key"].lower() for part in parts for key in part.get("cte_map", {}).get("map", ())}
    for part in parts:
        _check_part(part, known, local)
    return set(statements[0].named_parameters)


def check_expression(con, text: str) -> None:
    """Raise a BusistoreError unless the text is one boolean condition and nothing around it."""
    tree = _parsed(con, f"SELECT (\n{text}\n)")
    node = tree["statements"][0]["node"] if len(tree.get("statements", ())) == 1 else {}
    plain = node.get("type") == "SELECT_NODE" and len(node["select_list"]) == 1 and not node["modifiers"]
    if not plain or node["from_table"]["type"] != "EMPTY" or node["where_clause"]:
        raise BusistoreError(f"'{_short(text)}' is not one condition, such as \"label = 'benign' AND n_lesions > 1\"")


def _statements(con, text: str) -> list:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BusistoreError("the SQL is not valid UTF-8 text") from None
    return con.extract_statements(text)


def _parsed(con, text: str) -> dict[str, Any]:
    """The statement's syntax tree, as DuckDB serialises it."""
    (tree,) = con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0]
    try:
        tree = json.loads(tree)
    except RecursionError:
        raise BusistoreError("the SQL is nested too deeply") from None
    if tree["error"]:
        raise BusistoreError(f"SQL: {_short(tree['error_message'])}")
    return tree


def _short(text: str) -> str:
    """The text as one line of bounded length."""
    return " ".join(text.split())[:400]


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a syntax tree."""
    left = [tree]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield part
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


def _check_part(part: dict[str, Any], known: dict[str, str], local: set[str]) -> None:
    kind = str(part.get("type", ""))
    if kind.endswith("_NODE") and kind not in NODES:
        raise BusistoreError(f"only SELECT is allowed, not {kind.removesuffix('_NODE').removesuffix('_QUERY')}")
    if kind == "TABLE_FUNCTION":
        _check_table_function(part["function"]["function_name"])
    elif part.get("class") == "FUNCTION" and part["function_name"].lower() in FORBIDDEN_FUNCTIONS:
        raise BusistoreError(f"the function '{_short(part['function_name'])}' is not allowed: SQL only reads the store")
    if part.get("table_name"):
        _check_table(part, known, local)


def _check_table_function(name: str) -> None:
    if name.lower() not in TABLE_FUNCTIONS:
        allowed = ", ".join(sorted(TABLE_FUNCTIONS))
        raise BusistoreError(f"'{_short(name)}' is not allowed in FROM: SQL reads the store's tables and {allowed}")


def _check_table(part: dict[str, Any], known: dict[str, str], local: set[str]) -> None:
    name, schema = part["table_name"], part.get("schema_name", "").lower()
    if schema in CATALOGS or (name in SPECIAL_TABLES and part["type"] == "SHOW_REF"):
        return
    if schema in ("", "main", "temp") and (name.lower() in known or name.lower() in local):
        return
    raise UnknownName("table", _short(f"{schema}.{name}" if schema else name), known.values())
