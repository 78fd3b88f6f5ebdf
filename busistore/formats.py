"""A frame as text or file: an aligned table, CSV, JSON, Markdown or Parquet."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from busistore.errors import BadInput, BusistoreError, lookup

NARROWEST, WIDEST = 80, 200
SHORTEST_COLUMN = 16  # text is not cut below this many characters


def write(frame, fmt: str = "table", out_path: str | Path | None = None) -> None:
    """Write a polars DataFrame in a format of FORMATS, to a file or to standard output.

    Raises:
        BusistoreError: no such format, Parquet without a file, or the file cannot be written.
    """
    render = lookup("format", fmt, FORMATS)
    if render is None and out_path is None:
        raise BusistoreError("parquet is a binary file, not text for the screen; name one with -o FILE.parquet")
    if out_path is None:
        sys.stdout.write(render(frame))
        return
    try:
        if render is None:
            frame.write_parquet(out_path)
        else:
            Path(out_path).write_text(render(frame), encoding="utf-8", newline="\n")
    except (OSError, *_polars_errors()) as error:
        raise BadInput(f"'{out_path}' cannot be written ({getattr(error, 'strerror', None) or error})") from None


def _polars_errors() -> tuple[type[Exception], ...]:
    """Polars wraps what a disk says in an error of its own."""
    from polars.exceptions import PolarsError

    return (PolarsError,)


def table(frame, width: int | None = None) -> str:
    """Aligned columns that fit the terminal (80 to 200 characters): numbers right, long text cut with an ellipsis.

    Where that is not enough the last columns are left out, and a line below says which.
    """
    width = width or min(max(shutil.get_terminal_size((120, 24)).columns, NARROWEST), WIDEST)
    columns = {name: cells(frame[name]) for name in frame.columns}
    right = {name for name in columns if frame[name].dtype.is_numeric()}
    heads = {name: _head(name, column) for name, column in columns.items()}
    sizes = {n: max([*map(len, heads[n]), *map(len, column)]) for n, column in columns.items()}
    least = {n: max(SHORTEST_COLUMN, *map(len, heads[n])) for n in columns if n not in right}
    sizes = _fitted(sizes, least, width)
    tall = max((len(heads[n]) for n in sizes), default=0)
    lines = [[([""] * tall + heads[n])[k - tall] for n in sizes] for k in range(tall)]
    lines += [["-" * size for size in sizes.values()], *zip(*(columns[n] for n in sizes))]
    text = "".join("  ".join(_fit(c, sizes[n], n in right) for n, c in zip(sizes, x)).rstrip() + "\n" for x in lines)
    left_out = ", ".join(name for name in columns if name not in sizes)
    return text + (f"(too narrow for: {left_out})\n" if left_out else "")


def markdown(frame) -> str:
    """A pipe table, numbers to the right, nothing cut."""
    columns = [cells(frame[name]) for name in frame.columns]
    rule = ["---:" if frame[name].dtype.is_numeric() else "---" for name in frame.columns]
    rows = [frame.columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in zip(*columns))]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_csv(frame) -> str:
    """Comma-separated values at full precision, with a header; lists and structures as JSON."""
    import polars as pl

    flat = {
        n: pl.Series(n, [None if v is None else _json(v) for v in frame[n]], pl.String)
        for n in frame.columns if frame[n].dtype.is_nested() or frame[n].dtype == pl.Binary
    }  # fmt: skip
    return frame.with_columns(**flat).write_csv() if frame.columns else ""


def to_json(frame) -> str:
    """A JSON array with one object per row, at full precision; NaN and infinity are null, times ISO 8601."""
    rows = [_json(row) for row in frame.to_dicts()]
    return "[\n" + ",\n".join(rows) + "\n]\n" if rows else "[]\n"


def cells(series) -> list[str]:
    """The values of a column as short text: floats of one column with the same decimals, nulls empty."""
    values = series.to_list()
    if series.dtype.is_float() or (series.dtype.is_decimal() and series.dtype.scale):
        return _number_cells([None if v is None else float(v) for v in values])
    return ["" if v is None else _printable(_text(v)) for v in values]


def _printable(text: str) -> str:
    """One line that moves no cursor and changes no colour, whatever a file was called."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _number_cells(values: list[float | None]) -> list[str]:
    """Four decimals below ten, fewer above: about four digits of the largest, so that a column reads down."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    if 0 < largest < 0.001 or largest >= 1e9:
        return ["" if v is None else f"{v:.3g}" for v in values]
    decimals = 4 if largest < 10 else max(0, 4 - len(str(int(largest))))
    return ["" if v is None else f"{v:.{decimals}f}" for v in values]


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        shown = [_text(v) for v in value[:4]]
        return "[" + ", ".join(shown) + (f", ... {len(value)}]" if len(value) > 4 else "]")
    return _json(value) if isinstance(value, (dict, bool)) else str(value)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """`value` as JSON can carry it."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) or type(value).__name__ == "Series":
        return [_plain(v) for v in value]
    if isinstance(value, Decimal):  # DuckDB's sums of whole numbers come as decimals without a fraction
        return float(value) if value.as_tuple().exponent < 0 else int(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, date):
        return value.isoformat()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _head(name: str, column: list[str]) -> list[str]:
    """A column's name in as few lines as fit what stands below it, broken after underscores.

    >>> _head("n_test_images", ["12345"])
    ['n_', 'test_', 'images']
    >>> _head("n_test_images", ["12345678"])
    ['n_test_', 'images']
    """
    pieces = re.findall(r"[^_]*_+|[^_]+", name)
    room = max(map(len, [*column, *pieces]), default=0)
    lines = [""]
    for piece in pieces:
        if len(lines[-1] + piece) > room:
            lines.append("")
        lines[-1] += piece
    return lines


def _fitted(sizes: dict[str, int], least: dict[str, int], width: int) -> dict[str, int]:
    """Widths of the columns that fit: text narrowed, widest first, as far as `least`; then the last columns dropped."""
    sizes = dict(sizes)
    while len(sizes) > 1 and _total(sizes | {n: min(sizes[n], least[n]) for n in sizes if n in least}) > width:
        sizes.popitem()
    while _total(sizes) > width:
        widest = max((n for n in sizes if n in least), key=lambda n: sizes[n] - least[n], default=None)
        if widest is None or sizes[widest] <= least[widest]:
            break
        sizes[widest] -= 1
    return sizes


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values()) + 2 * (len(sizes) - 1)


def _fit(text: str, size: int, right: bool) -> str:
    text = text if len(text) <= size else text[: size - 1] + "…"
    return text.rjust(size) if right else text.ljust(size)


# Parquet has no text form: `write` asks for a file.
FORMATS = {"table": table, "csv": to_csv, "json": to_json, "md": markdown, "parquet": None}
