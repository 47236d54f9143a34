"""Serve an application with hypercorn on trio: bound before it says so, drained before it ends."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config as HypercornConfig
from starlette.applications import Starlette

from executor.core.errors import Refused

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long requests under way may still take once the server stops: every answer given is durable before it is sent,
so cutting one loses nothing but its reply."""
BACKLOG = 512
HEADER_BYTES_MAX = 32 * 1024
KEEP_ALIVE_S = 30.0


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises Refused: no such address, or the port is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise Refused(
            f"The address {host!r} is unknown: {error.strerror}.", hint="Name an address of this machine."
        ) from None
    except OSError as error:
        raise Refused(
            f"Port {port} of {host} cannot be taken: {os.strerror(error.errno or 0)}.",
            hint="Stop what listens there, or choose another port (--port N; 0 takes a free one).",
        ) from None


def address_of(listener: socket.socket) -> str:
    """`http://host:port` of a listening socket; a wildcard address is told as the loopback one."""
    host, port = listener.getsockname()[:2]
    host = str(host)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    app: Starlette,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    shutdown: trio.Event,
    listener: socket.socket | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then stop listening, let requests end (at most 5 s), and return.

    Reports the address once connections are accepted. `listener` is used instead of `host` and `port` if given.
    """
    sock = listener or bind(host, port)
    address = address_of(sock)
    descriptor = sock.detach()
    config = HypercornConfig()
    config.bind = [f"fd://{descriptor}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    config.include_server_header = False
    config.backlog = BACKLOG

    async def until_shutdown() -> None:
        await shutdown.wait()
        app.state.closing.set()

    async with trio.open_nursery() as nursery:
        asgi: Any = app  # Starlette types ASGI with plain mappings, hypercorn with typed ones
        await nursery.start(partial(hypercorn.trio.serve, asgi, config, shutdown_trigger=until_shutdown, mode="asgi"))
        # hypercorn lets its children inherit the socket; a sandbox must not.
        os.set_inheritable(descriptor, False)
        logger.info("listening", extra={"address": address})
        task_status.started(address)
