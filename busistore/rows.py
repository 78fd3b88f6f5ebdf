"""Rows before they are written: of the table's columns, with whole and distinct keys, and finite throughout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from busistore.errors import StoreError
from busistore.schema import Table


def checked(table: Table, rows: pa.Table | Iterable[dict[str, Any]]) -> pa.Table:
    """The rows as an Arrow table that fits `table`, or StoreError: wrong columns or width, no key, not finite."""
    try:
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist(list(rows), schema=table.schema)
        source = rows.select(table.schema.names).cast(table.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, ValueError) as error:
        raise StoreError(f"rows do not fit the table '{table.name}': {error}") from None
    distinct = source.select(list(table.key)).group_by(list(table.key)).aggregate([]).num_rows
    if distinct != source.num_rows:
        raise StoreError(f"{source.num_rows - distinct} rows for '{table.name}' repeat a key")
    for field in table.schema if source.num_rows else ():
        _check_finite(table, source, field)
    return source


def _check_finite(table: Table, source: pa.Table, field: pa.Field) -> None:
    """Vectors are finite throughout; other numbers may be null, never infinite."""
    column = source[field.name]
    if pa.types.is_fixed_size_list(field.type):
        values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        whole = np.isfinite(values.reshape(source.num_rows, -1)).all(axis=1)
        if not whole.all():
            bad = source[table.key[0]][int(np.flatnonzero(~whole)[0])]
            raise StoreError(f"the {field.name} of '{bad}' is not finite; nothing of its shard was stored")
    elif pa.types.is_floating(field.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
        raise StoreError(f"a {field.name} for '{table.name}' is not finite")
