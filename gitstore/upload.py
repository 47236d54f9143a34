"""Git's fetch conversation: clone, fetch and pull, protocol versions 0, 1 and 2, over stateless HTTP requests.

Refs come from the database, never from files, so that a client sees exactly what has been committed there. Every
request is parsed completely before a byte is answered: what is malformed raises Refused at the call. The iterators
returned read objects as they go; dropping one early drops nothing else.
Source: gitprotocol-pack and gitprotocol-v2; the state machine of negotiation follows git's upload-pack.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pygit2

from . import history, pktline
from .errors import Corrupt, Refused
from .fetch_request import FetchRequest, parse_v0, parse_v2, request_lines, shown_line
from .pktline import DELIMITER, FLUSH, Mark, PacketReader, packet

__all__ = ["Advertised", "advertised_refs", "fetch_v0", "fetch_v2", "upload_advertisement"]

# A want that is no tip is looked for in the history of the tips, so far and no farther.
WANTS_MAX: Final = 10_000
_CAPABILITIES_V0: Final = (
    b"multi_ack multi_ack_detailed no-done thin-pack side-band side-band-64k ofs-delta shallow deepen-since "
    b"deepen-relative no-progress include-tag allow-tip-sha1-in-want allow-reachable-sha1-in-want "
    b"object-format=sha1"
)
_CAPABILITIES_V2: Final = (b"ls-refs=unborn", b"fetch=shallow", b"object-format=sha1")


@dataclass(frozen=True, slots=True)
class Advertised:
    """The refs that a client may see (full names, hex ids, sorted) and where HEAD points (it may not exist)."""

    refs: Mapping[bytes, bytes]
    head: bytes


def advertised_refs(refs: Mapping[bytes, bytes], default_branch: str) -> Advertised:
    """What clients see of the database's refs: branches and tags; pins and other bookkeeping stay hidden."""
    visible = {name: refs[name] for name in sorted(refs) if name.startswith((b"refs/heads/", b"refs/tags/"))}
    return Advertised(visible, b"refs/heads/" + default_branch.encode())


def upload_advertisement(advertised: Advertised, repository: pygit2.Repository | None, *, version: int) -> bytes:
    """What `GET info/refs?service=git-upload-pack` answers."""
    if version == 2:
        lines = [b"version 2\n", pktline.AGENT + b"\n", *(name + b"\n" for name in _CAPABILITIES_V2)]
        return b"".join(map(packet, lines)) + FLUSH
    answer = [packet(b"# service=git-upload-pack\n"), FLUSH]
    if version == 1:
        answer.append(packet(b"version 1\n"))
    entries: list[tuple[bytes, bytes]] = []
    capabilities = _CAPABILITIES_V0 + b" " + pktline.AGENT
    if advertised.head in advertised.refs:
        capabilities += b" symref=HEAD:" + advertised.head
        entries.append((advertised.refs[advertised.head], b"HEAD"))
    for name, oid in advertised.refs.items():
        entries.append((oid, name))
        peeled = _peeled(repository, name, oid)
        if peeled is not None:
            entries.append((peeled, name + b"^{}"))
    if not entries:
        entries.append((b"0" * 40, b"capabilities^{}"))
    for number, (oid, name) in enumerate(entries):
        answer.append(packet(oid + b" " + name + (b"\0" + capabilities if number == 0 else b"") + b"\n"))
    return b"".join(answer) + FLUSH


def _peeled(repository: pygit2.Repository | None, name: bytes, oid: bytes) -> bytes | None:
    """The id under an annotated tag, None for anything else."""
    if repository is None or not name.startswith(b"refs/tags/"):
        return None
    tags, target = history.peel(repository, oid.decode())
    return str(target.id).encode() if tags else None


def fetch_v0(
    body: PacketReader, advertised: Advertised, repository: pygit2.Repository | None
) -> Generator[bytes, None, None]:
    """Answer one `POST git-upload-pack` of protocol version 0 or 1. Raises Refused before the first byte only."""
    request = parse_v0(body)
    if not request.wants:
        return pktline.nothing()
    repository = _checked(request, advertised, repository)
    return _answer_v0(request, advertised, repository)


