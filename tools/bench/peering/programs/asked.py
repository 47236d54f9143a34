"""How a program is driven: questions as lines of JSON on standard input, one line of JSON in answer to each.

{"op": "crowd", "count": N, "in_flight": M} → {"seconds": …}; {"op": "alone", "count": N} → {"took_s": […]}.
Standard library only: it runs in every peer's environment.
"""

import asyncio
import json
import sys
import time


def serve(crowd, one):
    """`crowd(count, in_flight)` runs that many W3; `one(number)` runs one from start to result."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        begun = time.perf_counter()
        if question["op"] == "crowd":
            crowd(question["count"], question["in_flight"])
            answer = {"seconds": time.perf_counter() - begun}
        else:
            took = []
            for number in range(question["count"]):
                begun = time.perf_counter()
                one(number)
                took.append(time.perf_counter() - begun)
            answer = {"took_s": took}
        print(json.dumps(answer), flush=True)


async def in_flight_at_most(work, count, in_flight):
    """Await `work(number)` for each number below `count`, `in_flight` at a time."""
    numbers = iter(range(count))

    async def worker():
        for number in numbers:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(min(in_flight, count))))
