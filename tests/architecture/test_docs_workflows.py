"""docs/workflows.md is true: each example runs on a real platform, with the result, output or error that it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor import workflow as public
from executor.core import attributes, bounds, ids, values
from executor.core.errors import Conflict, Refused, TenantError
from executor.engine.engine import EngineLimits
from executor.platform import Platform, Run, Tenant
from executor.sandbox import run_requests, run_shown, run_state, step_signals, step_streams
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.limits import SandboxLimits
from executor.workflow import durations, options
from facets.limits import Limits as FacetLimits

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Example:
    """A workflow of the page (the last one of its block), and the blocks that follow it: `json` its result, `text` its
    output, `error` how it fails or is held, `python outside` what its platform does with it."""

    workflow: str
    source: str
    shown: dict[str, str]

    @property
    def path(self) -> str:
        return f"workflows/{self.workflow.lower()}.py"


def _examples() -> list[Example]:
    found: list[Example] = []
    text = PAGE.read_text(encoding="utf-8")
    for language, text in re.findall(r"^```([\w ]+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        if language == "python":
            workflow = _workflows(text)[-1]
            found.append(Example(workflow, text, {}))
        else:
            found[-1].shown[language] = text.strip()
    return found


def _workflows(source: str) -> list[str]:
    return re.findall(r"^class (\w+)\(Workflow", source, flags=re.MULTILINE)


EXAMPLES = {example.workflow: example for example in _examples()}
PAYLOADS: dict[str, Any] = {
    "Greeting": {"name": "Ada"},
    "Payment": {"cents": 995},
    "Import": {"rows": [1, 2, 3]},
    "Ledger": {"postings": [100, 200, 300]},
    "Countdown": {"left": 3},
    "Onboarding": {"email": "ada@example.com"},
}
EVENTS: dict[str, list[tuple[str, Any]]] = {
    "Expense": [("decided", {"yes": True, "by": "kim"})],
    "Delivery": [
        ("delivered", {"parcel": {"id": 2}, "at": "the neighbour"}),
        ("delivered", {"parcel": {"id": 1}, "at": "the door"}),
    ],
}
HELD = "Unsteady"


def _showing(*blocks: str) -> list[str]:
    return [name for name, example in EXAMPLES.items() if example.shown.keys() & set(blocks)]


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """A tenant with all examples of the page in one repository."""
    with Platform.local(tmp_path_factory.mktemp("platform")) as platform:
        tenant = platform.create_tenant("acme")
        deployed = tenant.deploy({example.path: example.source for example in EXAMPLES.values()})
        written = [name for example in EXAMPLES.values() for name in _workflows(example.source)]
        assert sorted(item.name for item in deployed.workflows) == sorted(written)
        yield tenant


def _started(acme: Tenant, workflow: str) -> Run[Any]:
    run = acme.start(workflow, PAYLOADS.get(workflow), id=workflow)
    for type_, payload in EVENTS.get(workflow, ()):
        run.send_event(type_, payload)
    return run


def _shown(shown: str, real: str) -> None:
    assert " ".join(real.split()) == " ".join(shown.split())


@pytest.mark.parametrize("workflow", _showing("json"))
def test_an_example_returns_what_the_page_shows(acme: Tenant, workflow: str) -> None:
    assert _started(acme, workflow).result(timeout=TIMEOUT_S) == json.loads(EXAMPLES[workflow].shown["json"])


@pytest.mark.parametrize("workflow", _showing("text"))
def test_an_example_prints_what_the_page_shows(acme: Tenant, workflow: str) -> None:
    lines = _started(acme, workflow).logs(follow=True)
    told = [" ".join(filter(None, (f"{line.step}:" if line.step else "", line.level, line.text))) for line in lines]
    _shown(EXAMPLES[workflow].shown["text"], "\n".join(told))


@pytest.mark.parametrize("workflow", [name for name in _showing("error") if name != HELD])
def test_an_example_fails_with_the_error_that_the_page_shows(acme: Tenant, workflow: str) -> None:
    run = _started(acme, workflow)
    with pytest.raises(TenantError):
        run.result(timeout=TIMEOUT_S)
    error = run.status().error
    assert error is not None
    _shown(EXAMPLES[workflow].shown["error"], f"{error.type.rpartition('.')[2]}: {error.message}")


@pytest.mark.parametrize("workflow", _showing("python outside"))
def test_what_the_platforms_side_does_is_as_the_page_shows(acme: Tenant, workflow: str) -> None:
    source = compile(EXAMPLES[workflow].shown["python outside"], "docs/workflows.md", "exec", dont_inherit=True)
    exec(source, {"acme": acme, "Refused": Refused})


def test_a_run_that_changes_its_mind_is_held_with_the_error_that_the_page_shows(acme: Tenant) -> None:
    run = _started(acme, HELD)
    while run.status().state != "waiting":  # then it rests on disk, and the event makes it replay
        assert not run.status().is_final
    run.send_event("go")
    with pytest.raises(Conflict) as caught:
        run.result(timeout=TIMEOUT_S)
    assert caught.value.code == "instance_held"
    status = run.status()
    assert status.state == "held"
    assert status.error is not None
    _shown(EXAMPLES[HELD].shown["error"], f"{status.error.code}: {status.error.message}")


def test_chance_and_time_stay_as_they_were_drawn(acme: Tenant) -> None:
    result = _started(acme, "Lottery").result(timeout=TIMEOUT_S)
    assert 1 <= result["number"] <= 49
    assert abs(result["drawn_at"] * 1000 - acme.instance("Lottery").status().created_at_ms) < 60_000


def test_every_example_is_run_by_a_test() -> None:
    assert set(EXAMPLES) - set(_showing("json", "text", "error", "python outside")) == {"Lottery"}
    kinds = {kind for example in EXAMPLES.values() for kind in example.shown}
    assert kinds == {"json", "text", "error", "python outside"}


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    kib, mib, child, facet = 1024, 1024 * 1024, ChildLimits(), FacetLimits()
    shown = {
        "a value: payload, event, result, update": f"{values.VALUE_BYTES_MAX // mib} MiB, {values.DEPTH_MAX} deep",
        "retries of a step": f"{options.RETRY_LIMIT_MAX:,}",
        "steps of one execution": f"{EngineLimits().steps_max:,}",
        "journal entries of one execution": f"{bounds.JOURNAL_ENTRIES_MAX:,}",
        "name of a step": f"{run_requests.NAME_CHARS_MAX} characters",
        "path of a step, with its groups": f"{run_state.PATH_CHARS_MAX:,} characters",
        "event type, event id": f"{ids.EVENT_NAME_CHARS_MAX} characters",
        "instance id, update id": f"{ids.INSTANCE_ID_CHARS_MAX} characters",
        "events that wait to be read": f"{bounds.UNREAD_EVENTS_MAX:,}, {bounds.UNREAD_BYTES_MAX // mib} MiB",
        "open at once: steps, sleeps, waits, children, groups": f"{bounds.OPEN_MAX:,}",
        "output streams of an instance": f"{bounds.STREAMS_MAX:,}",
        "`match` of a wait": f"{run_requests.MATCH_BYTES_MAX // kib} KiB",
        "updates under way": f"{bounds.UPDATES_OPEN_MAX:,}",
        "updates known by their id": f"the latest {bounds.UPDATES_KEPT_MAX:,}",
        "`self.status`": f"{run_shown.STATUS_BYTES_MAX // kib} KiB",
        "search attributes": f"{attributes.COUNT_MAX}, texts of {attributes.TEXT_CHARS_MAX} characters",
        "details of a heartbeat": f"{step_signals.DETAILS_BYTES_MAX // kib} KiB",
        "an item of a stream": f"{step_signals.EMIT_ITEM_BYTES_MAX // kib} KiB",
        "a duration": f"{durations.DURATION_MS_MAX // (366 * 86_400_000)} years",
        "`grace` of a step": f"{options.GRACE_MS_MAX // 60_000} minutes",
        "a facet": f"{facet.facet_bytes_max // mib} MiB",
        "byte streams of an instance": f"{facet.blobs_bytes_max // mib} MiB",
        "a piece of one": f"{step_streams.CHUNK_BYTES_MAX // mib} MiB",
        "what one step changes of it": f"{facet.delta_bytes_max // mib} MiB",
        "one SQL statement": f"{facet.statement_ms_max // 1000} s, {facet.result_row_count_max:,} rows",
        "one string or blob in it": f"{facet.value_bytes_max // mib} MiB",
        "memory of a process": f"{SandboxLimits().memory_bytes // mib} MiB",
        "code that holds up the process's loop": f"{SandboxLimits().turn_timeout_s:g} s",
        "sync steps at once in a process": f"{child.step_threads}",
        "steps at once in a process": f"{child.attempt_count_max:,}",
        "logs of an instance": f"{facet.output_bytes_max // mib} MiB",
        "one line of log": f"{child.line_bytes_max // kib} KiB",
    }
    table = PAGE.read_text(encoding="utf-8").partition("| limit |")[2].partition("\n\n")[0]
    cells = [cell.strip() for line in table.splitlines()[2:] for cell in line.strip("|").split("|")]
    assert dict(zip(cells[::2], cells[1::2], strict=True)) == shown


def test_what_is_not_there_yet_is_refused_and_not_ignored() -> None:
    listed = PAGE.read_text(encoding="utf-8").partition("## Not there yet")[2]
    assert {"isolation"} == options.OPTIONS_LATER
    for option in options.OPTIONS_LATER:
        assert f"`{option}`" in listed
        with pytest.raises(TypeError, match="is not supported by this release"):
            options.StepOptions().changed({option: True})
    for name in ("fork", "migrate"):
        assert not hasattr(Run, name), f"run.{name} exists: the page should tell of it"


def test_every_name_that_workflows_import_is_told() -> None:
    told = "".join((PAGE.parent / name).read_text(encoding="utf-8") for name in ("workflows.md", "reference.md"))
    for name in public.__all__:
        assert re.search(rf"\b{name}\b", told), name
