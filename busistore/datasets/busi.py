"""The layout of BUSI: one folder per class, `benign (3).png` beside `benign (3)_mask.png`, `_mask_1.png` and so on.

Source: Al-Dhabyani et al. (2020), Data in Brief 28, 104863. A part of the set is as good as the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from busistore.datasets import CLASSES, Fault, ImageRecord, as_text
from busistore.errors import BadInput

IMAGE = re.compile(r"(?P<label>[a-z]+) \((?P<number>[0-9]+)\)\.png", re.IGNORECASE)
MASK = re.compile(r"(?P<label>[a-z]+) \((?P<number>[0-9]+)\)_mask(_[0-9]+)?\.png", re.IGNORECASE)
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}  # what somebody may take for an image of the set


@dataclass(frozen=True)
class BusiLayout:
    """A folder in the layout of BUSI, whole or partial, under the data set name it is to have."""

    name: str
    summary: str

    def records(self, root: Path) -> Iterator[ImageRecord | Fault]:
        """Every image under `root` (or under its only sub-folder with class folders), sorted by class and number."""
        for label, folder in sorted(_class_folders(class_root(root)).items()):
            yield from self._of_class(folder, label)

    def _of_class(self, folder: Path, label: str) -> Iterator[ImageRecord | Fault]:
        images, masks, strays = _sort_files(folder, label)
        for name, reason in strays:
            yield Fault(f"{self.name}/{label}/{name}", reason)
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
        BadInput: there is no such folder, nothing in it looks like BUSI, or several folders in it do.
    """
    if not root.exists():
        raise BadInput(f"there is no folder '{root}'; check the path")
    if not root.is_dir():
        raise BadInput(f"'{root}' is a file; name the folder that holds benign/, malignant/ and normal/")
    if _fits(root):
        return root
    fitting = sorted(p for p in root.iterdir() if p.is_dir() and _fits(p))
    if not fitting:
        wanted = "no benign/, malignant/ or normal/ with files like 'benign (1).png'"
        raise BadInput(f"'{root}' is not a BUSI folder: {wanted}")
    if len(fitting) > 1:
        raise BadInput(f"'{root}' holds several BUSI folders ({', '.join(p.name for p in fitting)}); name one of them")
    return fitting[0]


def _fits(root: Path) -> bool:
    return any(_has_images(folder) for folder in _class_folders(root).values())


def _class_folders(root: Path) -> dict[str, Path]:
    """Class to folder; the case of a folder's name does not matter.

    Raises:
        BadInput: two folders differ in case alone.
    """
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in CLASSES):
        if path.name.lower() in found:
            raise BadInput(f"'{root}' holds both '{found[path.name.lower()].name}' and '{path.name}'; merge them")
        found[path.name.lower()] = path
    return found


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(IMAGE.fullmatch(p.name) for p in folder.iterdir())


def _sort_files(folder: Path, label: str) -> tuple[dict[str, Path], dict[str, list[Path]], list[tuple[str, str]]]:
    """Image files of a class folder by stem, mask files by stem, and (name, reason) of those that are neither."""
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    strays: list[tuple[str, str]] = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")):
        image, mask = IMAGE.fullmatch(path.name), MASK.fullmatch(path.name)
        found = image or mask
        stem = found and f"{label} ({int(found['number'])})"  # one name for `Benign (01).PNG` and `benign (1).png`
        if not found or found["label"].lower() != label:
            name = as_text(path.name)
            strays.append((name, f"'{name}' is not named as BUSI names a {label} image or mask"))
        elif mask:
            masks.setdefault(stem, []).append(path)
        elif stem in images:
            strays.append((path.name, f"'{path.name}' has the number of '{images[stem].name}'; rename one"))
        else:
            images[stem] = path
    return images, masks, strays


def _number(stem: str) -> int:
    return int(stem[stem.index("(") + 1 : -1])
