"""Arrow schema and key of every table: the only list of columns.

A table's key names its rows; a second write of the same key replaces nothing unless asked to. Columns in
`blobs` hold whole files: they are stored apart from the scans and never shown to SQL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 1  # raised when a column changes its meaning; a store of a higher one is refused


@dataclass(frozen=True)
class Table:
    """One kind of row: its key columns, its Arrow schema and which of its columns hold files."""

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    blobs: tuple[str, ...] = ()


def _table(name: str, key: str, columns: str, blobs: tuple[str, ...] = ()) -> Table:
    keys = tuple(key.split())
    fields = [_field(c, keys) for c in columns.split()]
    assert set(keys) <= {f.name for f in fields}, name
    return Table(name, keys, pa.schema(fields), blobs)


_TYPES = {
    "str": pa.string(), "i32": pa.int32(), "i64": pa.int64(), "u32": pa.uint32(), "f32": pa.float32(),
    "f64": pa.float64(), "bool": pa.bool_(), "file": pa.large_binary(), "time": pa.timestamp("us", tz="UTC"),
    "i32s": pa.list_(pa.int32()), "f32s": pa.list_(pa.float32()), "f64s": pa.list_(pa.float64()),
    "strs": pa.list_(pa.string()),
}  # fmt: skip


def _field(column: str, keys: tuple[str, ...]) -> pa.Field:
    name, kind = column.split(":")
    return pa.field(name, _TYPES[kind], nullable=name not in keys)


IMAGES = _table(
    "images", "image_id",
    "image_id:str dataset:str label:str patient_id:str view:str width_px:i32 height_px:i32 mode:str "
    "pixels_sha256:str file_sha256:str files_sha256:str png_crc32:u32 source_path:str ingested_at:time png:file",
    blobs=("png",),
)  # fmt: skip
MASKS = _table(
    "masks", "image_id source_id",
    "image_id:str source_id:str area_px:i64 bbox_px:i32s n_masks:i32 n_lesions:i32 touches_edge:bool "
    "is_empty:bool png_crc32:u32 png:file",
)  # fmt: skip
GROUPS = _table(
    "groups", "image_id grouping",
    "image_id:str grouping:str basis_sha256:str dataset:str group_id:str size:i32 max_similarity:f64 "
    "spans_classes:bool grouped_at:time",
)  # fmt: skip
PAIRS = _table(
    "pairs", "grouping image_id other_id",
    "grouping:str image_id:str other_id:str dataset:str similarity:f64 reason:str",
)  # fmt: skip
PREPROCESSED = _table(
    "preprocessed", "image_id recipe_id",
    "image_id:str recipe_id:str recipe:str source_sha256:str pixels_sha256:str width_px:i32 height_px:i32 "
    "to_original:f64s artefacts:str png_crc32:u32 png:file",
    blobs=("png",),
)  # fmt: skip
MODELS = _table(
    "models", "model_id",
    "model_id:str model:str architecture:str weights_source:str weights_sha256:str input_transform:str "
    "precision:str dim:i32 versions:str licence:str recorded_at:time",
)  # fmt: skip
PROMPTS = _table(
    "prompts", "prompt_id",
    "prompt_id:str set_id:str prompt_set:str class:str rank:i32 text:str source:str details:str added_at:time",
)  # fmt: skip
TEXT_EMBEDDINGS = _table(
    "text_embeddings", "prompt_id model_id",
    "prompt_id:str model_id:str model:str logit_scale:f64 crc32:u32 vector:f32s",
)  # fmt: skip
SPLITS = _table(
    "splits", "split_id image_id",
    "split_id:str image_id:str dataset:str label:str part:str group_id:str weight:f64 grouping:str seed:i64 "
    "source:str",
)  # fmt: skip
EPISODES = _table(
    "episodes", "episode_id image_id",
    "episode_id:str image_id:str split_id:str dataset:str shots:i32 ratio:f64 seed:i64 role:str label:str",
)  # fmt: skip
RUNS = _table(
    "runs", "run_id",
    "run_id:str method:str model:str model_id:str recipe:str recipe_id:str dataset:str split_id:str episode_id:str "
    "shots:i32 ratio:f64 seed:i64 protocol:str parameters:str classes:strs details:str n_labelled:i32 "
    "n_groups_support:i32 n_test:i32 inputs_sha256:str exposure_support:f64 exposure_val:f64 versions:str "
    "commit:str device:str seconds:f64 status:str finished_at:time",
)  # fmt: skip
PREDICTIONS = _table(
    "predictions", "run_id image_id",
    "run_id:str image_id:str part:str label:str predicted:str probabilities:f64s",
)  # fmt: skip
METRICS = _table(
    "metrics", "run_id subject metric class",
    "run_id:str subject:str metric:str class:str value:f64 n_used:i32",
)  # fmt: skip
SEGMENTERS = _table(
    "segmenters", "segmenter_id",
    "segmenter_id:str segmenter:str init:str weights_source:str weights_sha256:str parameters:str dataset:str "
    "split_id:str inputs_sha256:str n_train:i32 n_val:i32 n_trained:i64 best_epoch:i32 n_epochs:i32 val_dice:f64 "
    "file_sha256:str versions:str commit:str device:str seconds:f64 cpu_seconds:f64 finished_at:time",
)  # fmt: skip
SEGMENTATIONS = _table(
    "segmentations", "source_id",
    "source_id:str segmenter_id:str segmenter:str init:str proposer:str prompt:str dataset:str split_id:str part:str "
    "inputs_sha256:str n_images:i32 n_missed:i32 n_false_positive:i32 versions:str commit:str device:str seconds:f64 "
    "finished_at:time",
)  # fmt: skip
FAILURES = _table("failures", "job key", "job:str key:str source:str reason:str failed_at:time")

TABLES = {
    t.name: t
    for t in (IMAGES, MASKS, GROUPS, PAIRS, PREPROCESSED, MODELS, PROMPTS, TEXT_EMBEDDINGS, SPLITS, EPISODES, RUNS,
              PREDICTIONS, METRICS, SEGMENTERS, SEGMENTATIONS, FAILURES)
}  # fmt: skip


def embeddings_table(model_id: str, recipe_id: str, dim: int) -> Table:
    """The table of one model on one recipe: a float32 vector of length `dim` for each image, as the model emits it."""
    columns = "image_id:str model_id:str recipe_id:str input_sha256:str crc32:u32"
    base = _table(embeddings_name(model_id, recipe_id), "image_id", columns)
    vector = pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)
    return Table(base.name, base.key, base.schema.append(vector))


def embeddings_name(model_id: str, recipe_id: str) -> str:
    """Name of the table that holds a model's vectors on a recipe."""
    return f"embeddings.{model_id}.{recipe_id}"


