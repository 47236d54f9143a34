"""Read by the type checkers only (test_typed.py): what users of the API write, right and wrong."""

from dataclasses import dataclass
from typing import Any, assert_type

from executor import AsyncPlatform, Platform
from executor.workflow import Event, Step, Workflow


@dataclass
class Signup:
    email: str


class Onboarding(Workflow[Signup, dict[str, str]]):
    async def run(self, event: Event[Signup], step: Step) -> dict[str, str]:
        return {"email": event.payload.email}


class Untyped(Workflow):
    async def run(self, event: Event, step: Step) -> Any:
        return None


def sync(platform: Platform) -> None:
    acme = platform.tenant("acme")
    assert_type(acme.start(Onboarding, Signup("a@b.c"), id="x").result(timeout=5), dict[str, str])
    assert_type(acme.start("Onboarding", {"email": "a@b.c"}).result(), Any)
    assert_type(acme.start(Untyped, {"anything": 1}).result(), Any)
    acme.start(Untyped)
    acme.start(Onboarding, {"email": "a@b.c"})  # WRONG: the payload's type
    acme.start(Onboarding)  # WRONG: no payload
    acme.start(int, 5)  # WRONG: no workflow
    acme.start("Onboarding", timeout=5)  # WRONG: no such option


async def asynchronous(platform: AsyncPlatform) -> None:
    acme = await platform.tenant("acme")
    run = await acme.start(Onboarding, Signup("a@b.c"))
    assert_type(await run.result(), dict[str, str])
    async for line in run.logs(follow=True):
        assert_type(line.text, str)
    await acme.start(Onboarding, Signup(5))  # WRONG: the field's type
