"""The one pipeline that brings code in: a client's push and `commit_files` go through the very same steps.

    quarantine → scan → index and check → analyse and bundle the tip that is deployed
      → under the tenant's lock: publish the objects → one transaction of refs, deployment, channel, pins → mirror

What must stay true:
- Nobody sees an object before it was checked, and no ref moves before its objects are durable. A crash between the
  two leaves a pack that no ref names (garbage collection takes it); one after the transaction leaves an old mirror,
  which is rewritten.
- A ref moves only from where the client said it was; the losers of a race are told so, never "ok".
- Whatever is refused changes nothing at all. Leaving the `with` block early discards what had arrived.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Self

import pygit2

from . import history, mirror, prepare, quarantine, report
from .errors import Conflict, GitStoreError, Refused
from .libgit import open_repository
from .names import DEFAULT_BRANCH, DEFAULT_CHANNEL, HEADS, branch_ref, ref_problem
from .parts import Parts
from .push_options import PushOptions
from .quarantine import NewTip
from .rows import Deployment, NewDeployment, PushCommitted, RefOutcome, RefUpdate

__all__ = ["Push", "PushRequest", "PushResult"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PushRequest:
    """One push: ref updates in the client's order, all for one tenant."""

    tenant: str
    updates: tuple[RefUpdate, ...]
    who: str
    atomic: bool = False
    options: PushOptions = field(default_factory=PushOptions)
    kind: Literal["push", "deploy"] = "push"


@dataclass(frozen=True, slots=True)
class PushResult:
    """What became of a push. `outcomes` in the order of the updates; `lines` for the person who pushed.

    `error` is set when nothing at all was kept; `objects_error` is it too when the objects themselves were at fault.
    """

    outcomes: tuple[RefOutcome, ...]
    lines: tuple[str, ...]
    deployment: Deployment | None = None
    error: GitStoreError | None = None
    objects_error: GitStoreError | None = None


