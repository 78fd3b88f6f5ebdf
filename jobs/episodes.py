"""Episodes: the stored split and the support sets drawn from its training part, as every method sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from busistore import splits
from busistore.errors import BusistoreError, UnknownName
from busistore.jobs import columns
from busistore.store import Store, quote


@dataclass(frozen=True)
class Episode:
    """One support set: image ids by class, drawn from the training part of a split."""

    episode_id: str
    shots: int
    seed: int
    support: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Split:
    """A stored split: image ids by part, the label of each image, and its group when the split was made."""

    split_id: str
    dataset: str
    parts: dict[str, list[str]]
    label_of: dict[str, str]
    group_of: dict[str, str]

    @cached_property
    def classes(self) -> list[str]:
        """Class names in the order of all probabilities."""
        return sorted({self.label_of[i] for part in splits.PARTS for i in self.parts.get(part, [])})


def draw_episodes(split: Split, shots: Sequence[int], seeds: Sequence[int]) -> list[Episode]:
    """The episodes of a grid, each (shots, seed) once, from the training part."""
    labels = {i: split.label_of[i] for i in split.parts.get("train", [])}
    return [
        Episode(splits.episode_id(split.split_id, k, seed, support), k, seed, support)
        for k, seed, support in splits.sample_episodes(labels, shots, seeds)
    ]


def load_split(store: Store, split_id: str | None, dataset: str | None) -> Split:
    """A stored split; without an id, the only one (of the data set).

    Raises:
        BusistoreError: none is stored, or several are and none is named.
    """
    known = sorted(set(columns(store.read("splits", ["split_id", "dataset"]))))
    fitting = [s for s, d in known if split_id in (None, s) and dataset in (None, d)]
    if split_id is not None and not fitting:
        raise UnknownName("split", split_id, [s for s, _ in known])
    if not fitting:
        raise BusistoreError(f"no split of '{dataset or 'any data set'}' is stored; `busistore split` makes one")
    if len(fitting) > 1:
        raise BusistoreError(f"{len(fitting)} splits are stored; name one with --split: {', '.join(fitting)}")
    rows = store.read("splits", where=f"split_id = {quote(fitting[0])}").sort_by("image_id").to_pylist()
    parts: dict[str, list[str]] = {}
    for row in rows:
        parts.setdefault(row["part"], []).append(row["image_id"])
    if not parts.get("test") or not parts.get("train"):
        gone = "test" if not parts.get("test") else "training"
        raise BusistoreError(f"the split '{fitting[0]}' has no {gone} images")
    label_of = {r["image_id"]: r["label"] for r in rows}
    group_of = {r["image_id"]: r["group_id"] for r in rows}  # those the split was made by: they are in its id
    return Split(fitting[0], rows[0]["dataset"], parts, label_of, group_of)


def episode_rows(split: Split, episode: Episode) -> list[dict[str, Any]]:
    return [
        {
            "episode_id": episode.episode_id, "image_id": image_id, "split_id": split.split_id,
            "dataset": split.dataset, "shots": episode.shots, "seed": episode.seed, "role": "support", "label": label,
        }
        for label, ids in episode.support.items()
        for image_id in ids
    ]  # fmt: skip
