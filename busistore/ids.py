"""Names that say exactly how a thing was made: a readable name and a hash of all that can change it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses and mappings to dicts, tuples and sets to lists.

    Raises:
        TypeError: a value that JSON cannot carry exactly (NaN, infinity, an arbitrary object).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} cannot be part of a key")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, so that equal settings hash equally.

    >>> canonical_json({"b": (1, 2), "a": 0.5})
    '{"a":0.5,"b":[1,2]}'
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def content_id(name: str, value: Any) -> str:
    """`name` and the first 12 hexadecimal digits of the hash of `value`: `pad224-0a1b2c3d4e5f`."""
    return f"{name}-{sha256(canonical_json(value).encode())[:12]}"
