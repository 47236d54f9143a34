"""The child's protocol: a process of its own for what needs one, this process for the rest."""

from __future__ import annotations

import asyncio

import pytest

from executor.core.commands import Complete, StepDone, StepError
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import Activate, Attempt, Drop, Entries, GoOn, Ping, Quiesce
from tests.executor.fake_executor import COMMIT, BootError, Story, in_process, subprocess_
from tests.executor.sandbox.test_run import job


def in_child(source: str, main, **options):
    async def run():
        async with in_process(source, **options) as executor:
            return await main(executor)

    return asyncio.run(run())


def test_process_imports_serves_and_ends_with_the_socket() -> None:
    async def main() -> None:
        async with subprocess_(job('print("hi")\nreturn await step.do("s", lambda: 6 * 7)')) as executor:
            story = await executor.play(Story("Job"))
            assert (story.result, story.printed) == (42, ["hi"])
            executor.link.send([Ping(7)])
            while not executor.pongs:
                await asyncio.sleep(0)
            assert executor.pongs == [7]

    asyncio.run(main())  # leaving it closes the socket, and waits for exit status 0


@pytest.mark.parametrize(
    ("source", "type_", "message", "trace"),
    [
        ("import nowhere", "ModuleNotFoundError", "No module named 'nowhere'", 'File "workflows.py", line 1'),
        ("x = 1\nraise SystemExit(3)", "SystemExit", "3", 'File "workflows.py", line 2'),
        ("class Job: pass", "executor.sandbox.loader.BundleError", "workflows.Job is not a class derived", ""),
    ],
)
def test_version_that_cannot_be_imported_says_why(source, type_, message, trace) -> None:
    async def main() -> None:
        async with subprocess_(source, workflows=[("Job", "workflows")]):
            pass

    with pytest.raises(BootError) as failed:
        asyncio.run(main())
    error = failed.value.error
    assert (error.type, error.code) == (type_, "code_not_loadable")
    assert error.message.startswith(message)
    assert trace in error.traceback


def test_turn_is_always_sent_after_the_recorded_journal() -> None:
    source = job('await step.wait_for_event("w", type="t")')

    async def main(executor) -> None:
        story = Story("Job").begin()
        run = executor.activate(story)
        turn = await executor.turn(run)
        assert (turn.seen, len(turn.commands), turn.idle) == (1, 1, True)
        for command in turn.commands:
            executor._append(story, command)
        executor.drop(run)
        run = executor.activate(story)
        turn = await executor.turn(run)
        assert (turn.seen, turn.commands, turn.idle) == (2, [], True)
        executor.drop(run)

    in_child(source, main)


def test_nothing_executes_before_the_whole_journal_is_delivered() -> None:
    source = job(
        'await step.do("a", lambda: calls.append("a"))\nawait step.do("b", lambda: calls.append("b"))', "calls = []"
    )

    async def main(executor) -> None:
        story = await executor.play(Story("Job"), entries_max=3)
        import sys

        calls = sys.modules["workflows"].calls
        calls.clear()
        executor.link.send([Activate(90, "i", "Job", COMMIT, 3), Entries(90, 1, story.stored[:2])])
        for _ in range(5):
            await asyncio.sleep(0)
        assert calls == []
        executor.link.send([Entries(90, 3, story.stored[2:3]), Drop(90)])
        assert calls == []

    in_child(source, main)


def test_idle_is_false_while_a_step_executes() -> None:
    source = job(
        'gate.clear()\nawait asyncio.gather(step.do("slow", gate.wait), step.sleep("s", 5))', "gate = asyncio.Event()"
    )

    async def main(executor) -> None:
        import sys

        gate = sys.modules["workflows"].gate
        story = Story("Job").begin()
        run = executor.activate(story)
        first = await executor.turn(run)
        assert ([type(c).__name__ for c in first.commands], first.idle) == (["StepBegun", "Sleep"], False)
        gate.set()
        second = await executor.turn(run)
        assert ([type(c).__name__ for c in second.commands], second.idle) == (["StepDone"], True)
        executor.drop(run)

    in_child(source, main)


