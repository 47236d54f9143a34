"""W3 on Perdure, embedded, through the public API: `ours_program.py DATA_DIR PROCESSES`."""

import asyncio
import sys
from pathlib import Path

from tools.bench.common import embedded
from tools.bench.peering.programs.asked import in_flight_at_most, serve


def main():
    with asyncio.Runner() as runner:
        opened = embedded(Path(sys.argv[1]), processes=int(sys.argv[2]))
        tenant = runner.run(opened.__aenter__())

        async def one(number):
            started = await tenant.start("Three", {"number": number})
            assert await started.result(timeout=120) == {"number": 2}

        serve(
            lambda count, in_flight: runner.run(in_flight_at_most(one, count, in_flight)),
            lambda number: runner.run(one(number)),
        )
        runner.run(opened.__aexit__(None, None, None))


if __name__ == "__main__":
    main()
