"""The points of learning curves: the mean of a metric over the seeds of one setting and size, with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from busistore.comparison import Outcomes, n_resamples
from busistore.report.settings import COLUMNS, key
from busistore.stats import mean_interval, two_way

METRICS = {"macro_f1": "Macro-F1", "auroc_malignant_vs_benign": "AUROC, malignant vs benign"}
TWO_WAY = "seeds and groups"
ONE_WAY = "groups of test images"
STUDENT = "Student t over seeds"
INTERVALS = {
    TWO_WAY: "the variance over support sets, that over near-duplicate groups of test images (by bootstrap) and that "
    "of both together, each counted once; covers new support sets and new test images together",
    ONE_WAY: "bootstrap over near-duplicate groups of test images; covers new test images alone",
    STUDENT: "covers new support sets on these very test images, so it is narrower than one that also covers new test "
    "images; cut to the metric's range",
}
Size = tuple[tuple, int | None, float | None]  # a setting, its number of shots and its share of the training part


@dataclass(frozen=True)
class Point:
    """Mean of a metric over the seeds of one setting at one size; `low`, `high` None where unknown.

    `shots` is None where there is no such number, and `ratio` where the support set is no share of the training part.
    `values` are those of the seeds.
    """

    setting: tuple
    metric: str
    shots: int | None
    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    interval: str
    ratio: float | None = None
    values: tuple[float, ...] = field(default=(), repr=False)


def points(values: pl.DataFrame, said: Mapping[Size, Outcomes]) -> list[Point]:
    """One point for each setting, metric and size of the support sets.

    Args:
        values: rows of `report_curves`, one per run and metric.
        said: the outcomes of these runs; sizes that are not there get the interval over seeds alone.
    """
    kept = []
    columns = [*COLUMNS, "metric", "shots", "ratio"]
    for (*_, metric, shots, ratio), rows in values.group_by(columns, maintain_order=True):
        setting, of_runs = key(rows.row(0, named=True)), tuple(rows["value"].to_list())
        mean, low, high, n = mean_interval(of_runs)
        how, low, high = STUDENT, _within(low), _within(high)
        outcomes = said.get((setting, shots, ratio))
        if outcomes is not None and len(outcomes.episodes) == n:
            o = outcomes
            found = two_way(metric, o.true, o.probs, o.groups, o.classes, n_resamples=n_resamples(n))
            how, low, high = TWO_WAY if n > 1 else ONE_WAY, _within(found.low), _within(found.high)
        kept.append(Point(setting, metric, shots, mean, low, high, n, how, ratio, of_runs))
    return kept


def meanings(*several: Iterable[str]) -> str:
    """What those kinds of interval cover, a sentence for each."""
    kinds = set().union(*several)
    return " ".join(f"{kind[:1].upper()}{kind[1:]}: {means}." for kind, means in INTERVALS.items() if kind in kinds)


def _within(value: float | None) -> float | None:
    """An end of an interval cut to the range of the METRICS, since Student's t knows no bounds."""
    return None if value is None else min(max(value, 0.0), 1.0)


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
