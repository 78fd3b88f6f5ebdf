"""Preprocess: every image under a recipe, once."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.jobs import Report, Shards, Track, chosen, columns, consume, executors, silent
from busistore.jobs.ingest import TRUTH
from busistore.preprocess import recipes, sheets
from busistore.preprocess.findings import Finding
from busistore.schema import IMAGES, MASKS, PREPROCESSED
from busistore.store import Store, quote


def preprocess(
    store: Store,
    recipe: str = "pad224",
    *,
    only: set[str] | None = None,
    only_errors: bool = False,
    dry_run: bool = False,
    executor: str = "threads",
    debug: Path | None = None,
    track: Track = silent,
) -> Report:
    """Make the picture of every image that has none under this recipe, or one of other pixels.

    Args:
        only: image ids to stay within; all by default.
        only_errors: only the images that failed before.
        debug: a folder for a sheet of each image, stored already or not: what was found and what was done with it.

    Raises:
        BusistoreError: there are no images, or no sheet shows what the recipe does.
    """
    started = time.monotonic()
    made = recipes.recipe(recipe)
    recipes.check(made)
    if debug is not None:
        sheets.check(made, debug)
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
            results = executors.compute(partial(compute, made), _items(store, missing, images, made), executor)
            consume(results, shards, advance)
    if debug is not None and not dry_run:
        with track(f"sheets of {recipe}", len(plan)) as advance:
            results = executors.compute(partial(draw, made), _items(store, plan, images, made), executor)
            _write_sheets(results, debug, report, advance)
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


@dataclass(frozen=True)
class Item:
    """An image to be preprocessed: the hash of its pixels, its file or why there is none, and its true mask's file.

    A mask is read for recipes that need one and for no other.
    """

    image_id: str
    pixels_sha256: str
    file: bytes | BusistoreError
    mask: bytes | BusistoreError | None = None


def _items(
    store: Store, ids: list[str], hashes: dict[str, str], recipe: recipes.Recipe
) -> Iterator[tuple[str, Item]]:
    images = store.files(IMAGES).try_stream(ids)
    if not recipe.needs_lesion:
        yield from ((i, Item(i, hashes[i], data)) for i, data in images)
        return
    masks = store.files(MASKS, f"source_id = {quote(TRUTH)}").try_stream(ids)
    yield from ((i, Item(i, hashes[i], data, mask)) for (i, data), (_, mask) in zip(images, masks))


def compute(recipe: recipes.Recipe, item: Item) -> dict[str, list[dict[str, Any]]]:
    """The row of one image: its picture under the recipe, what was found, and the way back to original pixels."""
    made = recipes.apply(recipe, *_decoded(item))
    file = pixels.png(made.pixels)
    row = {
        "image_id": item.image_id, "recipe_id": recipe.recipe_id, "recipe": recipe.name,
        "source_sha256": item.pixels_sha256, "pixels_sha256": pixels.pixels_sha256(made.pixels),
        "width_px": made.pixels.shape[1], "height_px": made.pixels.shape[0], "to_original": made.to_original.as_row(),
        "artefacts": artefacts_json(made.prepared), "png_crc32": zlib.crc32(file), "png": file,
    }  # fmt: skip
    return {PREPROCESSED.name: [row]}


def _decoded(item: Item) -> tuple[np.ndarray, np.ndarray | None]:
    """Image, in colour where it has any, and true mask where it is needed."""
    for data in (item.file, item.mask):
        if isinstance(data, BusistoreError):
            raise data
    image = np.asarray(pixels.open_image(item.file, item.image_id))
    return image, None if item.mask is None else pixels.mask(item.mask, item.image_id)


def artefacts_json(prepared: recipes.Prepared) -> str:
    """The findings as a JSON list in original pixels, and whether they were filled; [] where none was looked for."""
    found = prepared.artefacts.findings if prepared.artefacts else ()
    return json.dumps([_finding_row(f, prepared.filled) for f in found], separators=(",", ":"))


def _finding_row(finding: Finding, filled: bool) -> dict[str, Any]:
    def rounded(point: tuple[float, float]) -> list[float]:
        return [round(float(v), 2) for v in point]

    return {
        "kind": finding.kind, "box": [int(v) for v in finding.box],
        "polygon": finding.polygon and [rounded(p) for p in finding.polygon],
        "centre": finding.centre and rounded(finding.centre), "score": round(float(finding.score), 3),
        "area_px": finding.area_px, "filled": filled,
    }  # fmt: skip


def draw(recipe: recipes.Recipe, item: Item) -> bytes:
    """The sheet of one image as PNG: original, findings, mask, and what the recipe made of it."""
    image, lesion = _decoded(item)
    return pixels.png(np.asarray(sheets.draw(item.image_id, image, recipes.prepare(recipe, image, lesion))))


def _write_sheets(results, folder: Path, report: Report, advance) -> None:
    """One file for each image; an image that failed has told so already."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, sheet in results:
        if isinstance(sheet, BusistoreError):
            report.failed += image_id not in report.failures
            report.failures.setdefault(image_id, str(sheet))
        else:
            (folder / f"{image_id.replace('/', '_')}.png").write_bytes(sheet)
        advance(1)
