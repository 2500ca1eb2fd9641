"""Runs compiled kernels on several threads. They release the interpreter's lock, so plain Python threads suffice.

numba's parallel regions would be as fast, but cost seconds of compilation each, abort the process when entered from
two threads at once (workqueue) or after a fork (OpenMP), and divide work only in advance.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any


def available_threads() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin_briefly() -> None:
    """Let torch's idle OpenMP threads sleep soon, instead of spinning for milliseconds on cores that kernels need.

    A training step is half matrix products and half kernels, which would wait for each other's threads. Takes effect
    only before torch is imported, and with GNU's OpenMP, which the Linux packages of torch contain. A setting of the
    user stays as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def run(function: Callable[..., Any], tasks: Iterable[tuple], threads: int) -> list[Any]:
    """Call `function(*task)` for all tasks on up to `threads` threads, the calling one included.

    Tasks are handed out as threads become free. If one fails, no further task starts, and its exception is raised once
    the running ones have ended.

    Args:
        function: called once a task.
        tasks: arguments of each call.
        threads: most calls at a time.

    Returns:
        The results, in the order of the tasks.
    """
    tasks = list(tasks)
    if threads == 1 or len(tasks) < 2:
        return [function(*task) for task in tasks]
    results: list[Any] = [None] * len(tasks)
    pending = iter(enumerate(tasks))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number, task = next(pending, (-1, ()))
            if number < 0:
                return
            try:
                results[number] = function(*task)
            except BaseException:
                with lock:
                    for _ in pending:
                        pass
                raise

    helpers = [_pool(threads - 1).submit(work) for _ in range(min(threads, len(tasks)) - 1)]
    try:
        work()
    finally:
        # A helper that found no free thread in the pool has nothing left to do: do not wait for its turn.
        errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error
    return results


@lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="csr_hf")


if hasattr(os, "register_at_fork"):
    # A forked child has the pools but not their threads, and would wait for them forever.
    os.register_at_fork(after_in_child=_pool.cache_clear)
