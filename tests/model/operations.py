"""The operations of the model: how the oracle and how the platform are asked for each."""

from __future__ import annotations

from typing import Any

from executor.service.bulk import IDS_SHOWN_MAX
from executor.views import StartRequest
from tests.model.oracle import Oracle
from tests.model.platform import ADMINISTRATOR, TENANT, Life
from tests.model.programs import WORKFLOWS
from tests.model.states import Refusal

Operation = tuple[Any, ...]
"""("start", id, program, options) and so on: a kind, mostly the id of an instance, and what else it takes."""

OPERATIONS = (
    "start",
    "start again",
    "start delayed",
    "start with attributes",
    "start unloading",
    "start_many",
    "send_event",
    "send_event again",
    "advance",
    "release",
    "pause",
    "resume",
    "terminate",
    "terminate undoing",
    "restart",
    "restart from step",
    "retry",
    "delete",
    "set_attributes",
    "update",
    "update again",
    "ask",
    "query",
    "result",
    "find",
    "rollback",
    "create_schedule",
    "pause_schedule",
    "resume_schedule",
    "trigger_schedule",
    "delete_schedule",
    "flow debounce",
    "flow skip",
    "flow cancel",
    "flow rate",
    "flow concurrency",
    "bulk pause",
    "bulk resume",
    "bulk terminate",
    "bulk restart",
    "bulk retry",
    "bulk delete",
    "crash",
    "crash in the middle",
    "crash after the answer",
)
IDEMPOTENT = {
    *("start", "start_many", "send_event", "pause", "resume", "terminate", "terminate undoing", "set_attributes"),
    "update",
}
"""What may be asked again when a crash came before the answer."""
READS = {"advance", "release", "ask", "query", "result", "find", "rollback"}
"""What leaves nothing that a crash could take."""
QUERY = "select x from written order by rowid"
Found = tuple[str | None, dict[str, Any] | None]
"""What a search asks for: a state, and conditions on attributes."""


def has_succeeded(operation: Operation, answer: Any) -> bool:
    """Whether it did something. A refusal is none."""
    kind = operation[0]
    if kind.startswith("bulk"):
        return bool(answer[3])
    return bool(answer) if kind == "release" else True


def kind_of(oracle: Oracle, operation: Operation) -> str:
    """What is counted."""
    kind, *arguments = operation
    instance = oracle.instances.get(arguments[0]) if isinstance(arguments[0], str) else None
    if kind == "start":
        if instance is not None:
            return "start again"
        names = {"delay": "start delayed", "attributes": "start with attributes", "unload": "start unloading"}
        return next((names[name] for name in arguments[2] if name in names), "start")
    if kind == "send_event" and instance is not None and arguments[1] in instance.run.event_ids:
        return "send_event again"
    if kind == "update" and instance is not None and arguments[1] in instance.run.updates:
        return "update again"
    return str(kind)


def ask_oracle(oracle: Oracle, operation: Operation) -> Any:
    """Its answer. Raises Refusal."""
    try:
        return _ask_oracle(oracle, operation)
    finally:
        oracle.follow()


def _ask_oracle(oracle: Oracle, operation: Operation) -> Any:
    match operation:
        case ("start", id, program, options):
            return oracle.start(
                id,
                program,
                workflow=options.get("workflow", "Job"),
                delay_s=options.get("delay"),
                attributes=options.get("attributes"),
            )
        case ("start_many", starts):
            before = set(oracle.instances)
            return [_or_code(oracle, one, before) for one in starts]
        case ("send_event", id, event, kind, payload):
            return oracle.send_event(id, event, kind, payload)
        case ("advance", s):
            return oracle.advance(s * 1000)
        case ("terminate undoing", id):
            return oracle.terminate(id, undo=True)
        case ("restart from step", id, name, occurrence):
            return oracle.restart(id, (name, occurrence))
        case ("set_attributes", id, changes):
            return oracle.set_attributes(id, changes)
        case ("update", id, update, payload):
            return oracle.update(id, update, payload)
        case ("rollback", number):
            return oracle.rollback(number)
        case ("find", state, where):
            found = oracle.find(state, where)
            return len(found), found
        case (kind, state, where) if kind.startswith("bulk"):
            return oracle.bulk(kind.removeprefix("bulk "), state, where)
        case (kind, *arguments):
            return getattr(oracle, kind)(*arguments)
    raise AssertionError(operation)