class Push:
    """One push on its way: `with Push(parts, request) as push: push.receive(body); result = push.finish()`."""

    def __init__(self, parts: Parts, request: PushRequest) -> None:
        self._parts = parts
        self._request = request
        self._reasons: dict[bytes, str] = {}
        self._objects_error: GitStoreError | None = None
        self.has_whole_pack = False
        # Held so that its counter of collections lives as long as this push does.
        self._lock = parts.lock(request.tenant)
        self._quarantine: quarantine.Quarantine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._quarantine is not None:
            self._quarantine.discard()

    @property
    def object_count(self) -> int:
        """How many objects the received pack has."""
        return self._quarantine.object_count if self._quarantine is not None else 0

    def receive(self, body: BinaryIO) -> None:
        """Take in the pack. What is wrong with it is said by `finish()`; errors of `body` itself come through."""
        try:
            self._started().add_pack(body)
            self.has_whole_pack = True
        except GitStoreError as error:
            self._objects_error = error

    def _started(self) -> quarantine.Quarantine:
        if self._quarantine is None:
            self._quarantine = quarantine.start(self._parts, self._request.tenant)
        return self._quarantine

    def refuse(self, error: GitStoreError) -> PushResult:
        """The result of a push that is given up for a reason from outside this pipeline."""
        return self._failed(error)

    def finish(self) -> PushResult:
        """Check everything and make it visible, or change nothing. Durable on return. Raises no GitStoreError."""
        if self._objects_error is not None:
            return self._failed(self._objects_error, objects=True)
        try:
            return self._finish()
        except GitStoreError as error:
            return self._failed(error)

    def _finish(self) -> PushResult:
        parts, request = self._parts, self._request
        with self._lock as lock:
            collections = lock.collections
        self._judge(parts.database.refs(request.tenant))
        accepted = self._accepted()
        if not accepted:
            return self._refused_by_policy()
        tips = [NewTip(update.name, update.new) for update in accepted if update.new is not None]
        if tips:
            try:
                self._started().check(tips)
            except GitStoreError as error:
                return self._failed(error, objects=True)
        warnings = list(request.options.warnings)
        target = self._deployed(accepted, warnings)
        new: NewDeployment | None = None
        if target is not None:
            try:
                new = self._prepare(target)
            except Refused as error:
                self._reasons[target.name] = report.first_line(error)
                accepted = self._accepted()
                if not accepted:
                    return self._failed(error)
                warnings[:0] = [*report.refused(error)[:-1], "The other refs of this push were kept."]
        with self._lock as lock:
            if tips and lock.collections != collections:
                # What the pack leaned on may have been collected since the check. Look again, in peace.
                self._started().check(tips)
            self._judge(parts.database.refs(request.tenant))
            accepted = self._accepted()
            if not accepted:
                return self._refused_by_policy()
            if self._quarantine is not None:
                self._quarantine.publish()
            committed = self._commit(accepted, new)
            self._rewrite_mirror()
        return self._result(committed, accepted, warnings)

    def _judge(self, refs: Mapping[bytes, bytes]) -> None:
        """Give each update that may not happen its reason, so that nothing is done for it.

        The database has the last word, in its transaction; under the tenant's lock the two agree but for the rules
        that only one of them knows: the default branch stays, and the number of refs is bounded.
        """
        counts = Counter(update.name for update in self._request.updates)
        for update in self._request.updates:
            reason = _ref_refusal(update, refs.get(update.name), twice=counts[update.name] > 1)
            if reason is not None:
                self._reasons.setdefault(update.name, reason)
        accepted = self._accepted(partial=True)
        after = set(refs) - {update.name for update in accepted if update.new is None}
        for update in accepted:
            if update.new is not None and update.name not in after:
                clash = _clash(update.name, after)
                if clash is None:
                    after.add(update.name)
                else:
                    self._reasons[update.name] = f"the name clashes with {report.ref_label(clash)}"

    def _accepted(self, *, partial: bool = False) -> list[RefUpdate]:
        """Updates without a reason against them; none if the push is atomic and one has one (unless `partial`)."""
        if self._request.atomic and self._reasons and not partial:
            return []
        return [update for update in self._request.updates if update.name not in self._reasons]

    def _deployed(self, accepted: Sequence[RefUpdate], warnings: list[str]) -> RefUpdate | None:
        """The update whose commit is deployed, if any."""
        options = self._request.options
        branches = [update for update in accepted if update.new is not None and update.name.startswith(HEADS)]
        if options.no_deploy or not branches:
            return None
        for update in branches:
            if update.name == branch_ref(DEFAULT_BRANCH):
                return update
        if self._request.kind == "deploy":
            return branches[0]
        if options.channel is None:
            return None
        if len(branches) > 1:
            warnings.append("push option 'channel' needs a push of one branch; nothing was deployed")
            return None
        return branches[0]

    def _prepare(self, target: RefUpdate) -> NewDeployment:
        assert target.new is not None
        prepared = prepare.analysis_and_bundle(
            self._parts, self._request.tenant, target.new, quarantine=self._quarantine
        )
        return NewDeployment(
            commit=target.new,
            tree=prepared.tree,
            branch=target.name.removeprefix(HEADS).decode(),
            workflows=prepared.analysis.workflows,
            warnings=prepared.analysis.warnings,
            bundle_key=prepared.bundle.key,
        )

    def _commit(self, accepted: Sequence[RefUpdate], new: NewDeployment | None) -> PushCommitted:
        request, options = self._request, self._request.options
        pins: list[str] = []
        if options.pin:
            pins = [u.new for u in accepted if u.new is not None and u.name.startswith(HEADS)]
        return self._parts.database.commit_push(
            request.tenant,
            accepted,
            atomic=request.atomic,
            deployment=new,
            channel=self._channel(new),
            who=request.who,
            message=options.message if options.message is not None else self._subject(new),
            pins=pins,
            kind=request.kind,
        )

    def _subject(self, new: NewDeployment | None) -> str:
        """The first line of the deployed commit's message: what a deployment is called if nobody said."""
        if new is None:
            return ""
        repository = open_repository(self._parts.repository_path(self._request.tenant))
        commit = history.found(repository, new.commit)
        assert isinstance(commit, pygit2.Commit)
        return commit.message.partition("\n")[0]

    def _channel(self, new: NewDeployment | None) -> str | None:
        """The channel that moves: what was asked for, else `live` for the default branch, else none."""
        if new is None:
            return None
        return self._request.options.channel or (DEFAULT_CHANNEL if new.branch == DEFAULT_BRANCH else None)

    def _rewrite_mirror(self) -> None:
        try:
            mirror.rewrite(self._parts, self._request.tenant)
        except (OSError, GitStoreError):
            # The push is committed and must be reported so; the mirror serves stray tools only and is rewritten
            # by the next push and at the next start.
            log.exception("mirror not written", extra={"tenant": self._request.tenant})

    def _outcomes(self, committed: Sequence[RefOutcome] = ()) -> tuple[RefOutcome, ...]:
        by_name = {outcome.name: outcome for outcome in committed}
        blamed = "another ref of this atomic push was refused"
        return tuple(
            by_name.get(update.name) or RefOutcome(update.name, ok=False, reason=self._reasons.get(update.name, blamed))
            for update in self._request.updates
        )

    def _result(self, committed: PushCommitted, accepted: Sequence[RefUpdate], warnings: list[str]) -> PushResult:
        request = self._request
        outcomes = self._outcomes(committed.outcomes)
        if not any(outcome.ok for outcome in outcomes):
            for outcome in committed.outcomes:
                self._reasons.setdefault(outcome.name, outcome.reason)
            return self._refused_by_policy()
        lines = report.accepted(
            request.tenant,
            request.updates,
            outcomes,
            deployment=committed.deployment,
            move=committed.move,
            held_channel=committed.pinned,
            pinned=request.options.pin and any(u.new is not None and u.name.startswith(HEADS) for u in accepted),
            no_deploy=request.options.no_deploy,
            warnings=warnings,
        )
        return PushResult(outcomes, tuple(lines), committed.deployment)

    def _refused_by_policy(self) -> PushResult:
        outcomes = self._outcomes()
        worst = next(outcome for outcome in outcomes if outcome.name in self._reasons)
        is_stale = worst.reason.startswith(STALE)
        message = f"{report.ref_label(worst.name)}: {worst.reason}"
        error: GitStoreError
        if is_stale:
            error = Conflict(
                message,
                code="stale",
                hint="Fetch, merge or rebase, and push again.",
                details={"ref": worst.name.decode(errors="replace")},
            )
        else:
            error = Refused(message, code="ref_refused", details={"ref": worst.name.decode(errors="replace")})
        return PushResult(outcomes, tuple(report.refused(error)), error=error)

    def _failed(self, error: GitStoreError, *, objects: bool = False) -> PushResult:
        reason = report.first_line(error)
        outcomes = tuple(RefOutcome(update.name, ok=False, reason=reason) for update in self._request.updates)
        return PushResult(outcomes, tuple(report.refused(error)), error=error, objects_error=error if objects else None)


