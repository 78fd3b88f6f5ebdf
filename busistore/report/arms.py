"""The comparisons that a store holds: runs on one data set, split and protocol, with their numbers and intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from busistore.report import curves
from busistore.report.curves import Point
from busistore.report.grids import Grid, grid
from busistore.report.parts import decimal, plural
from busistore.report.settings import Setting, key, name_settings
from busistore.report.sources import Sources

MOST_ARMS = 6
MOST_OUTCOMES = 1_000_000  # predictions that intervals resample; beyond, their CSV alone would be 60 MB


@dataclass
class Arm:
    """Runs that may be compared: one data set, split and protocol. `at` binds a question to it.

    `board` and `points` are of the settings on the grid; `apart` and `levels` of those without a drawn support set.
    """

    row: dict[str, Any]
    at: dict[str, Any]
    suffix: str
    grid: Grid
    names: dict[tuple, Setting] = field(default_factory=dict)
    board: list[dict[str, Any]] = field(default_factory=list)
    apart: list[dict[str, Any]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    levels: list[Point] = field(default_factory=list)

    @property
    def few(self) -> bool:
        """Whether all its predictions may be read at once."""
        return self.row["n_runs"] * (self.row["n_test"] or 0) <= MOST_OUTCOMES

    @property
    def where(self) -> str:
        """At how many shots its settings are shown, for captions."""
        return "each setting's largest number of shots" if self.grid.shots is None else plural(self.grid.shots, "shot")

    @property
    def means(self) -> str:
        """What a number of a setting is a mean of, for captions."""
        return f"Means over {self.pooled}"

    @property
    def pooled(self) -> str:
        """What predictions are taken together from, for captions."""
        return "runs" if self.grid.shots == 0 else f"support sets at {self.where}"

    def interval(self, setting: tuple, metric: str, shots: int | None) -> Point | None:
        """The point of that setting with its interval, if there is one."""
        found = (p for p in (*self.points, *self.levels) if (p.setting, p.metric, p.shots) == (setting, metric, shots))
        return next(found, None)


def arms(sources: Sources) -> list[Arm]:
    """The comparisons that the store holds, the one of most runs first, with their leaderboards and curves."""
    rows = sources.ask("comparisons", "report_arms").rows()[:MOST_ARMS]
    covered = sources.ask("grid", "report_grid").rows()
    found = []
    for k, row in enumerate(rows):
        at = {name: row[name] for name in ("dataset", "split_id", "protocol")}
        own = grid(r for r in covered if all(r[name] == value for name, value in at.items()))
        arm = Arm(row, at, "" if k == 0 else f"-{k + 1}", own)
        board = sources.ask("leaderboard" + arm.suffix, "report_leaderboard", **at, shots=own.shots).rows()
        arm.board = [r for r in board if own.has(key(r), r["shots"])]
        apart = sources.ask("apart" + arm.suffix, "report_apart", **at).rows()
        arm.apart = [r for r in apart if not own.has(key(r), r["shots"])]
        values = sources.ask("learning-curves" + arm.suffix, "report_curves", **at)
        outcomes = sources.ask("outcomes" + arm.suffix, "report_outcomes", **at).frame if arm.few else None
        arm.names = name_settings([*arm.board, *arm.apart])
        if own.shots is None:
            arm.board.sort(key=lambda r: arm.names[key(r)])
        points = curves.points(values.frame, outcomes)
        arm.points = [p for p in points if own.has(p.setting, p.shots)]
        arm.levels = [p for p in points if not own.has(p.setting, p.shots)]
        found.append(arm)
    return found


def with_interval(value: float | None, point: Point | None) -> str:
    """A mean followed by its interval in brackets, where one is known."""
    if point is None or point.low is None:
        return decimal(value)
    return f"{decimal(value)} ({decimal(point.low)}–{decimal(point.high)})"
