"""Workflows of tenants who mean harm: each is the body of `run()` or of a step, with what must come of it.

`state`, `code` and `says` are those that the instance ends in ("" code: without an error). What follows `---` stands at
the module's top level. Everything here is text that only a sandbox ever executes.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = """
import asyncio, ctypes, gc, os, re, sys, threading, time
import executor.workflow
from executor.workflow import NonRetryableError, Retry, Step, Workflow

ONCE = Retry(limit=0)


class Hostile(Workflow):
    async def run(self, event, step):
        print("begins")
        do = step.options(retry=ONCE, timeout="2 seconds").do
"""


@dataclass(frozen=True)
class Hostile:
    name: str
    body: str
    state: str
    code: str
    says: str

    def __str__(self) -> str:
        return self.name

    @property
    def source(self) -> str:
        lines = self.body.strip("\n").splitlines()
        head, _, module = "\n".join(lines).partition("\n---\n")
        indented = "\n".join("        " + line if line else "" for line in head.splitlines())
        return HEAD + indented + "\n\n" + module + "\n"


DIED = "its sandbox died 3 times at the same point, the last time: "
SILENT = DIED + "time, no answer to a Ping within 1 s"
STEP = 'step "x#1" failed after 1 attempt: '
STEP_TIMEOUT = STEP + "executor.workflow.StepTimeout: the attempt did not end within 2 s"
EXIT_0 = DIED + "crashed, it exited with status 0"
DONE = "'done'"


def _failed(name: str, body: str, says: str, code: str = "workflow_failed") -> Hostile:
    return Hostile(name, body, "failed", code, says)


def _step(name: str, body: str, says: str) -> Hostile:
    return Hostile(name, "await do('x', f)\n---\n" + body, "failed", "step_failed", says)


def _held(name: str, body: str, says: str) -> Hostile:
    return Hostile(name, body, "held", "sandbox_killed", says)


SPINNING = [
    _held("endless-loop-in-run", "while True: pass", SILENT),
    _held("endless-loop-of-awaits", "while True: await asyncio.sleep(0)", SILENT),
    _held("stuck-in-c", "await do('x', re.match, '(a+)+$', 'a' * 60 + 'b')", SILENT),
    _held("endless-print-in-run", "while True: print('x' * 200)", SILENT),
    _held(
        "error-text-without-end",
        """
await do('x', f)
---
class Evil(Exception):
    def __str__(self):
        while True: pass
