"""Where a job's work is computed: in this thread, in threads, in processes, or on Ray. Results come in order."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from busistore.errors import BusistoreError, lookup

Work = Callable[[Any], Any]
Keyed = tuple[str, Any]


def guarded(work: Work, item: Any) -> Any:
    """The result of `work`, or the BusistoreError that says why there is none."""
    try:
        return work(item)
    except BusistoreError as error:
        return BusistoreError(str(error))


def serial(work: Work, items: Iterable[Keyed], workers: int) -> Iterator[Keyed]:
    """One after the other, here."""
    for key, item in items:
        yield key, guarded(work, item)


def threads(work: Work, items: Iterable[Keyed], workers: int) -> Iterator[Keyed]:
    """In threads: for decoding pictures, which frees the interpreter's lock."""
    with ThreadPoolExecutor(workers) as pool:
        yield from _in_pool(pool, work, items, workers)


def processes(work: Work, items: Iterable[Keyed], workers: int) -> Iterator[Keyed]:
    """In fresh processes (spawned: Lance handles do not survive a fork).

    They end with this generator, whatever they are at: the driver alone writes to the store.

    Raises:
        BusistoreError: the system killed one.
    """
    others = {child.pid for child in active_children()}
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts_to_the_driver) as pool:
        try:
            yield from _in_pool(pool, work, items, workers)
        except BrokenProcessPool:
            told = f"one of {workers} worker processes was killed, most likely since memory ended"
            raise BusistoreError(f"{told}; take fewer --workers, or --executor serial") from None
        except BaseException:
            for child in active_children():
                if child.pid not in others:
                    child.terminate()
            raise


def _leave_interrupts_to_the_driver() -> None:
    """And end with it, however it ends: what nobody waits for is not computed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(driver: BaseProcess | None) -> None:
    if driver is not None:
        driver.join()
        os._exit(1)


def _windowed(
    submit: Callable[[Any], Any], result: Callable[[Any], Any], cancel: Callable[[Any], Any], items: Iterable[Keyed],
    window: int,
) -> Iterator[Keyed]:  # fmt: skip
    """At most `window` items in flight, so that a hundred thousand pictures never wait in memory."""
    waiting: deque = deque()
    try:
        for key, item in items:
            waiting.append((key, submit(item)))
            if len(waiting) >= window:
                key, handle = waiting.popleft()
                yield key, result(handle)
        while waiting:
            key, handle = waiting.popleft()
            yield key, result(handle)
    finally:
        for _, handle in waiting:
            cancel(handle)


def _in_pool(pool: Executor, work: Work, items: Iterable[Keyed], workers: int) -> Iterator[Keyed]:
    return _windowed(lambda item: pool.submit(guarded, work, item), Future.result, Future.cancel, items, 4 * workers)


def on_ray(work: Work, items: Iterable[Keyed], workers: int) -> Iterator[Keyed]:
    """On the Ray cluster that the environment names, or a local one."""
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    remote = ray.remote(guarded)
    return _windowed(lambda item: remote.remote(work, item), ray.get, ray.cancel, items, 4 * workers)


EXECUTORS = {"serial": serial, "threads": threads, "processes": processes, "ray": on_ray}


def compute(
    work: Work, items: Iterable[Keyed], executor: str = "threads", workers: int | None = None
) -> Iterator[Keyed]:
    """(key, result) for each (key, item), in order; a result may be a BusistoreError.

    `work` must be importable by name for processes and Ray: a module's function, or a `functools.partial` of one.
    """
    return named(executor)(work, items, workers or os.cpu_count() or 1)


def named(executor: str) -> Callable[[Work, Iterable[Keyed], int], Iterator[Keyed]]:
    """The executor of that name; raises BusistoreError when there is none, or what it needs is not installed."""
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise BusistoreError("the ray executor needs Ray; `pip install busistore[ray]` brings it")
    return lookup("executor", executor, EXECUTORS)
