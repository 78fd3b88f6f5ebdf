"""Sections on the runs: leaderboard, learning curves, confusion, ROC, reliability, hardest images and costs."""

from __future__ import annotations

from typing import Any

import polars as pl

from busistore.report import charts, curves, pictures
from busistore.report.arms import Arm, with_interval
from busistore.report.curves import METRICS, meanings
from busistore.report.grids import between
from busistore.report.parts import Figure, Gallery, Picture, Section, Table, cell, count, decimal, duration, plural
from busistore.report.settings import COLUMNS, Setting, key, where
from busistore.report.sources import Source, Sources

MOST_PANELS = 12
MOST_PICTURES = 12
EVALUATE = "busistore evaluate --method linear-probe --model efficientnet-lite0 --shots 1,2,4,8,16,32 --seeds 10"


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
    each = f"{between(*arm.grid.n_runs())} runs of a setting at a number of shots, " if arm.board else ""
    words = (f"{count(r['n_runs'])} runs: {plural(r['n_settings'], 'setting')}, {each}{count(r['n_test'])} test images "
             f"of {r['dataset']} (split {r['split_id']}, protocol {r['protocol']}).")  # fmt: skip
    words += f" {arm.grid.words()}" if arm.board else ""
    if arm.apart:
        n = len(arm.apart)
        words += f" {plural(n, 'setting')} without a drawn support set {'stands' if n == 1 else 'stand'} apart."
    section = Section("results" + arm.suffix, title, [words])
    if not arm.points and not arm.levels:
        section.missing, section.command = "The runs have no metrics yet.", EVALUATE
        return section
    section.items += [*([_leaderboard(sources, arm)] if arm.board else []), *_apart(sources, arm)]
    if arm.board:
        section.items += _figures(sources, arm)
    section.items += _hardest(sources, arm)
    return section


def _figures(sources: Sources, arm: Arm) -> list[Figure]:
    """What is drawn of the settings on the grid; no learning curve where none learns."""
    shots = arm.grid.shots
    confusion = sources.ask("confusion" + arm.suffix, "confusion", **arm.at, shots=shots)
    drawn = [_curves(sources, arm, confusion)] if shots != 0 else []
    if confusion.frame.height and (shots is not None or arm.few):
        said = sources.ask("predictions" + arm.suffix, "report_probabilities", **arm.at, shots=shots)
        drawn += [_confusion(confusion, arm), *_roc(said, arm), _reliability(said, arm)]
    return drawn


def _best(arm: Arm) -> list[tuple[tuple, Setting]]:
    """The settings to draw, in the order of the leaderboard; with their shots where these differ."""
    shown = [key(r) for r in arm.board[:MOST_PANELS]]
    return [(k, arm.names[k].at(arm.grid.at(k)) if arm.grid.shots is None else arm.names[k]) for k in shown]


def _leaderboard(sources: Sources, arm: Arm) -> Table:
    head = ["Setting", "Encoder", "Shots", "Macro-F1 (95% interval)", "Balanced accuracy", "AUROC M vs B",
            "Recall, malignant", "ECE", "Runs"]  # fmt: skip
    lines, kinds = [], set()
    for r in arm.board:
        name, point = arm.names[key(r)], arm.interval(key(r), "macro_f1", r["shots"])
        kinds |= {point.interval} if point and point.low is not None else set()
        lines.append([name.how, name.where, str(r["shots"]), with_interval(r["macro_f1"], point), *_scores(r),
                      count(r["n_runs"])])  # fmt: skip
    how = " or ".join(sorted(kinds)) or "none known"
    mean = "Means over runs" if arm.grid.shots == 0 else "Means over support sets"
    note = f"{mean}; interval: {how}. M: malignant, B: benign. ECE: lower is better."
    if arm.grid.shots is None:
        note = "In the order of their names, not ranked: they differ in shots or seeds. " + note
    used = _asked(sources, arm, "leaderboard", "outcomes")
    title = "Settings, not ranked" if arm.grid.shots is None else "Leaderboard"
    return Table("leaderboard" + arm.suffix, title, head, lines, used, note)


