"""The pieces of a page: sections that hold figures, tables and pictures, and how numbers are written in them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from busistore.report.sources import Source
from busistore.report.style import Panel

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


@dataclass
class Table:
    """A table of text cells; the first column heads its row. `number` is given when the page is put together."""

    name: str
    title: str
    head: list[str]
    rows: list[list[str]]
    sources: list[Source] = field(default_factory=list)
    note: str = ""
    number: int = 0
    kind: str = "table"

    def wordy(self, column: int) -> bool:
        """Whether a column holds words, which stand to the left, rather than numbers."""
        cells = [row[column] for row in self.rows if row[column] != NONE]
        return any(c[:1].isalpha() for c in cells)

    def write(self, path: Path) -> None:
        """Write the cells as CSV."""
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([self.head, *self.rows])


@dataclass
class Figure:
    """One or several panels under one caption, `columns` of them beside each other where there is room."""

    name: str
    title: str
    caption: str
    panels: list[Panel]
    sources: list[Source]
    columns: int = 2
    points: Table | None = None
    number: int = 0
    kind: str = "figure"


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, with what stands beneath it."""

    uri: str
    alt: str
    heading: str
    lines: tuple[str, ...] = ()


@dataclass
class Gallery:
    """Pictures under one caption; counted among the figures. `legend` has colours, as CSS writes them, with words; with
    it, or where `is_large`, fewer pictures stand side by side."""

    name: str
    title: str
    caption: str
    pictures: list[Picture]
    sources: list[Source]
    legend: list[tuple[str, str]] = field(default_factory=list)
    is_large: bool = False
    number: int = 0
    kind: str = "gallery"


@dataclass
class Section:
    """A heading with words and items; `missing` says what is not there yet and `command` what makes it."""

    name: str
    title: str
    words: list[str] = field(default_factory=list)
    items: list[Table | Figure | Gallery] = field(default_factory=list)
    missing: str = ""
    command: str = ""


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash for None.

    >>> decimal(0.8764), decimal(None)
    ('0.876', '–')
    """
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """A whole number with thousands apart by a narrow space; a dash for None."""
    return NONE if value is None else f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def share(part: float | None, whole: float | None) -> str:
    """`part` and its percentage of `whole`.

    >>> share(3, 12), share(0, 0)
    ('3 (25%)', '0')
    """
    if part is None or not whole:
        return count(part)
    return f"{count(part)} ({100 * part / whole:.0f}%)"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best.

    >>> duration(0.034), duration(75), duration(7300)
    ('0.03 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def plural(n: int, thing: str, things: str | None = None) -> str:
    """A count with its noun: `plural(1, "image")` is '1 image'."""
    return f"{count(n)} {thing if n == 1 else things or thing + 's'}"


def listed(names: Iterable[str]) -> str:
    """Names as a list to read.

    >>> listed(["a"]), listed("abc")
    ('a', 'a, b and c')
    """
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def cell(value: Any) -> str:
    """Any value of an answer as the text of a table cell."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return decimal(value) if not value.is_integer() else count(value)
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    return ", ".join(map(cell, value)) if isinstance(value, (list, tuple)) else str(value)


def heading(column: str) -> str:
    """A column's name as a table heading: `n_test` is 'test, n', units stand in brackets.

    >>> heading("mean_seconds"), heading("n_runs"), heading("width_px")
    ('Mean seconds', 'Runs', 'Width (px)')
    """
    words = column.removeprefix("n_").split("_")
    unit = f" ({words.pop()})" if len(words) > 1 and words[-1] in ("px", "mm", "s", "mb", "gb") else ""
    text = " ".join(words)
    return text[:1].upper() + text[1:] + unit


def plain_table(source: Source, title: str, limit: int = 40, note: str = "") -> Table:
    """An answer as it is: its first `limit` rows on the page and all of them in its CSV.

    A text that all rows share is said once, in the note.
    """
    frame = source.frame
    shared = [s.name for s in frame if frame.height > 2 and s.dtype == pl.String and s.n_unique() == 1 and s[0]]
    rows = [[cell(v) for v in row] for row in frame.drop(shared).head(limit).rows()]
    if shared:
        note += " All rows: " + ", ".join(f"{heading(c).lower()} {frame[c][0]}" for c in shared) + "."
    if frame.height > limit:
        note += f" The first {limit} of {frame.height} rows; the CSV holds all."
    return Table(source.name, title, [heading(c) for c in frame.drop(shared).columns], rows, [source], note.strip())
