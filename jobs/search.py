"""Search: the stored images nearest to an image of the store, to a picture in a file, or to a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from busistore import models, pixels, sheet
from busistore.errors import BadInput, BusistoreError, UnknownName
from busistore.jobs import columns
from busistore.jobs.alignment import text_space
from busistore.jobs.encode import current_vectors
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.group import newest
from busistore.jobs.models import find
from busistore.nearest import Hits, ranked
from busistore.preprocess import recipes
from busistore.schema import PREPROCESSED, embeddings_name
from busistore.store import Store, quote

PICTURES = (".png", ".jpg", ".jpeg")
PNG = b"\x89PNG"


@dataclass(frozen=True)
class Hit:
    """One image that was found; `part` is its part of the split where a map was learned from the split, else None."""

    rank: int
    image_id: str
    similarity: float
    label: str
    dataset: str
    group_id: str | None
    part: str | None = None


@dataclass(frozen=True)
class Found:
    """An answer. `picture` is the (S, S) uint8 picture that was asked with, None for a sentence.

    `label` and `group_id` are those of an image of the store that was asked with, `split_id` the split that taught a
    map between text and images. `n_searched` images were compared; `notes` are what the user should be told.
    """

    query: str
    model: str
    recipe: str
    picture: np.ndarray | None
    hits: list[Hit]
    n_searched: int
    notes: list[str] = field(default_factory=list)
    label: str | None = None
    group_id: str | None = None
    split_id: str | None = None


@dataclass(frozen=True)
class Space:
    """What is searched: of the images whose vectors by a model are of their present pixels, those allowed."""

    store: Store
    located: models.Located
    recipe: recipes.Recipe
    sound: set[str]
    allowed: set[str]

    @property
    def table(self) -> str:
        return embeddings_name(self.located.model_id, self.recipe.recipe_id)

    def without(self, gone: Iterable[str]) -> Space:
        """Less some images; raises BusistoreError when none is left."""
        left = self.allowed - set(gone)
        if not left:
            raise BusistoreError("there is no other image to compare with; encode more, or allow more with --where")
        return replace(self, allowed=left)


def search(
    store: Store,
    query: str,
    *,
    model: str | None = None,
    recipe: str = "pad224",
    k: int = 10,
    only: set[str] | None = None,
    split: str | None = None,
    weights: Path | None = None,
    precision: str = "auto",
) -> Found:
    """The k images most like `query` by the cosine of their vectors, best first. Stale vectors are left out.

    Args:
        query: an image id, which is answered from stored vectors alone; else the path of a PNG; else a sentence. The
            image itself is not among the answers.
        model: the only one that has encoded images under the recipe by default.
        only: image ids to stay within; all by default.
        split: for a model whose towers share no space, whose training part teaches the map between them; the only
            one by default.

    Raises:
        BusistoreError: k is below 1, nothing is encoded, `only` leaves nothing, or the model reads no text.
        BadInput: a path of no file, or a file that is no PNG picture.
        MissingWeights: a network is needed that is not at hand.
    """
    if k < 1:
        raise BusistoreError(f"k is {k}; ask for at least 1 image")
    made = recipes.recipe(recipe)
    located = find(store, model or _only_model(store, made), weights, precision, recipe=made.name)
    space = _space(store, located, made, only)
    if store.count("images", f"image_id = {quote(query)}"):
        return _by_image(space, query, k)
    if _is_path(query):
        return _by_file(space, Path(query).expanduser(), k)
    return _by_text(space, query, k, split)


def _only_model(store: Store, recipe: recipes.Recipe) -> str:
    stored = columns(store.read("models", ["model", "model_id"]))
    known = sorted({name for name, model_id in stored if store.has(embeddings_name(model_id, recipe.recipe_id))})
    if not known:
        remedy = f"`busistore encode --model NAME --recipe {recipe.name}` does it"
        raise BusistoreError(f"nothing is encoded under '{recipe.name}'; {remedy}")
    if len(known) > 1:
        raise BusistoreError(f"{len(known)} models have encoded images; name one with --model: {', '.join(known)}")
    return known[0]


def _space(store: Store, located: models.Located, recipe: recipes.Recipe, only: set[str] | None) -> Space:
    sound = set(current_vectors(store, located.model_id, recipe.recipe_id))
    name = located.spec.name
    if not sound:
        remedy = f"`busistore encode --model {name} --recipe {recipe.name}` does it"
        raise BusistoreError(f"nothing is encoded by '{name}' under '{recipe.name}'; {remedy}")
    allowed = sound if only is None else sound & only
    if not allowed:
        raise BusistoreError(f"none of the {len(sound)} images encoded by '{name}' satisfies --where; ask for others")
    return Space(store, located, recipe, sound, allowed)


def _is_path(query: str) -> bool:
    """Whether a query means a file, there or not: so that a path with a slip is not taken for a sentence."""
    named = query.lower().endswith(PICTURES) or query.startswith(("/", "./", "../", "~"))
    one_word = re.search(r"[/\\]", query) and not re.search(r"\s", query)
    return bool(named or one_word) or _is_file(Path(query))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a sentence too long for a file's name
        return False


def _by_image(space: Space, image_id: str, k: int) -> Found:
    where = f"image_id = {quote(image_id)}"
    if image_id not in space.sound:
        name, recipe = space.located.spec.name, space.recipe.name
        stale = space.store.count(space.table, where)
        state = "was encoded from other pixels than it has now" if stale else "is not encoded"
        remedy = f"`busistore encode --model {name} --recipe {recipe}` does it"
        raise BusistoreError(f"'{image_id}' {state}, by '{name}' under '{recipe}'; {remedy}")
    rest = space.without([image_id])
    (vector,) = space.store.read(space.table, ["vector"], where)["vector"].to_pylist()
    hits = space.store.nearest(space.table, np.array(vector, np.float32), k, rest.allowed)
    return _found(rest, image_id, _pictures(space.store, space.recipe, [image_id])[0], hits)


def _by_file(space: Space, path: Path, k: int) -> Found:
    if not _is_file(path):
        if path.suffix.lower() in PICTURES:
            raise BadInput(f"there is no file '{path}'; name a PNG picture, an image of the store, or use words")
        ids = space.store.read("images", ["image_id"])["image_id"].to_pylist()
        raise UnknownName("image or file", str(path), ids)
    data = pixels.read_bytes(path)
    if not data.startswith(PNG):
        raise BadInput(f"'{path.name}' is not a PNG picture; save it as one and search with that")
    image = pixels.open_image(data, path.name)
    same = f"pixels_sha256 = {quote(pixels.pixels_sha256(image))}"
    stored = sorted(space.store.read("images", ["image_id"], same)["image_id"].to_pylist())
    square = recipes.apply(space.recipe, np.asarray(image)).pixels
    vector = models.load(space.located).encode(square[None])[0]
    rest = space.without(stored)
    notes = [f"'{path.name}' is stored as {', '.join(stored)}, which is left out"] if stored else []
    return _found(rest, path.name, square, space.store.nearest(space.table, vector, k, rest.allowed), notes)


def _by_text(space: Space, text: str, k: int, split: str | None) -> Found:
    spec = space.located.spec
    if not text.strip():
        raise BusistoreError("there are no words to search with; name an image, a PNG file, or write what it shows")
    if spec.text is None:
        readers = ", ".join(sorted(m.name for m in models.MODELS.values() if m.has_text))
        what = f"'{text[:80]}' is neither an image nor a file, and '{spec.name}' reads no text"
        raise BusistoreError(f"{what}; these do: {readers}")
    if not spec.text.aligned:
        return _by_mapped_text(space, text, k, load_split(space.store, split, None))
    vector = models.load_text(space.located).encode([text])[0]
    return _found(space, text, None, space.store.nearest(space.table, vector, k, space.allowed))


def _by_mapped_text(space: Space, text: str, k: int, split: Split) -> Found:
    """Towers that share no space: the images are carried into that of the text by a map, learned for this question."""
    mapped = text_space(space.store, space.located, space.recipe.name, split)
    rows = [n for n, image_id in enumerate(mapped.ids) if image_id in space.allowed]
    vector = models.load_text(space.located).encode([text])[0]
    hits = ranked([mapped.ids[n] for n in rows], mapped.vectors[rows], vector, k)
    taught = f"{mapped.n_train} training labels of '{split.split_id}'"
    note = f"similarities come from a map learned from {taught} (supervised), not zero-shot"
    return _found(space, text, None, hits, [note], split)


def _found(
    space: Space, query: str, picture: np.ndarray | None, hits: Hits, notes: Sequence[str] = (),
    split: Split | None = None,
) -> Found:  # fmt: skip
    """The answer, with what the store knows of each image."""
    facts = _facts(space.store, [query, *(i for i, _ in hits)])
    part_of = {i: part for part, ids in split.parts.items() for i in ids} if split else {}
    told = [Hit(rank, i, cosine, *facts[i], part_of.get(i)) for rank, (i, cosine) in enumerate(hits, start=1)]
    label, _, group_id = facts.get(query, (None, None, None))
    return Found(
        query, space.located.spec.name, space.recipe.name, picture, told, len(space.allowed), list(notes), label,
        group_id, split and split.split_id,
    )  # fmt: skip


def _facts(store: Store, ids: Sequence[str]) -> dict[str, tuple[str, str, str | None]]:
    """(label, data set, group id) of those that are images of the store."""
    rows = list(columns(store.read("images", ["image_id", "label", "dataset"], f"image_id IN ({_listed(ids)})")))
    groupings = [newest(store, dataset) for dataset in {dataset for _, _, dataset in rows}]
    group_of = {i: group_id for grouping in groupings if grouping for i, group_id in grouping.group_of.items()}
    return {i: (label, dataset, group_of.get(i)) for i, label, dataset in rows}


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(quote, ids))


def _pictures(store: Store, recipe: recipes.Recipe, ids: Sequence[str]) -> list[np.ndarray]:
    files = store.files(PREPROCESSED, f"recipe_id = {quote(recipe.recipe_id)}")
    return [pixels.grey(data, image_id) for image_id, data in files.stream(ids)]


def save_sheet(store: Store, found: Found, path: Path) -> None:
    """Write a contact sheet: the question and the pictures found, as a PNG.

    Raises:
        StoreError: a picture is damaged.
        BadInput: the file cannot be written.
        BusistoreError: more pictures than a sheet holds.
    """
    grey = _pictures(store, recipes.recipe(found.recipe), [hit.image_id for hit in found.hits])
    tiles = [
        sheet.Tile(
            picture, hit.rank, hit.similarity, hit.label, hit.image_id, _same_group(found, hit), hit.part or ""
        )
        for picture, hit in zip(grey, found.hits, strict=True)
    ]  # fmt: skip
    what = f"{len(tiles)} most similar of {found.n_searched} images, by cosine; {found.model}, {found.recipe}"
    question = sheet.Question(found.query, (what, *found.notes), found.picture, found.label)
    sheet.save(sheet.draw(question, tiles), path)


def _same_group(found: Found, hit: Hit) -> str:
    """Where the image, or a near-duplicate of it, has been seen on the sheet before."""
    if hit.group_id is None:
        return ""
    if hit.group_id == found.group_id:
        return "group of the query"
    first = next(other for other in found.hits if other.group_id == hit.group_id)
    return "" if first is hit else f"group of no. {first.rank}"