def f(): raise Evil()
""",
        SILENT,
    ),
    _held("endless-at-import", "pass\n---\nwhile True: pass", DIED + "time, it was not ready within 2 s"),
    _step("endless-loop-in-step", "def f():\n    while True: pass", STEP_TIMEOUT),
    _step("endless-print-in-step", "def f():\n    while True: print('y' * 200)", STEP_TIMEOUT),
]
"""Each keeps a core busy until somebody stops it."""

SHORT = [
    # --- memory
    _step("memory-at-once", "def f(): return len(bytearray(2**33))", STEP + "MemoryError"),
    _step(
        "memory-bit-by-bit",
        "def f():\n    kept = []\n    while True: kept.append(b'x' * 4_000_000)",
        STEP + "MemoryError",
    ),
    _failed("memory-in-run", "kept = []\nwhile True: kept.append(b'x' * 4_000_000)", ""),
    # --- processes and threads
    _step("fork", "f = os.fork", STEP + "PermissionError: [Errno 1] Operation not permitted"),
    _failed(
        "fork-in-run",
        "os.fork()",
        "starting a process is not available in run(), which must do the same on every replay; put the work into a step: "
        'await step.do("name", function)',
    ),
    _step(
        "threads",
        "def f():\n    for _ in range(1000): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
        STEP + "RuntimeError: can't start new thread",
    ),
    # --- values
    Hostile(
        "largest-results",
        "for _ in range(10): await do('x', f)\nreturn 'done'\n---\ndef f(): return 'x' * (1024 * 1024 - 5)",
        "complete",
        "",
        DONE,
    ),
    _step(
        "result-too-large",
        "def f(): return 'x' * (1024 * 1024)",
        STEP + "Refused: result is 1048581 bytes encoded, the limit is 1048576. "
        "Give bytes by a step with stream=True, or keep large results in the facet or outside, and return a reference.",
    ),
    _failed(
        "output-too-large",
        "return 'x' * 2_000_000",
        "result is 2000005 bytes encoded, the limit is 1048576. "
        "Keep large results in the facet or outside, and return a reference.",
        "payload_too_large",
    ),
    _step(
        "result-in-circles",
        "def f():\n    a = []\n    a.append(a)\n    return a",
        STEP + "Refused: result[0]: a list that contains itself. Break the cycle.",
    ),
    Hostile(
        "commands-by-the-thousand",
        "await asyncio.gather(*(step.sleep('s', '1 day') for _ in range(10_000)))",
        "waiting",
        "",
        "None",
    ),
    # --- errors
    _failed(
        "error-text-fails",
        "raise Evil()\n---\nclass Evil(Exception):\n    def __str__(self): raise RuntimeError('no')",
        "<the message of Evil could not be read>",
    ),
    _step(
        "error-text-is-no-text",
        "class Evil(Exception):\n    def __str__(self): return 5\ndef f(): raise Evil()",
        STEP + "workflows.Evil: <the message of Evil could not be read>",
    ),
    _failed("error-text-huge", "raise ValueError('\\x1b[31m\\0' + 'x' * 10_000_000)", "\x1b[31m\0" + "x" * 4090),
    _failed("error-name-huge", "raise type('N' * 5_000_000, (Exception,), {})('short')", "short"),
    _failed("error-text-not-unicode", "raise ValueError('\\ud800')", "\\ud800"),
    _failed(
        "causes-without-end",
        "e = ValueError('first')\nfor n in range(10_000):\n    f = ValueError(str(n)); f.__cause__ = e; e = f\nraise e",
        "9999",
    ),
    _failed("recursion", "def f(): f()\nf()", "maximum recursion depth exceeded"),
    # --- leaving
    _held("exit-in-run", "os._exit(0)", EXIT_0),
    _held("exit-in-step", "await do('x', os._exit, 0)", EXIT_0),
    _held("exit-at-import", "pass\n---\nos._exit(0)", EXIT_0),
    _held("segmentation-fault", "await do('x', ctypes.string_at, 0)", DIED + "crashed, it was ended by SIGSEGV"),
    _failed("system-exit-in-run", "raise SystemExit(3)", "3"),
    _step("system-exit-in-step", "def f(): sys.exit(3)", STEP + "SystemExit: 3"),
    _step("system-exit-in-async-step", "async def f(): sys.exit(3)", STEP + "SystemExit: 3"),
    _failed("system-exit-at-import", "pass\n---\nsys.exit(0)", "0", "code_not_loadable"),
    _failed("interrupt-in-run", "raise KeyboardInterrupt()", ""),
    _step("interrupt-in-async-step", "async def f(): raise KeyboardInterrupt()", STEP + "KeyboardInterrupt"),
    _failed("base-exception-in-run", "raise BaseException('base')", "base"),
    _failed("cancelled-in-run", "raise asyncio.CancelledError()", "run() cancelled itself"),
    # --- the platform's code around it
    Hostile(
        "runtime-replaced",
        """
return await do('x', f)
---
def f(): return 'honest'
async def evil(*args, **kwargs): return 'done'
executor.workflow.Step.do = executor.workflow.step.StepWithOptions.do = evil
executor.workflow.Workflow = None
time.time = lambda: 0
sys.modules["executor.core.codec"] = None
""",
        "complete",
        "",
        DONE,  # it fooled itself: what it says of its own instance is its own affair
    ),
    _held("descriptors-closed", "os.closerange(0, 64)", DIED + "crashed, it exited with status 1"),
    _held(
        "garbage-on-every-descriptor",
        """
await do('x', f)
---
def f():
    for number in range(64):
        try: os.write(number, b"\\xff" * 1000)
        except OSError: pass
    time.sleep(5)
""",
        DIED + "protocol, a message of 4294967295 bytes is over the limit of 12582912",
    ),
    Hostile(
        "forged-turns-for-all-runs",
        """
await do('x', f)
---
def f():
    from executor.core.commands import Complete
    from executor.sandbox.protocol import Turn, encode_message
    data = b"".join(encode_message([Turn(run, 1, [Complete(b"\\xa4done")], True)]) for run in range(1, 500))
    for number in range(3, 64):
        try: os.write(number, data)
        except OSError: pass
    time.sleep(5)
""",
        "complete",
        "",
        DONE,  # its own run it may end as it likes; the numbers of all others mean nothing on its channel
    ),
]
"""Each is over at once."""