def _answer_v0(
    request: FetchRequest, advertised: Advertised, repository: pygit2.Repository
) -> Generator[bytes, None, None]:
    change = history.shallow(repository, _commits(repository, request.wants), request.deepen, request.client_shallow)
    if request.deepen.is_wanted:
        yield from _shallow_lines(change, request)
        yield FLUSH
    if request.is_ended:
        return
    detailed = b"multi_ack_detailed" in request.capabilities
    multi = detailed or b"multi_ack" in request.capabilities
    common: list[str] = []
    for have in request.haves:
        if not _is_commit(repository, have):
            continue
        common.append(have)
        if detailed:
            yield packet(f"ACK {have} common\n".encode())
        elif multi:
            yield packet(f"ACK {have} continue\n".encode())
        elif len(common) == 1:
            yield packet(f"ACK {have}\n".encode())
    if request.is_done:
        if common and multi:
            yield packet(f"ACK {common[-1]}\n".encode())
        elif not common:
            yield packet(b"NAK\n")
    else:
        is_ready = detailed and bool(common) and _is_covered(repository, request, common)
        if is_ready:
            yield packet(f"ACK {common[-1]} ready\n".encode())
        if multi or not common:
            yield packet(b"NAK\n")
        if not (is_ready and b"no-done" in request.capabilities):
            return
        yield packet(f"ACK {common[-1]}\n".encode())
    if b"side-band-64k" in request.capabilities:
        packet_bytes_max = pktline.PACKET_BYTES_MAX
    elif b"side-band" in request.capabilities:
        packet_bytes_max = pktline.SMALL_PACKET_BYTES_MAX
    else:
        packet_bytes_max = 0
    yield from _pack(request, advertised, repository, change, common, packet_bytes_max=packet_bytes_max)


def fetch_v2(
    body: PacketReader, advertised: Advertised, repository: pygit2.Repository | None
) -> Generator[bytes, None, None]:
    """Answer one `POST git-upload-pack` of protocol version 2: `ls-refs` or `fetch`."""
    lines = request_lines(body)
    command = b""
    separator: bytes | Mark = Mark.END
    for line in lines:
        if not isinstance(line, bytes):
            separator = line
            break
        if line.startswith(b"command="):
            command = line.removeprefix(b"command=")
        elif line.startswith(b"object-format=") and line != b"object-format=sha1":
            raise pktline.malformed("this server keeps SHA-1 repositories only")
    if not command:
        return pktline.nothing()
    arguments: list[bytes] = []
    if separator is Mark.DELIMITER:
        for line in lines:
            if not isinstance(line, bytes):
                break
            arguments.append(line)
    if command == b"ls-refs":
        return _ls_refs(arguments, advertised, repository)
    if command != b"fetch":
        raise pktline.malformed(f"unknown command in a version 2 request: {shown_line(command)}")
    request = parse_v2(arguments)
    if not request.wants:
        return pktline.nothing()
    return _answer_v2(request, advertised, _checked(request, advertised, repository))


def _ls_refs(
    arguments: list[bytes], advertised: Advertised, repository: pygit2.Repository | None
) -> Generator[bytes, None, None]:
    prefixes = tuple(a.removeprefix(b"ref-prefix ") for a in arguments if a.startswith(b"ref-prefix "))
    with_symrefs, with_peeled = b"symrefs" in arguments, b"peel" in arguments
    entries: list[tuple[bytes, bytes]] = []
    if advertised.head in advertised.refs:
        entries.append((b"HEAD", advertised.refs[advertised.head]))
    elif b"unborn" in arguments and (not prefixes or b"HEAD".startswith(prefixes)):
        yield packet(b"unborn HEAD" + (b" symref-target:" + advertised.head if with_symrefs else b"") + b"\n")
    entries += advertised.refs.items()
    for name, oid in entries:
        if prefixes and not name.startswith(prefixes):
            continue
        line = oid + b" " + name
        if name == b"HEAD" and with_symrefs:
            line += b" symref-target:" + advertised.head
        if with_peeled:
            peeled = _peeled(repository, name, oid)
            line += b" peeled:" + peeled if peeled is not None else b""
        yield packet(line + b"\n")
    yield FLUSH


def _answer_v2(
    request: FetchRequest, advertised: Advertised, repository: pygit2.Repository
) -> Generator[bytes, None, None]:
    common = [have for have in request.haves if _is_commit(repository, have)]
    if request.haves and not request.is_done:
        yield packet(b"acknowledgments\n")
        if not common:
            yield packet(b"NAK\n")
        for have in common:
            yield packet(f"ACK {have}\n".encode())
        if not common or not _is_covered(repository, request, common):
            yield FLUSH
            return
        yield packet(b"ready\n")
        yield DELIMITER
    change = history.shallow(repository, _commits(repository, request.wants), request.deepen, request.client_shallow)
    if request.deepen.is_wanted:
        yield packet(b"shallow-info\n")
        yield from _shallow_lines(change, request)
        yield DELIMITER
    yield packet(b"packfile\n")
    yield from _pack(request, advertised, repository, change, common, packet_bytes_max=pktline.PACKET_BYTES_MAX)


