"""What the properties of the whole language share: stories of generated programs, and when two of them are the same."""

from __future__ import annotations

from typing import Any

from executor.core import codec
from executor.core.entries import AnyEntry, Completed, Failed, Trace
from executor.core.failure import ErrorFact
from tests.executor.fake_executor import Story, without_unwanted

CHILDREN = {"Good": {"it": "is"}, "Bad": ErrorFact("ValueError", "it is not")}


def job(story: dict[str, Any], workflow: str = "Job") -> Story:
    """The story of one instance, whose children end as CHILDREN says."""
    return Story(workflow, **story, children=CHILDREN)


def ending(story: Story) -> Any:
    """The result, or the error as type and message; a tuple of what there is to compare."""
    outcome = story.instance.outcome
    assert isinstance(outcome, Completed | Failed), (story.held, story.kinds())
    if isinstance(outcome, Completed):
        return story.result
    return outcome.error.type, outcome.error.message


def chain_of(journal: list[AnyEntry]) -> bytes:
    """The chain of exactly these entries."""
    chain = codec.CHAIN_START
    for entry in journal:
        chain = codec.chain_after(chain, entry)
    return chain


def assert_same(one: Story, other: Story) -> None:
    """Same ending (so the same values seen) and same chain, but for results that nobody waited for any more."""
    assert ending(one) == ending(other)
    wanted = without_unwanted(one.journal, other.journal), without_unwanted(other.journal, one.journal)
    told = [[without_texts(entry) for entry in journal if not isinstance(entry, Trace)] for journal in wanted]
    assert told[0] == told[1]
    assert chain_of(told[0]) == chain_of(told[1])


def without_texts(entry: AnyEntry) -> AnyEntry:
    """Tracebacks tell of the process in which they were made."""
    import msgspec

    error = getattr(entry, "error", None)
    if error is None:
        return entry
    return msgspec.structs.replace(entry, error=msgspec.structs.replace(error, traceback=""))
