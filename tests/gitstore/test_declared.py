"""Declarations of workflow classes are read as literals, without running tenant code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gitstore import GitStore, Refused
from gitstore.analysis import DECLARED_CHARS_MAX, analyse
from gitstore.rows import WorkflowFound

HEAD = "from executor.workflow import Flow, Schedule, Workflow\n"
RUN = "    async def run(self, event, step): ...\n"


def look(*body: str, head: str = HEAD) -> tuple[dict[str, object], list[str]]:
    """What the one workflow declares, and the mistakes."""
    lines = "".join(f"    {line}\n" for line in body)
    found = analyse({"workflows.py": f"{head}class A(Workflow):\n{lines}{RUN}".encode()}, source_bytes_max=1 << 20)
    declared = json.loads(found.workflows[0].declared or "{}") if found.workflows else {}
    return declared, [str(error) for error in found.errors]


def test_a_flow_becomes_the_json_of_its_keyword_arguments() -> None:
    body = 'flow = Flow(concurrency=5, per="payload.customer", priority=-3, singleton=None)'
    flow = {"concurrency": 5, "per": "payload.customer", "priority": -3, "singleton": None}
    assert look(body) == ({"flow": flow}, [])


def test_a_schedule_may_be_a_text_or_a_list_of_calls_and_an_annotation_changes_nothing() -> None:
    body = 'schedule: object = ["0 6 * * *", Schedule(cron="@daily", payload={"n": [1, 2.5, True]})]'
    assert look(body) == ({"schedule": ["0 6 * * *", {"cron": "@daily", "payload": {"n": [1, 2.5, True]}}]}, [])


def test_a_class_that_declares_nothing_has_the_empty_text() -> None:
    found = analyse(
        {"workflows.py": f"{HEAD}class A(Workflow):\n    flow = None\n{RUN}".encode()}, source_bytes_max=99999
    )
    assert [workflow.declared for workflow in found.workflows] == [""]


def test_a_declaration_is_inherited_from_the_nearest_base_that_has_one() -> None:
    head = f"{HEAD}class Base(Workflow):\n    flow = Flow(concurrency=1)\n    schedule = '@daily'\n"
    source = f"{head}class A(Base):\n    flow = Flow(concurrency=2)\n{RUN}"
    [found] = analyse({"workflows.py": source.encode()}, source_bytes_max=1 << 20).workflows
    assert json.loads(found.declared) == {"flow": {"concurrency": 2}, "schedule": "@daily"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("flow = Flow(concurrency=LIMIT)", "is not made of literals; it is read without running your code"),
        ("flow = Flow(5)", "has arguments without a name; write Flow(name=literal, …)"),
        ("flow = Flow(**options)", "has arguments without a name; write Flow(name=literal, …)"),
        ("flow = make(concurrency=1)", "calls make; write Flow(…) with literals"),
        ("flow = Flow(per=f'payload.{x}')", "is not made of literals; it is read without running your code"),
        ("flow = [[[[[[[[[[1]]]]]]]]]]", "is nested too deeply"),
        ("flow = {1: 2}", "has a key that is no literal text"),
        (f"flow = Flow(concurrency=0x{'f' * 5_000})", "has a whole number of more than 64 bits"),
        (f"schedule = -0x{'f' * 5_000}", "has a whole number of more than 64 bits"),
        ("schedule = Schedule(every=1, payload=[-1e999])", "has a number that is not finite"),
        (r"flow = Flow(per='payload.\ud800')", "has text with lone surrogates, which is not valid Unicode"),
        (
            r"schedule = Schedule(every=1, payload={'\ud800': 1})",
            "has text with lone surrogates, which is not valid Unicode",
        ),
    ],
)
def test_what_is_no_literal_is_a_mistake_with_its_place(body: str, message: str) -> None:
    _, [error] = look(body)
    assert error.startswith("workflows.py:3:")
    assert error.endswith(f"{body.split(maxsplit=1)[0]} of A {message}")


def test_declarations_are_bounded() -> None:
    _, [error] = look(f"schedule = '{'x' * DECLARED_CHARS_MAX}'")
    assert error.endswith(f"characters, the limit is {DECLARED_CHARS_MAX}")


def test_whoever_opens_the_store_says_which_declarations_are_wrong(tmp_path: Path) -> None:
    def check(found: WorkflowFound) -> str | None:
        return "flow is too wide" if json.loads(found.declared or "{}").get("flow") == {"concurrency": 9} else None

    files = {"workflows.py": f"{HEAD}class A(Workflow):\n    flow = Flow(concurrency=9)\n{RUN}".encode()}
    with GitStore.open(tmp_path, check_workflow=check) as store:
        store.create_tenant("acme")
        with pytest.raises(Refused) as refused:
            store.commit_files("acme", files, message="", who="t", branch="main", replace=True)
        assert [str(found) for found in refused.value.diagnostics] == ["workflows.py:2:1: A: flow is too wide"]
        assert store.deployments("acme") == []
        files["workflows.py"] = files["workflows.py"].replace(b"=9", b"=8")
        deployment = store.commit_files("acme", files, message="", who="t", branch="main", replace=True)
        [found] = store.deployment("acme", deployment.commit).workflows
        assert found.declared == '{"flow": {"concurrency": 8}}'
