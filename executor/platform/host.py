"""Host: the executor on a trio thread of its own, inside any other program.

Calls from other threads and event loops become `concurrent.futures.Future`s, which a plain thread, asyncio and trio
can each wait for without a further thread. Cancelling the future cancels the call.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from executor.config import Config, with_admin_token
from executor.core.errors import Unavailable
from executor.provenance import check_own_packages
from executor.wire import innermost

if TYPE_CHECKING:
    from executor.service import Caller, Service

T = TypeVar("T")
Running = Callable[[Config], AbstractAsyncContextManager["Service"]]

logger = logging.getLogger(__name__)


def _closed() -> Unavailable:
    return Unavailable("The platform is closed.", code="shutting_down", hint="Open it again with Platform.local(…).")


class Host:
    """One service on one thread. `start` once, `submit` any number of times, `stop` once."""

    def __init__(self, config: Config, *, running: Running | None = None) -> None:
        self._config = config
        self._running = running
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._calls: deque[tuple[Callable[..., Awaitable[Any]], Future[Any]]] = deque()
        self._is_woken = False
        self._ended: Future[None] = Future()
        self._lock = threading.Lock()
        self._address: str | None = None

    # --- from any thread

    def start(self) -> Future[None]:
        """Open the data directory. The future ends when calls can be answered, or with the reason why not."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._thread_main, args=(ready,), name="perdure", daemon=True)
        self._thread.start()
        # A program that ends without closing still stops its executor in good order.
        atexit.register(self._stop_at_exit)
        return ready

    def submit(self, call: Callable[[Service, Caller], Awaitable[T]]) -> Future[T]:
        """Run `call` on the trio thread."""
        future: Future[T] = Future()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call from the platform's own thread would wait for itself")
        token = self._token
        if token is None:
            future.set_exception(_closed())
            return future
        # Calls of many threads are taken in one wake-up of the event loop. Append first, then look: `_take` lowers the
        # flag before it looks at the queue, so a call is either seen by it or wakes it again.
        self._calls.append((call, future))
        if not self._is_woken:
            self._is_woken = True
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._take)
        if self._token is None:  # it ended meanwhile, and may have looked before
            self._refuse_calls()
        return future

    def address(self) -> str:
        """Where this host serves git and the API: a loopback port, taken when first asked. Blocks some milliseconds."""
        with self._lock:
            if self._address is None:
                self._address = self.submit(self._serve).result()
            return self._address

    def stop(self) -> Future[None]:
        """Stop in good order; the future ends when the data directory is released."""
        atexit.unregister(self._stop_at_exit)
        if self._thread is None and not self._ended.done():
            self._ended.set_result(None)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop.set)
        return self._ended

    def _stop_at_exit(self) -> None:
        with suppress(Exception):  # the interpreter ends: there is nobody left to tell
            self.stop().result(timeout=10)

    # --- on the trio thread

    def _thread_main(self, ready: Future[None]) -> None:
        try:
            trio.run(self._main, ready)
        except BaseException as error:  # a thread's border: whatever it is belongs to who waits for it
            inner = innermost(error)
            if ready.done():
                logger.exception("the embedded executor failed")
            else:
                ready.set_exception(inner)
        finally:
            self._token = None
            self._refuse_calls()
            self._ended.set_result(None)

    async def _main(self, ready: Future[None]) -> None:
        check_own_packages()
        config = with_admin_token(self._config)
        running = self._running or composition_root()
        self._stop = trio.Event()
        async with running(config) as service:
            self._service = service
            self._config = config
            self._caller = await service.authenticate(config.admin_token)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._token = trio.lowlevel.current_trio_token()
                ready.set_result(None)
                await self._stop.wait()
                nursery.cancel_scope.cancel()

    def _take(self) -> None:
        self._is_woken = False
        if self._stop.is_set():
            self._refuse_calls()
        else:
            with suppress(IndexError):
                while True:
                    self._nursery.start_soon(self._answer, *self._calls.popleft())

    def _refuse_calls(self) -> None:
        with suppress(IndexError):
            while True:
                _fail(self._calls.popleft()[1], _closed())

    async def _answer(self, call: Callable[[Service, Caller], Awaitable[T]], future: Future[T]) -> None:
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope:

            def given_up(done: Future[T]) -> None:
                if done.cancelled():
                    with suppress(trio.RunFinishedError):
                        token.run_sync_soon(scope.cancel)

            future.add_done_callback(given_up)
            try:
                value = await call(self._service, self._caller)
            except Exception as error:  # it belongs to who waits for it
                _fail(future, innermost(error))
                return
            except trio.Cancelled:
                _fail(future, _closed())
                raise
            if future.set_running_or_notify_cancel():
                future.set_result(value)

    async def _serve(self, service: Service, _caller: Caller) -> str:
        # Web server libraries are loaded only by those who use git or HTTP.
        from executor.http.app import create_app  # noqa: PLC0415
        from executor.http.server import serve  # noqa: PLC0415

        app = create_app(service, self._config, closing=self._stop)
        address: str = await self._nursery.start(partial(serve, app, shutdown=self._stop))
        return address


def composition_root() -> Running:
    """`executor.main.running`. It brings every adapter with it: only those who open an executor load them."""
    from executor.main import running  # noqa: PLC0415

    return running


def _fail(future: Future[T], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
