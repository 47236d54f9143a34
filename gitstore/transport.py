"""Git's smart HTTP conversations as bytes in, bytes out: no server, no sockets, no credentials here.

    GET  info/refs?service=S   advertise(…)      → one body
    POST git-upload-pack       upload_pack(…)    → chunks (clone, fetch, pull)
    POST git-receive-pack      receive_pack(…)   → chunks (push)

Whoever serves these checks the token first, un-gzips bodies and joins chunked ones, and may stop consuming at any
time: closing a generator is always safe.
Source: gitprotocol-http.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import BinaryIO, Literal

import pygit2

from . import receive, upload
from .errors import Refused
from .libgit import open_repository
from .names import DEFAULT_BRANCH
from .parts import Parts
from .pktline import PacketReader
from .upload import Advertised

__all__ = ["Service", "advertise", "receive_pack", "upload_pack"]

Service = Literal["git-receive-pack", "git-upload-pack"]


def advertise(parts: Parts, tenant: str, service: Service, *, protocol: str | None = None) -> bytes:
    """The refs and capabilities that a client sees first. `protocol`: the Git-Protocol header, if it sent one.

    Raises TenantNotFound, Refused `unknown_service`.
    """
    advertised, repository = _view(parts, tenant)
    version = _version(protocol)
    if service == "git-receive-pack":
        return receive.receive_advertisement(advertised, version=version)
    if service == "git-upload-pack":
        return upload.upload_advertisement(advertised, repository, version=version)
    raise Refused(
        f"There is no git service {service!r}.",
        code="unknown_service",
        hint="Use a git client that speaks smart HTTP (any since version 1.6.6).",
    )


def upload_pack(
    parts: Parts, tenant: str, body: BinaryIO, *, protocol: str | None = None
) -> Generator[bytes, None, None]:
    """Answer one fetch request. Raises TenantNotFound and, before anything is yielded, Refused for a bad request."""
    advertised, repository = _view(parts, tenant)
    fetch = upload.fetch_v2 if _version(protocol) == 2 else upload.fetch_v0
    return fetch(PacketReader(body), advertised, repository)


def receive_pack(parts: Parts, tenant: str, body: BinaryIO, *, who: str) -> Generator[bytes, None, None]:
    """Answer one push request; see `receive.receive`."""
    return receive.receive(parts, tenant, body, who=who)


def _view(parts: Parts, tenant: str) -> tuple[Advertised, pygit2.Repository | None]:
    """What a client may see, and the repository behind it; None before the first push."""
    parts.database.tenant(tenant)
    advertised = upload.advertised_refs(parts.database.refs(tenant), DEFAULT_BRANCH)
    path = parts.repository_path(tenant)
    if not advertised.refs or not path.exists():
        return advertised, None
    return advertised, open_repository(path)


def _version(protocol: str | None) -> int:
    """The highest version that the header offers and this side speaks. Source: gitprotocol-v2, "HTTP Transport"."""
    offered = {part.strip() for part in (protocol or "").split(":")}
    return next((version for version in (2, 1) if f"version={version}" in offered), 0)
