"""Where a training stands, in one file that is whole or not there.

This module imports torch as it loads; import it inside functions.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from busistore.errors import StoreError

_FULL = ("No space left", "os error 28)", "Disk quota", "os error 122)")


class Checkpoint(NamedTuple):
    """tensors by name, and a story of JSON types."""

    tensors: dict[str, Tensor]
    story: dict[str, Any]


def write(path: Path, found: Checkpoint, key: str) -> None:
    """Put it in the place of the one before, for a training that `key` stands for.

    Raises:
        StoreError: the disk is full, or the file cannot be written; the one before is whole.
    """
    story = json.dumps(found.story)
    told = {"key": key, "story": story, "sum": _sum(found.tensors, story)}
    new = path.with_name(f"{path.stem}.{os.getpid()}.new")  # another process may be at the same run
    with written("no checkpoint", path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(found.tensors, new, metadata=told)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def read(path: Path, key: str) -> Checkpoint | None:
    """None where there is none, where it is damaged, or where it is of a training of another key."""
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    story = told.get("story", "")
    return Checkpoint(tensors, json.loads(story)) if told.get("sum") == _sum(tensors, story) else None


@contextmanager
def written(what: str, path: Path) -> Iterator[None]:
    """Say in one line why something was not written; safetensors reports faults of a disk as errors of its own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        if any(sign in reason for sign in _FULL):
            remedy = "free some space and run the same command again"
            raise StoreError(f"the disk is full: {what} can be written to '{path}'; {remedy}") from error
        raise StoreError(f"{what} can be written to '{path}' ({reason}); run the same command again") from error


def _sum(tensors: dict[str, Tensor], story: str) -> str:
    total = zlib.crc32(story.encode())
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), total)
    return f"{total:08x}"