def _or_code(oracle: Oracle, start: tuple[str, list[Any], str], before: set[str]) -> str:
    """`before`: whose workflow need not be known any more."""
    name, program, workflow = start
    if workflow not in WORKFLOWS and name not in before:
        return "unknown_workflow"
    try:
        return oracle.start(name, program, workflow=workflow)
    except Refusal as refusal:
        return refusal.code


async def ask_platform(life: Life, operation: Operation) -> Any:
    """Its answer. Raises PerdureError."""
    service, caller = life.service, ADMINISTRATOR
    match operation:
        case ("start", id, program, options):
            named = {"workflow": "Job", **options}
            return (await service.start(caller, TENANT, payload=program, id=id, **named)).id
        case ("start_many", starts):
            requests = [StartRequest(workflow=one[2], payload=one[1], id=one[0]) for one in starts]
            outcomes = await service.start_many(caller, TENANT, requests)
            return [one.status.id if one.status is not None else (one.error or {})["code"] for one in outcomes]
        case ("send_event", id, event, kind, payload):
            receipt = await service.send_event(caller, TENANT, id, kind, payload, event_id=event)
            return receipt.is_duplicate
        case ("advance", s):
            return life.advance(s * 1000)
        case ("release", id):
            return await life.release(id)
        case ("rollback", number):
            return life.move(number)
        case ("create_schedule", name, program, every_s, overlap, catch_up):
            await service.create_schedule(
                caller, TENANT, "Job", program, name=name, every=every_s, overlap=overlap, catch_up=catch_up
            )
        case ("trigger_schedule", name, id):
            return (await service.trigger_schedule(caller, TENANT, name, id=id)).id
        case ("terminate undoing", id):
            await service.terminate(caller, TENANT, id, undo=True)
        case ("restart from step", id, name, occurrence):
            await service.restart(caller, TENANT, id, from_step=name, occurrence=occurrence)
        case ("set_attributes", id, changes):
            await service.set_attributes(caller, TENANT, id, changes)
        case ("update", id, update, payload):
            return (await service.update(caller, TENANT, id, "note", payload, update_id=update)).value
        case ("ask", id):
            return await service.ask(caller, TENANT, id, "noted")
        case ("query", id):
            return [row[0] for row in (await service.query(caller, TENANT, id, QUERY)).rows]
        case ("result", id):
            return await service.result(caller, TENANT, id, timeout_s=0)
        case ("find", state, where):
            count = await service.count(caller, TENANT, state=state, where=where)
            return count.count, sorted(await _pages(life, state, where))
        case (kind, state, where) if kind.startswith("bulk"):
            return await _bulk(life, kind.removeprefix("bulk "), state, where)
        case (kind, id):
            await getattr(service, kind)(caller, TENANT, id)
    return None


async def _pages(life: Life, state: str | None, where: dict[str, Any] | None) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = await life.service.instances(ADMINISTRATOR, TENANT, state=state, where=where, limit=2, after=after)
        found += [item.id for item in page.items]
        after = page.next
        if after is None:
            return found


async def _bulk(life: Life, operation: str, state: str | None, where: dict[str, Any] | None) -> Any:
    """The preview, then the deed."""
    bulk = life.service.bulk
    preview = await bulk(ADMINISTRATOR, TENANT, operation, state=state, where=where, dry_run=True)
    done = await bulk(ADMINISTRATOR, TENANT, operation, state=state, where=where)
    errors = {error.id: error.error["code"] for error in done.errors}
    ids = sorted(preview.ids) if preview.matched <= IDS_SHOWN_MAX else []
    return preview.matched, ids, done.matched, done.done, done.unchanged, errors
