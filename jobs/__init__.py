"""Jobs: plan the keys, drop those stored, compute the rest in workers, write one commit per shard from the driver.

The destination table is the only state of a job. It may be stopped anywhere and started again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from busistore.errors import BusistoreError
from busistore.schema import FAILURES, Table
from busistore.store import Store, quote

SHARD_ROWS = 512  # fewer, larger commits keep the manifests small
SHARD_S = 20.0  # but a slow encoder loses no more than this when it is killed

Advance = Callable[[int], None]
Track = Callable[[str, int], contextlib.AbstractContextManager[Advance]]


@contextlib.contextmanager
def silent(description: str, total: int) -> Iterator[Advance]:
    """Progress that is shown to nobody; the command line passes one that draws a bar."""
    yield lambda n: None


@dataclass
class Report:
    """What a job did: of `planned` rows, how many were there already, written, and refused with a reason.

    `source` is the folder that an ingest reads, '' for other jobs; `notes` are what the user should be told.
    """

    job: str
    planned: int = 0
    skipped: int = 0
    written: int = 0
    failed: int = 0
    seconds: float = 0.0
    source: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The one line every heavy verb ends with."""
        return (
            f"{self.job}: {self.planned} planned, {self.skipped} skipped, {self.written} written, "
            f"{self.failed} failed, {self.seconds:.1f} s"
        )


class Shards:
    """Rows on their way into the store. `tables` is the order of writing: the last one marks the work as done.

    A shard is written when it is large or old enough, and at the end; an interrupt writes what is whole first.
    """

    def __init__(self, store: Store, report: Report, tables: tuple[Table, ...], n_rows: int = SHARD_ROWS):
        self.store, self.report, self.n_rows = store, report, n_rows
        self.table_of = {t.name: t for t in tables}
        self._clear()

    def _clear(self) -> None:
        self.rows: dict[str, list[Any]] = {name: [] for name in self.table_of}
        self.done: list[str] = []
        self.refused: dict[str, str] = {}
        self.since = time.monotonic()

    def add(self, key: str, rows: dict[str, list[dict[str, Any]]]) -> None:
        """The rows of one finished key, by table name."""
        for table, some in rows.items():
            self.rows[table] += some
        self.done.append(key)

    def batches(self) -> dict[str, Any]:
        """The rows of the shard by table name, in the order of writing."""
        return self.rows

    def checkpoint(self) -> None:
        """Write the shard if it is due. Called between units of work, so that no unit is ever cut by a commit."""
        if len(self.done) >= self.n_rows or time.monotonic() - self.since > SHARD_S:
            self.flush()

    def refuse(self, key: str, reason: str) -> None:
        """A key that cannot be computed, and why; it is planned again next time."""
        self.refused[key] = reason
        self.report.failed += 1
        self.report.failures[key] = reason

    def flush(self) -> None:
        """Write the shard. Keys that failed before and are done now leave the failures."""
        for name, rows in self.batches().items():
            self.store.put(self.table_of[name], rows, replace=True)
        self.report.written += len(self.done)
        settle(self.store, self.report.job, self.done, self.refused, self.report.source)
        self._clear()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.flush()


def settle(store: Store, job: str, done: list[str], refused: dict[str, str], source: str = "") -> None:
    """Record the failures of a job, with the folder they are from, and forget those of the keys that are done."""
    now = datetime.now(UTC)
    rows = [{"job": job, "key": k, "source": source, "reason": r, "failed_at": now} for k, r in refused.items()]
    if rows:
        store.put(FAILURES, rows, replace=True)
    if done and (known := failed_keys(store, job)):
        keys = ", ".join(quote(k) for k in done if k in known)
        if keys:
            store.delete("failures", f"job = {quote(job)} AND key IN ({keys})")


def failed_keys(store: Store, job: str) -> set[str]:
    """The keys that a job could not compute the last time it tried."""
    return set(store.read("failures", ["key"], f"job = {quote(job)}")["key"].to_pylist())


def chosen(ids: list[str], only: set[str] | None, store: Store, job: str, only_errors: bool) -> list[str]:
    """Of `ids`, those that `--where` left and, with `--only-errors`, those that failed before."""
    wanted = set(ids) if only is None else set(ids) & only
    if only_errors:
        wanted &= failed_keys(store, job)
    return [i for i in ids if i in wanted]


def consume(results: Iterator[tuple[str, Any]], shards: Shards, advance: Advance) -> None:
    """Take computed results into shards; a BusistoreError among them is a failure of its key alone."""
    for key, result in results:
        if isinstance(result, BusistoreError):
            shards.refuse(key, str(result))
        else:
            shards.add(key, result)
        shards.checkpoint()
        advance(1)


def columns(table: pa.Table) -> Iterator[tuple]:
    """Rows of an Arrow table as plain tuples."""
    return zip(*(table[name].to_pylist() for name in table.column_names))
