"""The whole table of operations and states, cell by cell."""

import pytest

from executor.core.errors import Conflict
from executor.core.lifecycle import ACTIVE, FINAL, STATES, TABLE, check

DO, NOTHING, FINISHED, REFUSE = "do", "nothing", "finished", "refuse"
#                    queued   running  waiting  paused   held     undoing  complete  failed    terminated
EXPECTED = {
    "send_event": [DO, DO, DO, DO, DO, REFUSE, FINISHED, FINISHED, FINISHED],
    "pause": [DO, DO, DO, NOTHING, REFUSE, REFUSE, FINISHED, FINISHED, FINISHED],
    "resume": [NOTHING, NOTHING, NOTHING, DO, DO, NOTHING, FINISHED, FINISHED, FINISHED],
    "terminate": [DO, DO, DO, DO, DO, DO, FINISHED, FINISHED, NOTHING],
    "terminate_undoing": [DO, DO, DO, DO, DO, NOTHING, FINISHED, FINISHED, NOTHING],
    "restart": [DO, DO, DO, DO, DO, REFUSE, DO, DO, DO],
    "retry": [REFUSE, REFUSE, REFUSE, REFUSE, REFUSE, REFUSE, FINISHED, DO, FINISHED],
    "update": [DO, DO, DO, REFUSE, REFUSE, REFUSE, FINISHED, FINISHED, FINISHED],
    "ask": [DO, DO, DO, DO, REFUSE, REFUSE, FINISHED, FINISHED, FINISHED],
    "set_attributes": [DO, DO, DO, DO, DO, DO, FINISHED, FINISHED, FINISHED],
    "delete": [REFUSE, REFUSE, REFUSE, REFUSE, REFUSE, REFUSE, DO, DO, DO],
}


def test_table_is_the_documented_one():
    assert {operation: [row[state] for state in STATES] for operation, row in TABLE.items()} == EXPECTED


@pytest.mark.parametrize("operation", TABLE)
@pytest.mark.parametrize("state", STATES)
def test_check_answers_as_the_table_says(operation, state):
    answer = TABLE[operation][state]
    if answer in (DO, NOTHING):
        assert check(operation, state, "i-1") is (answer == DO)
        return
    with pytest.raises(Conflict) as caught:
        check(operation, state, "i-1")
    assert caught.value.code == ("instance_finished" if answer == FINISHED else "invalid_state")
    assert caught.value.message.startswith(f'instance "i-1" is {state} and cannot ')
    assert caught.value.hint


def test_final_and_active_states_do_not_overlap():
    assert not FINAL & ACTIVE


@pytest.mark.parametrize(
    ("operation", "state", "hint"),
    [
        ("delete", "undoing", "Terminate it first."),
        ("delete", "running", "Terminate it first."),
        ("retry", "running", "Only what has failed is retried. Restart it to begin again."),
        ("retry", "undoing", "Wait until it is undone, or terminate it."),
        ("retry", "complete", "Restart it."),
        ("pause", "held", "Resume or terminate it."),
        ("restart", "undoing", "Wait until it is undone, or terminate it."),
        ("update", "paused", "Resume or terminate it."),
        ("send_event", "failed", "Start a new instance under another id."),
    ],
)
def test_hint_is_something_that_can_be_done_in_that_state(operation, state, hint):
    with pytest.raises(Conflict) as caught:
        check(operation, state, "i-1")
    assert (caught.value.hint, caught.value.details["state"]) == (hint, state)


def test_what_is_neither_at_rest_nor_over_is_activated_when_an_executor_starts():
    assert {"queued", "running", "undoing"} == ACTIVE
    assert {"complete", "failed", "terminated"} == FINAL