def _scores(row: dict[str, Any]) -> list[str]:
    return [decimal(row[c]) for c in ("balanced_accuracy", "auroc_malignant_vs_benign", "recall_malignant", "ece")]


APART = {  # number of shots: what such runs are called, and what is to be known of them
    0: ("Without a support set", "zero-shot", "Nothing was fitted to an image. Labelled images: those on which prompts "
        "were chosen, 0 where none was looked at."),
    None: ("With every training label", "supervised", "Not zero-shot and not few-shot: each learned from the whole "
           "training part, and is comparable with neither."),
}  # fmt: skip


def _apart(sources: Sources, arm: Arm) -> list[Table]:
    """The settings beside the grid, those without any label never in one table with those that took all."""
    head = ["Setting", "Encoder", "Labelled images", "Macro-F1 (95% interval)", "Balanced accuracy", "AUROC M vs B",
            "Recall, malignant", "ECE"]  # fmt: skip
    used, tables = _asked(sources, arm, "apart", "outcomes"), []
    for shots, (title, name, note) in APART.items():
        own = [r for r in arm.apart if r["shots"] == shots]
        scored = [with_interval(r["macro_f1"], arm.interval(key(r), "macro_f1", shots)) for r in own]
        lines = [[*_names(arm, r), count(r["n_labelled"]), f1, *_scores(r)] for r, f1 in zip(own, scored)]
        if lines:
            tables.append(Table(name + arm.suffix, title, head, lines, used, note))
    return tables


def _names(arm: Arm, row: dict[str, Any]) -> tuple[str, str]:
    name = arm.names[key(row)]
    return name.how, name.where


def _asked(sources: Sources, arm: Arm, *names: str) -> list[Source]:
    """Those of the answers that were asked for."""
    return [sources.asked[n + arm.suffix] for n in names if n + arm.suffix in sources.asked]


def _curves(sources: Sources, arm: Arm, confusion: Source) -> Figure:
    used = _asked(sources, arm, "learning-curves", "outcomes")
    of_best = _of_setting(confusion.frame, key(arm.board[0]), arm)
    tested = dict(of_best.group_by("label", maintain_order=True).agg(pl.sum("n_images")).rows())
    chances = {metric: curves.chance(tested, metric) for metric in METRICS}
    levels = [p for p in arm.levels if p.shots == 0]
    drawn = curves.panels(arm.points, arm.names, chances, levels)
    kinds = {metric: _kinds(arm, metric) for metric in METRICS}
    bands = "; ".join(f"{METRICS[m]}: {' or '.join(k)}" for m, k in kinds.items() if k)
    caption = (f"Lines: means over {between(*arm.grid.n_runs())} support sets at each number of shots, on a doubling "
               f"scale. Bands, and bars at single points: 95% intervals ({bands}). {meanings(*kinds.values())} A point "
               "without either comes from one support set or from too few groups. Level dashed line: a uniform guess "
               "between the classes, with no training.")  # fmt: skip
    if levels:
        caption += " Dotted: settings without a support set, which no number of shots moves."
    encoders = len({n.where for n in arm.names.values()})
    name = "learning-curves" + arm.suffix
    return Figure(name, "Learning curves", caption, drawn, used, min(max(encoders, 2), 3), _points(arm))


def _kinds(arm: Arm, metric: str) -> list[str]:
    """The kinds of interval that points of a metric have."""
    return sorted({p.interval for p in arm.points if p.metric == metric and p.low is not None})


def _points(arm: Arm) -> Table:
    head = ["Method", "Encoder", "Metric", "Shots", "Mean", "Low", "High", "Seeds", "Interval"]
    lines = [
        [arm.names[p.setting].how, arm.names[p.setting].where, METRICS[p.metric], str(p.shots), decimal(p.mean, 4),
         decimal(p.low, 4), decimal(p.high, 4), str(p.n_seeds), p.interval if p.low is not None else decimal(None)]
        for p in arm.points
    ]  # fmt: skip
    return Table(f"learning-curves{arm.suffix}.points", "The points of the learning curves", head, lines)


