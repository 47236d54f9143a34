"""Git's push conversation: one `POST git-receive-pack` in, report-status and `remote:` lines out.

Clients push with protocol version 0 or 1 whatever they fetch with; over HTTP both are the same request. Commands are
parsed under limits before anything is answered: what is malformed raises Refused at the call. From then on everything
that happens is answered inside the conversation, where the pusher can read it, never as a dropped connection.
Source: gitprotocol-pack, "Pushing Data To a Server" and "Report Status"; gitprotocol-capabilities.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from . import pktline, report
from .errors import GitStoreError, LimitExceeded, Refused
from .limits import Limits
from .parts import Parts
from .pktline import FLUSH, Mark, PacketReader, packet
from .push import Push, PushRequest, PushResult
from .push_options import PushOptions, parse_options
from .rows import RefUpdate
from .upload import Advertised

__all__ = ["receive", "receive_advertisement"]

log = logging.getLogger(__name__)

_CAPABILITIES: Final = (
    b"report-status side-band-64k atomic delete-refs ofs-delta quiet push-options object-format=sha1 " + pktline.AGENT
)
_COMMAND = re.compile(rb"([0-9a-f]{40}) ([0-9a-f]{40}) ([^\0\n]+)\n?\Z")
_NONE: Final = "0" * 40
# Smaller pushes are done before a person could read that they are being checked.
PROGRESS_OBJECTS_MIN: Final = 1_000
_DRAIN_BYTES: Final = 1 << 16


def receive_advertisement(advertised: Advertised, *, version: int) -> bytes:
    """What `GET info/refs?service=git-receive-pack` answers."""
    answer = [packet(b"# service=git-receive-pack\n"), FLUSH]
    if version == 1:
        answer.append(packet(b"version 1\n"))
    entries = [(oid, name) for name, oid in advertised.refs.items()] or [(b"0" * 40, b"capabilities^{}")]
    for number, (oid, name) in enumerate(entries):
        answer.append(packet(oid + b" " + name + (b"\0" + _CAPABILITIES if number == 0 else b"") + b"\n"))
    return b"".join(answer) + FLUSH


@dataclass(frozen=True, slots=True)
class _Commands:
    updates: tuple[RefUpdate, ...]
    capabilities: frozenset[bytes]
    options: tuple[bytes, ...]

    @property
    def has_pack(self) -> bool:
        """A pack follows unless the push only deletes."""
        return any(update.new is not None for update in self.updates)


def _parse(reader: PacketReader, limits: Limits) -> _Commands | None:
    """The commands of a push; None for the empty request with which clients try out the connection."""
    updates: list[RefUpdate] = []
    capabilities: frozenset[bytes] = frozenset()
    shallow_count = 0
    while isinstance(line := reader.read(), bytes):
        if line.startswith(b"shallow "):
            # The client's history ends there. Nothing hangs on it: what a push names must be complete here.
            shallow_count += 1
            if shallow_count > limits.object_count_max:
                raise LimitExceeded("The number of shallow commits", limit="object_count_max", bound=shallow_count - 1)
            continue
        if not updates:
            line, _, words = line.partition(b"\0")
            capabilities = frozenset(words.split())
        updates.append(_command(line))
        if len(updates) > limits.ref_updates_max:
            raise LimitExceeded(
                "The number of refs in one push",
                limit="ref_updates_max",
                bound=limits.ref_updates_max,
                hint="Push fewer refs at a time.",
            )
    if not updates:
        return None
    if line is not Mark.FLUSH:
        raise pktline.malformed("the list of refs to push does not end with a flush packet")
    if any(word.startswith(b"object-format=") and word != b"object-format=sha1" for word in capabilities):
        raise Refused("This server keeps SHA-1 repositories only.", code="git_protocol_error")
    options: list[bytes] = []
    if b"push-options" in capabilities:
        while isinstance(line := reader.read(), bytes):
            options.append(line.removesuffix(b"\n"))
            if len(options) > limits.push_options_max:
                raise LimitExceeded(
                    "The number of push options", limit="push_options_max", bound=limits.push_options_max
                )
    return _Commands(tuple(updates), capabilities, tuple(options))


def _command(line: bytes) -> RefUpdate:
    match = _COMMAND.match(line)
    if match is None:
        raise pktline.malformed(f"unexpected line in a push request: {line[:80].decode('ascii', 'replace')!r}")
    old, new = match[1].decode(), match[2].decode()
    return RefUpdate(match[3], None if old == _NONE else old, None if new == _NONE else new)


class _Body:
    """The request's body; remembers its own failures, so that a vanished client is not taken for a defect here."""

    def __init__(self, body: BinaryIO) -> None:
        self._body = body
        self.failure: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._body.read(size)
        except BaseException as error:
            self.failure = error
            raise


