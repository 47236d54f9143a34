"""Exceptions that are hostile when they are looked at still become facts."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from executor.core.errors import Refused
from executor.sandbox import faults
from executor.workflow import NonRetryableError, StepFailed
from tests.executor.fake_executor import Story, play
from tests.executor.sandbox.test_run import job

FILES = frozenset({__file__})
ESCAPES = [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, RecursionError]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def fact_of(error: BaseException) -> faults.ErrorFact:
    fact = faults.fact(error, FILES, code="step_failed")
    for text in (fact.type, fact.message, fact.traceback):
        assert type(text) is str
        text.encode()
    return fact


@pytest.mark.parametrize("escape", ESCAPES)
def test_message_that_raises_anything_is_a_fact_and_keeps_its_frames(escape: type[BaseException]) -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise escape

        __repr__ = __str__

    fact = fact_of(raised(Hostile()))
    assert fact.type.endswith("Hostile")
    assert fact.message == "<the message of Hostile could not be read>"
    assert "in raised" in fact.traceback


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize(
    "name",
    ["__class__", "__cause__", "__context__", "__suppress_context__", "__traceback__", "__notes__", "exceptions"],
)
def test_attribute_that_raises_anything_is_a_fact(name: str, escape: type[BaseException]) -> None:
    def get(_self: object) -> object:
        raise escape

    hostile = type("Hostile", (Exception,), {name: property(get)})
    fact = fact_of(raised(hostile("told")))
    assert fact.message == "told"
    assert "Hostile: told" in fact.traceback


def test_type_whose_name_cannot_be_asked_for_is_a_fact() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            raise SystemExit(name)

    fact = fact_of(raised(Meta("Hostile", (Exception,), {})("told")))
    assert fact.type == f"{__name__}.Hostile"
    assert fact.message == "told"


def test_type_name_and_message_are_plain_text_whatever_the_tenant_made_of_them() -> None:
    class Text(str):
        __slots__ = ()

        def encode(self, *_args: object, **_named: object) -> bytes:
            raise SystemExit

    class Hostile(Exception):
        __module__ = "\ud800"

        def __str__(self) -> str:
            return Text("told \ud800")

    fact = fact_of(raised(Hostile()))
    assert fact.type.startswith("\\ud800.")
    assert fact.message == "told \\ud800"


def test_causes_that_never_end_are_cut() -> None:
    class Endless(Exception):
        @property
        def __cause__(self) -> BaseException:
            return Endless("one more")

    assert fact_of(raised(Endless("told"))).message == "told"


def test_very_long_chain_is_cut_and_costs_little() -> None:
    error: BaseException = ValueError("first")
    messages = 0

    class Counted(Exception):
        def __str__(self) -> str:
            nonlocal messages
            messages += 1
            return "told"

    for _ in range(20_000):
        following = Counted()
        following.__cause__ = error
        error = following
    fact = fact_of(raised(error))
    assert fact.message == "told"
    assert messages < 50


@pytest.mark.parametrize("grow", [lambda inner: [inner], lambda inner: [inner, inner]])
def test_very_deep_group_is_cut(grow: Callable[[Exception], list[Exception]]) -> None:
    error: Exception = ValueError("innermost")
    for number in range(2_000):
        error = ExceptionGroup(f"level {number}", grow(error))
    fact = fact_of(raised(error))
    assert "level 1999" in fact.traceback


def test_very_wide_group_is_cut() -> None:
    fact = fact_of(raised(ExceptionGroup("wide", [ValueError(number) for number in range(50_000)])))
    assert fact.message == "wide (50000 sub-exceptions)"
    assert "ValueError: 3" in fact.traceback


def test_cause_whose_message_cannot_be_read_costs_only_its_message() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit

    def outer() -> None:
        try:
            raise Hostile
        except Hostile as error:
            raise ValueError("told") from error

    with pytest.raises(ValueError, match="told") as caught:
        outer()
    fact = fact_of(caught.value)
    assert "ValueError: told" in fact.traceback
    assert "direct cause" in fact.traceback
    assert "in outer" in fact.traceback


def test_notes_are_part_of_the_traceback() -> None:
    error = ValueError("told")
    error.add_note("and this")
    assert fact_of(raised(error)).traceback.endswith("ValueError: told\nand this\n")


def test_step_error_whose_own_traceback_is_hostile_keeps_the_rest() -> None:
    class Hostile(StepFailed):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit(name)

    fact = fact_of(raised(Hostile("s#1", 1, "ValueError", "told")))
    assert fact.code == "step_failed"
    assert "in raised" in fact.traceback


def test_platform_error_that_a_tenant_made_hostile_is_a_fact() -> None:
    class Hostile(Refused):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit(name)

    fact = fact_of(Hostile.__new__(Hostile, "told"))
    assert fact.type == "Hostile"
    assert not fact.retryable


def test_what_is_retryable_is_asked_of_the_type_alone() -> None:
    class Pretends(Exception):
        __class__ = NonRetryableError  # type: ignore[assignment]

    assert fact_of(Pretends()).retryable
    assert not fact_of(NonRetryableError("no")).retryable


@pytest.mark.parametrize("kind", ["async def fail():", "def fail():"])
def test_step_whose_exception_cannot_be_read_fails_and_is_reported(kind: str) -> None:
    above = f"""
class Hostile(Exception):
    def __str__(self):
        raise SystemExit(3)
{kind}
    raise Hostile
"""
    body = """
try:
    await step.options(retry=Retry(limit=0)).do("s", fail)
except StepFailed as failed:
    return failed.error_message
"""
    assert play(job(body, above), Story("Job")).result == "<the message of Hostile could not be read>"


def test_file_names_in_tracebacks_are_the_tenants() -> None:
    text = fact_of(raised(ValueError("told"))).traceback
    assert text.startswith("Traceback (most recent call last):\n")
    assert os.path.basename(__file__) in text
