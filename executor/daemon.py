"""The server process: one executor, HTTP over it, and signals that stop it in good order."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from executor.config import ADDRESS_FILE, Config, with_admin_token
from executor.core.errors import PerdureError
from executor.http.app import create_app
from executor.http.server import address_of, bind, serve
from executor.platform.host import composition_root
from executor.provenance import check_own_packages
from executor.wire import innermost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from executor.platform.host import Running


DESCRIPTORS = 65_536
"""As many as this process asks for; the hard bound of the machine may give fewer."""


def run(config: Config, *, announce: Callable[[str], None], running: Running | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then stop in good order. A second signal stops at once: nothing acknowledged is
    lost then either.

    `announce` gets the address once connections are accepted.
    Raises what opening the data directory raises, and Refused if the port is taken.
    """
    check_own_packages()
    _allow_descriptors()
    opened = running or composition_root()
    # The port is the cheapest thing to be refused, so it comes first; nothing is accepted before all is open.
    listener = bind(config.host, config.port)
    config = with_admin_token(dataclasses.replace(config, port=listener.getsockname()[1]))
    if config.public_url is None:
        config = dataclasses.replace(config, public_url=address_of(listener))

    async def main() -> None:
        shutdown = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_signals, shutdown)
            async with opened(config) as service:
                app = create_app(service, config, closing=trio.Event())
                with _address_told(config.data_dir) as tell:
                    async with trio.open_nursery() as serving:
                        address = await serving.start(partial(serve, app, listener=listener, shutdown=shutdown))
                        tell(address)
                        announce(address)
            nursery.cancel_scope.cancel()

    try:
        with listener:  # given to the web server when all is open; until then it is ours to close
            trio.run(main)
    except BaseExceptionGroup as group:
        inner = innermost(group)
        if isinstance(inner, PerdureError):
            raise inner from None
        raise


def _allow_descriptors() -> None:
    """The usual soft bound of 1024 is for programs that use select(); each connection, sandbox and store needs some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _watch_signals(
    shutdown: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if shutdown.is_set():
                os._exit(128 + number)
            shutdown.set()


@contextmanager
def _address_told(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """DIR/address says where this server listens, for the command line; it goes away with the server."""
    path = data_dir / ADDRESS_FILE

    def tell(address: str) -> None:
        path.write_text(address + "\n", encoding="ascii")

    try:
        yield tell
    finally:
        path.unlink(missing_ok=True)
