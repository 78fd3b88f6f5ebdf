"""The layout of BUSI: one folder per class, `benign (3).png` beside `benign (3)_mask.png`, `_mask_1.png` and so on.

Source: Al-Dhabyani et al. (2020), Data in Brief 28, 104863. A part of the set is as good as the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from busistore.datasets import CLASSES, Fault, ImageRecord
from busistore.errors import BadInput

IMAGE = re.compile(r"(?P<stem>\w+ \((?P<number>\d+)\))\.png", re.IGNORECASE)
MASK = re.compile(r"(?P<stem>\w+ \(\d+\))_mask(_\d+)?\.png", re.IGNORECASE)


@dataclass(frozen=True)
class BusiLayout:
    """A folder in the layout of BUSI, whole or partial, under the data set name it is to have."""

    name: str
    summary: str

    def records(self, root: Path) -> Iterator[ImageRecord | Fault]:
        """Every image under `root` (or under its only sub-folder with class folders), sorted by class and number."""
        root = class_root(root)
        for label in CLASSES:
            if (root / label).is_dir():
                yield from self._of_class(root, label)

    def _of_class(self, root: Path, label: str) -> Iterator[ImageRecord | Fault]:
        images, masks, strays = _sort_files(root / label, label)
        for path in strays:
            key = f"{self.name}/{label}/{path.name}"
            yield Fault(key, f"'{path.name}' is not named as BUSI names a {label} image or mask")
        for stem in sorted(images, key=_number):
            if stem in masks:
                image_id = f"{self.name}/{label}-{_number(stem):04d}"
                yield ImageRecord(image_id, self.name, label, images[stem], tuple(masks[stem]))
            else:
                name = images[stem].name
                yield Fault(f"{self.name}/{label}/{name}", f"the image '{name}' has no mask '{stem}_mask.png'")
        for stem in sorted(masks.keys() - images.keys(), key=_number):
            names = ", ".join(p.name for p in masks[stem])
            key = f"{self.name}/{label}/{masks[stem][0].name}"
            yield Fault(key, f"the mask '{names}' has no image '{stem}.png'")


def class_root(root: Path) -> Path:
    """The folder that holds the class folders: `root` itself, or the one folder in it that does.

    Raises:
        BadInput: there is no such folder, or nothing in it looks like BUSI.
    """
    if not root.exists():
        raise BadInput(f"there is no folder '{root}'; check the path")
    if not root.is_dir():
        raise BadInput(f"'{root}' is a file; name the folder that holds benign/, malignant/ and normal/")
    inside = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    fitting = [p for p in inside if any(_has_images(p / label) for label in CLASSES)]
    if not fitting:
        wanted = "no benign/, malignant/ or normal/ with files like 'benign (1).png'"
        raise BadInput(f"'{root}' is not a BUSI folder: {wanted}")
    return fitting[0]


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(IMAGE.fullmatch(p.name) for p in folder.iterdir())


def _sort_files(folder: Path, label: str) -> tuple[dict[str, Path], dict[str, list[Path]], list[Path]]:
    """PNG files of a class folder as images by stem, masks by stem, and those that are neither."""
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    strays: list[Path] = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")):
        image, mask = IMAGE.fullmatch(path.name), MASK.fullmatch(path.name)
        found = image or mask
        if not found or found["stem"].split(" ")[0].lower() != label:
            strays.append(path)
        elif image:
            images[image["stem"]] = path
        else:
            masks.setdefault(mask["stem"], []).append(path)
    return images, masks, strays


def _number(stem: str) -> int:
    return int(stem[stem.index("(") + 1 : -1])
