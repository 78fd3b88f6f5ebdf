"""The section on leakage: what groups the splits cut, which test images were exposed, and what that is worth."""

from __future__ import annotations

import numpy as np

from busistore.comparison import support_words
from busistore.report import forest
from busistore.report.parts import Figure, Section, Table, count, decimal, listed, plural
from busistore.report.points import METRICS
from busistore.report.settings import key, name_settings
from busistore.report.sources import Source, Sources

MOST_ROWS = 20  # of a metric, in the figure and in the table


def section(sources: Sources) -> Section:
    """Whether a split cuts a group, which share of test images was exposed by it, and what that is worth."""
    made = Section("leakage", "Leakage and exposure")
    source = sources.asked["leakage"]
    rows = source.rows()
    if not rows:
        made.missing, made.command = "There is no split yet.", "busistore split busi --seed 42"
        return made
    newest = sources.asked["groupings"]
    made.words.append(words(rows, {g["split_id"]: g for g in newest.rows()}))
    made.items.append(_splits(source, newest))
    made.items += _worth(sources)
    return made


def _splits(source: Source, newest: Source) -> Table:
    of_newest = {g["split_id"]: g for g in newest.rows()}
    head = ["Split", "Images", "Groups", "Groups cut", "Cut, newest grouping", "Exposed to support",
            "Exposed to validation", "Runs"]  # fmt: skip
    lines = [
        [r["split_id"], count(r["n_images"]), count(r["n_groups"]), count(r["n_groups_cut"]),
         count(of_newest.get(r["split_id"], {}).get("n_groups_cut")), percent(r["exposure_support_max"]),
         percent(r["exposure_val_max"]), count(r["n_runs"] or 0)]
        for r in source.rows()
    ]  # fmt: skip
    note = ("Groups cut: of the groups that the split was made of; beside it, of the data set's newest grouping. "
            "Exposed: largest share, over runs, of test images whose near-duplicate group has an image in that part "
            "too; a dash where no run looked at the part.")  # fmt: skip
    return Table(source.name, "Splits and the exposure of their test images", head, lines, [source, newest], note)


def _worth(sources: Sources) -> list[Table | Figure]:
    """The same grids on a split that cuts groups and on one that does not; nothing where there are no such two."""
    asked = [(m, sources.ask(f"leakage-delta-{m}", "leakage_delta", metric=m)) for m in METRICS]
    asked = [(metric, source) for metric, source in asked if source.frame.height]
    if not asked:
        return []
    every = [row for _, source in asked for row in source.rows()]
    names = _names(every)
    used = [source for _, source in asked]
    shown = {metric: _shown(source.rows()) for metric, source in asked}
    over = listed(sorted({r["spread_over"] for r in every}))
    caption = ("The same methods on a split that cuts near-duplicate groups, less those on a split that cuts none: "
               f"mean difference with its 95% interval over {over}. To the right of 0, leakage flatters. The two "
               "splits also have different test images; over one pair of splits the interval knows nothing of "
               "that, over several it is for further splits of these images, wider for what the splits share "
               "(Nadeau & Bengio 2003).")  # fmt: skip
    said = _some(shown, used)
    drawn = [_forest(rows, metric, names) for metric, rows in shown.items()]
    figure = Figure("leakage-delta", "What leakage is worth", caption + said, drawn, used, 2)
    return [figure, _table(shown, names, used, said)]


def _of(row: dict) -> tuple:
    """What makes a row's line at all sizes of the support sets: data set, protocol, texts and setting."""
    return row["dataset"], row["protocol"], row.get("text_id"), *key(row)


def _names(rows: list[dict]) -> dict[tuple, str]:
    """The names of the rows' settings, with the data set, protocol or texts before it where there are several."""
    settings = name_settings(rows)
    several = [c for c in ("dataset", "protocol", "text_id") if len({r.get(c) for r in rows}) > 1]
    return {_of(r): ", ".join([*(str(r.get(c) or "no texts") for c in several), str(settings[key(r)])]) for r in rows}


def _shown(rows: list[dict]) -> list[dict]:
    """All rows of a metric, or of too many those of the largest support sets that all of a comparison have."""
    if len(rows) <= MOST_ROWS:
        return rows
    kept = []
    for group in dict.fromkeys(_of(r)[:2] for r in rows):
        own: dict[tuple, dict[tuple, dict]] = {}
        for r in (r for r in rows if _of(r)[:2] == group):
            own.setdefault(_of(r), {})[r["shots"], r["ratio"]] = r
        common = set.intersection(*(set(sizes) for sizes in own.values()))
        kept += [sizes[max(common or sizes, key=_size)] for sizes in own.values()]
    return kept[:MOST_ROWS]


