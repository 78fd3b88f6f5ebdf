"""Questions that the report asks, each kept with its SQL, its parameters, its answer and the data's version."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from busistore import queries, sql
from busistore.store import Store

_DERIVED = {
    "current_groups": ("groups",), "current_runs": ("runs",), "results": ("runs", "metrics"),
    "image_facts": ("images", "masks", "groups"),
    "current_segmentations": ("segmentations", "splits", "images", "masks"),
    "mask_results": ("segmentations", "splits", "metrics", "images", "masks"),
}  # fmt: skip  # views that are no tables


@dataclass(frozen=True)
class Source:
    """One answered question: `frame` is the answer, `versions` the tables it read at which version.

    `written` is False for an answer that is too large to stand beside the page; its question does.
    """

    name: str
    query: str
    text: str
    parameters: dict[str, Any]
    frame: pl.DataFrame = field(repr=False)
    versions: dict[str, int] = field(default_factory=dict)
    written: bool = True

    @property
    def csv(self) -> str:
        """File name of the answer beside the page."""
        return f"{self.name}.csv"

    @property
    def command(self) -> str:
        """What a user types to ask again."""
        given = [f"-p {shlex.quote(f'{name}={value}')}" for name, value in self.parameters.items()]
        return " ".join(["busistore query", self.query, *given])

    def rows(self) -> list[dict[str, Any]]:
        """The answer, one dict per row."""
        return self.frame.to_dicts()

    def write(self, folder: Path) -> None:
        """Write the answer as CSV, if small enough, beside it the SQL with its bound values as JSON in a comment."""
        if self.written:
            flat_csv(self.frame, folder / self.csv)
        bound = f"\n-- bound:\n-- {json.dumps(self.parameters, sort_keys=True)}\n"
        (folder / f"{self.name}.sql").write_text(self.text.rstrip() + "\n" + bound, encoding="utf-8")


def flat_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write a frame as CSV; a list becomes one text with its values between spaces, since CSV has no lists."""
    nested = [name for name, kind in frame.schema.items() if isinstance(kind, (pl.List, pl.Array))]
    plain = [pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in nested]
    frame.with_columns(plain).write_csv(path)


class Sources:
    """Asks the store by query name, all at one state of it; every answer is kept under the name of its figure.

    A context manager: the answers outlive it, further questions do not.
    """

    def __init__(self, store: Store):
        self.store = store
        self.asked: dict[str, Source] = {}
        self.versions = {table: store.version(table) for table in store.names()}
        self._connection = sql.connect(store)

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, name: str, query: str, written: bool = True, **parameters: Any) -> Source:
        """Run the stored query; `name` is what the answer's files are called. Parameters of None mean all."""
        text = queries.load(query).text
        bound = {key: value for key, value in parameters.items() if value is not None}
        frame = sql.ask(self._connection, query, bound)
        self.asked[name] = Source(name, query, text, bound, frame, self._read_by(text), written)
        return self.asked[name]

    def look(self, query: str, **parameters: Any) -> pl.DataFrame:
        """The answer to a stored query that is too large to keep; `cite` names the question."""
        return sql.ask(self._connection, query, {key: value for key, value in parameters.items() if value is not None})

    def cite(self, name: str, query: str, **parameters: Any) -> Source:
        """Keep a question under a name, as one that was asked in parts, without its answer."""
        text = queries.load(query).text
        self.asked[name] = Source(name, query, text, parameters, pl.DataFrame(), self._read_by(text), written=False)
        return self.asked[name]

    def _read_by(self, text: str) -> dict[str, int]:
        """Version of each stored table that the SQL names."""
        words = set(re.findall(r"\w+", re.sub(r"--[^\n]*|'[^']*'", "", text)))
        words |= {table for view in words & set(_DERIVED) for table in _DERIVED[view]}
        return {table: v for table, v in self.versions.items() if table in words or table.split(".")[0] in words}
