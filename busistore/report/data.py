"""Sections on the data: its way through the store, its first table, its audit and its leaks."""

from __future__ import annotations

from typing import Any

from busistore.report import flow, leakage
from busistore.report.parts import Figure, Section, Table, count, plain_table, share
from busistore.report.sources import Source, Sources


def choose(sources: Sources) -> list[dict[str, Any]]:
    """For each data set, the split to show, that split's grouping and the newest one; None before any.

    The split is the one with the most runs, one that cuts no group before those that do. Data sets
    with most runs come first.
    """
    splits = sources.ask("leakage", "report_leakage").rows()
    names = sorted(set(sources.store.read("images", ["dataset"])["dataset"].to_pylist()), key=str)
    newest = {g["dataset"]: g["grouping"] for g in sources.ask("groupings", "report_groupings").rows()}
    chosen = []
    for name in names:
        own = sorted((s for s in splits if s["dataset"] == name), key=_preferred)
        chosen.append({"dataset": name, "split_id": own[0]["split_id"] if own else None,
                       "grouping": newest.get(name), "split_grouping": own[0]["grouping"] if own else None,
                       "n_runs": sum(s["n_runs"] or 0 for s in own)})  # fmt: skip
    return sorted(chosen, key=lambda c: -c["n_runs"])


def _preferred(split: dict[str, Any]) -> tuple:
    """First splits that runs were made on, of these first such that cut no group, and then those of most runs."""
    return not split["n_runs"], split["n_groups_cut"] > 0, -(split["n_runs"] or 0), split["split_id"]


def sections(sources: Sources, chosen: list[dict[str, Any]]) -> list[Section]:
    """All sections on the data; each says what makes it where the store holds nothing for it yet."""
    return [_way(sources, chosen), _table1(sources, chosen), _audit(sources), leakage.section(sources)]


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
