"""Figures of a comparison: learning curves, differences, confusion, ROC, reliability and decision curves."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from busistore import comparison
from busistore.report import arms, calibration, charts, curves, decisions, forest
from busistore.report.arms import Arm, asked
from busistore.report.grids import between
from busistore.report.parts import Figure, Table, count, decimal, listed, plural
from busistore.report.points import METRICS, Point, chance, meanings
from busistore.report.settings import COLUMNS, Setting, key
from busistore.report.sources import Source, Sources
from busistore.report.style import Panel

MOST_PANELS = 12
MOST_PAIRS = 8


def figures(sources: Sources, arm: Arm) -> list[Figure | Table]:
    """All that is drawn of a comparison; no learning curve where none learns, and nothing of what was not predicted."""
    drawn = []
    if arm.board:
        shots = arm.grid.shots
        confusion = sources.ask("confusion" + arm.suffix, "confusion", **arm.at, shots=shots)
        drawn += [_curves(sources, arm, confusion)] if shots != 0 else []
    if arm.shares:
        drawn.append(_shares(sources, arm))
    if arm.board:
        drawn += _differences(sources, arm)
        drawn += [_confusion(confusion, arm)] if confusion.frame.height else []
        if any(arm.outcomes(k) for k, _ in _best(arm)):
            drawn += [*_roc(sources, arm), *_reliability(sources, arm), *_decisions(sources, arm)]
    return drawn


def _best(arm: Arm) -> list[tuple[tuple, Setting]]:
    """The settings to draw, in the order of the leaderboard; with their shots where these differ."""
    shown = [key(r) for r in arm.board[:MOST_PANELS]]
    return [(k, arm.names[k].at(arm.grid.at(k)) if arm.grid.shots is None else arm.names[k]) for k in shown]


SEEDS = (f"Short marks at each point: its single support sets, or, of more than {curves.MOST_TICKS}, the range of "
         "their middle 80%.")  # fmt: skip


def _curves(sources: Sources, arm: Arm, confusion: Source) -> Figure:
    used = asked(sources, arm, "learning-curves", "outcomes", "tested-images")
    of_best = _of_setting(confusion.frame, key(arm.board[0]), arm)
    tested = dict(of_best.group_by("label", maintain_order=True).agg(pl.sum("n_images")).rows())
    chances = {metric: chance(tested, metric) for metric in METRICS}
    levels = [p for p in arm.levels if p.shots == 0]
    drawn = curves.panels(arm.points, arm.names, chances, levels)
    caption = (f"Lines: means over {between(*arm.grid.n_runs())} support sets at each number of shots, on a doubling "
               f"scale. {_bands(arm.points)} Level dashed line: a uniform guess between the classes, with no "
               f"training. {SEEDS}")  # fmt: skip
    caption += _beyond(arm)
    if levels:
        caption += " Dotted: settings without a support set, which no number of shots moves."
    name = "learning-curves" + arm.suffix
    return Figure(name, "Learning curves", caption, drawn, used, _columns(arm), _points(arm, name, arm.points))


def _columns(arm: Arm) -> int:
    return min(max(len({n.where for n in arm.names.values()}), 2), 3)


def _bands(points: list[Point]) -> str:
    """What the bands of learning curves are, in a sentence or two."""
    kinds = {metric: sorted({p.interval for p in points if p.metric == metric and p.low is not None})
             for metric in METRICS}  # fmt: skip
    bands = "; ".join(f"{METRICS[m]}: {' or '.join(k)}" for m, k in kinds.items() if k)
    return (f"Bands, and bars at single points: 95% intervals ({bands or 'none known'}). {meanings(*kinds.values())} "
            "A point without either comes from one support set, from too few groups, or from runs of one and "
            "the same value however images are drawn, as where all are exactly 1.")  # fmt: skip


def _beyond(arm: Arm) -> str:
    """Which lines have intervals over seeds alone because what their runs predicted is too much to resample."""
    if not arm.beyond:
        return ""
    lines = "all lines" if arm.beyond >= set(arm.names) else listed(sorted(
        str(name) for setting, name in arm.names.items() if setting in arm.beyond))  # fmt: skip
    return (f" Over seeds alone at every size, since at one there are more than {count(arms.MOST_OUTCOMES)} "
            f"predictions: {lines}.")  # fmt: skip


def _shares(sources: Sources, arm: Arm) -> Figure:
    """Learning curves of the support sets that are a share of the training part."""
    used = asked(sources, arm, "learning-curves", "outcomes", "tested-images")
    n = [p.n_seeds for p in arm.shares]
    drawn = curves.panels(arm.shares, arm.names, {})
    caption = (f"Support sets of a share of each class of the training part; lines: means over "
               f"{between(min(n), max(n))} support sets at each share, on a doubling scale. {_bands(arm.shares)} "
               f"{SEEDS}{_beyond(arm)}")  # fmt: skip
    name = "share-curves" + arm.suffix
    title = "Learning curves by share of the training part"
    return Figure(name, title, caption, drawn, used, _columns(arm), _points(arm, name, arm.shares))


def _points(arm: Arm, name: str, points: list[Point]) -> Table:
    size = "Shots" if name.startswith("learning") else "Share"
    head = ["Method", "Encoder", "Metric", size, "Mean", "Low", "High", "Seeds", "Interval"]
    lines = [
        [arm.names[p.setting].how, arm.names[p.setting].where, METRICS[p.metric],
         str(p.shots) if p.ratio is None else comparison.support_words(None, p.ratio), decimal(p.mean, 4),
         decimal(p.low, 4), decimal(p.high, 4), str(p.n_seeds), p.interval if p.low is not None else decimal(None)]
        for p in points
    ]  # fmt: skip
    return Table(f"{name}.points", "The points of the learning curves", head, lines)


def _differences(sources: Sources, arm: Arm) -> list[Figure]:
    """The leader less each of the settings after it, on the same support sets; nothing where these are not the same."""
    first, others = (key(r) for r in arm.board[:1]), [key(r) for r in arm.board[1 : 1 + MOST_PAIRS]]
    leader = next(first)
    if not others or not arm.grid.same_sets:
        return []
    shown = [m for m in METRICS if any(p.metric == m for p in arm.points)]
    found = {m: rows for m in shown if (rows := _pairs(arm, leader, others, m))}
    if not found:
        return []
    name, sides = arm.names[leader], ("the other better", "the leader better")
    drawn = [forest.forest(rows, METRICS[m], f"{name}, less the other", sides, width=430) for m, rows in found.items()]
    points = [[METRICS[m], line.name, decimal(line.estimate, 4), decimal(line.low, 4), decimal(line.high, 4),
               decimal(line.p, 4)] for m, rows in found.items() for line in rows]  # fmt: skip
    caption = (f"The leader of the table, {name}, less each other setting on the same support sets, at {arm.where}. "
               "Dot and bar: mean difference with its 95% interval, for new support sets and new test images together; "
               f"{forest.TICKS}{_family(list(found.values()))} The leader was chosen on these test images, so its lead "
               f"leans to the optimistic side.{_not_drawn(arm, others, list(found.values()))}")  # fmt: skip
    table = Table(f"differences{arm.suffix}.points", "The differences as drawn",
                  ["Metric", "Less", "Difference", "Low", "High", "p (Holm)"], points)  # fmt: skip
    used = asked(sources, arm, "outcomes", "tested-images")
    return [Figure("differences" + arm.suffix, "Paired differences", caption, drawn, used, 2, table)]


def _family(found: list[list[forest.Line]]) -> str:
    """For how many the p of a panel are adjusted: those that are known; nothing where none is."""
    known = [n for rows in found if (n := sum(line.p is not None for line in rows))]
    if not known:
        return ""
    n = plural(known[0], "comparison") if len(set(known)) == 1 else f"{between(min(known), max(known))} comparisons"
    return f" p of that interval, by Holm adjusted for the {n} of a panel."


def _not_drawn(arm: Arm, others: list[tuple], found: list[list[forest.Line]]) -> str:
    """How many settings the differences leave out, and why."""
    said = f" The {MOST_PAIRS} settings next to it." if len(arm.board) > 1 + MOST_PAIRS else ""
    left = len(others) - max(map(len, found))
    return said + (f" Left out: {plural(left, 'setting')} without predictions of the same images." if left else "")


def _pairs(arm: Arm, leader: tuple, others: list[tuple], metric: str) -> list[forest.Line]:
    of = {setting: arm.outcomes(setting) for setting in (leader, *others)}
    found = {k: comparison.difference(metric, of[leader], of[k]) for k in others if of[leader] and of[k]}
    found = {k: d for k, d in found.items() if d is not None}
    adjusted = comparison.adjust([d.both.p for d in found.values()])
    return [
        forest.Line(str(arm.names[k]), "", d.both.estimate, d.both.low, d.both.high, d.values, p)
        for (k, d), p in zip(found.items(), adjusted)
    ]  # fmt: skip


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


def _predicted(arm: Arm) -> list[tuple[tuple, Setting, comparison.Outcomes]]:
    """The settings to draw of which it is known what their runs predicted."""
    return [(k, name, said) for k, name in _best(arm) if (said := arm.outcomes(k)) is not None]


def _roc(sources: Sources, arm: Arm) -> list[Figure]:
    """One panel for each encoder; nothing where no run tells malignant from benign."""
    drawn = _by_encoder(arm, charts.mean_roc, charts.roc)
    caption = ("Malignant against benign among test images that are either, by p(malignant) / (p(malignant) + "
               f"p(benign)). Lines: vertical mean of the curves; numbers: mean area. {arm.means}."
               f"{_some(arm)}")  # fmt: skip
    used = asked(sources, arm, "outcomes", "tested-images")
    columns = min(max(len(drawn), 2), 3)
    return [Figure("roc" + arm.suffix, "ROC curves", caption, drawn, used, columns)] if drawn else []


def _by_encoder(arm: Arm, curve: Callable, draw: Callable) -> list[Panel]:
    """One panel for each encoder: a line for each method of which there is one, in the look it has everywhere."""
    methods = sorted({n.how for n in arm.names.values()})
    found = [(methods.index(arm.names[k].how), name, curve(said)) for k, name, said in _predicted(arm)]
    drawn = []
    for encoder in dict.fromkeys(n.where for n in arm.names.values()):
        lines = {name.how: (at, line) for at, name, line in found if name.where == encoder and line}
        if lines:
            drawn.append(draw(lines, encoder))
    return drawn


def _decisions(sources: Sources, arm: Arm) -> list[Figure]:
    """One panel for each encoder; nothing where no class is called malignant."""
    drawn = _by_encoder(arm, decisions.curve, decisions.panel_of)
    caption = ("Net benefit of calling those images malignant whose p(malignant) reaches the threshold, among all test "
               "images: true positives less false positives, these weighted by the odds of the threshold, per image. "
               "The threshold says how many needless biopsies one finds right for a cancer found. Dashed: all called "
               f"malignant; level: none. {arm.means}.{_some(arm)} Source: Vickers & Elkin (2006).")  # fmt: skip
    used = asked(sources, arm, "outcomes", "tested-images")
    columns = min(max(len(drawn), 2), 3)
    return [Figure("decisions" + arm.suffix, "Decision curves", caption, drawn, used, columns)] if drawn else []


def _reliability(sources: Sources, arm: Arm) -> list[Figure | Table]:
    errors = {key(r): r["ece"] for r in arm.board}
    drawn = [charts.reliability(said, name, errors.get(k)) for k, name, said in _predicted(arm)]
    caption = (f"How often the predicted class is right, by its probability, in the {charts.N_BINS} bins of "
               f"the ECE; predictions of all {arm.pooled} pooled, their numbers below. Hollow: fewer "
               f"than {charts.FEW} predictions. On the dashed line, probabilities mean what they say. ECE: mean over "
               "the runs, each with bins of its own, so it may exceed what the pooled points show."
               f"{_some(arm)}")  # fmt: skip
    used = asked(sources, arm, "outcomes", "tested-images", "leaderboard")
    figure = Figure("reliability" + arm.suffix, "Reliability", caption, drawn, used, 3)
    found = [(name, said) for _, name, said in _predicted(arm)]
    return [figure, calibration.table("calibration" + arm.suffix, found, used[:2])]


