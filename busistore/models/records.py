"""What this machine remembers of weights: the hash of a file, the commit and the hash found at first use.

One small file a record, under BUSISTORE_CACHE (default ~/.cache/busistore), so that two commands never undo each
other's.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def folder() -> Path:
    """The cache folder: records, and weights converted into another layout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BUSISTORE_CACHE") or Path(base) / "busistore")


def recall(kind: str, key: str) -> str | None:
    """What was recorded under a key; None for nothing."""
    try:
        return json.loads(path(kind, key).read_text())["value"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        return None


def record(kind: str, key: str, value: str) -> None:
    """Remember a value, whole or not at all."""
    file = path(kind, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"key": key, "value": value}))
    temporary.replace(file)


def path(kind: str, key: str) -> Path:
    """Where a record lies."""
    return folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def file_sha256(file: Path) -> str:
    """SHA-256 of a file; read once for each state of it, since a checkpoint takes seconds."""
    real = file.resolve()
    state = real.stat()
    key = f"{real} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    known = recall("hashes", key)
    if known is None:
        with real.open("rb") as opened:
            known = hashlib.file_digest(opened, "sha256").hexdigest()
        record("hashes", key, known)
    return known
