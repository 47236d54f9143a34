"""`step.map`: a step for each item, some at once. Runs in `run()`, on its loop, so on replay in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from executor.workflow.errors import StepFailed


def check(concurrency: object, stop_on: object) -> None:
    """Raises TypeError or ValueError naming the argument."""
    if concurrency is not None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise TypeError(f"concurrency= of step.map() is of type {type(concurrency).__name__}; write a whole number")
        if concurrency < 1:
            raise ValueError(f"concurrency={concurrency} of step.map() is less than 1")
    if stop_on not in {"error", "never"}:
        raise ValueError(f'stop_on={stop_on!r} of step.map() is not "error" or "never"')


async def run_map(
    step: Callable[[int], Coroutine[Any, Any, Any]], count: int, concurrency: int | None, *, stops: bool
) -> list[Any]:
    """The results of `step(0)` … `step(count - 1)`. Each worker takes the next item when it has finished one."""
    results: list[Any] = [None] * count
    indices = iter(range(count))
    failures: list[BaseException] = []

    async def worker() -> None:
        for index in indices:
            try:
                results[index] = await step(index)
            except StepFailed as failed:
                if stops:
                    failures.append(failed)
                    raise
                results[index] = failed
            except BaseException as error:
                failures.append(error)
                raise

    worker_count = count if concurrency is None else min(concurrency, count)
    workers = [asyncio.create_task(worker()) for _ in range(worker_count)]
    if not workers:
        return results
    try:
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        failure = failures[0] if failures else None
    finally:
        left = [task for task in workers if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task in workers:
            if task.done() and not task.cancelled():
                task.exception()  # looked at: one of them is raised here
    if failure is not None:
        raise failure
    return results
