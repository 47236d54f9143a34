"""Limited children: what they may not do to the program that asks them, and how each end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gitstore import worker
from gitstore.errors import Diagnostic, LimitExceeded, Refused, Unavailable
from gitstore.job_messages import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, JobLimits
from gitstore.worker import WorkerPool
from tests.gitstore.worker_jobs import Ask, Told

LIMITS = JobLimits(
    cpu_s=20,
    cpu_limit="compile_cpu_s",
    memory_bytes=1 << 30,
    memory_limit="compile_memory_bytes",
    file_bytes=1 << 20,
    file_limit="bundle_bytes_max",
)
PROGRAM = worker._HELPER_PROGRAM.replace("gitstore.forkserver", "tests.gitstore.worker_jobs")


@pytest.fixture(scope="module", autouse=True)
def helper_with_test_jobs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_HELPER_PROGRAM", PROGRAM)
        yield


@pytest.fixture(scope="module")
def pool(helper_with_test_jobs: None) -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def run(pool: WorkerPool, job: str, ask: Ask = Ask(), **limits: int) -> Told:
    return pool.run(job, ask, Told, msgspec.structs.replace(LIMITS, **limits))


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process; the bound is only for a failing test."""
    event = threading.Event()
    for _ in range(3000):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError("waited 30 s in vain")


def test_answer_comes_back_from_another_process_each_time(pool: WorkerPool) -> None:
    first, second = run(pool, "echo", Ask("héllo")), run(pool, "echo")
    assert first.text == "héllo"
    assert len({first.pid, second.pid, os.getpid()}) == 3


def test_refusal_crosses_with_everything_it_carries(pool: WorkerPool) -> None:
    with pytest.raises(Refused) as caught:
        run(pool, "refuse")
    error = caught.value
    assert type(error) is Refused
    assert (error.message, error.code, error.hint, error.details) == ("No.", "no", "Ask again.", {"n": 7})
    assert error.diagnostics == (Diagnostic("a.py", 1, 2, "bad"),)


def test_endless_work_is_refused_naming_limit_and_place(pool: WorkerPool) -> None:
    with pytest.raises(LimitExceeded) as caught:
        run(pool, "spin", cpu_s=1)
    assert (
        caught.value.message == "The time in seconds for counting to infinity is over the limit of 1 (compile_cpu_s)."
    )


def test_hunger_for_memory_is_refused_naming_limit_and_place(pool: WorkerPool) -> None:
    with pytest.raises(LimitExceeded) as caught:
        run(pool, "hog", memory_bytes=64 << 20)
    assert caught.value.message == (
        "The memory in bytes for filling memory is over the limit of 67108864 (compile_memory_bytes)."
    )


def test_file_over_the_limit_is_refused_naming_it(pool: WorkerPool, tmp_path: Path) -> None:
    run(pool, "write", Ask(str(tmp_path / "a"), 1 << 20))
    with pytest.raises(LimitExceeded) as caught:
        run(pool, "write", Ask(str(tmp_path / "b"), (1 << 20) + 1))
    assert caught.value.message == (
        "The size in bytes of a file made by writing much is over the limit of 1048576 (bundle_bytes_max)."
    )


def test_crash_costs_its_own_job_only_and_leaves_no_core(pool: WorkerPool, tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        run(pool, "crash")
    assert caught.value.code == "worker_crashed"
    assert caught.value.message == "The process crashed (SIGSEGV) at parsing bad.py."
    assert run(pool, "echo", Ask("still here")).text == "still here"


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("bug", "KeyError: 'left behind', at bug"),
        ("silent", "exit 3, at silent"),
        ("killed", "signal 9, at killed"),
        ("odd", "its answer does not fit the schema: Object missing required field `pid`, at odd"),
        ("garbage", "it sent a frame that is none, at garbage"),
    ],
)
def test_what_is_not_the_inputs_fault_is_unavailable(pool: WorkerPool, job: str, why: str) -> None:
    with pytest.raises(Unavailable) as caught:
        run(pool, job)
    assert caught.value.code == "worker_failed"
    assert caught.value.message == f"The process that checks pushes failed: {why}."


def test_progress_without_bound_is_not_taken(pool: WorkerPool) -> None:
    with pytest.raises(Unavailable, match="it sent a frame that is none, at garbage"):
        run(pool, "garbage", Ask("long"))


