"""The service that Restate's server calls: W3 as one handler."""

import restate

three = restate.Service("Three")


async def one(number: int) -> dict[str, int]:
    return {"number": number}


@three.handler()
async def run(ctx: restate.Context, number: int) -> dict[str, int]:
    last = {"number": number}
    for place in range(3):
        last = await ctx.run_typed(f"step {place}", one, restate.RunOptions(), place)
    return last


app = restate.app([three])
