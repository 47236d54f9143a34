"""`make demo` works, says what it could not do, and fails when a claim does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.demo.claims import Claims
from tools.demo.releases import NAMES_PACKED, fetch, packed
from tools.demo.screen import Screen

ROOT = Path(__file__).resolve().parents[2]


def test_the_demonstration_holds_all_its_claims_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo", "--quick"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 22 claims hold" in done.stdout
    assert done.stderr == ""
    assert "FAILED" not in done.stdout
    assert "\x1b" not in done.stdout, "no colors where nobody sees them"
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_packs_installed_packages_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    fetched = fetch(tmp_path)
    assert fetched.origin.startswith("NOT source distributions: pip could not fetch them (")
    assert len(fetched.releases) == len(NAMES_PACKED)


@pytest.mark.parametrize("name", NAMES_PACKED)
def test_a_packed_release_is_that_of_an_installed_package(name: str) -> None:
    release = packed(name)
    assert release.modules
    assert b"Name: " in release.files["PKG-INFO"]
    assert len(release.content) < 1024 * 1024
    assert b"".join(release.chunks) == release.content


def test_a_claim_that_does_not_hold_is_shown_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    claims = Claims()
    claims.check("this holds", True, "yes")
    claims.check("this does not", 0 == 1)
    Screen().verdict(claims)
    assert [claim.text for claim in claims.failed] == ["this does not"]
    told = capsys.readouterr().out
    assert "FAILED" in told
    assert "1 of 2 claims FAILED" in told
