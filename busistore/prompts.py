"""Prompt sets: the texts that tell a text tower what each class looks like. Built in, or a JSON file of the same form:

    {"name": "mine", "summary": "in a few words", "source": "where from",
     "classes": {"benign": ["a text", "another"], "malignant": ["a text of its own"]}}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from busistore.errors import BadInput, BusistoreError, UnknownName
from busistore.ids import content_id

PACKAGE = "busistore.prompt_sets"  # the folder data/prompts, one JSON file a set
LONGEST = 2_000  # characters of one text; no text tower reads as many
SHORTEST_MEAN = 1e-6  # of unit vectors; below it the direction is what float32 rounded away


@dataclass(frozen=True)
class PromptSet:
    """The texts of each class. `details` says how a generated set was made.

    Built by `checked`: classes sorted by name, spaces collapsed, every text printable and there once.
    """

    name: str
    summary: str
    source: str
    classes: dict[str, tuple[str, ...]]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def set_id(self) -> str:
        """Name and hash of the texts; what is said about them does not count."""
        return content_id(self.name, self.classes)

    def prompt_ids(self) -> dict[str, tuple[str, str]]:
        """Prompt id to (class, text), by class and then in the order of the set."""
        set_id = self.set_id
        return {
            f"{set_id}/{label}/{rank:02d}": (label, text)
            for label, texts in self.classes.items() for rank, text in enumerate(texts)
        }  # fmt: skip


def names() -> list[str]:
    """Names of the built-in sets, sorted."""
    found = (path.name for path in resources.files(PACKAGE).iterdir())
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def is_path(name: str) -> bool:
    """Whether a user means a file: it ends in .json, or names a folder too."""
    return name.endswith(".json") or "/" in name or os.sep in name


def load(name: str) -> PromptSet:
    """The built-in set called `name`, or the one in the file of that path.

    Raises:
        UnknownName: no built-in set has that name; the nearest is given.
        BadInput: the file cannot be read, or is not a prompt set.
    """
    if is_path(name):
        return read(Path(name))
    if name not in names():
        raise UnknownName("prompt set", name, names())
    return checked(json.loads(resources.files(PACKAGE).joinpath(f"{name}.json").read_text(encoding="utf-8")), name)


def read(path: Path) -> PromptSet:
    """The set in a JSON file; raises BadInput with the reason."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise BadInput(f"cannot read the prompt set '{path}' ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the prompt set '{path}' is not JSON ({error})") from None
    return checked(document, str(path))


def checked(document: Any, where: str) -> PromptSet:
    """A set from what a JSON file holds; `where` names it in errors.

    Raises:
        BadInput: no name, no classes, or a class that `fault` finds wrong.
    """
    if not isinstance(document, dict):
        raise BadInput(f"the prompt set '{where}' is not a JSON object with a name and classes")
    name, said = document.get("name"), {k: document.get(k, "") for k in ("summary", "source")}
    wrong = name_fault(name) or fault(document.get("classes")) or next(
        (f'its "{k}" is not a line of text' for k, v in said.items() if not is_text(v) and v != ""), None
    )
    if wrong:
        raise BadInput(f"the prompt set '{where}' cannot be taken: {wrong}")
    return PromptSet(name, _line(said["summary"]), _line(said["source"]), canonical(document["classes"]))


def name_fault(name: Any) -> str | None:
    """What is wrong with the name of a set, None if nothing: it must not look like a path."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name) or is_path(name):
        return f'its "name" is {quoted(name)}; give it letters, digits, dots and hyphens, as in "my-set"'
    return None


def fault(classes: Any) -> str | None:
    """What is wrong with {class: [texts]}, in words; None if nothing is."""
    if not isinstance(classes, dict) or not classes:
        return 'it has no "classes", as in {"benign": ["a text"], "malignant": ["a text"]}'
    for label, texts in classes.items():
        if not is_text(label) or label != _line(label) or "/" in label:
            return f"{quoted(label)} is no name of a class"
        if not isinstance(texts, (list, tuple)) or not texts:
            return f"class '{label}' has no list of texts"
        for text in texts:
            if not is_text(text):
                return f"class '{label}' holds {quoted(text)} in place of a text that can be printed"
            if len(text) > LONGEST:
                return f"class '{label}' holds a text of {len(text):,} characters; at most {LONGEST:,} are taken"
    return _repeated((label, text) for label, texts in classes.items() for text in texts)


def canonical(classes: dict[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Classes by name, texts in their order with spaces collapsed: equal sets are equal in every respect."""
    return {label: tuple(map(_line, classes[label])) for label in sorted(classes)}


def _repeated(pairs: Iterable[tuple[str, str]]) -> str | None:
    """The first text that is there twice; case and spaces do not tell texts apart."""
    seen: dict[str, str] = {}
    for label, text in pairs:
        known = seen.setdefault(_line(text).casefold(), "")
        if known:
            within = f"class '{label}' holds" if known == label else f"the classes '{known}' and '{label}' both hold"
            return f"{within} {quoted(_line(text))}" + (" twice" if known == label else "")
        seen[_line(text).casefold()] = label
    return None


def is_text(value: Any) -> bool:
    """Whether a value is text that can be printed, and not empty; line breaks count as spaces."""
    return isinstance(value, str) and _line(value).isprintable() and _line(value) != ""


def _line(text: str) -> str:
    return " ".join(text.split())


def quoted(value: Any) -> str:
    """A value as JSON, short enough for an error of one line."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if text.isprintable() else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a key twice and Python keeps the last: a class would be lost in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {quoted(next(k for k in keys if keys.count(k) > 1))} twice")
    return found


def ensemble(vectors: np.ndarray, classes: np.ndarray, n_classes: int) -> np.ndarray:
    """One direction a class: its prompts normalised, averaged, and normalised again.

    Args:
        vectors: (P, D), as a text tower emits them.
        classes: (P,) int in [0, n_classes).

    Returns:
        (C, D) float64 of unit length.

    Raises:
        BusistoreError: a class has no prompt, a vector has no direction, or the prompts of a class cancel out.

    Source: Radford et al. (2021), Learning Transferable Visual Models From Natural Language Supervision, 3.1.4.
    """
    words = "the vector of prompt {} is zero or not finite; check the weights"
    units = _units(np.asarray(vectors, np.float64), 0.0, words)
    counts = np.bincount(classes, minlength=n_classes)
    if not counts.all():
        raise BusistoreError(f"class {int(np.flatnonzero(counts == 0)[0])} of {n_classes} has no prompt; add one")
    sums = np.zeros((n_classes, units.shape[1]))
    np.add.at(sums, classes, units)
    words = "the prompts of class {} cancel out, so that it has no direction; change them"
    return _units(sums / counts[:, None], SHORTEST_MEAN, words)


def _units(rows: np.ndarray, least: float, words: str) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > least)))
    if bad.size:
        raise BusistoreError(words.format(int(bad[0])))
    return rows / norms[:, None]
