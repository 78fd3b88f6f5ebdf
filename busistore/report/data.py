"""Sections on the data: its way through the store, its first table, its audit and its leaks."""

from __future__ import annotations

from typing import Any

from busistore.report import flow
from busistore.report.parts import Figure, Section, Table, count, decimal, listed, plain_table, plural, share
from busistore.report.sources import Source, Sources


def choose(sources: Sources) -> list[dict[str, Any]]:
    """For each data set, its split with the most runs, that split's grouping and the newest one; None before any.

    Data sets with most runs come first.
    """
    splits = sources.ask("leakage", "report_leakage").rows()
    names = sorted(set(sources.store.read("images", ["dataset"])["dataset"].to_pylist()), key=str)
    newest = {g["dataset"]: g["grouping"] for g in sources.ask("groupings", "report_groupings").rows()}
    chosen = []
    for name in names:
        own = sorted((s for s in splits if s["dataset"] == name), key=lambda s: (-(s["n_runs"] or 0), s["split_id"]))
        chosen.append({"dataset": name, "split_id": own[0]["split_id"] if own else None,
                       "grouping": newest.get(name), "split_grouping": own[0]["grouping"] if own else None,
                       "n_runs": sum(s["n_runs"] or 0 for s in own)})  # fmt: skip
    return sorted(chosen, key=lambda c: -c["n_runs"])


def sections(sources: Sources, chosen: list[dict[str, Any]]) -> list[Section]:
    """All sections on the data; each says what makes it where the store holds nothing for it yet."""
    return [_way(sources, chosen), _table1(sources, chosen), _audit(sources), _leakage(sources)]


def suffix(k: int) -> str:
    """What keeps the names of the k-th data set's files apart from those of the first."""
    return "" if k == 0 else f"-{k + 1}"


def _asking(choice: dict) -> dict[str, Any]:
    return {name: choice[name] for name in ("dataset", "split_id", "grouping")}


def _way(sources: Sources, chosen: list[dict]) -> Section:
    section = Section("data", "The way of the data")
    if not chosen:
        section.missing, section.command = "The store holds no images yet.", "busistore ingest busi PATH --audit"
    for k, choice in enumerate(chosen):
        source = sources.ask("flow" + suffix(k), "report_counts", **_asking(choice))
        wide, tall = flow.flow(source.rows())
        of = f" of the split {choice['split_id']}" if choice["split_id"] else ""
        older = " ".join(["", *older_grouping(choice)])
        section.items.append(
            Figure(source.name, f"The way of the data: {choice['dataset']}",
                   f"Every image is encoded once per model; episodes{of} draw their support sets from the training "
                   f"part, and each run fits one method to the stored vectors of one episode.{older}",
                   [wide, tall], [source], 1)
        )  # fmt: skip
    return section


def _table1(sources: Sources, chosen: list[dict]) -> Section:
    section = Section("classes", "The data set by class")
    if not chosen:
        section.missing, section.command = "No images, no table.", "busistore ingest busi PATH"
    for k, choice in enumerate(chosen):
        source = sources.ask("table-1" + suffix(k), "report_table1", **_asking(choice))
        section.items.append(_by_class(source, choice))
    return section


def _by_class(source: Source, choice: dict) -> Table:
    """Characteristics in rows, classes in columns, as papers print it."""
    rows = source.rows()
    head = ["Characteristic", *(str(r["label"])[:1].upper() + str(r["label"])[1:] for r in rows)]
    lines = [[title, *(write(r) for r in rows)] for title, write in _LINES.items()]
    lines = [line for line in lines if line[0] not in _OPTIONAL or any(c not in ("0", "–") for c in line[1:])]
    notes = ["Shares are of the class's images. Lesion size is that of images with a lesion, as a share of the image."]
    if choice["split_id"]:
        notes.append(f"Parts are those of the split {choice['split_id']}.")
    if choice["grouping"]:
        notes.append(f"Near-duplicate groups by {choice['grouping']}.")
    if sum(r["groups"] for r in rows[:-1]) > rows[-1]["groups"]:
        notes.append("A group that holds images of several classes counts once in each of them, so the classes' groups "
                     "add up to more than All.")
    notes += older_grouping(choice)
    return Table(source.name, f"Images of {choice['dataset']} by class", head, lines, [source], " ".join(notes))


