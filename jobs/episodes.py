"""Episodes: the stored split and the support sets drawn from its training part, as every method sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from busistore import sampling, splits
from busistore.errors import BusistoreError, UnknownName
from busistore.jobs import columns
from busistore.schema import EPISODES
from busistore.store import Store, quote


@dataclass(frozen=True)
class Episode:
    """One support set: image ids by class, drawn from the training part of a split.

    `shots` of each class, or the share `ratio` of each; both are None where the whole training part is meant.
    """

    episode_id: str
    shots: int | None
    seed: int
    support: dict[str, tuple[str, ...]]
    ratio: float | None = None

    @cached_property
    def ids(self) -> list[str]:
        """The images of all classes, sorted."""
        return sorted(i for ids in self.support.values() for i in ids)


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


def draw_episodes(
    split: Split, shots: Sequence[int], seeds: Sequence[int], ratios: Sequence[float] = ()
) -> list[Episode]:
    """The episodes of a grid, each size and seed once, from the training part."""
    labels = {i: split.label_of[i] for i in split.parts.get("train", [])}
    return [
        Episode(sampling.episode_id(split.split_id, n, seed, support, ratio), n, seed, support, ratio)
        for n, ratio, seed, support in sampling.sample_episodes(labels, shots, seeds, ratios)
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


def episode_table(split: Split, episodes: Iterable[Episode]) -> pa.Table:
    """The rows of the ledger that say which images are in each support set."""
    found = [(e, label, ids) for e in episodes for label, ids in e.support.items()]
    n = [len(ids) for _, _, ids in found]

    def repeated(values: list, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(np.repeat(np.arange(len(values)), n)))

    strings, total = pa.string(), sum(n)
    made = {
        "episode_id": repeated([e.episode_id for e, _, _ in found], strings),
        "image_id": pa.array([i for _, _, ids in found for i in ids], strings),
        "split_id": pa.repeat(split.split_id, total), "dataset": pa.repeat(split.dataset, total),
        "shots": repeated([e.shots for e, _, _ in found], pa.int32()),
        "ratio": repeated([e.ratio for e, _, _ in found], pa.float64()),
        "seed": repeated([e.seed for e, _, _ in found], pa.int64()), "role": pa.repeat("support", total),
        "label": repeated([label for _, label, _ in found], strings),
    }  # fmt: skip
    return pa.table(made, schema=EPISODES.schema)
