"""Preprocess: every image under a recipe, once."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.jobs import Report, Shards, Track, chosen, columns, consume, executors, silent
from busistore.preprocess import recipes
from busistore.schema import IMAGES, PREPROCESSED
from busistore.store import Store, quote


def preprocess(
    store: Store,
    recipe: str = "pad224",
    *,
    only: set[str] | None = None,
    only_errors: bool = False,
    dry_run: bool = False,
    executor: str = "threads",
    track: Track = silent,
) -> Report:
    """Make the picture of every image that has none under this recipe, or one of other pixels.

    Args:
        only: image ids to stay within; all by default.
        only_errors: only the images that failed before.
    """
    started = time.monotonic()
    made = recipes.recipe(recipe)
    images = dict(columns(store.read("images", ["image_id", "pixels_sha256"])))
    if not images:
        raise BusistoreError("the store holds no images; `busistore ingest DATASET PATH` brings them")
    job = job_name(made.recipe_id)
    plan = chosen(sorted(images), only, store, job, only_errors)
    stored = made_from(store, made.recipe_id)
    missing = [i for i in plan if images[i] != stored.get(i)]
    report = Report(job, planned=len(plan), skipped=len(plan) - len(missing))
    if missing and not dry_run:
        with Shards(store, report, (PREPROCESSED,)) as shards, track(f"preprocess {recipe}", len(missing)) as advance:
            items = _items(store, missing, images)
            consume(executors.compute(partial(compute, made), items, executor), shards, advance)
    report.seconds = time.monotonic() - started
    return report


def job_name(recipe_id: str) -> str:
    """The job under which failures are kept: one recipe's are not another's."""
    return f"preprocess {recipe_id}"


def made_from(store: Store, recipe_id: str) -> dict[str, str]:
    """For each image that has a picture under the recipe, the hash of the original that it was made from."""
    where = f"recipe_id = {quote(recipe_id)}"
    return dict(columns(store.read("preprocessed", ["image_id", "source_sha256"], where)))


def current_pictures(store: Store, recipe_id: str) -> dict[str, str]:
    """For each image whose picture under the recipe was made from the pixels that it has now, the picture's hash."""
    image = dict(columns(store.read("images", ["image_id", "pixels_sha256"])))
    where = f"recipe_id = {quote(recipe_id)}"
    made = store.read("preprocessed", ["image_id", "source_sha256", "pixels_sha256"], where)
    return {image_id: picture for image_id, source, picture in columns(made) if image.get(image_id) == source}


Item = tuple[str, str, bytes | BusistoreError]  # image id, hash of its pixels, its file or why there is none


def _items(store: Store, ids: list[str], hashes: dict[str, str]) -> Iterator[tuple[str, Item]]:
    for image_id, data in store.files(IMAGES).try_stream(ids):
        yield image_id, (image_id, hashes[image_id], data)


def compute(recipe: recipes.Recipe, item: Item) -> dict[str, list[dict[str, Any]]]:
    """The row of one image: its picture under the recipe and the way back to original pixels."""
    image_id, source_sha256, data = item
    if isinstance(data, BusistoreError):
        raise data
    made = recipes.apply(recipe, pixels.grey(data, image_id))
    file = pixels.png(made.pixels)
    row = {
        "image_id": image_id, "recipe_id": recipe.recipe_id, "recipe": recipe.name, "source_sha256": source_sha256,
        "pixels_sha256": pixels.pixels_sha256(made.pixels), "width_px": made.pixels.shape[1],
        "height_px": made.pixels.shape[0], "to_original": made.to_original.as_row(), "artefacts": "[]",
        "png_crc32": zlib.crc32(file), "png": file,
    }  # fmt: skip
    return {PREPROCESSED.name: [row]}
