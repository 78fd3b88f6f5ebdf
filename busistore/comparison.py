"""Two models, or two methods, on the same support sets and test images: effect, interval and p at each size."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from busistore.errors import BusistoreError, UnknownName
from busistore.pairing import support_words

if TYPE_CHECKING:
    import polars as pl

    from busistore.stats import TwoWay
    from busistore.store import Store

MOST_RESAMPLED = 400_000  # values of one metric for one interval: resamples times runs
SETTING = ("held", "recipe_id", "model_id_a", "model_id_b", "parameters_a", "parameters_b", "text_id_a", "text_id_b",
           "shots", "ratio")  # fmt: skip


class Outcomes(NamedTuple):
    """What S runs said of the same N test images.

    true: (N,) class numbers. groups: (N,) names. probs: (S, N, C), columns by `classes`. episodes: (S,) names of the
    support sets, by which runs are paired. images: what names the test images, equal where they are equal.
    """

    true: np.ndarray
    groups: list[str]
    classes: list[str]
    probs: np.ndarray
    episodes: list[str]
    images: str


class Difference(NamedTuple):
    """`a` less `b` on S common support sets: means, interval with its variances, and Wilcoxon's exact p over seeds.

    values: (S,) differences of the single pairs. p_seeds is None for a single pair, which no order can test.
    """

    mean_a: float
    mean_b: float
    both: TwoWay
    p_seeds: float | None
    values: np.ndarray


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what is compared, the difference, and p adjusted.

    `what` has the columns of `compared_runs`, the metric, and the pairs: n_pairs in all, of which n_other_pixels and
    n_unpredicted are left out; n_stale counts those with a stale run.
    """

    what: dict[str, Any]
    difference: Difference
    p_holm: float | None
    p_seeds_holm: float | None

    @property
    def support(self) -> str:
        """The size of the support sets in words."""
        return support_words(self.what["shots"], self.what["ratio"])


def outcomes(rows: pl.DataFrame, tested: pl.DataFrame) -> Outcomes | None:
    """Runs of one setting as arrays; None where they were not all tested on the same images, or labels are no classes.

    Args:
        rows: rows of the query `outcomes`, in the order that the runs shall have.
        tested: the answer of `tested_images` for one of these runs.
    """
    classes, images = rows["classes"].to_list(), rows["images_md5"].to_list()
    same = rows.height and len({tuple(c) for c in classes}) == 1 == len(set(images))
    if not same or not set(tested["label"]) <= set(classes[0]):
        return None
    number = {label: k for k, label in enumerate(classes[0])}
    flat = rows["probabilities"].explode().to_numpy()
    if len(flat) != rows.height * tested.height * len(number):
        return None
    true = np.array([number[label] for label in tested["label"]], np.int64)
    probs = flat.astype(np.float64).reshape(rows.height, tested.height, len(number))
    return Outcomes(true, tested["group_id"].to_list(), classes[0], probs, rows["episode_id"].to_list(), images[0])


