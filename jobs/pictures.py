"""Preprocessed pictures on their way to a network: read in one thread, decoded in others, ahead of the computation."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from busistore import pixels
from busistore.errors import BusistoreError
from busistore.schema import PREPROCESSED
from busistore.store import Store, quote

AHEAD = 3  # batches


@dataclass(frozen=True)
class Batch:
    """Pictures of one pass: `squares` (N, S, S) uint8 of the `whole` ones, in their order; `damaged` says why not."""

    ids: list[str]
    whole: list[str]
    squares: np.ndarray
    damaged: dict[str, str]


def batches(store: Store, recipe_id: str, ids: Sequence[str], size: int) -> Iterator[Batch]:
    """All the pictures in batches of `size`, at most a few batches in memory."""
    files = store.files(PREPROCESSED, f"recipe_id = {quote(recipe_id)}").try_stream(ids, batch=size)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(os.cpu_count() or 1) as decoders:
        read = lambda: [(i, decoders.submit(_decode, i, data)) for i, data in itertools.islice(files, size)]  # noqa: E731
        waiting = deque(reader.submit(read) for _ in range(AHEAD))
        while some := waiting.popleft().result():
            waiting.append(reader.submit(read))
            yield _gathered(some)


def sample(store: Store, recipe_id: str, ids: Sequence[str], n: int) -> np.ndarray:
    """(n, S, S) uint8: pictures spread evenly over `ids`, fewer where some are damaged."""
    some = [ids[k] for k in np.unique(np.linspace(0, len(ids) - 1, n).astype(int))]
    return next(batches(store, recipe_id, some, len(some))).squares


def _decode(image_id: str, data: bytes | BusistoreError) -> np.ndarray | str:
    if isinstance(data, BusistoreError):
        return str(data)
    try:
        return pixels.grey(data, image_id)
    except BusistoreError as error:
        return str(error)


def _gathered(some: list[tuple[str, Future]]) -> Batch:
    decoded = {image_id: future.result() for image_id, future in some}
    damaged = {i: what for i, what in decoded.items() if isinstance(what, str)}
    squares = [what for what in decoded.values() if not isinstance(what, str)]
    whole = np.stack(squares) if squares else np.empty((0, 0, 0), np.uint8)
    return Batch(list(decoded), [i for i in decoded if i not in damaged], whole, damaged)