def _of_setting(frame: pl.DataFrame, setting: tuple, arm: Arm) -> pl.DataFrame:
    own = frame.filter(pl.all_horizontal(pl.col(c) == v for c, v in zip(COLUMNS, setting)))
    return own.filter(pl.col("shots") == arm.grid.at(setting))


def _confusion(source: Source, arm: Arm) -> Figure:
    classes = sorted(set(source.frame["label"]) | set(source.frame["predicted"]))
    drawn = [charts.confusion(_of_setting(source.frame, k, arm), classes, name) for k, name in _best(arm)]
    caption = (f"{arm.means}. Each cell: share of the true class (row), and below it "
               f"the mean number of test images.{_some(arm)}")  # fmt: skip
    return Figure(source.name, "Confusion matrices", caption, drawn, [source], 3)


def _some(arm: Arm) -> str:
    which = "best" if arm.grid.shots is not None else "first"
    return f" The {which} {MOST_PANELS} of {len(arm.board)} settings." if len(arm.board) > MOST_PANELS else ""


def _roc(source: Source, arm: Arm) -> list[Figure]:
    """One panel for each encoder; nothing where no run tells malignant from benign."""
    methods = sorted({n.how for n in arm.names.values()})
    found = [(methods.index(arm.names[k].how), name, charts.mean_roc(_of_setting(source.frame, k, arm)))
             for k, name in _best(arm)]  # fmt: skip
    drawn = []
    for encoder in dict.fromkeys(n.where for n in arm.names.values()):
        lines = {name.how: (at, curve) for at, name, curve in found if name.where == encoder and curve}
        if lines:
            drawn.append(charts.roc(lines, encoder))
    caption = ("Malignant against benign among test images that are either, by p(malignant) / (p(malignant) + "
               f"p(benign)). Lines: vertical mean of the curves; numbers: mean area. {arm.means}."
               f"{_some(arm)}")  # fmt: skip
    columns = min(max(len(drawn), 2), 3)
    return [Figure("roc" + arm.suffix, "ROC curves", caption, drawn, [source], columns)] if drawn else []


def _reliability(source: Source, arm: Arm) -> Figure:
    errors = {key(r): r["ece"] for r in arm.board}
    drawn = [charts.reliability(_of_setting(source.frame, k, arm), name, errors.get(k)) for k, name in _best(arm)]
    caption = (f"How often the predicted class is right, by its probability, in the {charts.N_BINS} bins of "
               f"the ECE; predictions of all {arm.pooled} pooled, their numbers below. Hollow: fewer "
               f"than {charts.FEW} predictions. On the dashed line, probabilities mean what they say. ECE: mean over "
               "the runs, each with bins of its own, so it may exceed what the pooled points show."
               f"{_some(arm)}")  # fmt: skip
    return Figure("reliability" + arm.suffix, "Reliability", caption, drawn, [source], 3)


def _hardest(sources: Sources, arm: Arm) -> list[Gallery]:
    source = sources.ask("hardest-images" + arm.suffix, "hardest_images", **arm.at, limit=MOST_PICTURES)
    rows = {r["image_id"]: r for r in source.rows()}
    made = [_picture(uri, rows[image_id]) for image_id, uri in pictures.thumbnails(sources.store, list(rows))]
    caption = ("Test images that the largest share of runs got wrong, over all settings and shots. Yellow: outline of "
               "the true lesion.")  # fmt: skip
    return [Gallery(source.name, "Hardest images", caption, made, [source])] if made else []


def _picture(uri: str, row: dict) -> Picture:
    wrong = f"wrong in {count(row['n_wrong'])} of {count(row['n_runs'])} runs"
    said = f"{row['label']}, called {row['mostly_said']}"
    sure = f"mean p({row['label']}) {decimal(row['p_true'], 2)}"
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
    rows = source.rows()
    lines = [
        [r["method"], where(r, rows), r["protocol"], cell(r["device"]), count(r["n_runs"]), duration(r["total_s"]),
         duration(r["median_s"]), duration(r["longest_s"]), count(r["n_labelled_max"])]
        for r in rows
    ]  # fmt: skip
    note = "Time of fitting and predicting from stored vectors; encoding is paid once and not part of it."
    return Table(source.name, "Run costs", head, lines, [source], note)