def test_retry_is_made_when_the_executor_says_so_and_not_before() -> None:
    source = job(
        'def flaky():\n    if step.current().attempt < 2: raise ValueError("x")\n    return step.current().idempotency_key\nreturn await step.do("flaky", flaky)'
    )

    async def main(executor) -> None:
        story = Story("Job").begin()
        run = executor.activate(story)
        (failed,) = await executor.until_idle(run)
        assert isinstance(failed, StepError)
        assert (failed.retry.limit, failed.retry.delay_ms, failed.retry.backoff) == (5, 1000, "exponential")
        assert (failed.retry.max_delay_ms, failed.retry.jitter) == (3_600_000, 0.1)
        executor._append(story, failed)
        executor.drop(run)
        run = executor.activate(story)  # replayed: the failed attempt is recorded, so nothing is tried
        assert await executor.until_idle(run) == []
        executor.link.send([Attempt(run, "flaky#1", 2), Attempt(run, "nothing#1", 1), Attempt(999, "flaky#1", 2)])
        (done,) = await executor.until_idle(run)
        assert isinstance(done, StepDone)
        assert done.attempt == 2
        executor.drop(run)

    in_child(source, main)


def test_quiesce_starts_nothing_new_and_reports_when_the_last_step_is_done() -> None:
    source = job(
        'async def branch():\n    await step.wait_for_event("w", type="t")\n    await step.do("new", lambda: 1)\n'
        'await asyncio.gather(step.do("slow", gate.wait), branch())',
        "gate = asyncio.Event()",
    )

    async def main(executor) -> None:
        import sys

        gate = sys.modules["workflows"].gate
        story = Story("Job", events=[("t", 1)]).begin()
        run = executor.activate(story)
        turn = await executor.turn(run)
        first = len(story.stored) + 1
        for command in turn.commands:
            executor._append(story, command)
        executor._choose(story, {})
        executor.quiesce(run)
        executor.deliver(run, story, first)
        turn = await executor.turn(run)
        assert (turn.commands, turn.idle) == ([], False)
        gate.set()
        turn = await executor.turn(run)
        assert ([command.path for command in turn.commands], turn.idle) == (["slow#1"], True)
        executor.drop(run)

    in_child(source, main)


def test_what_a_pause_held_back_starts_when_the_run_may_go_on_beside_a_step_that_executes() -> None:
    source = job(
        'async def branch():\n    await step.wait_for_event("w", type="t")\n    await step.do("new", lambda: 1)\n'
        'await asyncio.gather(step.do("slow", gate.wait), branch())',
        "gate = asyncio.Event()",
    )

    async def main(executor) -> None:
        import sys

        gate = sys.modules["workflows"].gate
        story = Story("Job", events=[("t", 1)]).begin()
        run = executor.activate(story)
        turn = await executor.turn(run)
        first = len(story.stored) + 1
        for command in turn.commands:
            executor._append(story, command)
        executor._choose(story, {})
        executor.quiesce(run)
        executor.deliver(run, story, first)
        assert (await executor.turn(run)).commands == []
        executor.link.send([GoOn(run)])
        done: list[str] = []
        while not done:
            turn = await executor.turn(run)
            done = [command.path for command in turn.commands if isinstance(command, StepDone)]
        assert (done, turn.idle) == (["new#1"], False)
        gate.set()
        turn = await executor.turn(run)
        assert ([command.path for command in turn.commands], turn.idle) == (["slow#1"], True)
        executor.drop(run)

    in_child(source, main)


def test_paused_activation_replays_and_starts_nothing() -> None:
    source = job('await step.do("a", lambda: 1)')

    async def main(executor) -> None:
        run = executor.activate(Story("Job"), paused=True)
        turn = await executor.turn(run)
        assert (turn.commands, turn.idle) == ([], True)
        executor.drop(run)

    in_child(source, main)


def test_drop_leaves_nothing_behind() -> None:
    source = job(
        'try:\n    await asyncio.gather(step.do("slow", slow), step.wait_for_event("w", type="t"))\n'
        'finally:\n    log.append("closed")',
        'log = []\nasync def slow():\n    try:\n        await asyncio.Event().wait()\n    finally:\n        log.append("cancelled")',
    )

    async def main(executor) -> None:
        import gc
        import sys

        from executor.sandbox.detloop import DetTask

        log = sys.modules["workflows"].log
        before = len(asyncio.all_tasks())
        run = executor.activate(Story("Job").begin())
        await executor.turn(run)
        assert len(asyncio.all_tasks()) == before + 1
        executor.drop(run)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sorted(log) == ["cancelled", "closed"]
        assert len(asyncio.all_tasks()) == before
        gc.collect()
        assert [o for o in gc.get_objects() if isinstance(o, DetTask)] == []
        executor.link.send([Entries(run, 1, []), Attempt(run, "x", 1), Quiesce(run), Drop(run)])  # ignored

    in_child(source, main)


