"""docs/workflows.md is true: each example runs on a real platform, with the result, output or error that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.core import ids, values
from executor.core.errors import Conflict, TenantError
from executor.platform import Platform
from executor.platform.api import Run, Tenant
from executor.sandbox import run as sandbox_run
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.limits import SandboxLimits
from executor.workflow import Step, Workflow, options
from facets.limits import Limits as FacetLimits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Example:
    """A workflow of the page, and the blocks that follow it: `json` its result, `text` its output, `error`."""

    workflow: str
    source: str
    shown: dict[str, str]

    @property
    def path(self) -> str:
        return f"workflows/{self.workflow.lower()}.py"


def _examples() -> list[Example]:
    found: list[Example] = []
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            (workflow,) = re.findall(r"^class (\w+)\(Workflow", text, flags=re.MULTILINE)
            found.append(Example(workflow, text, {}))
        else:
            found[-1].shown[language] = text.strip()
    return found


EXAMPLES = {example.workflow: example for example in _examples()}
PAYLOADS: dict[str, Any] = {
    "Greeting": {"name": "Ada"},
    "Payment": {"cents": 995},
    "Ledger": {"postings": [100, 200, 300]},
    "Onboarding": {"email": "ada@example.com"},
}
EVENTS: dict[str, tuple[str, Any]] = {"Expense": ("decided", {"yes": True, "by": "kim"})}


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """A tenant with all examples of the page in one repository."""
    with Platform.local(tmp_path_factory.mktemp("platform")) as platform:
        tenant = platform.create_tenant("acme")
        deployed = tenant.deploy({example.path: example.source for example in EXAMPLES.values()})
        assert {item.name for item in deployed.workflows} == set(EXAMPLES)
        yield tenant


def _started(acme: Tenant, workflow: str) -> Run[Any]:
    run = acme.start(workflow, PAYLOADS.get(workflow), id=workflow)
    if workflow in EVENTS:
        run.send_event(*EVENTS[workflow])
    return run


def _shown(shown: str, real: str) -> None:
    assert " ".join(real.split()) == " ".join(shown.split())


@pytest.mark.parametrize("workflow", [name for name, example in EXAMPLES.items() if "json" in example.shown])
def test_an_example_returns_what_the_page_shows(acme: Tenant, workflow: str) -> None:
    assert _started(acme, workflow).result(timeout=TIMEOUT_S) == json.loads(EXAMPLES[workflow].shown["json"])


@pytest.mark.parametrize("workflow", [name for name, example in EXAMPLES.items() if "text" in example.shown])
def test_an_example_prints_what_the_page_shows(acme: Tenant, workflow: str) -> None:
    lines = _started(acme, workflow).logs(follow=True)
    told = [" ".join(filter(None, (f"{line.step}:" if line.step else "", line.level, line.text))) for line in lines]
    _shown(EXAMPLES[workflow].shown["text"], "\n".join(told))


@pytest.mark.parametrize("workflow", ["Forgetful", "Tags"])
def test_a_mistake_fails_with_the_error_that_the_page_shows(acme: Tenant, workflow: str) -> None:
    run = _started(acme, workflow)
    with pytest.raises(TenantError):
        run.result(timeout=TIMEOUT_S)
    error = run.status().error
    assert error is not None
    _shown(EXAMPLES[workflow].shown["error"], f"{error.type.rpartition('.')[2]}: {error.message}")


def test_a_run_that_changes_its_mind_is_held_with_the_error_that_the_page_shows(acme: Tenant) -> None:
    run = _started(acme, "Unsteady")
    while run.status().state != "waiting":  # then it rests on disk, and the event makes it replay
        assert not run.status().is_final
    run.send_event("go")
    with pytest.raises(Conflict) as caught:
        run.result(timeout=TIMEOUT_S)
    assert caught.value.code == "instance_held"
    status = run.status()
    assert status.state == "held"
    assert status.error is not None
    _shown(EXAMPLES["Unsteady"].shown["error"], f"{status.error.code}: {status.error.message}")


def test_chance_and_time_stay_as_they_were_drawn(acme: Tenant) -> None:
    result = _started(acme, "Lottery").result(timeout=TIMEOUT_S)
    assert 1 <= result["number"] <= 49
    assert abs(result["drawn_at"] * 1000 - acme.instance("Lottery").status().created_at_ms) < 60_000


def test_every_example_is_run_by_a_test() -> None:
    by_result = {name for name, example in EXAMPLES.items() if example.shown.keys() & {"json", "text"}}
    assert set(EXAMPLES) - by_result == {"Forgetful", "Tags", "Unsteady", "Lottery"}


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    mib = 1024 * 1024
    shown = {
        f"{values.VALUE_BYTES_MAX // mib} MiB, {values.DEPTH_MAX} deep",
        f"{FacetLimits().facet_bytes_max // mib} MiB",
        f"{FacetLimits().statement_ms_max // 1000} s, {FacetLimits().result_row_count_max:,} rows",
        f"{SandboxLimits().memory_bytes // mib} MiB",
        f"{SandboxLimits().turn_timeout_s:g} s",
        f"{FacetLimits().output_bytes_max // mib} MiB",
        f"{options.RETRY_LIMIT_MAX:,}",
        f"{sandbox_run.NAME_CHARS_MAX}, {ids.EVENT_NAME_CHARS_MAX} characters",
        f"{ids.INSTANCE_ID_CHARS_MAX} characters",
        f"{ChildLimits().step_threads}",
        f"{ChildLimits().attempt_count_max:,}",
        f"{ChildLimits().line_bytes_max // 1024} KiB",
    }
    table = PAGE.read_text().partition("| limit |")[2].partition("\n\n")[0]
    cells = {cell.strip() for line in table.splitlines()[2:] for cell in line.strip("|").split("|")}
    assert shown <= cells
    assert len(cells) == 2 * len(shown), "each limit that is shown is compared"


def test_what_is_not_there_yet_is_refused_and_not_ignored() -> None:
    listed = PAGE.read_text().partition("## Not there yet")[2]
    for option in options.OPTIONS_LATER:
        assert f"`{option}`" in listed
        with pytest.raises(TypeError, match="is not supported by this release"):
            options.StepOptions().changed({option: True})
    for method in ("map", "group", "poll", "call", "start", "emit"):
        assert re.search(rf"`(step\.)?{method}`", listed)
        assert not hasattr(Step, method), f"step.{method} exists: the page should tell of it"
    assert not hasattr(Workflow, "continue_as_new")
