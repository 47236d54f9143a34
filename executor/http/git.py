"""Git's smart HTTP under /git/<tenant>.git: any user name, a token as the password; or `Authorization: Bearer`.

Source: git's http-protocol and gitprotocol-v2 documents. The conversation itself is gitstore's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from executor.config import Config
from executor.core.errors import NotFound, Refused
from executor.http import bodies, streams
from executor.http.requests import bearer

if TYPE_CHECKING:
    from executor.service import Caller, Service

GitService = Literal["git-upload-pack", "git-receive-pack"]

NO_CACHE = {
    "Expires": "Fri, 01 Jan 1980 00:00:00 GMT",
    "Pragma": "no-cache",
    "Cache-Control": "no-cache, max-age=0, must-revalidate",
}
"""What git-http-backend sends, and clients and proxies rely on."""
_PROTOCOL_CHARS_MAX = 128


def routes(service: Service, config: Config) -> list[Route]:
    repository = "/git/{tenant}.git"

    async def info_refs(request: Request) -> Response:
        caller = await _authenticate(service, request)
        git_service = request.query_params.get("service")
        if git_service not in ("git-upload-pack", "git-receive-pack"):
            raise Refused(
                "This server speaks git's smart protocol only.",
                hint="Use a git client of 1.6.6 (2010) or newer.",
            )
        body = await service.git_advertise(
            caller, request.path_params["tenant"], git_service, protocol=_protocol(request)
        )
        return Response(body, 200, NO_CACHE, f"application/x-{git_service}-advertisement")

    async def upload_pack(request: Request) -> Response:
        return await _exchange(service, config, request, "git-upload-pack")

    async def receive_pack(request: Request) -> Response:
        return await _exchange(service, config, request, "git-receive-pack")

    async def dumb(_request: Request) -> Response:
        raise NotFound("This server speaks git's smart protocol only.", hint="Use a git client of 1.6.6 or newer.")

    return [
        Route(repository + "/info/refs", info_refs, methods=["GET"]),
        Route(repository + "/git-upload-pack", upload_pack, methods=["POST"]),
        Route(repository + "/git-receive-pack", receive_pack, methods=["POST"]),
        Route("/git/{rest:path}", dumb, methods=["GET", "POST"]),
    ]


async def _exchange(service: Service, config: Config, request: Request, git_service: GitService) -> Response:
    caller = await _authenticate(service, request)
    kind = request.headers.get("content-type", "")
    if kind != f"application/x-{git_service}-request":
        raise Refused(f"Content-Type {kind[:60]!r} is not that of a {git_service} request.")
    items = _answer(service, caller, config, request, git_service)
    return streams.Streamed(items, media_type=f"application/x-{git_service}-result", headers=NO_CACHE)


async def _answer(
    service: Service, caller: Caller, config: Config, request: Request, git_service: GitService
) -> AsyncGenerator[bytes, None]:
    """The body is complete on disk before the conversation begins: no slow client holds a worker."""
    tenant = request.path_params["tenant"]
    # git shows of an HTTP error its number only; the code store tells a pusher which limit it is, and its bound.
    is_push = git_service == "git-receive-pack"
    async with bodies.spooled_body(request, limit=config.push_bytes_max, cut=is_push) as body:
        answer = await service.git_exchange(caller, tenant, git_service, body, protocol=_protocol(request))
        async with aclosing(streams.closing_iterator(answer)) as parts:
            async for part in parts:
                yield part


def _protocol(request: Request) -> str | None:
    """The Git-Protocol header ("version=2"); a strange one counts as absent."""
    text = request.headers.get("git-protocol")
    return text if text and text.isascii() and len(text) <= _PROTOCOL_CHARS_MAX else None


async def _authenticate(service: Service, request: Request) -> Caller:
    return await service.authenticate(bearer(request.scope) or _basic_password(request))


def _basic_password(request: Request) -> str | None:
    """The password of HTTP Basic (RFC 7617), or None."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text.partition(":")[2] or None
