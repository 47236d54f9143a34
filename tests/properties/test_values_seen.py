"""P14: what a step returned is seen alike by the live run and by every replay, as the value that its bytes say; or it is
refused, and the refusal is seen alike. Generated values are Python expressions, so that nothing is lost on their way in."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core import values
from executor.core.entries import StepSucceeded
from executor.core.errors import Refused
from tests.executor.fake_executor import Story, in_process
from tests.properties.language import assert_same

QUICK = settings.default.max_examples if settings.default is not None else 50
SOURCE = """
import dataclasses, datetime, decimal, enum, math, uuid
from executor.workflow import *

class Colour(enum.Enum):
    RED = 1

class Size(int):
    pass

@dataclasses.dataclass
class Point:
    x: object

def alias(x):
    return [x, x, {{"again": x}}]

def cycle(x):
    found = [x]
    found.append(found)
    return found

def deep(x, count):
    for _ in range(count):
        x = [x]
    return x

def told(value, places=()):
    "The value with its types, and where the same object is once more."
    if any(value is place for place in places):
        return "the same again"
    inner = (*places, value)
    if isinstance(value, dict):
        return "{{" + ", ".join(told(k) + ": " + told(v, inner) for k, v in value.items()) + "}}"
    if isinstance(value, list | tuple | set | frozenset):
        return type(value).__name__ + "[" + ", ".join(told(item, inner) for item in value) + "]"
    return f"{{type(value).__name__}} {{value!a}}"

def make():
    return {expression}

class Job(Workflow):
    async def run(self, event, step):
        try:
            value = await step.options(retry=Retry(limit=0)).do("value", make)
        except StepFailed as failed:
            return ["refused", failed.error_type, str(failed)]
        seen = [told(value)]
        if isinstance(value, list) and len(value) > 1 and isinstance(value[0], list):
            value[0].append("changed")  # as the live run has it, so has the replay: one object or two
            seen.append(told(value))
        await step.sleep("nap", 1)
        seen.append(told(value))
        seen.append(told(await step.do("passed on", lambda: value)))
        return seen
"""
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.binary(max_size=6),
).map(repr) | st.sampled_from(
    [
        'float("nan")',
        'float("-inf")',
        "-0.0",
        "5e-324",
        r'"\ud800"',
        r'"\udfff!"',
        r'{"\ud800": 1}',
        "2**64",
        "-2**63 - 1",
        "10**400",
        "Size(4)",
        "Colour.RED",
        "Point([1])",
        "True + 1",
        "1j",
        "object",
        "bytearray(b'b')",
        'decimal.Decimal("1.10")',
        "uuid.UUID(int=4)",
        "datetime.datetime(2028, 2, 29, 12, tzinfo=datetime.UTC)",
        "datetime.date(2028, 2, 29)",
        "datetime.time(12, 30)",
        "datetime.timedelta(1)",
        "Ellipsis",
    ]
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: f"({', '.join(items)},)"),
        st.lists(st.tuples(st.sampled_from(['"a"', '""', '"b.c"', "1", "None", "True"]), inner), max_size=3).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"
        ),
        inner.map(lambda item: f"{{*map(str, {{1: {item}}})}}"),
        inner.map(lambda item: f"alias([{item}])"),
        inner.map(lambda item: f"alias({item})"),
        inner.map(lambda item: f"cycle({item})"),
        st.tuples(inner, st.sampled_from([3, 62, 63, 64, 65, 2_000])).map(lambda both: f"deep({both[0]}, {both[1]})"),
    ),
    max_leaves=6,
)


@settings(max_examples=QUICK)
@given(expressions)
def test_value_is_seen_alike_by_live_run_and_replay_or_refused(expression: str) -> None:
    """P14: nan, surrogates, big integers, aliases, cycles, subclasses, keys that are no text, depth."""

    async def main() -> None:
        async with in_process(SOURCE.format(expression=expression)) as executor:
            live = await executor.play(Story("Job"))
            assert_same(live, await executor.play(Story("Job"), evict=True))
            for length in live.cuts[:-1]:
                assert_same(live, await executor.play(live.prefix(length)))
        stored = [entry.value for entry in live.journal if isinstance(entry, StepSucceeded)]
        if live.result[0] == "refused":
            assert stored == []
            return
        first, *others = stored
        assert others == [first] or "changed" in str(live.result)
        assert values.encode(values.decode(first)) == first

    asyncio.run(main())


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
trees = st.recursive(
    scalars | st.text(alphabet="a\xdf\ud800\udfff", min_size=1, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_bytes_of_a_value_are_those_of_what_they_decode_to_or_it_is_refused(value: object) -> None:
    """P14: a second journey changes nothing more."""
    try:
        data = values.encode(value)
    except Refused as refused:
        assert refused.code == "value_refused"
        assert refused.message.startswith("value")
        return
    seen = values.decode(data)
    assert values.encode(seen) == data
    assert seen == value