STALE = "stale"


def _ref_refusal(update: RefUpdate, found: bytes | None, *, twice: bool) -> str | None:
    """Why this update may not happen while the ref is at `found`; None if it may."""
    problem = ref_problem(update.name)
    if problem is not None:
        return problem
    if twice:
        return "named twice in one push"
    what = "the branch" if update.name.startswith(HEADS) else "the tag"
    if update.new is None:
        if update.name == branch_ref(DEFAULT_BRANCH):
            return f"{DEFAULT_BRANCH} is the default branch and cannot be deleted"
        if found is None:
            return f"there is no such {what.removeprefix('the ')}"
    old = update.old.encode() if update.old is not None else None
    if old == found:
        return None
    if found is None:
        return f"{STALE}: {what} was deleted; fetch first"
    if old is None:
        return f"{STALE}: {what} exists already at {found[:8].decode()}; fetch first"
    return f"{STALE}: {what} moved to {found[:8].decode()}; fetch first"


def _clash(name: bytes, names: set[bytes]) -> bytes | None:
    """A ref that cannot exist beside `name`: git clients keep refs as files, so `a` and `a/b` exclude each other."""
    parts = name.split(b"/")
    for end in range(3, len(parts)):
        if (above := b"/".join(parts[:end])) in names:
            return above
    return next((other for other in names if other.startswith(name + b"/")), None)
