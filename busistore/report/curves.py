"""Learning curves: each metric against the number of labelled images per class, with its interval."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from busistore.report.parts import decimal
from busistore.report.settings import COLUMNS, Setting, key
from busistore.report.style import INK, MUTED, Panel, drawing, look, panel, short, title
from busistore.stats import mean_interval, two_way_interval

METRICS = {"macro_f1": "Macro-F1", "auroc_malignant_vs_benign": "AUROC, malignant vs benign"}
TWO_WAY = "seeds and groups"
ONE_WAY = "groups of test images"
STUDENT = "Student t over seeds"
INTERVALS = {
    TWO_WAY: "Student's t over support sets and the bootstrap over near-duplicate groups of test images, added as "
    "squares (Zou & Donner 2008); covers new support sets and new test images together",
    ONE_WAY: "bootstrap over near-duplicate groups of test images; covers new test images alone",
    STUDENT: "covers new support sets on these very test images, so it is narrower than one that also covers new test "
    "images; cut to the metric's range",
}


@dataclass(frozen=True)
class Point:
    """Mean of a metric over the seeds of one setting at one number of shots; `low`, `high` None where unknown.

    `shots` is None where there is no such number.
    """

    setting: tuple
    metric: str
    shots: int | None
    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    interval: str


def points(values: pl.DataFrame, outcomes: pl.DataFrame | None) -> list[Point]:
    """One point for each setting, metric and number of shots.

    Args:
        values: rows of `report_curves`, one per run and metric.
        outcomes: rows of `report_outcomes`, one per run and test image; None gives macro-F1 the interval over seeds
            alone.
    """
    by_run = outcomes.sort("image_id").group_by("run_id") if outcomes is not None else ()
    runs = {run: rows for (run,), rows in by_run}
    kept = []
    for (*_, metric, shots), rows in values.group_by([*COLUMNS, "metric", "shots"], maintain_order=True):
        setting, of_runs = key(rows.row(0, named=True)), [runs.get(run) for run in rows["run_id"]]
        found = _two_way(of_runs, metric) if metric == "macro_f1" else None
        how = STUDENT if not found else TWO_WAY if rows.height > 1 else ONE_WAY
        mean, low, high, _ = mean_interval(rows["value"].to_list())
        low, high = (found.low, found.high) if found else (_within(low), _within(high))
        kept.append(Point(setting, metric, shots, mean, low, high, rows.height, how))
    return kept


def meanings(*several: Iterable[str]) -> str:
    """What those kinds of interval cover, a sentence for each."""
    kinds = set().union(*several)
    return " ".join(f"{kind[:1].upper()}{kind[1:]}: {means}." for kind, means in INTERVALS.items() if kind in kinds)


def _within(value: float | None) -> float | None:
    """An end of an interval cut to the range of the METRICS, since Student's t knows no bounds."""
    return None if value is None else min(max(value, 0.0), 1.0)


def _two_way(runs: Sequence[pl.DataFrame | None], metric: str):
    """The interval over seeds and groups; None unless all runs said something about the same test images."""
    if not runs or any(r is None or not r["image_id"].equals(runs[0]["image_id"]) for r in runs):
        return None
    classes = sorted({c for r in runs for name in ("label", "predicted") for c in r[name].unique()})
    number = {c: i for i, c in enumerate(classes)}
    true = np.array([number[c] for c in runs[0]["label"]])
    said = np.array([[number[c] for c in r["predicted"]] for r in runs])
    return two_way_interval(true, said, runs[0]["group_id"].to_list(), len(classes), metric)


def chance(images: Mapping[str, float], metric: str) -> float | None:
    """What a uniform guess between the classes is expected to reach, with no training; `images` counts each class.

    >>> chance({"benign": 2, "malignant": 2}, "macro_f1")
    0.5
    """
    if metric != "macro_f1":
        return 0.5
    if not images:
        return None
    guess, total = 1 / len(images), sum(images.values())
    return sum(2 * guess * n / (n + guess * total) for n in images.values()) / len(images)


def panels(
    found: list[Point], names: dict[tuple, Setting], chances: dict[str, float | None], levels: Sequence[Point] = ()
) -> list[Panel]:
    """One panel for each metric and encoder; one line for each method, the same colour in all panels.

    `levels` are drawn level across the panel of their encoder, where it has one.
    """
    methods = sorted({n.how for n in names.values()})
    wheres = list(dict.fromkeys(n.where for n in names.values()))
    made = []
    for metric in METRICS:
        here, across = ([p for p in some if p.metric == metric] for some in (found, levels))
        limits = _limits([*here, *across], chances.get(metric))
        for where in wheres:
            lines = {m: [p for p in here if names[p.setting] == (where, m)] for m in methods}
            lines = {m: sorted(ps, key=lambda p: p.shots) for m, ps in lines.items() if ps}
            level = {names[p.setting].how: p for p in across if names[p.setting].where == where}
            if lines:
                made.append(_panel(metric, where, lines, level, methods, limits, chances.get(metric)))
    return made


def _limits(found: list[Point], low: float | None) -> tuple[float, float]:
    values = [v for p in found for v in (p.mean, p.low, p.high, low) if v is not None]
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
            ends.append((line[-1].mean, method, colour))
        for method, point in level.items():
            colour = look(methods.index(method))[0]
            axes.axhline(point.mean, color=colour, linewidth=1.4, linestyle=(0, (1, 2)))
            ends.append((point.mean, method, colour))
        shots = sorted({p.shots for line in lines.values() for p in line})
        last = _place(shots[-1])
        axes.set_xticks([_place(s) for s in shots], [str(s) for s in shots])
        axes.set_xlim(_place(shots[0]) - 0.25, last + 0.25)
        axes.set_ylim(*limits)
        axes.set_xlabel("Labelled images per class")
        axes.set_title(title(METRICS[metric], where), loc="left", fontsize=11.5, color=INK)
        _label_ends(axes, ends, limits, last + 0.25)
        if guess is not None and limits[0] <= guess <= limits[1]:
            axes.axhline(guess, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate("uniform guess", (1, guess), (-2, 3), ("axes fraction", "data"), "offset points",
                          ha="right", fontsize=9.5, color=MUTED)  # fmt: skip
        return panel(figure, _alt(metric, where, lines, level, guess))


def _draw_line(axes, line: list[Point], colour: str, marker: str, dashes: Any) -> None:
    axes.plot([_place(p.shots) for p in line], [p.mean for p in line], color=colour, marker=marker, linestyle=dashes)
    for band in bands(line):
        x, low, high = [_place(p.shots) for p in band], [p.low for p in band], [p.high for p in band]
        if len(band) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1.2)


def bands(line: list[Point]) -> list[list[Point]]:
    """The stretches of a line that one band may join: neighbours whose intervals are known and of one kind."""
    kinds = itertools.groupby(line, key=lambda p: None if p.low is None else p.interval)
    return [list(points) for kind, points in kinds if kind]


def _place(shots: int) -> float:
    """Position on the axis of doublings; no labelled image at all stands one step left of one."""
    return float(np.log2(shots)) if shots > 0 else -1.0


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
        f"{method} from {decimal(line[0].mean)} at {line[0].shots} to {decimal(line[-1].mean)} at {line[-1].shots}"
        for method, line in lines.items()
    )
    said += "".join(f"; {method} {decimal(p.mean)} without a support set" for method, p in level.items())
    against = f" A uniform guess reaches {decimal(guess)}." if guess is not None else ""
    return f"{METRICS[metric]} of {where} by labelled images per class: {said}.{against}"
