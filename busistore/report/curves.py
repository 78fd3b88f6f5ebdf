"""Learning curves: each metric against the number, or the share, of labelled images, with intervals and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from busistore.comparison import support_words
from busistore.report.parts import decimal
from busistore.report.points import METRICS, Point
from busistore.report.settings import Setting
from busistore.report.style import INK, MUTED, Panel, drawing, look, panel, short, title

MOST_TICKS = 20  # seeds; of more, their middle 80 % is drawn instead
NUDGE, MOST_NUDGED = 0.045, 0.4  # of a doubling: by which the marks of neighbouring lines stand apart, and all of them
ROOM = 0.25  # of a doubling, to the left of the first size and to the right of the last


def panels(
    found: list[Point], names: dict[tuple, Setting], chances: dict[str, float | None], levels: Sequence[Point] = ()
) -> list[Panel]:
    """One panel for each metric and encoder; one line for each method, the same colour in all panels.

    `levels` are drawn level across the panel of their encoder, where it has one. The points are all of numbers of
    shots, or all of shares of the training part.
    """
    methods = sorted({n.how for n in names.values()})
    wheres = list(dict.fromkeys(n.where for n in names.values()))
    made = []
    for metric in METRICS:
        here, across = ([p for p in some if p.metric == metric] for some in (found, levels))
        limits = _limits([*here, *across], chances.get(metric))
        for where in wheres:
            lines = {m: [p for p in here if names[p.setting] == (where, m)] for m in methods}
            lines = {m: sorted(ps, key=_place) for m, ps in lines.items() if ps}
            level = {names[p.setting].how: p for p in across if names[p.setting].where == where}
            if lines:
                made.append(_panel(metric, where, lines, level, methods, limits, chances.get(metric)))
    return made


def _limits(found: list[Point], low: float | None) -> tuple[float, float]:
    values = [v for p in found for v in (p.mean, p.low, p.high, low, *_spread(p)) if v is not None]
    if not values:
        return 0.0, 1.0
    return max(-0.02, min(values) - 0.04), min(1.02, max(values) + 0.04)


def _panel(
    metric: str, where: str, lines: dict[str, list[Point]], level: dict[str, Point], methods: list[str], limits, guess
) -> Panel:
    with drawing(340, 270) as (figure, axes):
        ends = []
        for method, line in lines.items():
            colour, marker, dashes = look(methods.index(method))
            _draw_line(axes, line, colour, marker, dashes)
            _draw_seeds(axes, line, colour, nudge(list(lines).index(method), len(lines)))
            ends.append((line[-1].mean, method, colour))
        for method, point in level.items():
            colour = look(methods.index(method))[0]
            axes.axhline(point.mean, color=colour, linewidth=1.4, linestyle=(0, (1, 2)))
            ends.append((point.mean, method, colour))
        sizes = {_place(p): _tick(p) for line in lines.values() for p in line}
        last = max(sizes)
        axes.set_xticks(sorted(sizes), [sizes[x] for x in sorted(sizes)])
        axes.set_xlim(min(sizes) - ROOM, last + ROOM)
        axes.set_ylim(*limits)
        axes.set_xlabel(axis(next(iter(lines.values()))))
        axes.set_title(title(METRICS[metric], where), loc="left", fontsize=11.5, color=INK)
        _label_ends(axes, ends, limits, last + ROOM)
        if guess is not None and limits[0] <= guess <= limits[1]:
            axes.axhline(guess, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate("uniform guess", (1, guess), (-2, 3), ("axes fraction", "data"), "offset points",
                          ha="right", fontsize=9.5, color=MUTED)  # fmt: skip
        return panel(figure, _alt(metric, where, lines, level, guess))


def _draw_line(axes, line: list[Point], colour: str, marker: str, dashes: Any) -> None:
    axes.plot([_place(p) for p in line], [p.mean for p in line], color=colour, marker=marker, linestyle=dashes)
    for band in bands(line):
        x, low, high = [_place(p) for p in band], [p.low for p in band], [p.high for p in band]
        if len(band) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1.2)


def bands(line: list[Point]) -> list[list[Point]]:
    """The stretches of a line that one band may join: neighbours whose intervals are known and of one kind."""
    kinds = itertools.groupby(line, key=lambda p: None if p.low is None else p.interval)
    return [list(points) for kind, points in kinds if kind]


def _spread(point: Point) -> list[float]:
    """What is drawn of the seeds: each of a few, or the ends of their middle 80 %; nothing of a single one."""
    if len(point.values) > MOST_TICKS:
        return [float(v) for v in np.quantile(point.values, [0.1, 0.9])]
    return list(point.values) if len(point.values) > 1 else []


def _draw_seeds(axes, line: list[Point], colour: str, beside: float) -> None:
    for point in line:
        x, marks = _place(point) + beside, _spread(point)
        if len(point.values) > MOST_TICKS:
            axes.plot([x, x], marks, color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt")
        elif marks:
            axes.plot([x] * len(marks), marks, "_", color=colour, markersize=4.5, markeredgewidth=0.9, alpha=0.75)


def nudge(k: int, n: int) -> float:
    """How far from its size the marks of the k-th of n lines stand: evenly about it, and always within ROOM.

    >>> [round(nudge(k, 3), 3) for k in range(3)]
    [-0.045, 0.0, 0.045]
    """
    return min(NUDGE, MOST_NUDGED / n) * (k - (n - 1) / 2)


def axis(line: Sequence[Point]) -> str:
    """What the sizes of the support sets are, for the axis."""
    return "Labelled images per class" if line[0].ratio is None else "Labelled share of the training part"


def _tick(point: Point) -> str:
    return str(point.shots) if point.ratio is None else support_words(None, point.ratio)


def _place(point: Point) -> float:
    """Position on the axis of doublings; no labelled image at all stands one step left of one."""
    size = point.shots if point.ratio is None else point.ratio
    return float(np.log2(size)) if size > 0 else -1.0


def _label_ends(axes, ends: list[tuple[float, str, str]], limits: tuple[float, float], x: float) -> None:
    """Write each line's name beside its last point, moved apart where they would touch."""
    gap = 0.072 * (limits[1] - limits[0])
    places = spread([y for y, _, _ in ends], gap, limits[1] - gap / 2)
    for (_, name, colour), y in zip(ends, places):
        axes.annotate(short(name, 24), (x, y), (3, 0), "data", "offset points", va="center", color=colour,
                      fontsize=10.5, annotation_clip=False, fontweight="bold")  # fmt: skip


