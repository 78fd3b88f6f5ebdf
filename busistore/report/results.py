"""Sections on the runs: leaderboard, what stands apart from it, hardest images and costs."""

from __future__ import annotations

from typing import Any

from busistore.report import figures, pictures
from busistore.report.arms import Arm, asked, with_interval
from busistore.report.grids import between
from busistore.report.parts import Gallery, Picture, Section, Table, cell, count, decimal, duration, plural
from busistore.report.settings import key, where
from busistore.report.sources import Source, Sources

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
    title += ", on a split that cuts groups" if several and r["n_groups_cut"] else ""
    each = f"{between(*arm.grid.n_runs())} runs of a setting at a number of shots, " if arm.board else ""
    words = (f"{count(r['n_runs'])} runs: {plural(r['n_settings'], 'setting')}, {each}{count(r['n_test'])} test images "
             f"of {r['dataset']} (split {r['split_id']}, protocol {r['protocol']}).")  # fmt: skip
    words += f" {arm.grid.words()}" if arm.board else ""
    if arm.apart:
        n = len(arm.apart)
        words += f" {plural(n, 'setting')} without a drawn support set {'stands' if n == 1 else 'stand'} apart."
    section = Section("results" + arm.suffix, title, [words])
    if r["n_groups_cut"]:
        section.words.append(f"This split cuts {plural(r['n_groups_cut'], 'near-duplicate group')}: these scores are "
                             "optimistic, and only good to measure what that is worth.")  # fmt: skip
    if not (arm.points or arm.levels or arm.shares):
        section.missing, section.command = "The runs have no metrics yet.", EVALUATE
        return section
    section.items += [*([_leaderboard(sources, arm)] if arm.board else []), *_apart(sources, arm)]
    section.items += figures.figures(sources, arm)
    section.items += _hardest(sources, arm)
    return section


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
    used = asked(sources, arm, "leaderboard", "outcomes")
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
    used, tables = asked(sources, arm, "apart", "outcomes"), []
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
