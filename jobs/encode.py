"""Encode: every preprocessed picture through a model, exactly once, for every layer that is asked for.

Pictures are read and decoded ahead of the network. A shard is a commit and holds whole batches; after a kill the
missing pictures are planned again in batches cut at the same places, so that every vector of whole pictures comes out
the same to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from busistore import models
from busistore.errors import BusistoreError, MissingWeights
from busistore.jobs import SHARD_ROWS, Report, Shards, Track, columns, failed_keys, silent
from busistore.jobs.layers import Layer, layers_of, vector_row
from busistore.jobs.models import find, model_row, settled
from busistore.jobs.pictures import Batch, batches, sample
from busistore.jobs.preprocess import current_pictures, preprocess
from busistore.jobs.preprocess import job_name as preprocess_job
from busistore.models.precision import LEAST_COSINE, SAMPLE_COSINE
from busistore.models.weights import WrongWeights
from busistore.preprocess import recipes
from busistore.schema import MODELS, Table, embeddings_name
from busistore.store import Store, quote

BATCH, GPU_BATCH = 16, 128
SHARD_BYTES = 64 << 20  # hidden states of one image take a megabyte: shards of them are written earlier
N_SAMPLE = 8  # pictures on which the first use of bf16 is compared with fp32
AUDIT_EVERY = 256  # and of every so many pictures one more


class DirectionLost(BusistoreError):
    """A bf16 vector that does not point where its fp32 twin does."""


@dataclass(frozen=True)
class Work:
    """The pictures that lack a layer of a model under a recipe.

    pictures: every image id and the hash of its picture; seen: by layer, those of which a row is stored.
    guarded: whether bf16 was chosen here, and must prove itself.
    """

    located: models.Located
    recipe: str
    recipe_id: str
    layers: list[Layer]
    pictures: dict[str, str]
    seen: list[dict[str, str]]
    missing: list[str]
    batch_size: int
    shard_rows: int
    guarded: bool


def encode(
    store: Store,
    model: str,
    recipe: str = "pad224",
    *,
    weights: Path | None = None,
    device: str = "cpu",
    precision: str = "auto",
    batch_size: int | None = None,
    layers: Sequence[str] = (),
    token_dtype: str = "float16",
    shard_rows: int = SHARD_ROWS,
    only: set[str] | None = None,
    only_errors: bool = False,
    dry_run: bool = False,
    fetch: bool = True,
    quiet: bool = True,
    track: Track = silent,
) -> Report:
    """Store the vector of every image under a recipe that has none from this model, or one of other pixels.

    Images without a picture under the recipe get one first. The network is loaded only if something is missing.

    Args:
        precision: "auto" is what the store holds of the model; at first bf16 where it is fast and keeps the direction
            of every vector that is checked, else fp32.
        batch_size: pictures in one pass; 16 on a processor and 128 on a GPU by default.
        layers: what to keep beside the pooled vector, from the same pass: "unprojected", "grid", or numbers of
            blocks, whose hidden states are kept.
        token_dtype: of grid and hidden states: "float16", or "float32" to go on from them exactly.
        shard_rows: vectors in one commit; fewer lose less to a kill, more keep the store smaller.
        only: image ids to stay within; all by default.
        only_errors: only the images that failed before.
        fetch, quiet: whether weights that are not at hand are downloaded, and without showing progress.
    """
    started = time.monotonic()
    found = partial(find, store, model, weights, precision, recipe=recipe, device=device, quiet=quiet)
    located = _known(found, fetch)
    recipe_id = recipes.recipe(recipe).recipe_id
    wanted = partial(layers_of, wanted=layers, token_dtype=token_dtype)
    wanted(located, recipe_id)  # a layer that cannot be is said before any work
    if only_errors:  # what failed on the way here, at either step
        job = job_name(located.model_id, recipe_id)
        failed = failed_keys(store, job) | failed_keys(store, preprocess_job(recipe_id))
        only = failed if only is None else failed & only
    first = preprocess(store, recipe, only=only, dry_run=dry_run, track=track)
    pictures = _pictures(store, recipe_id, planned=dry_run)
    size = batch_size or (GPU_BATCH if device.startswith("cuda") else BATCH)
    planned = partial(_planned, store, pictures, only, recipe, wanted, size, shard_rows)
    work, report = planned(located, guarded=precision == "auto")
    if work.missing and not dry_run and not located.files:  # only now are the weights needed
        work, report = planned(_fetched(located, found, fetch), guarded=precision == "auto")
    if not dry_run:
        try:
            _run(store, work, report, device, track)
        except DirectionLost as lost:
            work, report = planned(located.at("fp32"), guarded=False)
            report.notes.append(str(lost))
            _run(store, work, report, device, track)
    report.failed += first.failed
    report.failures |= first.failures
    report.seconds = time.monotonic() - started
    return report


def _known(found: Callable[..., models.Located], fetch: bool) -> models.Located:
    """The model as it is at hand, or as the store remembers it; downloaded where neither is so."""
    try:
        return found()
    except WrongWeights:
        raise
    except MissingWeights:
        return found(fetch=fetch)


def _fetched(located: models.Located, found: Callable[..., models.Located], fetch: bool) -> models.Located:
    """The model with its weights, which must be those that the store knows."""
    here = found(fetch=fetch)
    if here.model_id != located.model_id:
        raise BusistoreError(
            f"the store was encoded by {located.model_id}, the weights that are found now make {here.model_id}; name "
            "the former with --weights, or use another store"
        )
    return here


def job_name(model_id: str, recipe_id: str) -> str:
    """The job under which failures are kept: one model's or recipe's are not another's."""
    return f"encode {model_id} {recipe_id}"


