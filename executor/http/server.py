"""Serve an application that runs on trio: bound before it says so, drained before it ends.

The web server is uvicorn's HTTP on an asyncio loop in a thread of its own (`front`); requests cross to trio and their
answers back over the `bridge`.
"""

from __future__ import annotations

import logging
import os
import socket

import trio
from starlette.applications import Starlette

from executor.core.errors import Refused
from executor.http.bridge import Bridge
from executor.http.front import BACKLOG, CONNECTIONS_MAX, Front

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long requests under way may still take once the server stops: every answer given is durable before it is sent,
so cutting one loses nothing but its reply."""
REQUESTS_MAX = 4096
"""Answered at the same time; one more is told to come back. Each costs some 20 KiB while it waits."""


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
    requests_max: int = REQUESTS_MAX,
    connections_max: int = CONNECTIONS_MAX,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then stop listening, let requests end (at most 5 s), and return.

    Reports the address once connections are accepted. `listener` is used instead of `host` and `port` if given.
    """
    bound = listener or bind(host, port)
    address = address_of(bound)
    bridge = Bridge(app, requests_max=requests_max)
    # The web server's own from here on; who gave the listener has nothing left to close.
    front = Front(bridge, socket.socket(fileno=bound.detach()), connections_max=connections_max)
    await front.start()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            nursery.start_soon(front.ended)
            logger.info("listening", extra={"address": address})
            task_status.started(address)
            await shutdown.wait()
            app.state.closing.set()
            with trio.move_on_after(GRACE_S):
                await front.drain()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await front.stop()
        bridge.detach()
