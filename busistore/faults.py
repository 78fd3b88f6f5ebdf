"""What Lance and the disk say when something is wrong, in words that a user can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from busistore.errors import StoreError

_FULL = "is on a full disk: make room and run the same command again"
_FORBIDDEN = "may not be written by you"
_SIGNS = {
    "No space left": _FULL, "(os error 28)": _FULL, "Disk quota": _FULL, "(os error 122)": _FULL,
    "Permission denied": _FORBIDDEN, "(os error 13)": _FORBIDDEN, "Operation not permitted": _FORBIDDEN,
    "(os error 1)": _FORBIDDEN, "Read-only file system": "is on a read-only disk",
    "(os error 30)": "is on a read-only disk", "Not a directory": "is not a folder", "File exists": "is not a folder",
    "No such file or directory": "cannot be made there",
    "Too many open files": "needs more open files: raise `ulimit -n`",
}  # fmt: skip


@contextlib.contextmanager
def readable_errors(path: Path) -> Iterator[None]:
    """Lance reports every fault of a disk as a ValueError or RuntimeError; say the ones a user can mend."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        text = str(error)
        for sign, words in _SIGNS.items():
            if sign in text:
                raise StoreError(f"the store '{path}' {words}; what was stored before is whole") from error
        raise


def read_error(path: Path, table: str, error: Exception) -> StoreError:
    """A table that cannot be read: its name and the beginning of the reason, without the places in Lance's source."""
    reason = str(error).split("\n")[0].split(", /")[0][:160]
    return StoreError(f"the table '{table}' of '{path}' cannot be read ({reason}); see `busistore verify`")
