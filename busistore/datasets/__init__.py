"""Data sets: one reader each, from a folder as published to `ImageRecord`s."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from busistore.errors import lookup

CLASSES = ("benign", "malignant", "normal")


@dataclass(frozen=True)
class ImageRecord:
    """One image as its data set names it; its pixels are read later, by whoever needs them."""

    image_id: str
    dataset: str
    label: str
    path: Path
    mask_paths: tuple[Path, ...]
    patient_id: str | None = None
    view: str | None = None


@dataclass(frozen=True)
class Fault:
    """A file of the folder that cannot become a record: its path inside the folder, and why."""

    key: str
    reason: str


class Reader(Protocol):
    """A data set in its published layout."""

    name: str
    summary: str

    def records(self, root: Path) -> Iterator[ImageRecord | Fault]:
        """Every image under `root`, sorted by id; a Fault for each file that does not fit.

        Raises:
            BadInput: `root` is not a folder of this data set.
        """


def as_text(path: Path | str) -> str:
    """A path or file name as text that any table can hold, whatever bytes it is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def reader(name: str) -> Reader:
    """The reader called `name`."""
    return lookup("data set", name, DATASETS)


from busistore.datasets.busi import BusiLayout  # noqa: E402  (the readers need the records above)

DATASETS: dict[str, Reader] = {
    r.name: r
    for r in (
        BusiLayout("busi", "Breast Ultrasound Images: 780 images, three classes, lesion masks (Al-Dhabyani 2020)"),
        BusiLayout("phantom", "synthetic ultrasound in the same layout, drawn from a seed, with known truth"),
    )
}