def spread(wanted: list[float], gap: float, highest: float = np.inf) -> list[float]:
    """Places at least `gap` apart, in the order of `wanted` and as near to it as moving neighbours lets them.

    >>> spread([1.0, 1.0], 1.0), spread([1.0, 1.0], 1.0, highest=1.0)
    ([0.5, 1.5], [0.0, 1.0])
    """

    def start(block: list[float]) -> float:
        total, n = block
        return min(total / n - gap * (n - 1) / 2, highest - gap * (n - 1))

    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    blocks: list[list[float]] = []  # sum of wanted places less their offsets in the block, number of labels
    for i in order:
        blocks.append([wanted[i], 1])
        while len(blocks) > 1 and start(blocks[-1]) < start(blocks[-2]) + blocks[-2][1] * gap - 1e-12:
            total, n = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + n]
    places = [start(block) + k * gap for block in blocks for k in range(int(block[1]))]
    return [place for _, place in sorted(zip(order, places))]


def _alt(metric: str, where: str, lines: dict[str, list[Point]], level: dict[str, Point], guess: float | None) -> str:
    said = "; ".join(
        f"{method} from {decimal(line[0].mean)} at {_tick(line[0])} to {decimal(line[-1].mean)} at {_tick(line[-1])}"
        for method, line in lines.items()
    )
    said += "".join(f"; {method} {decimal(p.mean)} without a support set" for method, p in level.items())
    against = f" A uniform guess reaches {decimal(guess)}." if guess is not None else ""
    return f"{METRICS[metric]} of {where} by {axis(next(iter(lines.values()))).lower()}: {said}.{against}"
