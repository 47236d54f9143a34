"""Clocks and randomness inside run()."""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
import uuid
from datetime import UTC, date, datetime

import pytest

from executor.sandbox import ambient
from executor.sandbox.ambient import Ambient, inside

NOW_MS = 1_700_000_000_123
SEED = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def installed():
    ambient.install()
    yield
    ambient.uninstall()


def run_of(seed: bytes = SEED) -> Ambient:
    run = Ambient(seed)
    run.now_ms = NOW_MS
    return run


class Mine(datetime):
    pass


CLOCKS = {
    "time": lambda: time.time(),
    "time_ns": lambda: time.time_ns() / 1e9,
    "monotonic": lambda: time.monotonic(),
    "perf_counter_ns": lambda: time.perf_counter_ns() / 1e9,
    "now": lambda: datetime.now().timestamp(),
    "now utc": lambda: datetime.now(UTC).timestamp(),
    "utcnow": lambda: datetime.utcnow().replace(tzinfo=UTC).timestamp(),
    "today": lambda: datetime.today().timestamp(),
    "subclass": lambda: Mine.now(UTC).timestamp(),
    "localtime": lambda: time.mktime(time.localtime()) + 0.123,
    "ctime": lambda: time.mktime(time.strptime(time.ctime())) + 0.123,
    "strftime": lambda: time.mktime(time.strptime(time.strftime("%c"), "%c")) + 0.123,
}


@pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")
@pytest.mark.parametrize("name", CLOCKS)
def test_clocks_tell_logical_time_inside_and_real_time_outside(name) -> None:
    with inside(run_of()):
        assert CLOCKS[name]() == pytest.approx(NOW_MS / 1000)
    if "monotonic" not in name and "perf" not in name:
        assert abs(CLOCKS[name]() - time.time()) < 2


def test_date_today_is_the_logical_day() -> None:
    with inside(run_of()):
        assert date.today() == datetime.fromtimestamp(NOW_MS / 1000).date()
    assert date.today() == datetime.now().date()


def test_types_stay_themselves() -> None:
    assert type(datetime.now()) is datetime
    with inside(run_of()):
        assert type(Mine.now()) is Mine
        assert type(datetime.now()) is datetime


CHANCE = {
    "random": lambda: random.random(),
    "shuffle": lambda: random.sample(range(100), 5),
    "Random()": lambda: random.Random().random(),
    "SystemRandom": lambda: random.SystemRandom().random(),
    "uuid1": lambda: uuid.uuid1(),
    "uuid4": lambda: uuid.uuid4(),
    "secrets": lambda: secrets.token_bytes(100),
    "secrets choice": lambda: [secrets.choice("abcdefghij") for _ in range(9)],
}


@pytest.mark.parametrize("name", CHANCE)
def test_chance_follows_the_seed_inside_and_is_real_outside(name) -> None:
    def draw(seed: bytes) -> list:
        with inside(run_of(seed)):
            return [CHANCE[name](), CHANCE[name]()]

    first, second = draw(SEED)
    assert draw(SEED) == [first, second]
    assert first != second
    assert draw(b"another seed 123") != [first, second]
    assert CHANCE[name]() != CHANCE[name]()


def test_seeding_inside_moves_only_this_run() -> None:
    one, other = run_of(), run_of()
    before = random.getstate()
    with inside(one):
        random.seed(42)
        seeded = random.random()
        token = secrets.token_hex()
    with inside(other):
        unseeded = random.random()
        assert secrets.token_hex() == token  # what is meant to be secret does not follow random.seed()
    assert random.getstate() == before
    assert seeded == random.Random(42).random()
    assert unseeded != seeded


def test_interleaved_runs_have_their_own_generators() -> None:
    one, other, alone = run_of(), run_of(), run_of()
    mixed: list[float] = []
    for _ in range(3):
        for run in (one, other):
            with inside(run):
                mixed.append(random.random())
    with inside(alone):
        assert [random.random() for _ in range(3)] == mixed[::2] == mixed[1::2]


def test_threads_see_the_real_thing_while_run_executes() -> None:
    asked, answered = threading.Event(), []

    def step() -> None:
        asked.wait()
        answered.append((time.time(), ambient.in_run()))

    thread = threading.Thread(target=step)
    thread.start()
    with inside(run_of()):
        asked.set()
        thread.join()
        assert ambient.in_run()
    assert answered[0][0] > NOW_MS / 1000 + 1000
    assert answered[0][1] is False


def test_names_imported_early_are_replaced_too() -> None:
    from random import random as imported

    with inside(run_of()):
        one = imported()
    with inside(run_of()):
        assert random.random() == one


def test_uninstall_gives_the_real_ones_back() -> None:
    ambient.uninstall()
    assert time.time.__name__ == "time"
    assert type(time.time).__name__ == "builtin_function_or_method"
    with inside(run_of()):
        assert datetime.now().timestamp() > NOW_MS / 1000 + 1000
    assert asyncio.all_tasks is asyncio.tasks.all_tasks
