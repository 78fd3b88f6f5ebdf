"""The report's sentences, all made from what the store holds: summary, limits and methods."""

from __future__ import annotations

import json
from typing import Any

from busistore import metrics
from busistore.report.arms import Arm, with_interval
from busistore.report.data import older_grouping
from busistore.report.grids import between
from busistore.report.parts import Section, Table, cell, count, decimal, duration, heading, listed, plural
from busistore.report.points import meanings
from busistore.report.settings import key
from busistore.report.sources import Source, Sources

PROTOCOLS = {
    "val-tuned": "hyper-parameters are chosen on the whole validation part (by macro-F1, prompts by macro AUROC), "
    "which counts as consulted",
    "strict": "no label outside the support set is looked at",
}


def summary(chosen: list[dict[str, Any]], table1: dict[str, Source], arms: list[Arm]) -> str:
    """What the store holds and the best result in one or two sentences."""
    if not chosen:
        return "The store is empty: no image has been ingested yet."
    totals = [table1[c["dataset"]].rows()[-1] for c in chosen]
    images, groups = sum(t["images"] for t in totals), sum(t["groups"] for t in totals)
    grouped = f" in {plural(groups, 'group')} of near-duplicates and single frames" if groups else ""
    held = f"{plural(images, 'ultrasound image')} of {listed(c['dataset'] for c in chosen)}{grouped}"
    if not arms:
        return held + "; no run has been made yet."
    if not arms[0].board:
        return held + "; no run has a support set of its own yet."
    return f"{held}. {_best(arms[0], len(arms) > 1)}"


def _best(arm: Arm, several: bool) -> str:
    where = f"On {arm.row['dataset']} under protocol {arm.row['protocol']}, t" if several else "T"
    if arm.grid.shots is None:
        return (f"{plural(len(arm.board), 'setting')} were run, but not at one number of shots with equal seeds; none "
                "is called the best.")  # fmt: skip
    top = arm.board[0]
    name, point = arm.names[key(top)], arm.interval(key(top), "macro_f1", top["shots"])
    value = with_interval(top["macro_f1"], point).replace("(", "(95% interval ", 1)
    sets = plural(top["n_runs"], "support set") + (", the same for all settings" if arm.grid.same_sets else "")
    among = where + (f"he best of {len(arm.board)} settings" if len(arm.board) > 1 else "he one setting")
    tested = plural(top["n_test"], "test image")
    if top["shots"] == 0:
        return f"{among} without a support set, {name.how} on {name.where}, reaches a macro-F1 of {value} on {tested}."
    shots = plural(top["shots"], "labelled image")
    return (f"{among} at {shots} per class, {name.how} on {name.where}, reaches a macro-F1 of {value} on {tested}, "
            f"over {sets}.")  # fmt: skip


def limits(chosen: list[dict[str, Any]], table1: dict[str, Source], arms: list[Arm]) -> Section:
    """What the numbers cannot say, worked out from the data."""
    section = Section("limits", "Limits")
    for choice in chosen:
        section.words += _data_limits(choice["dataset"], table1[choice["dataset"]].rows())
    for arm in [a for a in arms[:1] if a.board]:
        section.words += _run_limits(arm)
    section.words.append("These are retrospective results on still images; they do not show clinical benefit.")
    return section


def _data_limits(name: str, rows: list[dict[str, Any]]) -> list[str]:
    total, said = rows[-1], []
    unknown = total["images"] - total["with_patient"]
    if unknown:
        said.append(f"{name}: the patient of {count(unknown)} of {plural(total['images'], 'image')} is unknown. Groups "
                    "join near-duplicate frames only; other views of one patient may lie on both sides of a split.")
    crossed = total["images_in_cross_class_groups"]
    if crossed:
        said.append(f"{name}: {plural(crossed, 'image')} lie in near-duplicate groups that carry more than one label; "
                    "at least one label of each group is doubtful.")
    tested = [f"{count(r['test'])} {r['label']}" for r in rows[:-1] if r["test"]]
    if tested:
        said.append(f"{name}: the test part holds {listed(tested)} images; one image moves the recall of the rarest of "
                    f"them by {100 / min(r['test'] for r in rows[:-1] if r['test']):.1f} points.")
    return said


def _run_limits(arm: Arm) -> list[str]:
    said = []
    n = len(arm.board)
    if n > 1 and arm.grid.shots is not None:
        said.append(f"The leader is the best of {n} settings on the same test images, so its score leans to the "
                    "optimistic side. Intervals are not corrected for the number of settings.")
    fewest = arm.grid.n_runs(arm.grid.shots)[0]
    if fewest < 5 and arm.grid.shots != 0:
        said.append(f"With {plural(fewest, 'support set')} of a setting, the spread over support sets is hardly known.")
    said.append("Runs that are compared share one split; intervals cover at most new support sets and new test images "
                "of the same source, not other hospitals, devices or splits.")
    return said


