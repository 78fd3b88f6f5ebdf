"""Splits that cut no group, and published splits from CSV.

Everything here is a pure function of names, labels and a seed. Chance comes from SHA-256 of names, never from a
random generator or a hash that another platform or library version could change.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from busistore.errors import BadInput, BusistoreError, Leakage
from busistore.ids import content_id

PARTS = ("train", "val", "test")
EXCLUDED = "excluded"  # in the data set, outside the primary analysis
FRACTIONS = (0.7, 0.15, 0.15)
_SYNONYMS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_NAME_COLUMNS = ("image_id", "image", "filename", "file")
_PART_COLUMNS = ("part", "split")


def grouped_split(
    image_ids: Sequence[str], labels: Sequence[str], groups: Sequence[str], seed: int,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, str]:  # fmt: skip
    """The part of each image: "train", "val", "test", or "excluded" for groups that span classes.

    Of each class the groups are put in a line, in the order of a hash of seed and first image id, and the line
    is cut at the wanted shares: a group goes where its middle lies. What is promised, class by class:

    * no group is cut, and groups of several classes are in no part but "excluded";
    * while no group is larger than the smallest wanted share, each part is within one group of its share:
      it differs by at most the images of the class's largest group;
    * a class of three groups or more is in all three parts. Where a share is too small for that, the part with
      the most groups gives its smallest one, and is off by at most that one more.

    The order of the input and the names of the groups change nothing.

    Args:
        image_ids, labels, groups: equally long; `groups` holds any hashable name.
        seed: any integer.
        fractions: shares of train, val and test, which sum to 1.

    Raises:
        BusistoreError: the fractions are not three shares that sum to 1.
        ValueError: the sequences differ in length, or an image id comes twice.
    """
    _check_fractions(fractions)
    if not len(image_ids) == len(labels) == len(groups) == len(set(image_ids)):
        raise ValueError("image ids must be unique and as many as labels and groups")
    label_of, group_of = dict(zip(image_ids, labels)), dict(zip(image_ids, groups))
    mixed = mixed_groups(group_of, label_of)
    parts = {image_id: EXCLUDED for image_id in image_ids if group_of[image_id] in mixed}
    for label in {label_of[i] for i in image_ids if i not in parts}:
        members: dict[object, list[str]] = defaultdict(list)
        for image_id in sorted(i for i in image_ids if label_of[i] == label and i not in parts):
            members[group_of[image_id]].append(image_id)
        line = sorted(members.values(), key=lambda ids: _hash(f"split/{seed}/{ids[0]}"))
        for ids, part in zip(line, _cut_line([len(ids) for ids in line], fractions)):
            parts |= dict.fromkeys(ids, part)
    return dict(sorted(parts.items()))


def naive_split(
    image_ids: Sequence[str], labels: Sequence[str], seed: int, fractions: Sequence[float] = FRACTIONS
) -> dict[str, str]:
    """A stratified split that ignores groups, as most papers make it: kept to measure what leakage is worth."""
    return grouped_split(image_ids, labels, image_ids, seed, fractions)


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise BusistoreError(f"fractions {tuple(fractions)}: give three shares that sum to 1, such as {FRACTIONS}")


def _cut_line(sizes: list[int], fractions: Sequence[float]) -> list[str]:
    """The part of each group of one class; train lies in the middle, so that val and test have one cut each."""
    total, done, parts = sum(sizes), 0, []
    test_end, val_start = fractions[2] * total, total - fractions[1] * total
    for size in sizes:
        middle, done = done + size / 2, done + size
        parts.append("test" if middle <= test_end else "val" if middle >= val_start else "train")
    for part, fraction in zip(PARTS, fractions):
        giver, n_groups = Counter(parts).most_common(1)[0]
        if fraction > 0 and part not in parts and n_groups > 1:
            parts[min((i for i, p in enumerate(parts) if p == giver), key=sizes.__getitem__)] = part
    return parts


def cut_groups(parts: Mapping[str, str], groups: Mapping[str, str]) -> list[str]:
    """Sorted names of the groups with images in two or more of train, val and test.

    `parts` is image id -> part, `groups` image id -> group; an image without a group is one of its own.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for image_id, part in parts.items():
        if part in PARTS and image_id in groups:
            seen[groups[image_id]].add(part)
    return sorted(group for group, where in seen.items() if len(where) > 1)


