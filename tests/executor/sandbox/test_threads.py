"""Step threads: the stack they are given is the one the limits speak of, and deep recursion never ends the process."""

from __future__ import annotations

import _thread
import subprocess
import sys
from typing import Any

import pytest

from executor.sandbox.limits import LimitError, SandboxLimits
from executor.sandbox.threads import StepPool

MIB = 1024 * 1024
RECURSION = """
import sys, queue
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.threads import StepPool
class Deep:
    def __repr__(self): return repr([self.__class__()])
    def __lt__(self, other): return sorted([Deep(), Deep()]) is None
    def __getattr__(self, name): return getattr(Deep(), name)
def plain(): return plain()
def by_key(_item=None): return sorted([1, 2], key=by_key)
def by_map(_item=None): return list(map(by_map, [1]))
import functools, json, re
def by_re(_match=None): return re.sub("a", by_re, "a")
def by_partial(): return functools.partial(by_partial)()
ended = queue.SimpleQueue()
pool = StepPool(2, SandboxLimits().thread_stack_bytes)
for deep in (plain, by_key, by_map, by_re, by_partial, lambda: repr(Deep()), lambda: sorted([Deep(), Deep()]),
             lambda: Deep().x):
    def job():
        try:
            deep()
        except BaseException as error:
            ended.put(type(error).__name__)
    pool.submit(job)
    print(ended.get())
"""


def test_recursion_through_c_code_in_a_step_thread_is_an_error_never_a_crash() -> None:
    ended = subprocess.run([sys.executable, "-c", RECURSION], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout.split()) == (0, ["RecursionError"] * 8), ended.stderr


def test_threads_have_the_stack_of_the_limits_and_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    start: Any = _thread.start_new_thread  # passed through
    seen: list[int] = []

    def starting(*args: object) -> object:
        seen.append(_thread.stack_size(3 * MIB))  # tells what was set; without a size it would reset it
        return start(*args)

    before = _thread.stack_size()
    monkeypatch.setattr(_thread, "start_new_thread", starting)
    StepPool(2, 3 * MIB).close()
    assert seen == [3 * MIB, 3 * MIB]
    assert _thread.stack_size() == before


def test_stack_too_small_for_recursion_is_refused() -> None:
    with pytest.raises(LimitError) as caught:
        SandboxLimits(thread_stack_bytes=MIB // 2)
    assert str(caught.value) == (
        "sandbox limit thread_stack_bytes = 524288 is not valid: expected 1048576 or more; mend the configuration"
    )
