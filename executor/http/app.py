"""Wiring: the routes of API, git and operations, behind the border."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from executor.config import Config
from executor.http import api, git
from executor.http.border import Border, Metrics

if TYPE_CHECKING:
    from executor.service import Service


def create_app(
    service: Service, config: Config, *, closing: trio.Event | None = None, extra_routes: list[BaseRoute] | None = None
) -> Starlette:
    """The ASGI application over `service`. When `closing` is set, streams end and long waits are answered.

    It must run on trio. `extra_routes` are other surfaces (the playground) on the same origin.
    """
    closing = trio.Event() if closing is None else closing
    metrics = Metrics()

    async def healthz(_request: Request) -> Response:
        """The process answers; no word on whether it can work."""
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready = not closing.is_set() and (await service.health()).ready
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    async def figures(_request: Request) -> Response:
        health = await service.health()
        gauges = {
            "ready": float(health.ready),
            "epoch": float(health.epoch),
            "active_runs": float(health.active_runs),
            "sandboxes": float(health.sandboxes),
            "isolation_level": float(health.isolation_level),
        }
        return PlainTextResponse(metrics.text(gauges), media_type="text/plain; version=0.0.4")

    app = _Application(
        metrics,
        [
            *api.routes(service, config, closing),
            *git.routes(service, config),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", figures, methods=["GET"]),
            *(extra_routes or []),
        ],
    )
    # A redirect for a trailing slash would make clients send their token twice.
    app.router.redirect_slashes = False
    app.state.closing = closing
    return app


class _Application(Starlette):
    """Starlette's routes behind the border alone: it answers every error, so that the framework's own layers, which
    would wrap every message of every request to do the same, are left out."""

    def __init__(self, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        super().__init__(routes=routes)
        self._metrics = metrics

    def build_middleware_stack(self) -> ASGIApp:
        return Border(self.router, self._metrics)