TOKENS = "tokens."  # tables of tokens are not shown to SQL: DuckDB does not read 16-bit floats


def tokens_table(model_id: str, recipe_id: str, layer: str, shape: tuple[int, ...], dtype: str = "float16") -> Table:
    """The table of one layer's tokens: for each image a flat list of `shape`'s product, the shape in the metadata.

    Args:
        layer: "grid" for the patches after the last block, "h5" for all tokens after block 5 (from 0).
        dtype: "float16", or "float32" where a tower must resume from them exactly.
    """
    columns = "image_id:str model_id:str recipe_id:str input_sha256:str crc32:u32"
    base = _table(tokens_name(model_id, recipe_id, layer, dtype), "image_id", columns)
    kind = {"float16": pa.float16(), "float32": pa.float32()}[dtype]
    flat = pa.field("vector", pa.list_(kind, math.prod(shape)), nullable=False)
    metadata = {"shape": ",".join(map(str, shape))}
    return Table(base.name, base.key, base.schema.append(flat).with_metadata(metadata))


def tokens_name(model_id: str, recipe_id: str, layer: str, dtype: str = "float16") -> str:
    """Name of the table that holds one layer's tokens."""
    return f"{TOKENS}{model_id}.{recipe_id}.{layer}" + ("" if dtype == "float16" else f".{dtype}")