def methods(sources: Sources, chosen: list[dict[str, Any]], arms: list[Arm]) -> Section:
    """How the numbers were made, from the parameters that are stored with them."""
    section = Section("methods", "How these numbers were made")
    section.words += [words for c in chosen for words in _data_words(sources, c)]
    settings, models = sources.ask("settings", "report_settings"), sources.ask("models", "report_models")
    section.words += _run_words(settings.rows(), arms)
    if models.frame.height:
        section.items.append(_models_table(models))
    if settings.frame.height:
        section.items.append(_settings_table(settings))
    if not section.words:
        section.missing, section.command = "Nothing was made yet.", "busistore ingest busi PATH --audit"
    return section


def _data_words(sources: Sources, choice: dict[str, Any]) -> list[str]:
    said = []
    if choice["grouping"]:
        said.append(f"Images of {choice['dataset']} that show the same frame were joined into groups "
                    f"({choice['grouping']}); groups move as a whole, and no image was deleted.")
        said += older_grouping(choice)
    split = next((r for r in sources.asked["leakage"].rows() if r["split_id"] == choice["split_id"]), None)
    if split:
        seed = f", seed {split['seed']}" if split["seed"] is not None else ""
        images, groups = plural(split["n_images"], "image"), plural(split["n_groups"], "group")
        said.append(f"The split {split['split_id']} ({split['source']}{seed}) holds {images} in {groups}.")
    return said


def _run_words(rows: list[dict[str, Any]], arms: list[Arm]) -> list[str]:
    said = []
    shots = sorted({s for r in rows for s in r["shots"] if s})
    shares = sorted({s for r in rows for s in r["ratios"] if s < 1})
    if shots:
        drawn = [a.grid.n_runs() for a in arms if a.board and a.grid.shots != 0]
        fewest, most = min((n for n, _ in drawn), default=0), max((n for _, n in drawn), default=0)
        said.append(f"Support sets of {listed(map(str, shots))} images per class were drawn from the training part, "
                    f"{between(fewest, most)} for each setting and number of shots.{_sets_words(arms)}")
    if shares:
        sizes = listed(f"{100 * s:g}%" for s in shares)
        said.append(f"Support sets of {sizes} of each class of the training part were drawn too.")
    said += [f"Protocol {p}: {PROTOCOLS[p]}." for p in sorted({r["protocol"] for r in rows} & set(PROTOCOLS))]
    if rows:
        fewest, most = min(r["n_labelled_min"] for r in rows), max(r["n_labelled_max"] for r in rows)
        said.append(f"A run consulted between {count(fewest)} and {count(most)} labelled images.")
    if arms:
        said.append("Macro-F1: " + _metric("macro_f1") + ". AUROC, malignant vs benign: " +
                    _metric("auroc_malignant_vs_benign") + ". ECE: " + _metric("ece") + ".")
        known = [p.interval for a in arms for p in (*a.points, *a.shares) if p.low is not None]
        said.append("Intervals hold 95%. " + meanings(known))
    return said


def _sets_words(arms: list[Arm]) -> str:
    """Whether compared settings saw the same support sets; nothing where none can be compared."""
    several = [a for a in arms if a.grid.several]
    if not several:
        return ""
    if all(a.grid.one_set for a in several):
        return " Settings of one comparison that share a number of shots saw the same support sets there."
    return " Not all settings that share a number of shots saw the same support sets there."


def _metric(name: str) -> str:
    return metrics.METRICS[name].description


def _models_table(source: Source) -> Table:
    kept = ("model_id", "architecture", "dim", "precision", "weights_source", "weights_sha256", "licence")
    rows = [[cell(r[c])[:16] if c == "weights_sha256" else cell(r[c]) for c in kept] for r in source.rows()]
    note = "Of the weights' SHA-256, the first 16 digits."
    return Table(source.name, "Encoders", [heading(c) for c in kept], rows, [source], note)


def _settings_table(source: Source) -> Table:
    head = ["Method", "Protocol", "Parameters", "Runs", "Labelled images", "Time", "Device", "Versions", "Commit"]
    rows = [
        [r["method"], r["protocol"], _pairs(r["parameters"]), count(r["n_runs"]),
         f"{count(r['n_labelled_min'])}–{count(r['n_labelled_max'])}", duration(r["seconds"]), cell(r["device"]),
         _pairs(r["versions"]), cell(r["commit"])]
        for r in source.rows()
    ]  # fmt: skip
    return Table(source.name, "Methods with their parameters, as stored with the runs", head, rows, [source])


def _pairs(text: str | None) -> str:
    """A JSON object as `name value` pairs for reading."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        return cell(text)
    return ", ".join(f"{k} {_plain(v)}" for k, v in values.items()) if values else decimal(None)


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