def _checked(request: FetchRequest, advertised: Advertised, repository: pygit2.Repository | None) -> pygit2.Repository:
    """The repository, once every want is a tip that the client may see or a commit in the history of one."""
    if len(request.wants) > WANTS_MAX:
        raise Refused(
            f"the fetch request wants {len(request.wants)} objects; {WANTS_MAX} are allowed",
            code="request_too_large",
            hint="fetch fewer branches at once",
        )
    tips = {oid.decode() for oid in advertised.refs.values()}
    missing = set(request.wants) - tips
    if repository is not None and missing:
        missing -= {oid for tip in tips for oid in history.peel(repository, tip)[0]}
        missing -= _reachable(repository, tips, missing)
    if repository is None or missing:
        raise Refused(
            f"not our ref {min(missing or request.wants)}",
            code="object_not_found",
            hint="fetch again: the branch may have moved or been deleted meanwhile",
        )
    return repository


def _reachable(repository: pygit2.Repository, tips: Iterable[str], wanted: set[str]) -> set[str]:
    """Those of `wanted` in the history of `tips`; stops as soon as all are found."""
    found: set[str] = set()
    queue = deque(_commits(repository, tips))
    seen = set(queue)
    while queue and found != wanted:
        oid = queue.popleft()
        if oid in wanted:
            found.add(oid)
        fresh = [parent for parent in history.parents(repository, oid) if parent not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return found


def _is_commit(repository: pygit2.Repository, oid: str) -> bool:
    return oid in repository and isinstance(history.found(repository, oid), pygit2.Commit)


def _commits(repository: pygit2.Repository, oids: Iterable[str]) -> list[str]:
    targets = (history.peel(repository, oid)[1] for oid in oids)
    return list(dict.fromkeys(str(target.id) for target in targets if isinstance(target, pygit2.Commit)))


def _is_covered(repository: pygit2.Repository, request: FetchRequest, common: list[str]) -> bool:
    return history.covered(repository, _commits(repository, request.wants), set(common))


def _shallow_lines(change: history.ShallowChange, request: FetchRequest) -> Iterator[bytes]:
    for oid in sorted(change.shallow - request.client_shallow):
        yield packet(f"shallow {oid}".encode())
    for oid in sorted(change.unshallow):
        yield packet(f"unshallow {oid}".encode())


def _pack(
    request: FetchRequest,
    advertised: Advertised,
    repository: pygit2.Repository,
    change: history.ShallowChange,
    common: list[str],
    *,
    packet_bytes_max: int,
) -> Iterator[bytes]:
    """The pack, in side-band packets and a final flush, or bare if `packet_bytes_max` is 0."""
    tags: list[tuple[str, str]] = []
    if b"include-tag" in request.capabilities:
        for name, oid in advertised.refs.items():
            peeled = _peeled(repository, name, oid)
            if peeled is not None:
                tags.append((oid.decode(), peeled.decode()))
    selection = history.select(
        repository, request.wants, common, change=change, client_shallow=request.client_shallow, tags=tags
    )
    stream = _gathered(pktline.pack_stream(len(selection), _objects(repository, selection)))
    if not packet_bytes_max:
        yield from stream
        return
    try:
        for chunk in stream:
            yield from pktline.sideband(1, chunk, packet_bytes_max=packet_bytes_max)
    except (KeyError, pygit2.GitError, Corrupt):
        # The object was there when it was pushed. The client must learn that its pack is no good.
        yield from pktline.sideband(3, b"perdure: an object of this repository cannot be read; tell the operator\n")
        raise
    yield FLUSH


def _objects(repository: pygit2.Repository, selection: history.Selection) -> Iterator[tuple[str, bytes]]:
    names = {
        pygit2.enums.ObjectType.COMMIT: "commit",
        pygit2.enums.ObjectType.TREE: "tree",
        pygit2.enums.ObjectType.BLOB: "blob",
        pygit2.enums.ObjectType.TAG: "tag",
    }
    database = repository.odb
    for oid in selection.objects:
        kind, content = database.read(pygit2.Oid(hex=oid))
        yield names[pygit2.enums.ObjectType(kind)], content


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Small chunks joined to about a packet's size: one write per object would drown a small clone in packets."""
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= 60_000:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
