"""What one pass of an encoder is kept as: a table for the pooled vector, and one for each further layer."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from busistore.errors import BusistoreError
from busistore.jobs.preprocess import current_pictures
from busistore.models import OUTPUTS, Located
from busistore.schema import Table, embeddings_name, embeddings_table, tokens_name, tokens_table
from busistore.store import Store, quote

TOKEN_DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class Layer:
    """One output of a pass and where it is kept. `output` is its name there: pooled, unprojected, grid, h5."""

    output: str
    model_id: str
    recipe_id: str
    dtype: str = "float32"

    @property
    def is_vector(self) -> bool:
        return self.output in OUTPUTS

    @property
    def name(self) -> str:
        """Name of the table."""
        if self.is_vector:
            return embeddings_name(self.model_id, self.recipe_id)
        return tokens_name(self.model_id, self.recipe_id, self.output, self.dtype)

    def table(self, shape: tuple[int, ...]) -> Table:
        """The table for outputs of `shape` an image."""
        if self.is_vector:
            return embeddings_table(self.model_id, self.recipe_id, shape[0])
        return tokens_table(self.model_id, self.recipe_id, self.output, shape, self.dtype)


def layers_of(located: Located, recipe_id: str, wanted: Sequence[str], token_dtype: str = "float16") -> list[Layer]:
    """The layers to keep: those that are named, then the pooled vector.

    Args:
        wanted: "unprojected", "grid", or the number of a block, from 0.

    Raises:
        BusistoreError: another name, or another token type.
    """
    if token_dtype not in TOKEN_DTYPES:
        raise BusistoreError(f"tokens are kept as {' or '.join(TOKEN_DTYPES)}, not '{token_dtype}'")
    outputs = dict.fromkeys(_output(name) for name in wanted)
    outputs.pop(located.output, None)
    return [
        Layer(name, located.at(output=name).model_id, recipe_id)
        if name in OUTPUTS
        else Layer(name, located.model_id, recipe_id, token_dtype)
        for name in (*outputs, located.output)
    ]


def _output(name: str) -> str:
    if name in (*OUTPUTS, "grid"):
        return name
    if re.fullmatch(r"h?\d+", name):
        return f"h{int(name.removeprefix('h'))}"
    raise BusistoreError(f"no layer '{name}'; name blocks by their numbers from 0, or unprojected, or grid")


def vector_row(model_id: str, recipe_id: str, image_id: str, seen: str, values: np.ndarray) -> dict[str, Any]:
    """One row of a table of vectors or tokens: flat `values` with their checksum, made of a picture of hash `seen`."""
    return {
        "image_id": image_id, "model_id": model_id, "recipe_id": recipe_id, "input_sha256": seen,
        "crc32": zlib.crc32(values.tobytes()), "vector": values,
    }  # fmt: skip


def shape_of(schema: pa.Schema) -> tuple[int, ...]:
    """What the flat values of one image were, by the metadata of their table."""
    return tuple(int(n) for n in schema.metadata[b"shape"].split(b","))


def tokens(store: Store, layer: Layer, image_ids: Sequence[str]) -> np.ndarray:
    """The stored tokens of some images: (N, *shape) in the layer's type, in the order of `image_ids`.

    Raises:
        BusistoreError: an image has none of its present picture; the command that makes them is named.
    """
    ids = list(image_ids)
    where = f"image_id IN ({', '.join(map(quote, ids)) or quote('')})"
    rows = store.read(layer.name, ["image_id", "input_sha256", "vector"], where) if store.has(layer.name) else None
    now = current_pictures(store, layer.recipe_id)
    kept = zip(rows["image_id"].to_pylist(), rows["input_sha256"].to_pylist()) if rows is not None else ()
    place = {image_id: k for k, (image_id, seen) in enumerate(kept) if now.get(image_id) == seen}
    lost = [i for i in ids if i not in place]
    if lost or rows is None:
        some = f"{len(lost)} images, such as '{lost[0]}'," if lost else "these images"
        raise BusistoreError(f"{some} have no tokens of layer '{layer.output}'; `busistore encode --layers` keeps them")
    flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(rows.num_rows, *shape_of(rows.schema))[[place[i] for i in ids]]