def mixed_groups(groups: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its classes, sorted, of the groups that span classes; from image id -> group and image id -> class."""
    seen: dict[str, set[str]] = defaultdict(set)
    for image_id in groups.keys() & labels.keys():
        seen[groups[image_id]].add(labels[image_id])
    return {group: sorted(classes) for group, classes in seen.items() if len(classes) > 1}


def check_leakage(parts: Mapping[str, str], groups: Mapping[str, str], labels: Mapping[str, str] | None = None) -> None:
    """Refuse a split that cuts a group, or, where labels are given, has an image of a mixed group in val or test.

    `labels` is image id -> class of the whole data set; `parts` and `groups` are those of `cut_groups`.

    Raises:
        Leakage: names how many, and one of them.
    """
    cut = cut_groups(parts, groups)
    if cut:
        example = sorted(f"{i} in {p}" for i, p in parts.items() if p in PARTS and groups.get(i) == cut[0])
        raise Leakage(
            f"the split cuts {len(cut)} of {len(set(groups.values()))} near-duplicate groups, such as {cut[0]} "
            f"({', '.join(example[:4])}); split by groups, or add --allow-leakage to measure what it does"
        )
    mixed = mixed_groups(groups, labels or {})
    judged = sorted(i for i, part in parts.items() if part in ("val", "test") and groups.get(i) in mixed)
    if judged:
        example = f"{judged[0]} in {parts[judged[0]]} ({groups[judged[0]]}: {', '.join(mixed[groups[judged[0]]])})"
        raise Leakage(
            f"{len(judged)} val and test images are in near-duplicate groups of several classes, such as {example}; "
            f"put them in part '{EXCLUDED}', or add --allow-leakage to measure what they do"
        )


def exposure(test_groups: Iterable[str], other_groups: Iterable[str]) -> float:
    """Share, 0 to 1, of the test images whose group also has an image in the other set.

    Args:
        test_groups, other_groups: the group of each image of the test part and of the other set.

    >>> exposure(["g1", "g2", "g2", "g3"], ["g2", "g9"])
    0.5
    """
    test, other = list(test_groups), set(other_groups)
    if not test:
        raise ValueError("no test images")
    return sum(group in other for group in test) / len(test)


def read_split_csv(path: str | Path, image_ids: Iterable[str], labels: Iterable[str]) -> dict[str, str]:
    """The part of each image that a published split names; images it does not name are left out.

    The file has a header with a column `image_id` or `image` (also `filename`, `file`) and a column `part` or
    `split`; a column `label`, where there is one, must agree. Images are named by id (`busi/benign-0012`) or by
    BUSI file name, with or without folder and ending: `benign (12).png`, `benign (12)`. Comma, semicolon and tab
    separate.

    Raises:
        BadInput: no such file, columns, image or part, an ambiguous or repeated image, another label; with the line.
    """
    label_of = dict(zip(image_ids, labels))
    by_key: dict[tuple, list[str]] = defaultdict(list)
    for image_id in label_of:
        by_key[_file_key(image_id)].append(image_id)
    parts: dict[str, str] = {}
    for where, name, part, label in _split_rows(Path(path)):
        image_id = _find_image(where, name, label_of, by_key)
        word = _SYNONYMS.get(part.lower(), part.lower())
        if word not in (*PARTS, EXCLUDED):
            raise BadInput(f"{where}: no part '{part}' (known: {', '.join((*PARTS, EXCLUDED))})")
        if image_id in parts:
            raise BadInput(f"{where}: '{name}' is named a second time; keep one line for each image")
        if label and label.lower() != label_of[image_id]:
            raise BadInput(f"{where}: '{name}' is labelled {label} here and {label_of[image_id]} in the store")
        parts[image_id] = word
    return dict(sorted(parts.items()))


def _split_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """(where, image name, part, label or '') of each line that is not blank."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise BadInput(f"cannot read the split '{path}': {getattr(fault, 'strerror', None) or fault}") from None
    delimiter = max(",;\t", key=(lines or [""])[0].count)
    rows = csv.reader(lines, delimiter=delimiter)
    header = [cell.strip().lower() for cell in next(rows, [])]
    name_at, part_at = _column(path, header, _NAME_COLUMNS), _column(path, header, _PART_COLUMNS)
    label_at = header.index("label") if "label" in header else None
    for row in rows:
        if any(cell.strip() for cell in row):
            cells = [cell.strip() for cell in row] + [""] * (len(header) - len(row))
            label = "" if label_at is None else cells[label_at]
            yield f"{path.name} line {rows.line_num}", cells[name_at], cells[part_at], label


def _column(path: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise BadInput(f"{path.name}: no column '{names[0]}' or '{names[1]}' in its first line ({', '.join(header)})")


def _file_key(name: str) -> tuple:
    """What an id and a file name have in common: `busi/benign-0012` and `benign (12).png` are ('benign', 12)."""
    stem = re.sub(r"\.(png|jpe?g|bmp|tiff?)$", "", re.split(r"[/\\]", name.strip().lower())[-1])
    numbered = re.fullmatch(r"(.*?)[ _-]*\(?(\d+)\)?", stem)
    return (numbered[1], int(numbered[2])) if numbered else (stem,)


def _find_image(where: str, name: str, known: Mapping[str, str], by_key: Mapping[tuple, list[str]]) -> str:
    if name in known:
        return name
    found = by_key.get(_file_key(name), [])
    if len(found) > 1:
        raise BadInput(f"{where}: '{name}' could be {' or '.join(sorted(found))}; write the full image id")
    if not found:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" (the nearest is '{near[0]}')" if near else ""
        raise BadInput(f"{where}: no image '{name}' in the store{hint}; ingest it, or drop the line")
    return found[0]


def split_id(name: str, parts: Mapping[str, str], grouping: str = "") -> str:
    """Id of a split: `name` (such as "busi-grouped-42") and a hash of who is where, under which grouping."""
    return content_id(name, {"parts": dict(parts), "grouping": grouping})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
