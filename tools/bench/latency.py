"""How long does one wait who asks for one thing at a time: from start to result, and from event to the next step?"""

from __future__ import annotations

import time
from typing import Any

import anyio

from executor.platform import AsyncRun, AsyncTenant
from tools.bench.common import all_rest, embedded, folder, latency_ms, main, medians

STEP = "step_succeeded"


async def run(*, count: int = 300, events: int = 200, repeats: int = 5, processes: int = 0) -> dict[str, Any]:
    """Each of `repeats` rounds: `count` W3 one after the other; then `events` waiting instances, each resumed by an
    event. `event_to_step` ends when the record of the step after the wait can be read, `event_to_result` with the
    result."""
    with folder() as data_dir:
        async with embedded(data_dir, processes=processes) as tenant:
            await _round(tenant, count=min(count, 50), events=min(events, 20))
            rounds = [await _round(tenant, count=count, events=events) for _ in range(repeats)]
    return medians(rounds) | {"rounds": rounds}


async def _round(tenant: AsyncTenant, *, count: int, events: int) -> dict[str, float]:
    alone = [await _start_to_result(tenant, number) for number in range(count)]
    waiting = [await tenant.start("Waiter") for _ in range(events)]
    await all_rest(tenant)
    to_step: list[float] = []
    to_result: list[float] = []
    for number, instance in enumerate(waiting):
        seen = (await instance.status()).sequence
        begun = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(_step_recorded, instance, seen)
            await instance.send_event("go", {"number": number})
        to_step.append(time.perf_counter() - begun)
        assert await instance.result(timeout=60) == {"number": number}
        to_result.append(time.perf_counter() - begun)
    return {
        **latency_ms(alone, "start_to_result"),
        **latency_ms(to_step, "event_to_step"),
        **latency_ms(to_result, "event_to_result"),
    }


async def _start_to_result(tenant: AsyncTenant, number: int) -> float:
    begun = time.perf_counter()
    started = await tenant.start("Three", {"number": number})
    assert await started.result(timeout=60) == {"number": 2}
    return time.perf_counter() - begun


async def _step_recorded(instance: AsyncRun[Any], seen: int) -> None:
    """Return once a step after entry `seen` is in the journal: it is durable then. The call waits; nothing polls."""
    while True:
        for item in await instance._call("journal", after=seen, limit=100, wait_s=10.0):
            seen = item.sequence
            if item.kind == STEP:
                return


if __name__ == "__main__":
    main(run)