def test_one_message_carries_the_turns_of_all_runs() -> None:
    source = job("return event.payload")

    async def main(executor) -> None:
        sizes = []
        receive = executor.take
        executor.take = lambda frames: (sizes.append(len(frames)), receive(frames))[1]
        stories = [Story("Job", payload=n).begin() for n in range(20)]
        send, frames = executor.link.send, []
        executor.link.send = frames.extend
        runs = [executor.activate(story) for story in stories]
        send(frames)
        for run in runs:
            turn = await executor.turn(run)
            assert isinstance(turn.commands[0], Complete)
        assert sizes == [20]

    in_child(source, main)


def test_entries_that_were_seen_are_skipped_and_a_gap_diverges() -> None:
    source = job('await step.wait_for_event("w", type="t")')

    async def main(executor) -> None:
        story = Story("Job").begin()
        run = executor.activate(story)
        await executor.turn(run)
        executor.link.send([Entries(run, 1, story.stored)])
        executor.link.send([Entries(run, 3, story.stored)])
        turn = await executor.turn(run)
        assert turn.commands[0].message == "journal entry 3 came after entry 1 [corrupt_journal]"

    in_child(source, main)


def test_step_threads_all_busy_only_delays() -> None:
    source = job('return sum(await asyncio.gather(*(step.do("s", lambda n=n: n) for n in range(50))))')
    assert in_child(source, lambda executor: executor.play(Story("Job"))).result == sum(range(50))


def test_to_thread_works_in_async_steps() -> None:
    source = job('async def work():\n    return await asyncio.to_thread(sum, [1, 2])\nreturn await step.do("s", work)')

    async def main() -> Story:
        async with subprocess_(source) as executor:
            return await executor.play(Story("Job"))

    assert asyncio.run(main()).result == 3


def test_large_results_are_split_over_messages() -> None:
    source = job('return len(await asyncio.gather(*(step.do("s", lambda: b"x" * 1_000_000) for n in range(16))))')

    async def main() -> Story:
        async with subprocess_(source) as executor:
            return await executor.play(Story("Job"), chunk=1)

    assert asyncio.run(main()).result == 16


def test_time_in_the_queue_for_a_thread_is_not_the_attempts() -> None:
    source = job(
        'return sum(await asyncio.gather(*(step.options(timeout=1, retry=Retry(limit=0)).do("s", slow) for n in range(12))))',
        "import time\ndef slow():\n    time.sleep(0.1)\n    return 1",
    )
    limits = ChildLimits(step_threads=1)
    assert in_child(source, lambda executor: executor.play(Story("Job")), limits=limits).result == 12


def test_process_whose_threads_are_all_stuck_says_so() -> None:
    source = job(
        'try:\n    await step.options(timeout="20 ms", retry=Retry(limit=0)).do("stuck", gate.wait)\n'
        'except StepTimeout:\n    pass\nawait step.wait_for_event("w", type="t")',
        "import threading\ngate = threading.Event()",
    )

    async def main(executor) -> None:
        import sys

        told = []
        steps = executor.link.child.steps
        steps.on_no_thread_left = lambda: told.append(True)
        await executor.play(Story("Job"), entries_max=3)
        assert told == [True]
        assert not steps.has_thread_left
        sys.modules["workflows"].gate.set()
        while not steps.has_thread_left:
            await asyncio.sleep(0)

    in_child(source, main, limits=ChildLimits(step_threads=1))


HOSTILE_RESULT = """
class Hostile:
    def model_dump(self, **options):
        raise SystemExit("out")

    @classmethod
    def model_validate(cls, value):
        return cls()


def hostile() -> Hostile:
    return Hostile()
"""


def test_result_that_is_hostile_to_be_read_fails_its_attempt() -> None:
    async def main(executor) -> None:
        run = executor.activate(Story("Job").begin())
        (failed,) = await executor.until_idle(run)
        assert isinstance(failed, StepError)
        assert (failed.error.type, failed.error.message) == ("SystemExit", "out")
        executor.drop(run)

    in_child(job('return await step.do("s", hostile)', above=HOSTILE_RESULT), main)
