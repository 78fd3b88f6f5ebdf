"""Answers as tables, CSV, JSON, Markdown and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busistore import formats
from busistore.errors import BusistoreError

FRAME = pl.DataFrame({
    "model": ["alpha", "beta|2", None],
    "n_images": [1, 20, 300],
    "mean": [0.123456, 1.0, None],
    "at": [datetime(2026, 1, 2, 3, 4, 5, 678, UTC)] * 3,
    "ok": [True, False, None],
    "vector": [[0.5, 1 / 3], [], None],
})  # fmt: skip


def test_table_is_aligned_and_rounded():
    lines = formats.table(FRAME.select("model", "n_images", "mean"), 100).splitlines()
    assert lines == [
        "            n_",
        "model   images    mean",
        "------  ------  ------",
        "alpha        1  0.1235",
        "beta|2      20  1.0000",
        "           300",
    ]


def test_table_shows_times_lists_and_truth_values():
    rows = [re.split(r"  +", line) for line in formats.table(FRAME.select("at", "ok", "vector")).splitlines()]
    assert rows[2] == ["2026-01-02 03:04:05+00:00", "true", "[0.5, 0.3333]"]
    assert formats.cells(pl.Series([[1, 2, 3, 4, 5]])) == ["[1, 2, 3, 4, ... 5]"]


def test_control_characters_do_not_reach_the_terminal():
    assert formats.cells(pl.Series(["a\nb\tc", "\x1b[31mred\x07"])) == ["a b c", "\ufffd[31mred\ufffd"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.25], ["0.5000", "0.2500"]),
        ([9.87654, -1.0], ["9.8765", "-1.0000"]),
        ([12.3456], ["12.35"]), ([123.456, 0.001], ["123.5", "0.0"]), ([123456.7], ["123457"]),
        ([0.00001234], ["1.23e-05"]), ([1e12], ["1e+12"]), ([0.0, None], ["0.0000", ""]),
        ([float("nan"), float("inf")], ["nan", "inf"]), ([], []),
    ],
)  # fmt: skip
def test_numbers_of_a_column_share_their_decimals(values, expected):
    assert formats.cells(pl.Series(values, dtype=pl.Float64)) == expected


def test_text_is_cut_before_a_column_is_left_out():
    frame = pl.DataFrame({"a": ["x" * 60], "b": ["y" * 60], "c": [1]})
    text = formats.table(frame, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[-1].endswith("  1")
    assert "too narrow" not in text


def test_columns_that_do_not_fit_are_named():
    frame = pl.DataFrame({f"column{k}": [10**9 + k] for k in range(12)})
    lines = formats.table(frame, 80).splitlines()
    assert lines[-1] == "(too narrow for: " + ", ".join(f"column{k}" for k in range(6, 12)) + ")"
    assert [len(line) for line in lines[:-1]] == [70, 70, 70]


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,20}", fullmatch=True),
                    st.lists(st.text(max_size=90), min_size=2, max_size=2), min_size=1, max_size=12),
    st.integers(80, 200),
)  # fmt: skip
def test_no_table_line_of_text_is_wider_than_asked(columns, width):
    lines = formats.table(pl.DataFrame(columns), width).splitlines()
    assert all(len(line) <= width for line in lines if not line.startswith("(too narrow for: "))
    assert sum(not line.startswith("(too narrow for: ") for line in lines) <= 3 + 20


def test_markdown_escapes_pipes_and_keeps_everything():
    assert formats.markdown(FRAME.select("model", "mean")) == (
        "| model | mean |\n| --- | ---: |\n| alpha | 0.1235 |\n| beta\\|2 | 1.0000 |\n|  |  |\n"
    )


def test_csv_has_full_precision_and_lists_as_json():
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(FRAME))))
    assert rows[0]["mean"] == "0.123456"
    assert json.loads(rows[0]["vector"]) == [0.5, 1 / 3]
    assert (rows[2]["model"], rows[2]["vector"]) == ("", "")


def test_json_is_an_array_of_rows_without_nan():
    rows = json.loads(formats.to_json(FRAME.with_columns(mean=pl.Series([float("nan"), float("inf"), 0.1]))))
    assert [row["mean"] for row in rows] == [None, None, 0.1]
    assert rows[0]["vector"] == [0.5, 1 / 3]
    assert rows[0]["at"] == "2026-01-02T03:04:05.000678+00:00"
    assert rows[0]["ok"] is True


def test_whole_decimals_are_whole_numbers():
    frame = pl.DataFrame({"n": [12], "x": ["1.5"]}).cast({"n": pl.Decimal(38, 0), "x": pl.Decimal(10, 2)})
    assert json.loads(formats.to_json(frame)) == [{"n": 12, "x": 1.5}]
    assert formats.cells(frame["n"]) == ["12"]


@pytest.mark.parametrize("fmt", formats.FORMATS)
@pytest.mark.parametrize("frame", [FRAME, FRAME.clear(), FRAME.select("model").clear()])
def test_every_format_writes_every_frame_to_a_file(tmp_path, fmt, frame):
    path = tmp_path / f"out.{fmt}"
    formats.write(frame, fmt, path)
    assert path.stat().st_size > 0
    if fmt == "parquet":
        assert pl.read_parquet(path).equals(frame)


@pytest.mark.parametrize("fmt", [f for f in formats.FORMATS if f != "parquet"])
def test_text_goes_to_standard_output(capsys, fmt):
    formats.write(FRAME, fmt)
    assert "alpha" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fmt", "out", "said"),
    [
        ("parquet", None, "name one with -o FILE.parquet"),
        ("jsn", None, "no format 'jsn'; did you mean 'json'"),
        ("csv", "nowhere/out.csv", "cannot be written"),
        ("parquet", "nowhere/out.parquet", "cannot be written"),
        ("json", ".", "cannot be written"),
    ],
)
def test_faults_are_one_line(tmp_path, fmt, out, said):
    with pytest.raises(BusistoreError, match=said) as raised:
        formats.write(FRAME, fmt, out and tmp_path / out)
    assert "\n" not in str(raised.value)