def _size(size: tuple[int | None, float | None]) -> tuple:
    """By which sizes of support sets are ordered: shots before shares, and the larger before the smaller."""
    shots, ratio = size
    return shots is not None, shots or 0, ratio or 0


def _some(shown: dict[str, list[dict]], used: list[Source]) -> str:
    """What is left out of the page, in a sentence; nothing where nothing is."""
    if all(len(rows) == source.frame.height for rows, source in zip(shown.values(), used)):
        return ""
    lines = max(len({_of(r) for r in source.rows()}) for source in used)
    some = f", the first {MOST_ROWS} of {lines} settings" if lines > MOST_ROWS else ""
    longest = max(source.frame.height for source in used)
    return (f" Shown: the largest support sets that all settings have, or else a setting's own largest{some}; the CSV "
            f"of a metric holds all {longest} rows.")  # fmt: skip


def _forest(rows: list[dict], metric: str, names: dict[tuple, str]):
    lines = [
        forest.Line(support_words(r["shots"], r["ratio"]), names[_of(r)], r["difference"], r["low"], r["high"],
                    np.empty(0), None)
        for r in rows
    ]  # fmt: skip
    sides = "lower on the naive split", "higher"
    return forest.forest(lines, METRICS[metric], "naive split less grouped split", sides, width=430)


def _table(shown: dict[str, list[dict]], names: dict[tuple, str], used: list[Source], said: str) -> Table:
    head = ["Metric", "Setting", "Support", "Pairs of runs", "Naive", "Grouped", "Difference (95% interval)",
            "Exposed to support", "To validation"]  # fmt: skip
    lines = []
    for metric, rows in shown.items():
        for r in rows:
            interval = "" if r["low"] is None else f" ({decimal(r['low'])} to {decimal(r['high'])})"
            shares = ((r[f"exposure_{part}_naive"], r[f"exposure_{part}_grouped"]) for part in ("support", "val"))
            lines.append([METRICS[metric].split(",")[0], names[_of(r)], support_words(r["shots"], r["ratio"]),
                          count(r["n_pairs"]), decimal(r["mean_naive"]), decimal(r["mean_grouped"]),
                          decimal(r["difference"]) + interval,
                          *(f"{percent(naive)} / {percent(grouped)}" for naive, grouped in shares)])  # fmt: skip
    note = "Exposed: mean share of test images with a near-duplicate in that part, naive / grouped." + said
    return Table("leakage-deltas", "The same grid on a naive and on a grouped split", head, lines, used, note)


def percent(value: float | None) -> str:
    """A share in percent; a dash for None."""
    return decimal(None) if value is None else f"{100 * value:.1f}%"


def words(rows: list[dict], newest: dict[str, dict]) -> str:
    """Statements on all splits that runs were made on (or on all, before any run).

    Args:
        rows: of `report_leakage`.
        newest: rows of `report_groupings` by their split.
    """
    used = [r for r in rows if r["n_runs"]] or rows
    return f"{_cut_words(used, newest)} {_exposure_words(used)}"


def _cut_words(rows: list[dict], newest: dict[str, dict]) -> str:
    own = sum(r["n_groups_cut"] for r in rows)
    said = (f"{plural(own, 'near-duplicate group')} {'is' if own == 1 else 'are'} cut by a split: scores on it are "
            "optimistic." if own else "No near-duplicate group that a split was made of is cut by it.")  # fmt: skip
    known = [(r, newest[r["split_id"]]) for r in rows if r["split_id"] in newest]
    others = [now for r, now in known if now["grouping"] != r["grouping"]]
    if not others:
        return said + (" These groups are of the newest grouping." if len(known) == len(rows) else "")
    cut = sum(now["n_groups_cut"] for now in others)
    names = listed(sorted({now["grouping"] for now in others}))
    if cut:
        return said + (f" Of the newest grouping, {names}, {plural(cut, 'group')} {'is' if cut == 1 else 'are'} cut: "
                       "scores may be optimistic.")  # fmt: skip
    return said + f" Nor is a group of the newest grouping, {names}."


def _exposure_words(rows: list[dict]) -> str:
    """What runs recorded; None stands for a part that no run looked at."""
    seen = {"support": [r["exposure_support_max"] for r in rows], "validation": [r["exposure_val_max"] for r in rows]}
    known = {part: max(v for v in values if v is not None) for part, values in seen.items() if set(values) != {None}}
    if not known:
        return "No run has recorded its exposure yet."
    unseen = "" if "validation" in known else " No run looked at validation images."
    if not any(known.values()):
        return f"No test image of any run has a near-duplicate in the {' or '.join(known)} images that it used.{unseen}"
    shares = listed(f"{percent(v)} in its {part} images" for part, v in known.items() if v)
    return f"Up to this share of a run's test images have a near-duplicate where it learned: {shares}.{unseen}"
