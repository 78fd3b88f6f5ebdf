"""Where a training stands, in one file that is whole or not there.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Checkpoint(NamedTuple):
    """tensors by name, and a story of JSON types."""

    tensors: dict[str, Tensor]
    story: dict[str, Any]


def write(path: Path, found: Checkpoint, key: str) -> None:
    """Put it in the place of the one before, for a training that `key` stands for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    save_file(found.tensors, new, metadata={"key": key, "story": json.dumps(found.story)})
    os.replace(new, path)


def read(path: Path, key: str) -> Checkpoint | None:
    """None where there is none, where it is damaged, or where it is of a training of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("key") != key:
                return None
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, json.loads(told["story"]))  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
