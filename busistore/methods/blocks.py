"""Many small problems in blocks of one size, several blocks at once."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Block = TypeVar("Block")
Result = TypeVar("Result")
AHEAD = 4


def of_one_size(sizes: Sequence[int], n_cells: int, most: int = 512) -> list[list[int]]:
    """Neighbours of one size in even blocks of at most `n_cells` squares of the size in all, and at most `most`.

    >>> of_one_size([1, 1, 1, 2], n_cells=2)
    [[0], [1, 2], [3]]
    """
    blocks = []
    for size, same in itertools.groupby(range(len(sizes)), key=sizes.__getitem__):
        members, n = list(same), max(1, min(most, n_cells // size**2))
        n_blocks = -(-len(members) // n)
        cuts = [len(members) * k // n_blocks for k in range(n_blocks + 1)]
        blocks += [members[a:b] for a, b in itertools.pairwise(cuts)]
    return blocks


def in_threads(work: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
    """The result for each block, in order. As many are under way as BLAS may have threads, each with one.

    Results do not depend on the number of threads, since each product of matrices has one. A block is begun when its
    turn is near, so that no more than AHEAD results a thread wait to be taken.
    """
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    n_threads = max([pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"], default=1)
    with pools.limit(limits=1), ThreadPoolExecutor(n_threads) as threads:
        begun: deque[Future[Result]] = deque()
        try:
            for block in blocks:
                begun.append(threads.submit(work, block))
                if len(begun) > AHEAD * n_threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:  # stopped early: what has not begun need not
            threads.shutdown(wait=True, cancel_futures=True)
