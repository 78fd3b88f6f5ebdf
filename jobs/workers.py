"""Runs that train a tower, one after the other here or several at once in workers of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from busistore.errors import BusistoreError, RunFailed
from busistore.ids import sha256
from busistore.jobs import executors
from busistore.jobs.runs import Cell
from busistore.jobs.towers import Grid, Towers
from busistore.methods import Outcome
from busistore.store import Store

Trained = tuple[Cell, Outcome | RunFailed]
EXECUTORS = ("serial", "processes", "ray")  # not threads: PyTorch uses the cores of one process by itself


def trained(
    towers: Towers, grid: Grid, cells: Sequence[Cell], *, executor: str, n_workers: int | None,
    advance: Callable[[float], None],
) -> Iterator[Trained]:  # fmt: skip
    """Each cell with its outcome, or why there is none, in their order; `advance` is told shares of runs.

    Workers share the cores: each computes in `cores // n_workers` threads, with a tower and states of its own.
    """
    if executor == "serial":
        return _here(towers, cells, advance)
    return _apart(towers, grid, cells, executor, min(n_workers or cores(), len(cells)), advance)


def cores() -> int:
    """Those that this process may use, which a scheduler may have made fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check(executor: str) -> None:
    """Raises BusistoreError where towers cannot be trained by it."""
    executors.named(executor)
    if executor not in EXECUTORS:
        raise BusistoreError(f"runs are computed by the executors {', '.join(EXECUTORS)}, not '{executor}'")


def _here(towers: Towers, cells: Sequence[Cell], advance: Callable[[float], None]) -> Iterator[Trained]:
    for cell in cells:
        n_told, share = 0, 1 / getattr(cell.method, "epochs", 1)

        def tell(share: float = share) -> None:
            nonlocal n_told
            n_told += 1
            advance(share)

        outcome = towers.run(cell, tell)
        advance(1 - n_told * share)  # of a run that ended early, or went on from a checkpoint
        yield cell, outcome


def _apart(
    towers: Towers, grid: Grid, cells: Sequence[Cell], executor: str, n_workers: int, advance: Callable[[float], None]
) -> Iterator[Trained]:
    cell_of, n_threads = {cell.run_id: cell for cell in cells}, max(1, cores() // n_workers)
    work = partial(_train, towers.store.path, grid, n_threads)
    for run_id, result in executors.compute(work, cell_of.items(), executor, n_workers):
        if isinstance(result, BusistoreError):
            raise result
        outcome, notes = result
        towers.notes += [note for note in notes if note not in towers.notes]
        advance(1)
        yield cell_of[run_id], outcome


_ours: tuple[str, Towers] | None = None  # of this worker: the grid that it is at


def _train(path: Path, grid: Grid, n_threads: int, cell: Cell) -> tuple[Outcome | RunFailed, list[str]]:
    """What a worker does: one run; its towers and states stay for the next."""
    from busistore.models.states import use_threads

    global _ours
    key = sha256(repr((path, grid.located, grid.split.split_id, grid.parts, grid.ids)).encode())
    if _ours is None or _ours[0] != key:
        use_threads(n_threads)
        _ours = key, Towers(Store.open(path), grid, [])
    return _ours[1].run(cell), _ours[1].notes
