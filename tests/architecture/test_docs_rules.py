"""docs/reference.md is true as far as a page can be checked: each rule names tests that exist, and its table of states is
that of the code. What the rules say is checked by those tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from executor.core import attributes, bounds, schedule, values
from executor.core.lifecycle import STATES, TABLE
from executor.engine import children, querying
from executor.engine.engine import EngineLimits
from executor.sandbox import run_shown
from executor.sandbox.child_limits import ChildLimits
from executor.workflow import durations, options
from executor.workflow.options import Retry

MIB = 1024 * 1024
WORDS = {5: "five", 8: "eight"}
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def _tests_in(path: Path) -> set[str]:
    """Names of its test functions; read, not imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@cache
def _tests() -> dict[str, set[str]]:
    """Names of tests by file."""
    return {path.relative_to(ROOT).as_posix(): _tests_in(path) for path in (ROOT / "tests").rglob("test_*.py")}


def _rows(page: str) -> list[list[str]]:
    """Cells of all rows of its tables, their heads left out; a bar in code, `\\|`, parts no cells."""
    tables = re.findall(r"^\|[^\n]*\n\|[-| ]+\|\n((?:\|[^\n]*\n)*)", page, flags=re.MULTILINE)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


RULES = {row[0]: row for row in _rows(REFERENCE) if re.fullmatch(r"[A-Z]\d+", row[0])}


def test_rules_are_numbered_without_gaps_and_once() -> None:
    numbers = [row[0] for row in _rows(REFERENCE) if re.fullmatch(r"[A-Z]\d+", row[0])]
    assert len(numbers) > 150
    letters = list(dict.fromkeys(number[0] for number in numbers))
    assert numbers == [
        f"{letter}{n + 1}" for letter in letters for n in range(sum(each[0] == letter for each in numbers))
    ]


def test_every_row_of_a_table_is_a_rule_or_an_operation() -> None:
    others = [row[0] for row in _rows(REFERENCE) if row[0] not in RULES]
    assert others == [f"`{operation}`" for operation in TABLE]


@pytest.mark.parametrize("number", RULES)
def test_rule_names_tests_that_prove_it_and_they_exist(number: str) -> None:
    proofs = PROOF.findall(RULES[number][-1])
    assert proofs, "a rule without a test is a wish"
    assert PROOF.sub("", RULES[number][-1]).strip(" ,") == "", "the last cell has tests and nothing else"
    for path, name in proofs:
        assert name in _tests().get(path, ()), f"{path}::{name}"


def test_reference_shows_the_table_of_the_code() -> None:
    head = re.findall(r"^\| operation \|(.*)\|$", REFERENCE, flags=re.MULTILINE)
    assert [[cell.strip() for cell in line.split("|")] for line in head] == [list(STATES)]
    shown = {
        row[0].strip("`"): dict(zip(STATES, row[1:], strict=True)) for row in _rows(REFERENCE) if row[0][:1] == "`"
    }
    assert shown == TABLE


@pytest.mark.parametrize("name", ["reference.md", "flow.md", "schedules.md", "search.md", "journal.md", "workflows.md"])
def test_every_test_that_a_page_names_exists(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    there = {test for tests in _tests().values() for test in tests}
    assert set(re.findall(r"\btest_\w+(?=`)", page)) - there == set()


NUMBERS = {
    "S3": (WORDS[Retry().limit], "from 1 second"),
    "S6": (f"{ChildLimits().retry_answer_s:g} seconds",),
    "T2": (f"{options.GRACE_MS_DEFAULT // 1000} seconds", f"at most {options.GRACE_MS_MAX // 60_000} minutes"),
    "V5": (
        f"over {values.VALUE_BYTES_MAX // MIB} MiB",
        f"over {values.DEPTH_MAX} deep",
        f"over {values.INT_BITS_MAX:,} bits",
    ),
    "F6": (f"{querying.QUESTION_S_MAX:g} s", f"More than {querying.WAITING_MAX} of one tenant"),
    "L6": (f"at most {durations.DURATION_MS_MAX // (366 * 86_400_000)} years",),
    "E11": (f"{bounds.UNREAD_EVENTS_MAX:,} events", f"{bounds.UNREAD_BYTES_MAX // MIB} MiB"),
    "X4": (
        f"{EngineLimits().steps_max:,} steps",
        f"{bounds.JOURNAL_ENTRIES_MAX:,} journal entries",
        f"{EngineLimits().journal_bytes_max // MIB} MiB",
        f"{WORDS[round(10 * bounds.WARN_AT)]} tenths",
    ),
    "X6": (f"{bounds.OPEN_MAX:,} steps", f"{bounds.STREAMS_MAX:,} output streams"),
    "X8": (f"{bounds.RESTARTS_MAX} times",),
    "X10": (f"{children.DEPTH_MAX} instances",),
    "X11": (f"newest {bounds.HISTORY_KEPT_BYTES // MIB} MiB",),
    "X12": (
        f"newest {bounds.EVENT_IDS_KEPT_MAX:,} events",
        f"newest {bounds.UPDATES_CARRIED_MAX} answers",
        f"up to {bounds.UPDATES_CARRIED_BYTES // 1024} KiB",
    ),
    "X13": (f"{bounds.HISTORY_BYTES_MAX // MIB} MiB", f"{bounds.HISTORY_ENTRIES_MAX:,} entries"),
    "O1": (f"{run_shown.STATUS_BYTES_MAX // 1024} KiB",),
    "O4": (f"at most {attributes.COUNT_MAX}",),
    "Q10": (f"{bounds.UPDATES_OPEN_MAX:,} accepted", f"latest {bounds.UPDATES_KEPT_MAX:,}"),
    "A4": (f"{WORDS[EngineLimits().deaths_max]} times",),
    "H11": (f"within {'a minute' if schedule.LATE_MS == 60_000 else schedule.LATE_MS}",),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_a_rule_are_those_of_the_code(number: str) -> None:
    for text in NUMBERS[number]:
        assert text in RULES[number][1]


def test_every_option_of_a_step_has_rules() -> None:
    told = {word for row in RULES.values() for word in re.findall(r"`(\w+)", " ".join(row[:-1]))}
    parts = {"limit", "delay", "max_delay", "jitter", "non_retryable"}  # of retry=
    assert (options.OPTIONS | parts) - told <= {"retry", "undo"}, "undo= has a chapter, retry= its parts"


def _anchors(page: Path) -> set[str]:
    """As sites that show Markdown make them of the headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        assert not anchor or anchor in _anchors(found), target
