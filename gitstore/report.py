"""What the pusher reads in the terminal: the lines behind `remote: `. Text only, no decisions.

Plain statements in a fixed layout, so that people and scripts find the same thing at the same place:

      acme  main  7e19eaaf (was 43a988dd)
      Workflows Onboarding     workflows.py:12
                Billing        workflows/billing.py:8
      Channel   live 43a988dd -> 7e19eaaf
      Warning   requirements.txt: dependencies are not installed
      Running instances stay on the commit they are pinned to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import GitStoreError, Refused
from .names import DEFAULT_BRANCH, HEADS
from .rows import Channel, ChannelMove, Deployment, RefOutcome, RefUpdate
from .shown import shown

__all__ = ["accepted", "first_line", "ref_label", "refused", "short"]

WORKFLOWS_SHOWN_MAX = 20
DIAGNOSTICS_SHOWN_MAX = 10


def short(commit: str | None) -> str:
    """The first 8 digits of a commit id, as everywhere in this output."""
    return commit[:8] if commit else "none"


def ref_label(name: bytes) -> str:
    """`main` for refs/heads/main, `tag v1` for refs/tags/v1."""
    if name.startswith(HEADS):
        return shown(name.removeprefix(HEADS))
    return "tag " + shown(name.removeprefix(b"refs/tags/"))


def _labelled(label: str, texts: Iterable[str]) -> list[str]:
    return [f"  {label if number == 0 else '':<9} {text}" for number, text in enumerate(texts)]


def _moved(tenant: str, update: RefUpdate) -> str:
    if update.new is None:
        return f"  {tenant}  {ref_label(update.name)}  deleted (was {short(update.old)})"
    was = f" (was {short(update.old)})" if update.old else " (new)"
    return f"  {tenant}  {ref_label(update.name)}  {short(update.new)}{was}"


def _channel(move: ChannelMove) -> str:
    if move.from_commit is None:
        return f"{move.channel} -> {short(move.to_commit)}"
    return f"{move.channel} {short(move.from_commit)} -> {short(move.to_commit)}"


def accepted(
    tenant: str,
    updates: Sequence[RefUpdate],
    outcomes: Sequence[RefOutcome],
    *,
    deployment: Deployment | None,
    move: ChannelMove | None,
    pinned: bool = False,
    held_channel: Channel | None = None,
    no_deploy: bool = False,
    warnings: Sequence[str] = (),
) -> list[str]:
    """The report of a push of which at least one ref was moved."""
    lines: list[str] = []
    done = [update for update, outcome in zip(updates, outcomes, strict=True) if outcome.ok]
    lines += [_moved(tenant, update) for update in done[:WORKFLOWS_SHOWN_MAX]]
    if len(done) > WORKFLOWS_SHOWN_MAX:
        lines.append(f"  and {len(done) - WORKFLOWS_SHOWN_MAX} more refs")
    lines += [
        f"  {tenant}  {ref_label(outcome.name)}  refused: {outcome.reason}" for outcome in outcomes if not outcome.ok
    ][:DIAGNOSTICS_SHOWN_MAX]
    if deployment is not None:
        found = deployment.workflows
        width = min(max((len(workflow.name) for workflow in found), default=0), 30)
        texts = [f"{w.name:<{width}}  {shown(w.path)}:{w.line}" for w in found[:WORKFLOWS_SHOWN_MAX]]
        if len(found) > WORKFLOWS_SHOWN_MAX:
            texts.append(f"and {len(found) - WORKFLOWS_SHOWN_MAX} more")
        lines += _labelled("Workflows", texts or ["none found in workflows.py or workflows/*.py"])
    if move is not None:
        lines += _labelled("Channel", [_channel(move)])
    if held_channel is not None:
        stays = f"{held_channel.name} stays on {short(held_channel.commit)}: it is pinned there until it is unpinned"
        lines += _labelled("Channel", [stays])
    if pinned:
        lines += _labelled("Pinned", ["kept until it is unpinned, whatever happens to the branch"])
    branches = [u for u in done if u.new is not None and u.name.startswith(HEADS)]
    if no_deploy and branches:
        lines += _labelled("Stored", ["not deployed, as asked (-o no-deploy)"])
    elif deployment is None and branches:
        lines += _labelled("Stored", [f"not deployed: only {DEFAULT_BRANCH} is. To deploy this branch:"])
        branch = ref_label(branches[0].name)
        if len(branches) > 1 or len(branch) > 30:
            branch = "BRANCH"
        lines += _labelled("", [f"git push origin {branch}:{DEFAULT_BRANCH}", "or push it with -o channel=NAME"])
    for warning in (*(deployment.warnings if deployment is not None else ()), *warnings):
        lines += _labelled("Warning", [warning])
    if move is not None and move.from_commit is not None and move.from_commit != move.to_commit:
        lines.append("  Running instances stay on the commit they are pinned to.")
    return lines


def refused(error: GitStoreError) -> list[str]:
    """The report of a push of which nothing was kept: which thing and why, then what to do."""
    lines: list[str] = []
    diagnostics = error.diagnostics if isinstance(error, Refused) else ()
    if diagnostics:
        for found in diagnostics[:DIAGNOSTICS_SHOWN_MAX]:
            place = f"{shown(found.path)}:{found.line}:{found.column}" if found.line else shown(found.path)
            lines.append(f"{place} {found.message}")
        if len(diagnostics) > DIAGNOSTICS_SHOWN_MAX:
            lines.append(f"and {len(diagnostics) - DIAGNOSTICS_SHOWN_MAX} more")
    else:
        lines.append(error.message)
    lines.append(error.hint or "Correct this and push again.")
    lines.append("Nothing was changed.")
    return lines


def first_line(error: GitStoreError) -> str:
    """The reason of a refusal as the one line that report-status has room for."""
    return refused(error)[0].split("\n", 1)[0]