def older_grouping(choice: dict) -> list[str]:
    """A sentence to say where the split was made of another grouping than the newest; none where it was not."""
    if choice["split_grouping"] in (None, "", choice["grouping"]):
        return []
    return [f"The split was made of the grouping {choice['split_grouping']}; groups are counted by the newest one, "
            f"{choice['grouping']}."]  # fmt: skip


def _range(row: dict, side: str) -> str:
    if row[f"{side}_px_median"] is None:
        return "–"
    return f"{row[f'{side}_px_median']:.0f} ({row[f'{side}_px_min']}–{row[f'{side}_px_max']})"


def _area(row: dict) -> str:
    median, low, high = (row[f"lesion_area_percent_{q}"] for q in ("median", "q1", "q3"))
    return "–" if median is None else f"{median:.1f} ({low:.1f}–{high:.1f})"


def _share_of(column: str):
    return lambda row: share(row[column], row["images"])


_LINES = {
    "Images": lambda r: count(r["images"]),
    "With a known patient": _share_of("with_patient"),
    "Stored in colour": _share_of("colour_mode"),
    "Width in px, median (range)": lambda r: _range(r, "width"),
    "Height in px, median (range)": lambda r: _range(r, "height"),
    "With a mask": _share_of("with_mask"),
    "Lesions": lambda r: count(r["lesions"]),
    "Lesion size in % of the image, median (IQR)": _area,
    "Several lesions": _share_of("multi_lesion"),
    "Lesion touches the edge": _share_of("touching_edge"),
    "Groups of frames": lambda r: count(r["groups"]),
    "Near-duplicate groups": lambda r: count(r["near_duplicate_groups"]),
    "Images with a near-duplicate": _share_of("images_with_twin"),
    "In a group that spans classes": _share_of("images_in_cross_class_groups"),
    "Training part": _share_of("train"),
    "Validation part": _share_of("val"),
    "Test part": _share_of("test"),
    "Left out of the split": _share_of("left_out"),
}
_OPTIONAL = ("With a known patient", "Stored in colour", "In a group that spans classes", "Left out of the split")


def _audit(sources: Sources) -> Section:
    section = Section("audit", "Audit")
    source = sources.ask("audit", "audit")
    if not source.frame.height:
        section.missing, section.command = "Nothing was audited yet.", "busistore ingest busi PATH --audit"
        return section
    section.items.append(plain_table(source, "What the audit found"))
    return section


def _leakage(sources: Sources) -> Section:
    """Whether a split cuts a group, and what share of test images had a twin where methods learned."""
    section = Section("leakage", "Leakage and exposure")
    source = sources.asked["leakage"]
    rows = source.rows()
    if not rows:
        section.missing, section.command = "There is no split yet.", "busistore split busi --seed 42"
        return section
    newest = sources.asked["groupings"]
    of_newest = {g["split_id"]: g for g in newest.rows()}
    section.words.append(leakage_words(rows, of_newest))
    head = ["Split", "Images", "Groups", "Groups cut", "Cut, newest grouping", "Exposed to support",
            "Exposed to validation", "Runs"]  # fmt: skip
    lines = [
        [r["split_id"], count(r["n_images"]), count(r["n_groups"]), count(r["n_groups_cut"]),
         count(of_newest.get(r["split_id"], {}).get("n_groups_cut")), _percent(r["exposure_support_max"]),
         _percent(r["exposure_val_max"]), count(r["n_runs"] or 0)]
        for r in rows
    ]  # fmt: skip
    note = ("Groups cut: of the groups that the split was made of; beside it, of the data set's newest grouping. "
            "Exposed: largest share, over runs, of test images whose near-duplicate group has an image in that part "
            "too; a dash where no run looked at the part.")  # fmt: skip
    title = "Splits and the exposure of their test images"
    section.items.append(Table(source.name, title, head, lines, [source, newest], note))
    return section


def _percent(value: float | None) -> str:
    return decimal(None) if value is None else f"{100 * value:.1f}%"


def leakage_words(rows: list[dict], newest: dict[str, dict]) -> str:
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
    shares = listed(f"{_percent(v)} in its {part} images" for part, v in known.items() if v)
    return f"Up to this share of a run's test images have a near-duplicate where it learned: {shares}.{unseen}"
