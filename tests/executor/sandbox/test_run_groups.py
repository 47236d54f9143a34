"""Scopes: groups, maps and polls of one run."""

from __future__ import annotations

import pytest

from executor.core.entries import Cancelled, GroupEnded, GroupStarted
from tests.executor.fake_executor import BASE_MS, Story, play
from tests.executor.sandbox.test_run import error, job, result


def paths(story: Story) -> list[str]:
    return story.kinds()[1:-1]


def test_steps_asked_in_a_group_have_its_path() -> None:
    body = """
with step.group("audit"):
    await step.do("hash", lambda: 1)
    await step.do("hash", lambda: 2)
await step.do("hash", lambda: 3)
"""
    assert paths(play(job(body), Story("Job"))) == [
        "GroupStarted audit#1",
        "StepSucceeded audit#1/hash#1",
        "StepSucceeded audit#1/hash#2",
        "GroupEnded audit#1",
        "StepSucceeded hash#1",
    ]


def test_groups_nest_and_count_their_uses() -> None:
    body = """
for _ in range(2):
    async with step.group("outer"):
        with step.group("inner"):
            await step.sleep("nap", 1)
"""
    story = play(job(body), Story("Job"))
    started = [entry.path for entry in story.journal if isinstance(entry, GroupStarted)]
    assert started == ["outer#1", "outer#1/inner#1", "outer#2", "outer#2/inner#1"]
    ended = [entry.path for entry in story.journal if isinstance(entry, GroupEnded)]
    assert ended == ["outer#1/inner#1", "outer#1", "outer#2/inner#1", "outer#2"]
    assert "SleepEnded outer#2/inner#1/nap#1" in story.kinds()


def test_task_made_in_a_group_is_in_it_also_after_the_code_left_it() -> None:
    body = """
async def work():
    await step.do("first", lambda: 1)
    await step.sleep("nap", 5)
with step.group("g"):
    task = asyncio.create_task(work())
await step.do("outside", lambda: 1)
await task
"""
    kinds = play(job(body), Story("Job")).kinds()
    assert kinds.index("GroupEnded g#1") < kinds.index("SleepEnded g#1/nap#1")


def test_scoped_step_works_without_entering_and_makes_no_end() -> None:
    body = """
g = step.group("g")
await g.do("a", lambda: 1)
await g.options(timeout=5).do("b", lambda: 1)
await g.sleep("c", 1)
with g.group("h"):
    await step.do("d", lambda: 1)
"""
    kinds = play(job(body), Story("Job")).kinds()
    assert [kind for kind in kinds if "Group" in kind] == [
        "GroupStarted g#1",
        "GroupStarted g#1/h#1",
        "GroupEnded g#1/h#1",
    ]
    assert {"StepSucceeded g#1/a#1", "StepSucceeded g#1/b#1", "StepSucceeded g#1/h#1/d#1"} <= set(kinds)


def test_parallel_groups_keep_their_steps_apart() -> None:
    body = """
async def branch(n):
    with step.group("branch"):
        return [await step.do("s", lambda: n), await step.do("s", lambda: -n)]
return await asyncio.gather(*(branch(n) for n in range(3)))
"""
    for order in range(5):
        story = play(job(body), Story("Job", order=order))
        assert story.result == [[0, 0], [1, -1], [2, -2]]
        assert "StepSucceeded branch#3/s#2" in story.kinds()


def test_group_in_which_run_ends_is_left_before_the_end() -> None:
    assert paths(play(job('with step.group("g"):\n    return 1'), Story("Job"))) == [
        "GroupStarted g#1",
        "GroupEnded g#1",
    ]


def test_group_is_entered_once() -> None:
    failed = error('g = step.group("g")\nwith g:\n    pass\nwith g:\n    pass')
    assert failed.message == "group 'g#1' was entered before; ask for another: step.group(name)"