def receive(parts: Parts, tenant: str, body: BinaryIO, *, who: str) -> Generator[bytes, None, None]:
    """Answer one `POST git-receive-pack`.

    Raises Refused at the call for what is no push, TenantNotFound. The iterator does the work as it is consumed: when
    it has yielded its last bytes the push is durable or refused. Closing it early discards what was not yet committed.
    """
    parts.database.tenant(tenant)
    wrapped = _Body(body)
    commands = _parse(PacketReader(wrapped), parts.limits)
    if commands is None:
        return pktline.nothing()
    return _conversation(parts, tenant, commands, wrapped, who=who)


def _conversation(
    parts: Parts, tenant: str, commands: _Commands, body: _Body, *, who: str
) -> Generator[bytes, None, None]:
    answer = _Answer(commands.capabilities)
    try:
        options = parse_options(commands.options)
        bad_option: GitStoreError | None = None
    except GitStoreError as error:
        options, bad_option = PushOptions(), error
    request = PushRequest(tenant, commands.updates, who=who, atomic=b"atomic" in commands.capabilities, options=options)
    with Push(parts, request) as running:
        try:
            if bad_option is not None:
                result = running.refuse(bad_option)
            else:
                if commands.has_pack:
                    running.receive(cast("BinaryIO", body))
                    if running.object_count >= PROGRESS_OBJECTS_MIN and b"quiet" not in commands.capabilities:
                        yield from answer.text([f"  Checking {running.object_count} objects"])
                result = running.finish()
        except Exception as error:
            # The last border before the network: a defect here must be told to the pusher as a refusal, and to the
            # operator with its traceback. A client that vanished (its own body failed) gets no answer.
            if error is body.failure:
                raise
            log.exception("push failed", extra={"tenant": tenant})
            result = running.refuse(
                GitStoreError(
                    "The server failed while it took in this push.",
                    hint="Try again; if it happens again, tell the operator.",
                    code="internal_error",
                )
            )
        if commands.has_pack and not running.has_whole_pack:
            # A client that still sends does not read: without this it would see a reset instead of the reason.
            _drain(body, parts.limits.pack_bytes_max)
    log.info(
        "push",
        extra={
            "tenant": tenant,
            "who": who,
            "refs": len(result.outcomes),
            "refused": sum(not outcome.ok for outcome in result.outcomes),
        },
    )
    yield from answer.text(result.lines)
    yield from answer.report(result)


def _drain(body: _Body, bytes_max: int) -> None:
    left = bytes_max
    while left > 0 and (chunk := body.read(min(left, _DRAIN_BYTES))):
        left -= len(chunk)


class _Answer:
    """Turns lines and outcomes into packets, as the client's capabilities allow."""

    def __init__(self, capabilities: frozenset[bytes]) -> None:
        self._with_sideband = b"side-band-64k" in capabilities
        self._with_report = b"report-status" in capabilities

    def text(self, lines: Iterable[str]) -> Iterator[bytes]:
        """`remote:` lines. Clients without side bands cannot show them."""
        if self._with_sideband:
            for line in lines:
                for plain in pktline.remote_lines(line):
                    yield from pktline.sideband(2, plain.encode("ascii") + b"\n")

    def report(self, result: PushResult) -> Iterator[bytes]:
        if self._with_report:
            unpacked = "ok" if result.objects_error is None else _one_line(report.first_line(result.objects_error))
            status = packet(f"unpack {unpacked}\n".encode())
            for outcome in result.outcomes:
                if outcome.ok:
                    status += packet(b"ok " + outcome.name + b"\n")
                else:
                    status += packet(b"ng " + outcome.name + b" " + _one_line(outcome.reason).encode() + b"\n")
            status += FLUSH
            if self._with_sideband:
                yield from pktline.sideband(1, status)
            else:
                yield status
        if self._with_sideband:
            yield FLUSH


def _one_line(text: str) -> str:
    """`text` for report-status: the same safe characters as `remote:` lines, in one line of bounded length."""
    lines = pktline.remote_lines(text)
    return " ".join(line.strip() for line in lines)[:500]
