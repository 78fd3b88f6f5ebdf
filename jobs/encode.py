"""Encode: every preprocessed picture through a model, exactly once.

Decoding runs in a thread ahead of the network. A shard is a commit and holds whole batches; after a kill the missing
pictures are planned again in batches cut at the same places, so that every vector comes out the same to the last bit.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from busistore import models, pixels
from busistore.errors import BusistoreError
from busistore.ids import canonical_json
from busistore.jobs import SHARD_ROWS, Report, Shards, Track, columns, failed_keys, silent
from busistore.jobs.preprocess import current_pictures, preprocess
from busistore.jobs.preprocess import job_name as preprocess_job
from busistore.preprocess import recipes
from busistore.schema import MODELS, PREPROCESSED, Table, embeddings_name, embeddings_table
from busistore.store import Store, quote


def encode(
    store: Store,
    model: str,
    recipe: str = "pad224",
    *,
    weights: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int = 16,
    shard_rows: int = SHARD_ROWS,
    only: set[str] | None = None,
    only_errors: bool = False,
    dry_run: bool = False,
    track: Track = silent,
) -> Report:
    """Store the vector of every image under a recipe that has none from this model, or one of other pixels.

    Images without a picture under the recipe get one first. The network is loaded only if something is missing.

    Args:
        shard_rows: vectors in one commit; fewer lose less to a kill, more keep the store smaller.
        only: image ids to stay within; all by default.
        only_errors: only the images that failed before.
    """
    started = time.monotonic()
    located = models.locate(model, weights, precision)
    recipe_id = recipes.recipe(recipe).recipe_id
    job = job_name(located.model_id, recipe_id)
    if only_errors:  # what failed on the way here, at either step
        failed = failed_keys(store, job) | failed_keys(store, preprocess_job(recipe_id))
        only = failed if only is None else failed & only
    first = preprocess(store, recipe, only=only, dry_run=dry_run, track=track)
    pictures = _pictures(store, recipe_id, planned=dry_run)
    plan = [i for i in sorted(pictures) if only is None or i in only]
    stored = encoded_from(store, located.model_id, recipe_id)
    missing = [i for i in plan if pictures[i] != stored.get(i)]
    report = Report(job, len(plan), len(plan) - len(missing), failed=first.failed, failures=first.failures)
    if missing and not dry_run:
        encoder = models.load(located, device)
        table = embeddings_table(located.model_id, recipe_id, located.spec.dim)
        store.put(MODELS, [_model_row(located)])
        with Shards(store, report, (table,), shard_rows) as shards, track(f"encode {model}", len(missing)) as advance:
            for batch in _batches(store, recipe_id, missing, batch_size):
                _encode_batch(shards, table, encoder, recipe_id, batch, pictures)
                shards.checkpoint()
                advance(len(batch[0]))
    report.seconds = time.monotonic() - started
    return report


def job_name(model_id: str, recipe_id: str) -> str:
    """The job under which failures are kept: one model's or recipe's are not another's."""
    return f"encode {model_id} {recipe_id}"


def encoded_from(store: Store, model_id: str, recipe_id: str) -> dict[str, str]:
    """For each image that the model has encoded under the recipe, the hash of the picture that it was given."""
    return dict(columns(store.read(embeddings_name(model_id, recipe_id), ["image_id", "input_sha256"])))


def _pictures(store: Store, recipe_id: str, planned: bool) -> dict[str, str]:
    """Image id to the hash of its picture; with `planned`, '' for those that a real run would make first."""
    if planned:
        ids = store.read("images", ["image_id"])["image_id"].to_pylist()
        return dict.fromkeys(ids, "") | current_pictures(store, recipe_id)
    where = f"recipe_id = {quote(recipe_id)}"
    return dict(columns(store.read("preprocessed", ["image_id", "pixels_sha256"], where)))


Batch = tuple[list[str], np.ndarray, dict[str, str]]  # ids, (N, S, S) uint8 of those that are whole, damaged ones


def _encode_batch(
    shards: Shards, table: Table, encoder: models.Encoder, recipe_id: str, batch: Batch, pictures: dict[str, str]
) -> None:
    """One pass through the network; a damaged picture or a vector that is not finite fails alone."""
    ids, squares, damaged = batch
    vectors = encoder.encode(squares) if squares.size else ()
    whole = [i for i in ids if i not in damaged]
    for image_id, vector in zip(whole, vectors, strict=True):
        if not np.isfinite(vector).all():
            name = encoder.located.spec.name
            damaged[image_id] = f"'{name}' gave a vector that is not finite; check weights and precision"
            continue
        row = {
            "image_id": image_id, "model_id": encoder.located.model_id, "recipe_id": recipe_id,
            "input_sha256": pictures[image_id], "crc32": zlib.crc32(vector.tobytes()), "vector": vector,
        }  # fmt: skip
        shards.add(image_id, {table.name: [row]})
    for image_id, reason in damaged.items():
        shards.refuse(image_id, reason)


def _batches(store: Store, recipe_id: str, ids: list[str], size: int) -> Iterator[Batch]:
    """Pictures decoded in a thread while the network computes: at most three batches ahead."""
    files = store.files(PREPROCESSED, f"recipe_id = {quote(recipe_id)}").try_stream(ids, batch=size)
    with ThreadPoolExecutor(1) as pool:
        decode = lambda: _decode(list(itertools.islice(files, size)))  # noqa: E731  (one use, beside its only caller)
        waiting = [pool.submit(decode) for _ in range(3)]
        while (batch := waiting.pop(0).result())[0]:
            waiting.append(pool.submit(decode))
            yield batch


def _decode(some: list[tuple[str, bytes | BusistoreError]]) -> Batch:
    damaged = {image_id: str(data) for image_id, data in some if isinstance(data, BusistoreError)}
    squares = [pixels.grey(data, image_id) for image_id, data in some if image_id not in damaged]
    whole = np.stack(squares) if squares else np.empty((0, 0, 0), np.uint8)
    return [image_id for image_id, _ in some], whole, damaged


def _model_row(located: models.Located) -> dict[str, Any]:
    spec = located.spec
    return {
        "model_id": located.model_id, "model": spec.name, "architecture": spec.architecture,
        "weights_source": spec.weights.source, "weights_sha256": located.sha256,
        "input_transform": canonical_json(spec.input), "precision": located.precision, "dim": spec.dim,
        "versions": canonical_json(models.versions()), "licence": spec.weights.licence,
        "recorded_at": datetime.now(UTC),
    }  # fmt: skip


def vectors(store: Store, model_id: str, recipe_id: str) -> tuple[str, list[str], np.ndarray]:
    """All vectors of a model under a recipe: its id, image ids, sorted, and an (N, D) float32 array in that order."""
    name = embeddings_name(model_id, recipe_id)
    if not store.has(name):
        raise BusistoreError(f"nothing is encoded by '{model_id}' under '{recipe_id}'; `busistore encode` does it")
    rows = store.read(name, ["image_id", "vector"]).sort_by("image_id").combine_chunks()
    dim = rows.schema.field("vector").type.list_size
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    return model_id, rows["image_id"].to_pylist(), flat.reshape(-1, dim)
