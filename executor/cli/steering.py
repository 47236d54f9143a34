"""`perdure instances`: tell one something, or what to do next."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from executor.cli.app import instances
from executor.cli.arguments import Payload, attribute_of, payload_of
from executor.cli.common import Of, show, show_value, tables


@instances.command
def send_event(id: str, type: str, payload: Payload = "null", *, event_id: str | None = None, of: Of) -> None:
    """Send an event of TYPE to an instance.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    event_id
        The same id counts once, however often it is sent.
    """
    value = payload_of(payload)
    with of.instance(id) as run:
        found = run.send_event(type, value, id=event_id)
    state = "was there already" if found.is_duplicate else "is kept"
    show(of, found, f"Event {found.id} {state}.")


@instances.command
def pause(id: str, *, of: Of) -> None:
    """Start no further step until resumed."""
    with of.instance(id) as run:
        found = run.pause()
    show(of, found, tables().status)


@instances.command
def resume(id: str, *, of: Of) -> None:
    """Go on after a pause, or try again after being held."""
    with of.instance(id) as run:
        found = run.resume()
    show(of, found, tables().status)


@instances.command
def terminate(id: str, *, undo: Annotated[bool, Parameter(negative="")] = False, of: Of) -> None:
    """End an instance now, for good.

    Parameters
    ----------
    undo
        First undo what its finished steps did, the latest first.
    """
    with of.instance(id) as run:
        found = run.terminate(undo=undo)
    show(of, found, tables().status)


@instances.command
def restart(id: str, *, from_step: str | None = None, occurrence: int = 1, of: Of) -> None:
    """Run an instance again, from its beginning or from a step.

    Parameters
    ----------
    from_step
        The step's name, with its group's path before it; what was recorded before it began stays.
    occurrence
        Which one, where several steps have the name.
    """
    with of.instance(id) as run:
        found = run.restart(from_step=None if from_step is None else (from_step, occurrence))
    show(of, found, tables().status)


@instances.command
def retry(id: str, *, of: Of) -> None:
    """Let a failed instance go on from the step that failed it, with new attempts."""
    with of.instance(id) as run:
        found = run.retry()
    show(of, found, tables().status)


@instances.command
def set_attributes(id: str, *attributes: str, of: Of) -> None:
    """Change search attributes: NAME=VALUE for each; NAME=null takes one away.

    Parameters
    ----------
    attributes
        The value is JSON (5, true, null), or a text as it stands.
    """
    changes = dict(map(attribute_of, attributes))
    with of.instance(id) as run:
        found = run.set_attributes(changes)
    show(of, found, tables().status)


@instances.command
def update(
    id: str,
    name: str,
    payload: Payload = "null",
    *,
    update_id: str | None = None,
    timeout: float | None = None,
    of: Of,
) -> None:
    """Send update NAME to an instance, wait for its answer, and print it.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    update_id
        The same id is the same update, however often it is sent.
    timeout
        Longest wait, in seconds. Default: as long as it takes.
    """
    given = payload_of(payload)
    with of.instance(id) as run:
        value = run.update(name, given, id=update_id, timeout=timeout)
    show_value(of, value)


@instances.command(name="delete")
def delete_instance(id: str, *, of: Of) -> None:
    """Forget an instance: journal, facet and logs."""
    with of.instance(id) as run:
        run.delete()
    show(of, {"deleted": id}, f"Deleted {id}.")
