"""The asyncio side of the web server: one thread, one loop, its listening socket and its connections."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import trio
import uvicorn

from executor.http.bridge import Bridge
from executor.http.connection import KEEP_ALIVE_S, Connection, State

logger = logging.getLogger(__name__)

BACKLOG = 512
CONNECTIONS_MAX = 8192
"""At most; and no more than half of the descriptors that this process may have: sandboxes and stores need theirs."""
TICK_S = 1.0
LAST_WORDS_S = 1.0
"""How long connections that are cut at the end may take to notice."""


class Front:
    """`start`, then `drain` (no new connections; ends when the last one has), then `stop`. All three on trio."""

    def __init__(self, bridge: Bridge, listener: socket.socket, *, connections_max: int = CONNECTIONS_MAX) -> None:
        self._bridge = bridge
        self._listener = listener
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._connections_max = connections_max
        if descriptors != resource.RLIM_INFINITY:
            self._connections_max = min(connections_max, descriptors // 2)
        self._trio_token = trio.lowlevel.current_trio_token()
        self._started = trio.Event()
        self._drained = trio.Event()
        self._ended = trio.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._state: State
        self._config: uvicorn.Config
        self._server: asyncio.Server
        self._stopping: asyncio.Event
        self._is_draining = False

    # --- on trio

    async def start(self) -> None:
        """Connections are accepted on return."""
        threading.Thread(target=self._thread_main, name="perdure-http", daemon=True).start()
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def ended(self) -> None:
        """Raises what ended the loop; it does not end by itself."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    async def drain(self) -> None:
        """Stop accepting, close what is idle, and wait for the requests under way."""
        self._call(self._drain)
        await self._drained.wait()

    async def stop(self) -> None:
        """Cut what is left, and end the thread."""
        self._call(self._stop)
        await self._ended.wait()

    def _call(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # it has ended already
            self._drained.set()

    # --- on asyncio

    def _thread_main(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # a thread's border: it belongs to who waits for it
            self._failure = error
        finally:
            self._listener.close()
            for event in (self._started, self._drained, self._ended):
                self._tell(event)

    def _tell(self, event: trio.Event) -> None:
        try:
            self._trio_token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            logger.debug("nobody waits for the web server any more")

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._bridge.attach(self._loop)
        self._state = State(connections_max=self._connections_max, on_lost=self._on_lost)
        app: Any = self._bridge  # starlette types ASGI with plain mappings, uvicorn with typed ones
        self._config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._server = await self._loop.create_server(
            lambda: Connection(self._config, self._state, self._loop), sock=self._listener, backlog=BACKLOG
        )
        self._tell(self._started)
        stopped = self._loop.create_task(self._stopping.wait())
        while not stopped.done():
            self._tick()
            await asyncio.wait({stopped}, timeout=TICK_S)
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=LAST_WORDS_S)

    def _tick(self) -> None:
        """The Date header, and clients that let us wait."""
        self._state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        now_s = self._loop.time()
        for connection in list(self._state.connections):
            assert isinstance(connection, Connection)
            connection.reap(now_s)

    def _drain(self) -> None:
        self._is_draining = True
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        self._on_lost()

    def _on_lost(self) -> None:
        if self._is_draining and not self._state.connections:
            self._tell(self._drained)

    def _stop(self) -> None:
        self._stopping.set()
