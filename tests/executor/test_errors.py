"""Laws of public errors: one shape, one status each, one page that explains every code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from executor.cli.printing import EXIT_CODES
from executor.core.errors import CODES, FAMILIES, NotFound, PerdureError, Unavailable, from_json
from executor.http.errors import STATUS_OF_CODE, STATUS_OF_FAMILY, as_perdure_error, response_of, status_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"


def test_every_code_is_explained_once_and_no_other_is() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(explained) == sorted(CODES)


def test_the_page_tells_the_status_that_is_sent() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {code: int(status) for code, status in rows}
    assert {code: told[code] for code in STATUS_OF_CODE} == STATUS_OF_CODE
    allowed = {*STATUS_OF_FAMILY.values(), *STATUS_OF_CODE.values()}
    assert set(told.values()) <= allowed


def test_every_family_has_a_status_and_an_exit_code() -> None:
    assert set(STATUS_OF_FAMILY) == set(FAMILIES.values())
    assert set(EXIT_CODES) == set(FAMILIES)
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert set(STATUS_OF_CODE) <= set(CODES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.family)
def test_an_error_survives_its_json_form(family: type[PerdureError]) -> None:
    error = family("It broke.", code="busy", hint="Wait.", retry_after_s=3)
    again = from_json(error.to_json())
    assert (type(again), again.to_json(), status_of(again)) == (
        family,
        error.to_json(),
        503 if family is Unavailable else status_of(error),
    )


def test_only_a_lone_error_inside_groups_is_taken_out(caplog: pytest.LogCaptureFixture) -> None:
    inner = NotFound("gone", code="instance_not_found")
    assert as_perdure_error(ExceptionGroup("a", [ExceptionGroup("b", [inner])])) is inner
    assert as_perdure_error(ExceptionGroup("a", [inner, inner])).code == "internal"
    assert "a request failed by a fault of ours" in caplog.text


def test_git_is_told_in_plain_text_and_others_in_json() -> None:
    error = Unavailable("Full.", hint="Wait.", retry_after_s=0.2)
    assert bytes(response_of(error, is_git=True).body) == b"Full. [busy]\n  Wait.\n"
    answer = response_of(error)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