def test_group_left_here_but_not_recorded_so_is_left_again_and_the_reverse_is_a_divergence() -> None:
    whole = play(
        job('with step.group("g"):\n    await step.do("a", lambda: 1)\nawait step.sleep("s", 1)'), Story("Job")
    )
    assert whole.kinds()[3:5] == ["GroupEnded g#1", "SleepStarted s#1"]
    again = play(job('g = step.group("g")\nawait g.do("a", lambda: 1)\nawait step.sleep("s", 1)'), whole.prefix(5))
    assert again.held.message.startswith(
        'the journal records (entry 4) that the code left group "g#1", but here it has not. Commit and journal'
    )


@pytest.mark.parametrize("name", ["undo/a", "update/a"])
def test_names_that_begin_like_the_platforms_own_are_refused(name: str) -> None:
    assert error(f'await step.sleep("{name}", 1)').message == (
        f"step name '{name}' begins like the platform's own; choose another"
    )


def test_name_that_looks_like_a_path_is_a_step_of_its_own() -> None:
    body = """
await step.do("g#1/a", lambda: 1)
with step.group("g"):
    await step.do("a", lambda: 2)
"""
    kinds = play(job(body), Story("Job")).kinds()
    assert [kind for kind in kinds if kind.startswith("Step")] == ["StepSucceeded g#1/a#1", "StepSucceeded g#1/a#2"]


def test_path_that_is_too_long_is_refused() -> None:
    body = 'g = step\nfor n in range(6):\n    g = g.group("x" * 200)'
    assert error(body).message == f"the path of step {'x' * 200!r} is over 1000 characters; nest fewer groups"


# --- map


def test_map_makes_a_step_for_each_item_and_keeps_their_order() -> None:
    body = 'return await step.map("double", lambda n: 2 * n, (n for n in range(4)))'
    for order in range(4):
        story = play(job(body), Story("Job", order=order))
        assert story.result == [0, 2, 4, 6]
        assert sorted(paths(story)) == [f"StepSucceeded double[{n}]#1" for n in range(4)]


def test_map_makes_at_most_so_many_at_once() -> None:
    body = """
peak = now = 0
async def work(n):
    global peak, now
    now += 1
    peak = max(peak, now)
    await asyncio.sleep(0)
    now -= 1
    return n
"""
    assert result('return [await step.map("w", work, range(9), concurrency=3), peak]', body) == [list(range(9)), 3]


FAILING = """
def work(n):
    if n == 1:
        raise NonRetryableError("one is too few")
    return n
"""


def test_first_failure_of_a_map_cancels_the_others_and_is_raised() -> None:
    body = """
def work(n):
    raise NonRetryableError("one is too few") if n == 1 else ValueError("again")
try:
    await step.options(retry=Retry(delay="1 hour")).map("w", work, range(3))
except StepFailed as failed:
    return [failed.step, failed.error_message]
"""
    story = play(job(body), Story("Job"))
    assert story.result == ["w[1]#1", "one is too few"]
    assert sorted(paths(story)) == [
        "AttemptFailed w[0]#1",
        "AttemptFailed w[2]#1",
        "StepFailed w[1]#1",
    ]
    assert story.now_ms == BASE_MS  # no retry was waited for


def test_map_that_never_stops_has_failures_in_their_places() -> None:
    body = 'return [str(r) for r in await step.map("w", work, range(3), stop_on="never")]'
    failure = 'step "w[1]#1" failed after 1 attempt: executor.workflow.NonRetryableError: one is too few'
    assert result(body, FAILING) == ["0", failure, "2"]


def test_map_takes_options_and_scope_and_an_empty_list() -> None:
    body = """
with step.group("g"):
    nothing = await step.map("none", lambda n: n, [])
    return nothing + await step.options(retry=Retry(limit=0)).map("some", lambda n: n, [7])
"""
    story = play(job(body), Story("Job"))
    assert story.result == [7]
    assert "StepSucceeded g#1/some[0]#1" in story.kinds()


