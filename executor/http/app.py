"""Wiring: the routes of API, git and operations, behind the border."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from executor.config import Config
from executor.core.errors import NotFound
from executor.http import api, git
from executor.http.border import Border, Metrics
from executor.http.errors import response_of

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

    app = Starlette(
        routes=[
            *api.routes(service, config, closing),
            *git.routes(service, config),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            Route("/metrics", figures, methods=["GET"]),
            *(extra_routes or []),
        ],
        middleware=[Middleware(Border, metrics=metrics)],
        exception_handlers={HTTPException: _no_route},
    )
    # A redirect for a trailing slash would make clients send their token twice.
    app.router.redirect_slashes = False
    app.state.closing = closing
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    answer = response_of(
        NotFound(
            f"There is no {request.method[:20]} {request.url.path[:200]}.",
            hint="The routes are listed at /api/v1/openapi.json.",
        ),
        is_git=request.url.path.startswith("/git/"),
    )
    if error.status_code == 405:
        answer.status_code = 405
        answer.headers["Allow"] = (error.headers or {}).get("Allow", "")
    return answer
