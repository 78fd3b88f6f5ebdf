"""What the user can mend: one line that names the value, the reason and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BusistoreError(Exception):
    """A fault that the user can mend; the command line prints it as one line and exits with 1."""


class UnknownName(BusistoreError):
    """A name that no registry, table or query knows."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        listed = f"{len(known)} known" if len(known) > 40 else f"known: {', '.join(known) or 'none yet'}"
        super().__init__(f"no {kind} '{name}'{hint} ({listed})")


class BadInput(BusistoreError):
    """A file or folder that cannot be taken as it is."""


class MissingWeights(BusistoreError):
    """Pretrained weights are not at hand. Random weights never stand in for them."""


class StoreError(BusistoreError):
    """The store cannot be opened, read or written."""


class Leakage(BusistoreError):
    """A split would put near-duplicates, or one patient, on both sides."""


class RunFailed(BusistoreError):
    """One run of a grid cannot be finished; the others go on."""


def lookup(kind: str, name: str, registry: dict):
    """The entry called `name`; raises UnknownName with the nearest known one."""
    try:
        return registry[name]
    except KeyError:
        raise UnknownName(kind, name, registry) from None