def encoded_from(store: Store, model_id: str, recipe_id: str) -> dict[str, str]:
    """For each image that the model has encoded under the recipe, the hash of the picture that it was given."""
    return dict(columns(store.read(embeddings_name(model_id, recipe_id), ["image_id", "input_sha256"])))


def current_vectors(store: Store, model_id: str, recipe_id: str) -> dict[str, str]:
    """For each image whose vector is of the pixels that it has now, the hash of the picture that was encoded."""
    now = current_pictures(store, recipe_id)
    return {i: sha for i, sha in encoded_from(store, model_id, recipe_id).items() if now.get(i) == sha}


def _planned(
    store: Store, pictures: dict[str, str], only: set[str] | None, recipe: str,
    wanted: Callable[[models.Located, str], list[Layer]], batch_size: int, shard_rows: int, located: models.Located,
    guarded: bool,
) -> tuple[Work, Report]:  # fmt: skip
    recipe_id = recipes.recipe(recipe).recipe_id
    layers = wanted(located, recipe_id)
    plan = [i for i in sorted(pictures) if only is None or i in only]
    seen = [dict(columns(store.read(layer.name, ["image_id", "input_sha256"]))) for layer in layers]
    missing = [i for i in plan if any(pictures[i] != stored.get(i) for stored in seen)]
    guarded = guarded and located.precision == "bf16"
    work = Work(located, recipe, recipe_id, layers, pictures, seen, missing, batch_size, shard_rows, guarded)
    return work, Report(job_name(located.model_id, recipe_id), len(plan), len(plan) - len(missing))


def _pictures(store: Store, recipe_id: str, planned: bool) -> dict[str, str]:
    """Image id to the hash of its picture; with `planned`, '' for those that a real run would make first."""
    if planned:
        ids = store.read("images", ["image_id"])["image_id"].to_pylist()
        return dict.fromkeys(ids, "") | current_pictures(store, recipe_id)
    where = f"recipe_id = {quote(recipe_id)}"
    return dict(columns(store.read("preprocessed", ["image_id", "pixels_sha256"], where)))


def _run(store: Store, work: Work, report: Report, device: str, track: Track) -> None:
    """Encode what is missing. One batch is computed while the one before it is taken into a shard."""
    if not work.missing:
        return
    encoder = models.load(work.located, device)
    if work.guarded and settled(store, work.located, work.recipe) is None:
        _compare(encoder, sample(store, work.recipe_id, work.missing, N_SAMPLE), SAMPLE_COSINE)
    outputs = [layer.output for layer in work.layers]
    shapes = encoder.shapes(outputs)
    tables = tuple(layer.table(shapes[layer.output]) for layer in work.layers)
    vectors = [(layer, shapes[layer.output][0]) for layer in work.layers if layer.is_vector]
    store.put(MODELS, [model_row(work.located.at(output=layer.output), dim) for layer, dim in vectors])
    named = f"encode {work.located.spec.name}"
    rows = _shard_rows(work, tables)
    with Shards(store, report, tables, rows) as shards, track(named, len(work.missing)) as advance:
        for batch, made in _passes(store, work, encoder, outputs):
            _keep(shards, tables, work, batch, made)
            shards.checkpoint()
            advance(len(batch.ids))