def n_resamples(n_runs: int) -> int:
    """How many resamples of the test images an interval takes: 2,000, and fewer, but 400 at least, for many runs."""
    return int(np.clip(MOST_RESAMPLED // max(n_runs, 1), 400, 2000))


def difference(metric: str, a: Outcomes, b: Outcomes) -> Difference | None:
    """`a` less `b` on the support sets that both have; None where they share none, or not the test images."""
    from busistore import stats

    where = {episode: k for k, episode in enumerate(b.episodes)}
    common = [(k, where[e]) for k, e in enumerate(a.episodes) if e in where]
    if not common or (a.images, a.classes) != (b.images, b.classes):
        return None
    of_a, of_b = (o.probs[[pair[side] for pair in common]] for side, o in enumerate((a, b)))
    whole = np.ones((1, len(a.true)))
    values = [stats.resampled(metric, a.true, probs, whole, a.classes)[0] for probs in (of_a, of_b)]
    found = stats.paired(metric, a.true, of_a, of_b, a.groups, a.classes, n_resamples=n_resamples(2 * len(common)))
    each = values[0] - values[1]
    p = float(stats.wilcoxon(each)) if len(each) > 1 else None
    return Difference(float(values[0].mean()), float(values[1].mean()), found, p, each)


def compare(
    store: Store, a: str, b: str, metric: str = "macro_f1", *, method: str | None = None, model: str | None = None,
    supports: Sequence[tuple[int | None, float | None]] = (), dataset: str | None = None, split: str | None = None,
    protocol: str | None = None,
) -> list[Row]:  # fmt: skip
    """Model `a` less model `b` under each method, or method `a` less method `b` on each model; one row a support size.

    All rows are one family for Holm's adjustment.

    Args:
        metric: any of metrics.METRICS that is of a whole run.
        supports: (shots, ratio) of the support sets, one of them None; all by default.

    Raises:
        UnknownName: a name or the metric is not known.
        BusistoreError: runs of the two cannot be paired, or lie on several data sets, splits or protocols, or the kind
            that is compared is narrowed.
    """
    from busistore import pairing, sql

    _check_metric(metric)
    given = {"dataset": dataset, "split_id": split, "protocol": protocol, "method": method, "model": model}
    with contextlib.closing(sql.connect(store)) as con:
        return adjusted(list(_differences(con, pairing.pairs(con, a, b, supports, given), metric)), metric)


def _check_metric(metric: str) -> None:
    from busistore.metrics import METRICS

    whole = {name for name, kind in METRICS.items() if kind.scope in ("overall", "both")}
    if metric not in whole:
        raise UnknownName("metric of a whole run", metric, whole)


def _differences(con, pairs: pl.DataFrame, metric: str):
    """(what is compared, its difference) for each setting and size of the support sets."""
    import polars as pl

    from busistore import sql

    images: dict[str, pl.DataFrame] = {}
    last: dict[str, tuple[dict, pl.DataFrame]] = {}

    def of(what: dict[str, Any], side: str, run_ids: list[str]) -> Outcomes | None:
        asked = {name: what[name] for name in ("dataset", "split_id", "protocol", "recipe_id")}
        asked |= {name: what[f"{name}_{side}"] for name in ("method", "model_id", "parameters")}
        if side not in last or last[side][0] != asked:  # one question for all sizes of the support sets
            last[side] = asked, sql.ask(con, "outcomes", asked)
        rows = last[side][1].filter(last[side][1]["run_id"].is_in(run_ids))
        if not rows.height:
            raise BusistoreError(f"the runs of '{what[f'method_{side}']}' on '{what[f'model_{side}']}' have no "
                                 "predictions to resample; evaluate them here")  # fmt: skip
        if rows["images_md5"][0] not in images:
            images[rows["images_md5"][0]] = sql.ask(con, "tested_images", {"run_id": rows["run_id"][0]})
        return outcomes(rows, images[rows["images_md5"][0]])

    for _, of_pairs in pairs.group_by(SETTING, maintain_order=True):
        rows, what = of_pairs.filter(~pl.col("other_pixels")), of_pairs.row(0, named=True)
        if not rows.height:
            size = support_words(what["shots"], what["ratio"])
            raise BusistoreError(f"all runs with {size} were made from different pixels on the two sides; evaluate "
                                 "both again, or name other sizes with --shots")  # fmt: skip
        a, b = (of(what, side, rows[f"run_{side}"].to_list()) for side in "ab")
        found = difference(metric, a, b) if a and b else None
        if found is None:
            raise BusistoreError(f"runs with {support_words(what['shots'], what['ratio'])} were not tested on the same "
                                 "images; evaluate both again on one split")  # fmt: skip
        counts = {"n_pairs": of_pairs.height, "n_other_pixels": of_pairs.height - rows.height,
                  "n_unpredicted": rows.height - len(found.values), "n_stale": int(rows["stale"].sum())}  # fmt: skip
        yield what | counts, found


def adjusted(found: list[tuple[dict[str, Any], Difference]], metric: str) -> list[Row]:
    """The rows of one family of comparisons, each p adjusted by Holm for their number."""
    two_way = adjust([d.both.p for _, d in found])
    seeds = adjust([d.p_seeds for _, d in found])
    return [Row(what | {"metric": metric}, d, p, q) for (what, d), p, q in zip(found, two_way, seeds)]


def adjust(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjustment over the p that are known; None stays None."""
    from busistore import stats

    known = [value for value in p if value is not None]
    adjusted = iter(stats.holm(known)) if known else iter(())
    return [None if value is None else float(next(adjusted)) for value in p]


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    """All that is known of a comparison, one row a line: for CSV, JSON, Markdown and Parquet."""
    import polars as pl

    return pl.DataFrame([_flat(row) for row in rows], infer_schema_length=None)


def _flat(row: Row) -> dict[str, Any]:
    what, d = row.what, row.difference
    side = "model" if what["compared"] == "model" else "method"
    return {
        "dataset": what["dataset"], "split_id": what["split_id"], "protocol": what["protocol"],
        "metric": what["metric"], "compared": what["compared"], "a": what[f"{side}_a"], "b": what[f"{side}_b"],
        "held": what["held"], "shots": what["shots"], "ratio": what["ratio"], "n_seeds": d.both.n_seeds,
        "n_groups": d.both.n_groups, "mean_a": d.mean_a, "mean_b": d.mean_b, "difference": d.both.estimate,
        "low": d.both.low, "high": d.both.high, "se": d.both.se, "p": d.both.p, "p_holm": row.p_holm,
        "p_seeds": d.p_seeds, "p_seeds_holm": row.p_seeds_holm, "var_seeds": d.both.var_seeds,
        "var_groups": d.both.var_groups, "var_both": d.both.var_both,
        **{name: what[name] for name in ("n_labelled_a", "n_labelled_b", "recipe_id", "model_id_a", "model_id_b",
                                         "parameters_a", "parameters_b", "text_id_a", "text_id_b", "n_pairs",
                                         "n_other_pixels", "n_unpredicted", "n_stale")},
    }  # fmt: skip


TOLD = {  # count in Row.what: what such pairs are, and what to do
    "n_other_pixels": ("left out, since the two sides were made from different pixels", "evaluate both again"),
    "n_unpredicted": ("left out, since a run has no predictions", "evaluate it here"),
    "n_stale": ("stale, since pixels or vectors have changed or gone since", "`busistore query stale` lists them"),
}


def warnings(rows: Sequence[Row]) -> list[str]:
    """What the reader must know: pairs that are left out or stale, and where no p over the seeds could be significant.
    """
    from busistore import stats

    n_pairs = sum(row.what["n_pairs"] for row in rows)
    counts = {name: sum(row.what[name] for row in rows) for name in TOLD}
    found = [f"{TOLD[k][0]}: {n} of {n_pairs} pairs of runs; {TOLD[k][1]}" for k, n in counts.items() if n]
    tested = [row.difference.both.n_seeds for row in rows if row.difference.p_seeds is not None]
    said = stats.unreachable(max(tested), len(tested)) if tested else None
    return [*found, *([f"p_seeds, over support sets alone: {said}"] if said else [])]
