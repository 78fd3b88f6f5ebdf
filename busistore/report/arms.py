"""The comparisons that a store holds: runs on one data set, split and protocol, with their numbers and intervals."""

from __future__ import annotations

from collections.abc import Iterator
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
MOST_OUTCOMES = 2_500_000  # predictions of one size that intervals resample: some 400 bytes each while they are read
MOST_WRITTEN = 300_000  # predictions that stand beside the page: 20 MB of CSV


@dataclass
class Arm:
    """Runs that may be compared: one data set, split and protocol. `at` binds a question to it.

    `board` and `points` are of the settings on the grid; `apart` and `levels` of those without a drawn support set;
    `shares` are the points of support sets that are a share of the training part. `said` has what the runs of the grid
    predicted at the sizes at which they are shown, on the test images named `images`; the settings `beyond` have too
    many predictions at some size.
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
    said: dict[Size, Outcomes] = field(default_factory=dict, repr=False)
    beyond: set[tuple] = field(default_factory=set)
    images: str = ""

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
        by_share = _drawn_by_share(values).unique(COLUMNS, maintain_order=True).to_dicts()
        arm.names = name_settings([*arm.board, *arm.apart, *by_share])
        if own.shots is None:
            arm.board.sort(key=lambda r: arm.names[key(r)])
        _share_out(arm, _measured(sources, arm, values, covered))
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


def _measured(sources: Sources, arm: Arm, values: pl.DataFrame, covered: list[dict[str, Any]]) -> list[Point]:
    """All points with their intervals, from one size of the support sets after another where all would be too large.

    Of what the runs predicted, the arm keeps what is shown; it learns too which settings have no more than the
    intervals over seeds, at all sizes alike, since one of their sizes alone is too large.
    """
    sizes: dict[tuple, list[dict[str, Any]]] = {}
    for row in (r for r in covered if all(r[name] == value for name, value in arm.at.items())):
        sizes.setdefault((row["shots"], row["ratio"]), []).append(row)
    n = {size: sum(r["n_runs"] for r in rows) * (arm.row["n_test"] or 0) for size, rows in sizes.items()}
    arm.beyond = {key(r) for size, rows in sizes.items() if n[size] > MOST_OUTCOMES for r in rows}
    whole = _whole(sources, arm, sum(n.values()) <= MOST_WRITTEN) if min(n.values()) <= MOST_OUTCOMES else None
    found = []
    for size, rows in sizes.items():
        said = {}
        if n[size] <= MOST_OUTCOMES:
            frame = whole if whole is not None else pl.concat(_parts(sources, arm, size, rows))
            said = _said(sources, arm, _of_size(frame, size))
        drawn = {k: o for k, o in said.items() if k[0] not in arm.beyond}
        found += points(_of_size(values, size), drawn)
        arm.said.update({k: o for k, o in said.items() if arm.grid.shows(k[0], k[1])})
    return sorted(found, key=lambda p: (p.setting, p.shots is None, p.shots, p.ratio is None, p.ratio, p.metric))


def _whole(sources: Sources, arm: Arm, small: bool) -> pl.DataFrame | None:
    """What all runs predicted, where that is small enough to stand beside the page."""
    ask = sources.ask if small else sources.cite
    made = ask("outcomes" + arm.suffix, "outcomes", **arm.at)
    return made.frame if small else None


def _parts(sources: Sources, arm: Arm, size: tuple, rows: list[dict[str, Any]]) -> Iterator[pl.DataFrame]:
    """What the runs of one size predicted; each setting is asked for where no number or share names the size."""
    if size != (None, None):
        yield sources.look("outcomes", **arm.at, shots=size[0], ratio=size[1])
        return
    for row in rows:
        yield _of_size(sources.look("outcomes", **arm.at, **dict(zip(COLUMNS, key(row)))), size)


def _of_size(frame: pl.DataFrame, size: tuple[int | None, float | None]) -> pl.DataFrame:
    shots, ratio = pl.lit(size[0], pl.Int32), pl.lit(size[1], pl.Float64)
    return frame.filter(pl.col("shots").eq_missing(shots) & pl.col("ratio").eq_missing(ratio))


def _said(sources: Sources, arm: Arm, frame: pl.DataFrame) -> dict[Size, Outcomes]:
    """What the runs of each setting predicted on the images that the arm's first run was tested on."""
    if not frame.height:
        return {}
    name = "tested-images" + arm.suffix
    if name not in sources.asked:
        arm.images = frame["images_md5"][0]
        sources.ask(name, "tested_images", run_id=frame["run_id"][0])
    tested = sources.asked[name].frame
    by = frame.filter(pl.col("images_md5") == arm.images).group_by([*COLUMNS, "shots", "ratio"], maintain_order=True)
    made = {(key(rows.row(0, named=True)), *of[-2:]): comparison.outcomes(rows, tested) for of, rows in by}
    return {size: outcomes for size, outcomes in made.items() if outcomes is not None}


def asked(sources: Sources, arm: Arm, *names: str) -> list[Source]:
    """Those of the answers that were asked for on a comparison."""
    return [sources.asked[n + arm.suffix] for n in names if n + arm.suffix in sources.asked]


def with_interval(value: float | None, point: Point | None) -> str:
    """A mean followed by its interval in brackets, where one is known."""
    if point is None or point.low is None:
        return decimal(value)
    return f"{decimal(value)} ({decimal(point.low)}–{decimal(point.high)})"
