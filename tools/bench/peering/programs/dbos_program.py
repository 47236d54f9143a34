"""W3 on DBOS: `dbos_program.py DATABASE_URL`. Workflows on its own thread pool, the fastest of its styles here."""

import collections
import sys

from asked import serve
from dbos import DBOS

POOL = 64
"""More threads than this only wait for each other: 256 in flight are queued to the pool."""


@DBOS.step()
def one(number):
    return {"number": number}


@DBOS.workflow()
def three(number):
    for place in range(3):
        last = one(place)
    return last


def crowd(count, in_flight):
    handles = collections.deque()
    for number in range(count):
        if len(handles) >= in_flight:
            handles.popleft().get_result()
        handles.append(DBOS.start_workflow(three, number))
    for handle in handles:
        assert handle.get_result() == {"number": 2}


def alone(number):
    assert three(number) == {"number": 2}


if __name__ == "__main__":
    DBOS(
        config={
            "name": "bench",
            "system_database_url": sys.argv[1],
            "log_level": "ERROR",
            "enable_otlp": False,
            "max_executor_threads": POOL,
        }
    )
    DBOS.launch()
    serve(crowd, alone)
    DBOS.destroy()