def test_cancelled_map_cancels_its_steps() -> None:
    body = """
try:
    async with asyncio.timeout(5):
        await step.options(retry=Retry(delay="1 hour")).map("w", again, range(9), concurrency=2)
except TimeoutError:
    await step.sleep("after", 100)
    return "late"
"""
    story = play(job(body, 'def again(n):\n    raise ValueError("again")'), Story("Job"))
    assert story.result == "late"
    assert [entry.path for entry in story.journal if isinstance(entry, Cancelled)] == ["w[0]#1", "w[1]#1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("concurrency=0", "concurrency=0 of step.map() is less than 1"),
        ("concurrency='2'", "concurrency= of step.map() is of type str; write a whole number"),
        ("stop_on='first'", 'stop_on=\'first\' of step.map() is not "error" or "never"'),
    ],
)
def test_wrong_argument_of_map_says_what_is_wrong(arguments: str, message: str) -> None:
    assert error(f'await step.map("m", print, [1], {arguments})').message == message


def test_map_that_is_never_awaited_fails_the_run() -> None:
    assert error('step.map("m", print, [1])').type == "NeverAwaited"


# --- poll

COUNT = (
    "count = []\ndef check(enough):\n    count.append(1)\n    return {'n': len(count), 'done': len(count) >= enough}"
)


def test_poll_gives_the_first_good_result() -> None:
    body = 'return (await step.poll("ready", check, 3, until=lambda r: r["done"], every="10 seconds"))["n"]'
    story = play(job(body, COUNT), Story("Job"))
    assert story.result == 3
    assert [kind for kind in paths(story) if "Started" not in kind] == [
        "StepSucceeded ready#1/check#1",
        "SleepEnded ready#1/pause#1",
        "StepSucceeded ready#1/check#2",
        "SleepEnded ready#1/pause#2",
        "StepSucceeded ready#1/check#3",
        "GroupEnded ready#1",
    ]
    assert story.now_ms == BASE_MS + 20_000


@pytest.mark.parametrize(
    ("backoff", "seconds"), [("constant", [10, 10, 10]), ("linear", [10, 20, 25]), ("exponential", [10, 20, 25])]
)
def test_pauses_of_a_poll_grow_by_its_backoff_up_to_their_maximum(backoff: str, seconds: list[int]) -> None:
    body = f'await step.poll("p", check, 4, until=lambda r: r["done"], every=10, backoff="{backoff}", max_every=25)'
    story = play(job(body, COUNT), Story("Job"))
    ends = [entry.at_ms for entry in story.journal if type(entry).__name__ == "SleepEnded"]
    assert [(b - a) // 1000 for a, b in zip([BASE_MS, *ends], ends, strict=False)] == seconds


def test_poll_over_its_timeout_raises_with_the_last_result_after_a_last_check() -> None:
    body = """
try:
    await step.poll("p", check, 99, until=lambda r: r["done"], every=10, timeout=25)
except PollTimeout as timeout:
    return [timeout.step, timeout.count, timeout.result["n"], str(timeout)]
"""
    story = play(job(body, COUNT), Story("Job"))
    assert story.result == ["p#1", 4, 4, 'poll "p#1" had no good result before its timeout; it had 4']
    assert story.now_ms == BASE_MS + 25_000


def test_poll_that_checks_anew_at_every_activation_is_the_same() -> None:
    body = 'return await step.poll("p", lambda: step.current().name, until=bool, every=10)'
    assert play(job(body), Story("Job"), evict=True).result == "check"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("until=bool, every=0", "every= of step.poll() is 0; a poll pauses between its steps"),
        ("until=1, every=1", "until= of step.poll() is of type int; write a function of the result"),
        (
            "until=bool, every=1, backoff='fast'",
            'backoff=\'fast\' of step.poll() is not "constant", "linear" or "exponential"',
        ),
    ],
)
def test_wrong_argument_of_poll_says_what_is_wrong(arguments: str, message: str) -> None:
    assert error(f'await step.poll("p", print, {arguments})').message == message


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb"])
@pytest.mark.parametrize("call", ["await step.do({}, print)", "await step.sleep({}, 1)", "step.group({})"])
def test_name_that_is_none_is_refused(name: str, call: str) -> None:
    body = call.format(repr(name))
    assert error(body).message == f"step name {name[:40]!r} is not 1 to 256 printable characters"