def _shard_rows(work: Work, tables: tuple[Table, ...]) -> int:
    vectors = [table.schema.field("vector").type for table in tables]
    n_bytes = sum(kind.list_size * kind.value_type.bit_width // 8 for kind in vectors)
    return max(1, min(work.shard_rows, SHARD_BYTES // n_bytes))


Made = dict[str, np.ndarray]


def _passes(
    store: Store, work: Work, encoder: models.Encoder, outputs: list[str]
) -> Iterator[tuple[Batch, Made]]:  # fmt: skip
    """Batches with what the network made of them. A GPU works on one while the next is sent to it."""
    waiting: tuple[Batch, Callable[[], Made]] | None = None
    n_seen = 0
    for batch in batches(store, work.recipe_id, work.missing, work.batch_size):
        begun = encoder.submit(batch.squares, outputs) if len(batch.squares) else dict
        if work.guarded and n_seen // AUDIT_EVERY < (n_seen + len(batch.squares)) // AUDIT_EVERY:
            _compare(encoder, batch.squares[:1], LEAST_COSINE)
        n_seen += len(batch.squares)
        if waiting is not None:
            yield waiting[0], waiting[1]()
        waiting = batch, begun
    if waiting is not None:
        yield waiting[0], waiting[1]()


def _compare(encoder: models.Encoder, squares: np.ndarray, least: float) -> None:
    cosine = encoder.least_cosine(squares) if len(squares) else 1.0
    if not cosine >= least:  # so that NaN is refused too
        name = encoder.located.spec.name
        raise DirectionLost(f"'{name}' loses its direction in bf16 (cosine {cosine:.5f} to fp32); encoded in fp32")


def _keep(shards: Shards, tables: tuple[Table, ...], work: Work, batch: Batch, made: Made) -> None:
    """Rows of one batch; a damaged picture, or a vector that is not finite, fails alone."""
    refused = dict(batch.damaged)
    for k, image_id in enumerate(batch.whole):
        rows, bad = {}, None
        for layer, table, seen in zip(work.layers, tables, work.seen, strict=True):
            if seen.get(image_id) == work.pictures[image_id]:  # a row that is there stays as it is, to the last bit
                continue
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(made[layer.output][k].reshape(-1), layer.dtype)
            bad = bad or _fault(work, layer, values)
            picture = work.pictures[image_id]
            rows[table.name] = [vector_row(layer.model_id, work.recipe_id, image_id, picture, values)]
        if bad:
            refused[image_id] = bad
        else:
            shards.add(image_id, rows)
    for image_id, reason in refused.items():
        shards.refuse(image_id, reason)


def _fault(work: Work, layer: Layer, values: np.ndarray) -> str | None:
    if np.isfinite(values).all():
        return None
    if layer.dtype == "float16":
        return f"layer '{layer.output}' does not fit 16 bits; keep it with --token-dtype float32"
    return f"'{work.located.spec.name}' gave a vector that is not finite; check weights and precision"


def vectors(store: Store, model_id: str, recipe_id: str) -> tuple[str, list[str], np.ndarray]:
    """All vectors of a model under a recipe: its id, image ids, sorted, and an (N, D) float32 array in that order."""
    name = embeddings_name(model_id, recipe_id)
    if not store.has(name):
        raise BusistoreError(f"nothing is encoded by '{model_id}' under '{recipe_id}'; `busistore encode` does it")
    rows = store.read(name, ["image_id", "vector"]).sort_by("image_id").combine_chunks()
    dim = rows.schema.field("vector").type.list_size
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    return model_id, rows["image_id"].to_pylist(), flat.reshape(-1, dim)