def test_answer_without_bound_is_not_taken(pool: WorkerPool) -> None:
    assert len(run(pool, "large", Ask(number=1 << 20)).text) == 1 << 20
    with pytest.raises(Unavailable, match="the answer is too large"):
        run(pool, "large", Ask(number=ANSWER_BYTES_MAX))


def test_request_over_the_bound_is_refused(pool: WorkerPool) -> None:
    with pytest.raises(LimitExceeded, match=r"^The size of a job in bytes is over the limit of 4194304 "):
        run(pool, "echo", Ask("x" * REQUEST_BYTES_MAX))


def test_child_has_neither_environment_nor_descriptors_of_the_program(pool: WorkerPool) -> None:
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    try:
        with WorkerPool(1) as fresh:
            found = run(fresh, "look")
    finally:
        for descriptor in kept:
            os.close(descriptor)
    assert found.text == "LC_ALL,PATH"
    assert found.pid <= 6  # standard streams, the job's socket, the directory being listed


def test_many_threads_share_the_pool(pool: WorkerPool) -> None:
    answers: list[str] = []

    def ask(number: int) -> None:
        answers.append(run(pool, "echo", Ask(str(number))).text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers, key=int) == [str(number) for number in range(20)]


def test_helper_that_was_killed_is_replaced(pool: WorkerPool) -> None:
    run(pool, "echo")
    helper = pool._helper
    assert helper is not None
    os.kill(helper._process.pid, signal.SIGKILL)
    helper._process.wait()
    assert run(pool, "echo", Ask("again")).text == "again"


def test_job_whose_helper_dies_ends_at_once_with_its_child(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        errors: list[Unavailable] = []

        def wait() -> None:
            with pytest.raises(Unavailable) as caught:
                run(pool, "wait", Ask(str(tmp_path / "pid")))
            errors.append(caught.value)

        thread = threading.Thread(target=wait)
        thread.start()
        until((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert is_running(child)
        assert pool._helper is not None
        os.kill(pool._helper._process.pid, signal.SIGKILL)
        thread.join()
        until(lambda: not is_running(child))
        assert errors[0].message == "The process that checks pushes failed: the helper process ended, at wait."


def test_closing_the_pool_kills_running_jobs_and_refuses_new_ones(tmp_path: Path) -> None:
    pool = WorkerPool(1)

    def wait() -> None:
        with pytest.raises(Unavailable):
            run(pool, "wait", Ask(str(tmp_path / "pid")))

    thread = threading.Thread(target=wait)
    thread.start()
    until((tmp_path / "pid").exists)
    child = int((tmp_path / "pid").read_text())
    pool.close()
    thread.join()
    until(lambda: not is_running(child))
    with pytest.raises(Unavailable, match=r"^The store is closed\."):
        run(pool, "echo")
    pool.close()


def test_job_that_waits_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = PROGRAM.replace("main(int", "from gitstore.job_messages import JobLimits; JobLimits.wall_s = 1; main(int")
    monkeypatch.setattr(worker, "_HELPER_PROGRAM", late)
    with WorkerPool(1) as pool, pytest.raises(LimitExceeded) as caught:
        run(pool, "wait", Ask(str(tmp_path / "pid")))
    assert caught.value.message == "The time in seconds for wait is over the limit of 20 (compile_cpu_s)."
    child = int((tmp_path / "pid").read_text())
    assert not is_running(child)


SCRIPT = """
import os, sys, threading
from pathlib import Path
from gitstore import worker
from tests.gitstore.test_worker import LIMITS, PROGRAM
from tests.gitstore.worker_jobs import Ask, Told
worker._HELPER_PROGRAM = PROGRAM
pool = worker.WorkerPool(1)
print(pool.run("echo", Ask("no main guard"), Told, LIMITS).text, flush=True)
folder = Path(sys.argv[1])
threading.Thread(target=pool.run, args=("wait", Ask(str(folder / "pid")), Told, LIMITS), daemon=True).start()
while not (folder / "pid").exists():
    threading.Event().wait(0.01)
print(pool._helper._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_plain_script_may_use_it_and_when_it_is_killed_nothing_stays(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, env=environment, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    text, helper = done.stdout.decode().splitlines()
    assert text == "no main guard"
    until(lambda: not is_running(int(helper)))
    child = int((tmp_path / "pid").read_text())
    until(lambda: not is_running(child))
