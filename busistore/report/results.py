"""Sections on the runs: leaderboard, learning curves, confusion, ROC, reliability, hardest images and costs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from busistore.report import charts, curves, pictures
from busistore.report.curves import METRICS, Point
from busistore.report.parts import Figure, Gallery, Picture, Section, Table, cell, count, decimal, duration
from busistore.report.settings import COLUMNS, Setting, key, name_settings
from busistore.report.sources import Source, Sources

MOST_ARMS = 6
MOST_OUTCOMES = 1_000_000  # predictions that intervals resample; beyond, their CSV alone would be 60 MB
MOST_PANELS = 12
MOST_PICTURES = 12
EVALUATE = "busistore evaluate --method linear-probe --model efficientnet-lite0 --shots 1,2,4,8,16,32 --seeds 10"


@dataclass
class Arm:
    """Runs that may be compared: one data set, split and protocol. `at` binds a question to it."""

    row: dict[str, Any]
    at: dict[str, Any]
    suffix: str
    names: dict[tuple, Setting] = field(default_factory=dict)
    board: list[dict[str, Any]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @property
    def shots(self) -> int:
        """The largest number of shots, at which settings are compared."""
        return self.row["shots_max"]

    def interval(self, setting: tuple, metric: str, shots: int) -> Point | None:
        """The point of the learning curves with its interval, if there is one."""
        found = (p for p in self.points if (p.setting, p.metric, p.shots) == (setting, metric, shots))
        return next(found, None)


def arms(sources: Sources) -> list[Arm]:
    """The comparisons that the store holds, the one of most runs first, with their leaderboards and curves."""
    rows = sources.ask("comparisons", "report_arms").rows()[:MOST_ARMS]
    found = []
    for k, row in enumerate(rows):
        at = {name: row[name] for name in ("dataset", "split_id", "protocol")}
        arm = Arm(row, at, "" if k == 0 else f"-{k + 1}")
        arm.board = sources.ask("leaderboard" + arm.suffix, "report_leaderboard", **at).rows()
        values = sources.ask("learning-curves" + arm.suffix, "report_curves", **at)
        few = row["n_runs"] * (row["n_test"] or 0) <= MOST_OUTCOMES
        outcomes = sources.ask("outcomes" + arm.suffix, "report_outcomes", **at).frame if few else None
        arm.names = name_settings(arm.board)
        arm.points = curves.points(values.frame, outcomes)
        found.append(arm)
    return found


def sections(sources: Sources, found: list[Arm]) -> list[Section]:
    """One section for each comparison, and one on what the runs cost."""
    made = [_of_arm(sources, arm, len(found) > 1) for arm in found]
    left = sources.asked["comparisons"].frame.height - len(found)
    if left:
        made[-1].words.append(f"{count(left)} more comparisons, of fewer runs, are in the store and not shown here.")
    if not made:
        made = [Section("results", "Results", missing="There are no finished runs yet.", command=EVALUATE)]
    return [*made, _cost(sources)]


def _of_arm(sources: Sources, arm: Arm, several: bool) -> Section:
    r = arm.row
    title = f"Results: {r['dataset']}, {r['protocol']}" if several else "Results"
    words = (f"{count(r['n_runs'])} runs: {r['n_settings']} settings, {r['n_seeds']} support sets at each number of "
             f"shots, {count(r['n_test'])} test images of {r['dataset']} (split {r['split_id']}, protocol "
             f"{r['protocol']}). Unless a figure says otherwise it shows {arm.shots} labelled images per class.")
    section = Section("results" + arm.suffix, title, [words.replace("1 settings", "1 setting")])
    if not arm.points:
        section.missing, section.command = "The runs have no metrics yet.", EVALUATE
        return section
    at_most = sources.ask("predictions" + arm.suffix, "report_probabilities", **arm.at, shots=arm.shots)
    confusion = sources.ask("confusion" + arm.suffix, "report_confusion", **arm.at, shots=arm.shots)
    section.items += [_leaderboard(sources, arm), _curves(sources, arm, confusion)]
    if at_most.frame.height:
        section.items += [_confusion(confusion, arm), *_roc(at_most, arm), _reliability(at_most, arm)]
    section.items += _hardest(sources, arm)
    return section


def _best(arm: Arm) -> list[tuple[tuple, Setting]]:
    """The settings to draw, best first: those that have runs at the largest number of shots."""
    ranked = [key(r) for r in arm.board if r["shots"] == arm.shots]
    return [(k, arm.names[k]) for k in ranked[:MOST_PANELS]]


def _leaderboard(sources: Sources, arm: Arm) -> Table:
    head = ["Setting", "Encoder", "Shots", "Macro-F1 (95% interval)", "Balanced accuracy", "AUROC M vs B",
            "Recall, malignant", "ECE", "Runs"]  # fmt: skip
    lines = []
    for r in arm.board:
        name, point = arm.names[key(r)], arm.interval(key(r), "macro_f1", r["shots"])
        scores = [decimal(r[c]) for c in ("balanced_accuracy", "auroc_malignant_vs_benign", "recall_malignant", "ece")]
        lines.append([name.how, name.where, str(r["shots"]), with_interval(r["macro_f1"], point), *scores,
                      count(r["n_runs"])])  # fmt: skip
    how = sorted({p.interval for p in arm.points if p.metric == "macro_f1"})
    note = f"Means over support sets; interval: {' or '.join(how)}. M: malignant, B: benign. ECE: lower is better."
    used = _asked(sources, arm, "leaderboard", "outcomes")
    return Table("leaderboard" + arm.suffix, "Leaderboard", head, lines, used, note)


def _asked(sources: Sources, arm: Arm, *names: str) -> list[Source]:
    """Those of the answers that were asked for."""
    return [sources.asked[n + arm.suffix] for n in names if n + arm.suffix in sources.asked]


def with_interval(value: float | None, point: Point | None) -> str:
    """A mean followed by its interval in brackets, where one is known."""
    if point is None or point.low is None:
        return decimal(value)
    return f"{decimal(value)} ({decimal(point.low)}–{decimal(point.high)})"


def _curves(sources: Sources, arm: Arm, confusion: Source) -> Figure:
    used = _asked(sources, arm, "learning-curves", "outcomes")
    best = next((k for k, _ in _best(arm)), key(arm.board[0]))
    of_best = _of_setting(confusion.frame, best)
    tested = dict(of_best.group_by("label", maintain_order=True).agg(pl.sum("n_mean")).rows())
    chances = {metric: curves.chance(tested, metric) for metric in METRICS}
    drawn = curves.panels(arm.points, arm.names, chances)
    kinds = {metric: sorted({p.interval for p in arm.points if p.metric == metric}) for metric in METRICS}
    bands = "; ".join(f"{METRICS[m]}: {' or '.join(k)}" for m, k in kinds.items() if k)
    caption = (f"Lines: means over {arm.row['n_seeds']} support sets, shots on a doubling scale. Bands: 95% "
               f"intervals ({bands}). A band of seeds × groups covers new support sets and new test images together; "
               "Student t covers new support sets on these test images only. Dashed: a uniform guess between the "
               "classes, with no training.")  # fmt: skip
    encoders = len({n.where for n in arm.names.values()})
    name = "learning-curves" + arm.suffix
    return Figure(name, "Learning curves", caption, drawn, used, min(max(encoders, 2), 3), _points(arm))


def _points(arm: Arm) -> Table:
    head = ["Method", "Encoder", "Metric", "Shots", "Mean", "Low", "High", "Seeds", "Interval"]
    lines = [
        [arm.names[p.setting].how, arm.names[p.setting].where, METRICS[p.metric], str(p.shots), decimal(p.mean, 4),
         decimal(p.low, 4), decimal(p.high, 4), str(p.n_seeds), p.interval if p.low is not None else decimal(None)]
        for p in arm.points
    ]  # fmt: skip
    return Table(f"learning-curves{arm.suffix}.points", "The points of the learning curves", head, lines)


def _of_setting(frame: pl.DataFrame, setting: tuple) -> pl.DataFrame:
    return frame.filter(pl.all_horizontal(pl.col(c) == v for c, v in zip(COLUMNS, setting)))


def _confusion(source: Source, arm: Arm) -> Figure:
    classes = sorted(set(source.frame["label"]) | set(source.frame["predicted"]))
    drawn = [charts.confusion(_of_setting(source.frame, k), classes, name) for k, name in _best(arm)]
    caption = (f"Means over support sets at {arm.shots} shots. Each cell: share of the true class (row), and below it "
               f"the mean number of test images.{_some(arm)}")  # fmt: skip
    return Figure(source.name, "Confusion matrices", caption, drawn, [source], 3)


def _some(arm: Arm) -> str:
    n = sum(r["shots"] == arm.shots for r in arm.board)
    return f" The best {MOST_PANELS} of {n} settings by macro-F1." if n > MOST_PANELS else ""


def _roc(source: Source, arm: Arm) -> list[Figure]:
    """One panel for each encoder; nothing where no run tells malignant from benign."""
    found = {name: charts.mean_roc(_of_setting(source.frame, k)) for k, name in _best(arm)}
    methods = sorted({n.how for n in arm.names.values()})
    drawn = []
    for where in dict.fromkeys(n.where for n in arm.names.values()):
        lines = {n.how: curve for n, curve in found.items() if n.where == where and curve}
        if lines:
            drawn.append(charts.roc(lines, methods, where))
    caption = ("Malignant against benign among test images that are either, by p(malignant) / (p(malignant) + "
               f"p(benign)). Lines: vertical mean of the support sets' curves at {arm.shots} shots; numbers: mean "
               f"area.{_some(arm)}")  # fmt: skip
    return [Figure("roc" + arm.suffix, "ROC curves", caption, drawn, [source], min(max(len(drawn), 2), 3))] if drawn else []


def _reliability(source: Source, arm: Arm) -> Figure:
    errors = {key(r): r["ece"] for r in arm.board}
    drawn = [charts.reliability(_of_setting(source.frame, k), name, errors.get(k)) for k, name in _best(arm)]
    caption = (f"How often the predicted class is right, by its probability, in {charts.N_BINS} bins; "
               f"predictions of all support sets at {arm.shots} shots pooled, their numbers below. Hollow: fewer than "
               f"{charts.FEW} predictions. On the dashed line, probabilities mean what they say. ECE: mean over runs."
               f"{_some(arm)}")  # fmt: skip
    return Figure("reliability" + arm.suffix, "Reliability", caption, drawn, [source], 3)


def _hardest(sources: Sources, arm: Arm) -> list[Gallery]:
    source = sources.ask("hardest-images" + arm.suffix, "report_hardest", **arm.at, limit=MOST_PICTURES)
    rows = {r["image_id"]: r for r in source.rows()}
    made = [_picture(uri, rows[image_id]) for image_id, uri in pictures.thumbnails(sources.store, list(rows))]
    caption = ("Test images that the largest share of runs got wrong, over all settings and shots. Yellow: outline of "
               "the true lesion.")  # fmt: skip
    return [Gallery(source.name, "Hardest images", caption, made, [source])] if made else []


def _picture(uri: str, row: dict) -> Picture:
    wrong = f"wrong in {count(row['n_wrong'])} of {count(row['n_runs'])} runs"
    said = f"{row['label']}, called {row['said_instead']}"
    sure = f"mean p({row['label']}) {decimal(row['mean_probability_of_true_class'], 2)}"
    return Picture(uri, f"Ultrasound image {row['image_id']}: {said}, {wrong}.", row["image_id"], (said, wrong, sure))


def _cost(sources: Sources) -> Section:
    source = sources.ask("run-costs", "report_cost")
    section = Section("costs", "What the runs cost")
    if not source.frame.height:
        section.missing, section.command = "No run has been timed yet.", EVALUATE
    else:
        section.items.append(_costs(source))
    return section


def _costs(source: Source) -> Table:
    head = ["Method", "Model", "Protocol", "Device", "Runs", "Total time", "Median", "Longest", "Labelled images, most"]
    lines = [
        [r["method"], r["model"], r["protocol"], cell(r["device"]), count(r["n_runs"]), duration(r["total_s"]),
         duration(r["median_s"]), duration(r["longest_s"]), count(r["n_labelled_max"])]
        for r in source.rows()
    ]  # fmt: skip
    note = "Time of fitting and predicting from stored vectors; encoding is paid once and not part of it."
    return Table(source.name, "Run costs", head, lines, [source], note)
