"""Paired differences as a forest: each with its interval around 0, and the single pairs as ticks behind it."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from busistore.comparison import Row
from busistore.errors import BusistoreError
from busistore.metrics import METRICS
from busistore.report import style
from busistore.report.parts import decimal
from busistore.report.settings import name_pairs
from busistore.report.style import Panel, drawing, panel, short, title

LEFT, RIGHT = "\N{LEFTWARDS ARROW}", "\N{RIGHTWARDS ARROW}"
MOST_TICKS = 20  # support sets; of more, their middle 80 % is drawn instead
TICKS = f"ticks: single support sets, or, of more than {MOST_TICKS}, the range of their middle 80%."
WIDTH = 470
ROW, LOW_ROW = 34, 25  # SVG units of a line of the forest, with ticks and without


class Line(NamedTuple):
    """One line of a forest; `group` stands as a heading over lines of one name."""

    name: str
    group: str
    estimate: float
    low: float | None
    high: float | None
    values: np.ndarray
    p: float | None


def lines(rows: Sequence[Row]) -> list[Line]:
    """The lines of a comparison of two models or methods, under headings for what is held where that differs."""
    held = name_pairs([row.what for row in rows])
    several = len(set(held)) > 1
    return [
        Line(row.support, name if several else "", d.both.estimate, d.both.low, d.both.high, d.values, row.p_holm)
        for row, name in zip(rows, held)
        for d in (row.difference,)
    ]  # fmt: skip


def forest(
    drawn: Sequence[Line], first: str, second: str, sides: tuple[str, str], width: int = WIDTH
) -> Panel:  # fmt: skip
    """The panel of a forest under two lines of title; `sides` say who is favoured left and right of 0."""
    with _figure(drawn, first, second, sides, width) as figure:
        return panel(figure, alt(drawn, f"{first}, {second}"))


def write(path: Path, rows: Sequence[Row], a: str, b: str) -> None:
    """Draw a comparison to a file by its ending: .svg, .png or .pdf, in the colours of the light theme.

    Raises:
        BusistoreError: the file cannot be written.
    """
    metric, drawn = rows[0].what["metric"], lines(rows)
    first = f"{metric}: {short(a, 24)} less {short(b, 24)}"
    what = rows[0].what
    second = what["dataset"] + ("" if drawn[0].group else f", {name_pairs([what])[0]}")
    below = (f"Dot and bar: mean difference with its 95% interval, for new support sets and new test images; {TICKS} "
             f"Split {what['split_id']}, protocol {what['protocol']}.")  # fmt: skip
    left, right = (b, a) if METRICS[metric].higher_is_better is not False else (a, b)
    given = drawn, first, second, (f"{left} better", f"{right} better"), WIDTH, below
    kind = path.suffix.lower().removeprefix(".")
    try:
        if kind == "svg":
            with _figure(*given) as figure:
                path.write_text(panel(figure, alt(drawn, first)).file(), encoding="utf-8")
            return
        with _figure(*given, colours=style.light()) as figure:
            undated = {"CreationDate": None} if kind == "pdf" else {}
            figure.savefig(path, format=kind, dpi=200, facecolor="white", metadata=undated)
    except OSError as error:
        raise BusistoreError(f"no figure can be written to '{path}' ({error.strerror}); name another file") from None


@contextlib.contextmanager
def _figure(
    drawn: Sequence[Line], first: str, second: str, sides: tuple[str, str], width: int = WIDTH, below: str = "",
    colours: dict[str, str] | None = None,
) -> Iterator[Any]:  # fmt: skip
    colour = colours or style.STAND_INS
    places, heads, height = _places(drawn)
    row = ROW if any(len(line.values) for line in drawn) else LOW_ROW
    note = textwrap.wrap(below, width // 5)
    with drawing(width, 96 + row * height + 12 * len(note), colours=colours) as (figure, axes):
        axes.grid(False, axis="y")
        axes.axvline(0, color=colour["muted"], linewidth=1.2)
        for y, line in zip(places, drawn):
            _draw(axes, y, line, colour)
        axes.set_yticks(places, [short(line.name, 34) for line in drawn])
        for y, head in heads:
            head = textwrap.fill(head, 40, max_lines=2, placeholder="…", break_on_hyphens=False)
            axes.annotate(head, (0, y), (-4, 0), ("axes fraction", "data"), "offset points", ha="right",
                          va="center", fontweight="bold", fontsize=10.5, annotation_clip=False)  # fmt: skip
        axes.set_ylim(height - 0.3, -0.7)
        axes.set_xlim(*_limits(drawn))
        axes.locator_params(axis="x", nbins=3)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _numbers(axes, places, drawn, colour)
        left, right = (short(side, 26) for side in sides)
        axes.set_xlabel(f"{LEFT} {left} | {right} {RIGHT}")
        axes.set_title(title(first, second, width // 8), loc="left", fontsize=11.5)
        if note:
            figure.supxlabel("\n".join(note), x=0.01, ha="left", fontsize=8.5, color=colour["muted"])
        yield figure


def _places(drawn: Sequence[Line]) -> tuple[list[float], list[tuple[float, str]], float]:
    """The height of each line, those of the headings, and the number of lines with headings."""
    places, heads, y, group = [], [], 0.0, ""
    for line in drawn:
        if line.group != group:
            group = line.group
            heads.append((y, group))
            y += 0.8
        places.append(y)
        y += 1
    return places, heads, y


def _draw(axes, y: float, line: Line, colour: dict[str, str]) -> None:
    """The pairs as ticks, or of many the middle 80 % as a bar; the interval over them, and the mean."""
    if len(line.values) > MOST_TICKS:
        ends = np.quantile(line.values, [0.1, 0.9])
        axes.plot(ends, [y + 0.26] * 2, color=colour["muted"], linewidth=4, alpha=0.45, solid_capstyle="butt")
    elif len(line.values) > 1:
        level = np.full(len(line.values), y + 0.26)
        axes.plot(line.values, level, "|", color=colour["muted"], markersize=7, alpha=0.8)
    if line.low is not None:
        axes.plot([line.low, line.high], [y, y], color=colour["s1"], linewidth=2.4, solid_capstyle="butt")
    axes.plot([line.estimate], [y], "o", color=colour["s1"], markersize=7, markeredgecolor=colour["paper"])


def _numbers(axes, places: Sequence[float], drawn: Sequence[Line], colour: dict[str, str]) -> None:
    """The difference, its interval and the adjusted p in words, to the right of each line."""
    for y, line in zip(places, drawn):
        text = _interval(line)
        text += "" if line.p is None else f"\nHolm p {'< 0.001' if line.p < 0.001 else f'= {line.p:.3f}'}"
        axes.annotate(text, (1, y), (8, 0), ("axes fraction", "data"), "offset points", va="center", fontsize=9.5,
                      color=colour["ink"], annotation_clip=False)  # fmt: skip


def _limits(drawn: Sequence[Line]) -> tuple[float, float]:
    found = [0.0]
    for line in drawn:
        found += [line.estimate, *(v for v in (line.low, line.high) if v is not None)]
        found += list(line.values) if len(line.values) <= MOST_TICKS else list(np.quantile(line.values, [0.1, 0.9]))
    room = 0.06 * (max(found) - min(found)) or 0.05
    return min(found) - room, max(found) + room


def alt(drawn: Sequence[Line], what: str) -> str:
    """The forest in a sentence."""
    said = "; ".join(f"{line.group + ', ' if line.group else ''}{line.name} {_interval(line)}" for line in drawn)
    return f"{what}, with 95% intervals: {said}."


def _interval(line: Line) -> str:
    if line.low is None or line.high is None:
        return decimal(line.estimate)
    return f"{decimal(line.estimate)} ({decimal(line.low)} to {decimal(line.high)})"
