"""W3 on Perdure, embedded, through the public API: `ours_program.py DATA_DIR PROCESSES`."""

import sys
from functools import partial
from pathlib import Path

from anyio.from_thread import start_blocking_portal

from tools.bench.common import crowd, embedded
from tools.bench.peering.programs.asked import serve


def main():
    with start_blocking_portal("trio") as portal:
        opened = embedded(Path(sys.argv[1]), processes=int(sys.argv[2]))
        with portal.wrap_async_context_manager(opened) as tenant:

            async def one(number):
                started = await tenant.start("Three", {"number": number})
                assert await started.result(timeout=120) == {"number": 2}

            serve(
                lambda count, in_flight: portal.call(partial(crowd, one, count=count, in_flight=in_flight)),
                lambda number: portal.call(one, number),
            )


if __name__ == "__main__":
    main()
