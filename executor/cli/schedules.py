"""`perdure schedules`: workflows that start by themselves."""

from __future__ import annotations

from typing import Literal

from executor.cli.app import schedules
from executor.cli.arguments import Payload, payload_of
from executor.cli.common import Of, show, tables


@schedules.command(name="list")
def list_schedules(*, of: Of) -> None:
    """List schedules: when each fires next, and what became of the last time."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).schedules()
    show(of, found, tables().schedules)


@schedules.command(name="show")
def show_schedule(name: str, *, of: Of) -> None:
    """Show a schedule with its next times and its last firings."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).schedule(name)
    show(of, found, tables().schedule)


@schedules.command(name="create")
def create_schedule(
    workflow: str,
    payload: Payload = "null",
    *,
    name: str | None = None,
    channel: str = "live",
    cron: str | None = None,
    every: str | None = None,
    timezone: str = "UTC",
    start: str | None = None,
    end: str | None = None,
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip",
    catch_up: Literal["none", "last", "all"] = "last",
    catch_up_window: str | None = None,
    jitter: str = "0 seconds",
    of: Of,
) -> None:
    """Start a workflow again and again.

    Parameters
    ----------
    payload
        JSON, @FILE, or - for standard input.
    cron
        Minute, hour, day, month, weekday: "0 6 * * 1-5".
    every
        An interval in place of cron: "10 minutes".
    start
        Not before this date (ISO 8601).
    end
        Before this date.
    overlap
        What a firing does while an instance of an earlier one has not ended.
    catch_up
        Which firings are made up for that came while the platform was down.
    catch_up_window
        How far back they are.
    jitter
        Fire up to so much later.
    """
    value = payload_of(payload)
    with of.connect() as platform:
        found = platform.tenant(of.tenant).create_schedule(
            workflow,
            value,
            name=name,
            channel=channel,
            cron=cron,
            every=every,
            timezone=timezone,
            start=start,
            end=end,
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=catch_up_window,
            jitter=jitter,
        )
    show(of, found, tables().schedule)


@schedules.command(name="delete")
def delete_schedule(name: str, *, of: Of) -> None:
    """Delete a schedule that was made here or by the API; its instances go on."""
    with of.connect() as platform:
        platform.tenant(of.tenant).delete_schedule(name)
    show(of, {"deleted": name}, f"Deleted {name}.")


@schedules.command(name="pause")
def pause_schedule(name: str, *, of: Of) -> None:
    """Fire nothing until resumed."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).pause_schedule(name)
    show(of, found, tables().schedule)


@schedules.command(name="resume")
def resume_schedule(name: str, *, of: Of) -> None:
    """Fire again, from the next time on."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).resume_schedule(name)
    show(of, found, tables().schedule)


@schedules.command(name="trigger")
def trigger_schedule(name: str, *, id: str | None = None, of: Of) -> None:
    """Start an instance now, as the schedule would."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).trigger_schedule(name, id=id).status()
    show(of, found, tables().status)
