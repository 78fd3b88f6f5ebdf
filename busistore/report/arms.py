"""The comparisons that a store holds: runs on one data set, split and protocol, with their numbers and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from busistore import comparison
from busistore.comparison import Outcomes
from busistore.report.grids import Grid, grid
from busistore.report.parts import decimal, plural
from busistore.report.points import Point, Size, points
from busistore.report.settings import COLUMNS, Setting, key, name_settings
from busistore.report.sources import Source, Sources

MOST_ARMS = 6
MOST_OUTCOMES = 2_500_000  # predictions that intervals resample, which take some 400 bytes each while they are read
MOST_WRITTEN = 300_000  # predictions that stand beside the page: 20 MB of CSV


@dataclass
class Arm:
    """Runs that may be compared: one data set, split and protocol. `at` binds a question to it.

    `board` and `points` are of the settings on the grid; `apart` and `levels` of those without a drawn support set;
    `shares` are the points of support sets that are a share of the training part. `said` has what the runs predicted.
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
    shares: list[Point] = field(default_factory=list)
    said: Mapping[Size, Outcomes] = field(default_factory=dict, repr=False)

    def outcomes(self, setting: tuple) -> Outcomes | None:
        """What the runs of a setting on the grid predicted at the number of shots at which it is shown."""
        return self.said.get((setting, self.grid.at(setting), None))

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
        values = sources.ask("learning-curves" + arm.suffix, "report_curves", **at).frame
        arm.said = _said(sources, arm, covered)
        by_share = _drawn_by_share(values).unique(COLUMNS, maintain_order=True).to_dicts()
        arm.names = name_settings([*arm.board, *arm.apart, *by_share])
        if own.shots is None:
            arm.board.sort(key=lambda r: arm.names[key(r)])
        _share_out(arm, points(values, arm.said))
        found.append(arm)
    return found


def _drawn_by_share(values: pl.DataFrame) -> pl.DataFrame:
    """The runs whose support set is a share of the training part, and not the whole."""
    return values.filter(pl.col("shots").is_null() & (pl.col("ratio") < 1))


def _share_out(arm: Arm, found: list[Point]) -> None:
    """Each point to where it is drawn."""
    for point in found:
        drawn = point.shots is None and point.ratio is not None and point.ratio < 1
        where = arm.shares if drawn else arm.points if arm.grid.has(point.setting, point.shots) else arm.levels
        where.append(point)


def _said(sources: Sources, arm: Arm, covered: list[dict[str, Any]]) -> dict[Size, Outcomes]:
    """What the runs predicted: all of them, or where they are too many those at the compared number of shots."""
    n_test, shots = arm.row["n_test"] or 0, None
    n_runs = arm.row["n_runs"]
    if n_runs * n_test > MOST_OUTCOMES:
        own = [r for r in covered if all(r[name] == value for name, value in arm.at.items())]
        shots, n_runs = arm.grid.shots, sum(r["n_runs"] for r in own if r["shots"] == arm.grid.shots)
        if shots is None or n_runs * n_test > MOST_OUTCOMES:
            return {}
    written = n_runs * n_test <= MOST_WRITTEN
    frame = sources.ask("outcomes" + arm.suffix, "outcomes", written=written, **arm.at, shots=shots).frame
    if not frame.height:
        return {}
    first = frame["images_md5"][0]
    tested = sources.ask("tested-images" + arm.suffix, "tested_images", run_id=frame["run_id"][0]).frame
    sizes = frame.filter(pl.col("images_md5") == first).group_by([*COLUMNS, "shots", "ratio"], maintain_order=True)
    made = {(key(rows.row(0, named=True)), *of[-2:]): comparison.outcomes(rows, tested) for of, rows in sizes}
    return {size: outcomes for size, outcomes in made.items() if outcomes is not None}


def asked(sources: Sources, arm: Arm, *names: str) -> list[Source]:
    """Those of the answers that were asked for on a comparison."""
    return [sources.asked[n + arm.suffix] for n in names if n + arm.suffix in sources.asked]


def with_interval(value: float | None, point: Point | None) -> str:
    """A mean followed by its interval in brackets, where one is known."""
    if point is None or point.low is None:
        return decimal(value)
    return f"{decimal(value)} ({decimal(point.low)}–{decimal(point.high)})"
