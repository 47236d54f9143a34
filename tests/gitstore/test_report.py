"""What a pusher's terminal says."""

from __future__ import annotations

from gitstore import report
from gitstore.rows import Channel, ChannelMove, Deployment, RefOutcome, RefUpdate, WorkflowFound

OLD, NEW = "43a988dd" + "0" * 32, "7e19eaaf" + "0" * 32
UPDATE = RefUpdate(b"refs/heads/main", OLD, NEW)
DEPLOYMENT = Deployment(
    2,
    "acme",
    NEW,
    "t" * 40,
    "main",
    "live",
    (WorkflowFound("Billing", "workflows.py", 8, "workflows"),),
    (),
    "k",
    "kim",
    "",
    5,
)


def test_push_tells_commit_workflows_and_the_move_of_the_channel() -> None:
    move = ChannelMove(2, "live", OLD, NEW, "push", "kim", "", 5)
    lines = report.accepted("acme", [UPDATE], [RefOutcome(UPDATE.name, ok=True)], deployment=DEPLOYMENT, move=move)
    assert lines == [
        "  acme  main  7e19eaaf (was 43a988dd)",
        "  Workflows Billing  workflows.py:8",
        "  Channel   live 43a988dd -> 7e19eaaf",
        "  Running instances stay on the commit they are pinned to.",
    ]


def test_push_says_that_a_pinned_channel_stays() -> None:
    lines = report.accepted(
        "acme",
        [UPDATE],
        [RefOutcome(UPDATE.name, ok=True)],
        deployment=DEPLOYMENT,
        move=None,
        held_channel=Channel("live", OLD, 1, 5, "kim", is_pinned=True),
    )
    assert lines[2] == "  Channel   live stays on 43a988dd: it is pinned there until it is unpinned"
