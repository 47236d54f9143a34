"""W3 on Restate: `restate_program.py URL`, the handler's address at the server's ingress."""

import asyncio
import sys

import aiohttp
from asked import in_flight_at_most, serve


def main(url):
    with asyncio.Runner() as runner:

        async def opened():
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

        session = runner.run(opened())

        async def one(number):
            async with session.post(url, json=number) as answer:
                assert await answer.json() == {"number": 2}, await answer.text()

        serve(
            lambda count, in_flight: runner.run(in_flight_at_most(one, count, in_flight)),
            lambda number: runner.run(one(number)),
        )
        runner.run(session.close())


if __name__ == "__main__":
    main(sys.argv[1])
