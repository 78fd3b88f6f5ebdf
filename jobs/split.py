"""Split: who trains, who chooses, who is tested. Groups are never cut unless leakage is asked for."""

from __future__ import annotations

from pathlib import Path

from busistore import splits
from busistore.errors import BusistoreError
from busistore.ids import sha256
from busistore.jobs import columns
from busistore.jobs.group import Groups, group
from busistore.schema import SPLITS
from busistore.store import Store, quote


def split(
    store: Store,
    dataset: str,
    *,
    seed: int = 42,
    fractions: tuple[float, float, float] = splits.FRACTIONS,
    naive: bool = False,
    csv: Path | None = None,
    allow_leakage: bool = False,
) -> str:
    """Store a split of a data set and return its id; the same call again stores nothing.

    Args:
        naive: ignore the groups, but for those that span classes, as most papers do; refused without
            `allow_leakage` where it cuts one.
        csv: a published split to take instead of drawing one.

    Raises:
        Leakage: the split puts near-duplicates on both sides.
        BusistoreError: the data set holds no images.
    """
    found = group(store, dataset)
    labels = labels_of(store, dataset)
    parts, kind, source = _draw(found, labels, seed, fractions, naive, csv)
    if not allow_leakage:
        splits.check_leakage(parts, found.group_of, labels)
    split_id = splits.split_id(f"{dataset}-{kind}", parts, found.grouping)
    store.put(
        SPLITS,
        [
            {
                "split_id": split_id, "image_id": image_id, "dataset": dataset, "label": labels[image_id], "part": part,
                "group_id": found.group_of[image_id], "weight": 1.0, "grouping": found.grouping,
                "seed": None if csv else seed, "source": source,
            }
            for image_id, part in parts.items()
        ],
    )  # fmt: skip
    return split_id


def _draw(
    found: Groups, labels: dict[str, str], seed: int, fractions: tuple[float, ...], naive: bool, csv: Path | None
) -> tuple[dict[str, str], str, str]:
    """The part of each image, a word for the id, and where the split comes from."""
    ids, shares = sorted(labels), "/".join(f"{share:g}" for share in fractions)
    if csv is not None:
        parts = splits.read_split_csv(csv, ids, [labels[i] for i in ids])
        return parts, "published", f"{Path(csv).name} sha256 {sha256(Path(csv).read_bytes())[:12]}"
    if naive:  # of the images that a grouped split has, so that the two can be compared
        mixed = splits.mixed_groups(found.group_of, labels)
        kept = [i for i in ids if found.group_of[i] not in mixed]
        parts = dict.fromkeys(ids, splits.EXCLUDED)
        parts |= splits.naive_split(kept, [labels[i] for i in kept], seed, fractions)
        return parts, f"naive-seed{seed}", f"drawn without regard to groups, {shares}"
    groups = [found.group_of[i] for i in ids]
    parts = splits.grouped_split(ids, [labels[i] for i in ids], groups, seed, fractions)
    return parts, f"seed{seed}", f"drawn by groups, {shares}"


def labels_of(store: Store, dataset: str) -> dict[str, str]:
    """Image id to label of a data set; raises BusistoreError when it holds no images."""
    found = dict(columns(store.read("images", ["image_id", "label"], f"dataset = {quote(dataset)}")))
    if not found:
        known = sorted(set(store.read("images", ["dataset"])["dataset"].to_pylist()))
        raise BusistoreError(f"no images of '{dataset}' are stored (stored: {', '.join(known) or 'none'}); ingest it")
    return found


def sizes(store: Store, split_id: str) -> dict[str, dict[str, int]]:
    """Images of each class in each part: {part: {label: n}}."""
    counts: dict[str, dict[str, int]] = {}
    for part, label in columns(store.read("splits", ["part", "label"], f"split_id = {quote(split_id)}")):
        counts.setdefault(part, {}).setdefault(label, 0)
        counts[part][label] += 1
    return counts
