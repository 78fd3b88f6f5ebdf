"""Prompt sets in the store, and their vectors: a text tower reads every prompt exactly once."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from busistore import generation, models, prompts
from busistore.errors import BusistoreError, StoreError, lookup
from busistore.ids import canonical_json
from busistore.jobs import Track, columns, silent
from busistore.prompts import PromptSet
from busistore.schema import PROMPTS, TEXT_EMBEDDINGS
from busistore.store import Store, quote

BATCH = 32  # texts in one pass; batches are cut at the same places of a set whatever is missing
_COLUMNS = ("set_id", "prompt_set", "class", "rank", "text", "source", "details", "added_at")


def known(store: Store | None, name: str) -> PromptSet:
    """The set that a user means: built in, else the newest stored one of that name, or a set id, or a file's path.

    Raises:
        UnknownName: there is none; the nearest is named.
        BadInput: the file is no prompt set.
        BusistoreError: the file's set has the name of one that is built in.
    """
    if prompts.is_path(name):
        return _of_its_own_name(prompts.load(name))
    if name in prompts.names():
        return prompts.load(name)
    sets = [*stored(store), *map(prompts.load, prompts.names())]
    by_id = {s.set_id: s for s in sets}
    return by_id[name] if name in by_id else lookup("prompt set", name, {s.name: s for s in sets})


def listed(store: Store | None) -> list[tuple[str, PromptSet]]:
    """("built in" or "stored", set) of every set there is, without stored copies of those that are built in."""
    built_in = [prompts.load(name) for name in prompts.names()]
    ids = {s.set_id for s in built_in}
    return [("built in", s) for s in built_in] + [("stored", s) for s in stored(store) if s.set_id not in ids]


def stored(store: Store | None) -> list[PromptSet]:
    """Every stored set, the one that was added last at the end.

    Raises:
        StoreError: the texts of one are no longer those that were stored.
    """
    found = _read(store) if store else []
    for set_id, prompt_set in found:
        if prompt_set.set_id != set_id:
            raise StoreError(f"the stored prompt set '{set_id}' is damaged; `busistore prompts import FILE` mends it")
    return [prompt_set for _, prompt_set in found]


def add(store: Store, prompt_set: PromptSet) -> str:
    """Store a set, so that its name means it from now on; its id. Nothing is written where that is so already.

    Raises:
        BusistoreError: a built-in set has that name.
    """
    _of_its_own_name(prompt_set)
    newest = {s.name: s for set_id, s in _read(store) if s.set_id == set_id}
    if newest.get(prompt_set.name) != prompt_set:
        store.put(PROMPTS, list(_rows(prompt_set)), replace=True)
    return prompt_set.set_id


def read_in(store: Store, path: Path) -> str:
    """Store the set in a file, as `add` does; its id."""
    return add(store, prompts.read(path))


def generate(
    store: Store, request: generation.Request, environ: Mapping[str, str] = os.environ,
    note: Callable[[str], None] = lambda text: None,
) -> PromptSet:  # fmt: skip
    """Have a language model write a set, and store it. A name that cannot be stored is refused before it is asked."""
    _own_name(request.name)
    prompt_set = generation.generate(request, environ, note)
    add(store, prompt_set)
    return prompt_set


def _of_its_own_name(prompt_set: PromptSet) -> PromptSet:
    _own_name(prompt_set.name)
    return prompt_set


def _own_name(name: str) -> None:
    if name in prompts.names():
        raise BusistoreError(f"'{name}' is built in; give the set another name")


def _read(store: Store) -> list[tuple[str, PromptSet]]:
    """(the id it was stored under, set), by the time of adding."""
    rows = store.read(PROMPTS.name, _COLUMNS).sort_by([("set_id", "ascending"), ("rank", "ascending")])
    classes: dict[str, dict[str, list[str]]] = {}
    about: dict[str, tuple[Any, ...]] = {}
    for set_id, name, label, _, text, source, details, added_at in columns(rows):
        classes.setdefault(set_id, {}).setdefault(label, []).append(text)
        about[set_id] = (added_at, set_id, name, source, details)
    return [
        (set_id, _stored_set(name, source, details, classes[set_id]))
        for _, set_id, name, source, details in sorted(about.values(), key=lambda row: row[:2])
    ]


def _stored_set(name: str, source: str, details: str, classes: dict[str, list[str]]) -> PromptSet:
    told = json.loads(details)
    return PromptSet(name, told.pop("summary"), source, prompts.canonical(classes), told)


def _rows(prompt_set: PromptSet) -> Iterator[dict[str, Any]]:
    details, now = canonical_json({"summary": prompt_set.summary, **prompt_set.details}), datetime.now(UTC)
    for prompt_id, (label, text) in prompt_set.prompt_ids().items():
        yield {
            "prompt_id": prompt_id, "set_id": prompt_set.set_id, "prompt_set": prompt_set.name, "class": label,
            "rank": int(prompt_id.rpartition("/")[2]), "text": text, "source": prompt_set.source, "details": details,
            "added_at": now,
        }  # fmt: skip


@dataclass(frozen=True)
class Embedded:
    """The prompts of a set as a model reads them: ids, classes and (P, D) float32 vectors in one order, not normalised.

    `logit_scale` is what the model multiplies cosines by before a softmax.
    """

    ids: list[str]
    classes: list[str]
    vectors: np.ndarray
    logit_scale: float


def embed(
    store: Store, located: models.Located, prompt_set: PromptSet, device: str = "cpu", track: Track = silent
) -> Embedded:
    """The vectors of a set's prompts: from the store, and from the model's text tower where it has not read one yet.

    Raises:
        BusistoreError: the model has no text tower, or gives a vector that is not finite; nothing is stored then.
        StoreError: a stored vector is damaged.
    """
    wanted = prompt_set.prompt_ids()
    found = _vectors(store, located.text_id, prompt_set.set_id)
    texts = [(prompt_id, text) for prompt_id, (_, text) in wanted.items()]
    batches = [texts[k : k + BATCH] for k in range(0, len(texts), BATCH)]
    batches = [batch for batch in batches if any(prompt_id not in found for prompt_id, _ in batch)]
    if batches:
        rows = [row for row in _encoded(located, batches, device, track) if row["prompt_id"] not in found]
        store.put(PROMPTS, list(_rows(prompt_set)))
        store.put(TEXT_EMBEDDINGS, rows)
        found |= {row["prompt_id"]: (row["logit_scale"], row["vector"]) for row in rows}
    vectors = np.stack([found[prompt_id][1] for prompt_id in wanted])
    labels = [label for label, _ in wanted.values()]
    return Embedded(list(wanted), labels, vectors, found[next(iter(wanted))][0])


def _encoded(
    located: models.Located, batches: list[list[tuple[str, str]]], device: str, track: Track
) -> Iterator[dict[str, Any]]:
    """Rows of TEXT_EMBEDDINGS, by whole batches: what is read beside a text moves the last bits of its vector."""
    encoder, name = models.load_text(located, device), located.spec.name
    scale = float(encoder.logit_scale)
    with track(f"read prompts {name}", sum(map(len, batches))) as advance:
        for batch in batches:
            vectors = np.ascontiguousarray(encoder.encode([text for _, text in batch]), np.float32)
            for (prompt_id, text), vector in zip(batch, vectors, strict=True):
                if not (np.isfinite(vector).all() and np.isfinite(scale)):
                    raise BusistoreError(
                        f"'{name}' gave a vector for '{text[:80]}' that is not finite; check its weights"
                    )
                yield {
                    "prompt_id": prompt_id, "model_id": located.text_id, "model": name, "logit_scale": scale,
                    "crc32": checksum(vector, scale), "vector": vector,
                }  # fmt: skip
            advance(len(batch))


def _vectors(store: Store, text_id: str, set_id: str) -> dict[str, tuple[float, np.ndarray]]:
    """Prompt id to (logit scale, (D,) float32) of what a model has read of a set."""
    where = f"model_id = {quote(text_id)} AND starts_with(prompt_id, {quote(set_id + '/')})"
    rows = store.read(TEXT_EMBEDDINGS.name, ("prompt_id", "logit_scale", "crc32", "vector"), where)
    found = {}
    for prompt_id, scale, crc, values in columns(rows):
        vector = np.array(values, np.float32)
        if checksum(vector, scale) != crc:
            raise StoreError(f"the vector of the prompt '{prompt_id}' by '{text_id}' is damaged; "
                             "`busistore verify --repair` takes it out")  # fmt: skip
        found[prompt_id] = (scale, vector)
    return found


def checksum(vector: np.ndarray, logit_scale: float | None) -> int:
    """The crc32 of a (D,) float32 vector and the scale beside it."""
    return zlib.crc32(np.array(logit_scale, np.float64).tobytes(), zlib.crc32(vector.tobytes()))
