"""/healthz: the process lives. /readyz: it can serve, or says what is missing. /metrics: Prometheus."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fhirserver.errors import Unavailable
from fhirserver.metrics import MEDIA_TYPE, Gauges, exposition
from fhirserver.store import Store


def router(store: Store, crashes: Callable[[], int], gauges: Gauges, token: str | None) -> APIRouter:
    """``token``: what /metrics asks for; None: nothing."""
    routes = APIRouter()

    @routes.get("/healthz")
    def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz")
    def readyz() -> JSONResponse:
        state: dict[str, object] = {"database": "ok"}
        if count := crashes():
            state["databaseCrashes"] = count
        try:
            store.ping()
        except Unavailable as error:
            return JSONResponse(state | {"status": "unavailable", "database": error.diagnostics}, 503, {"Retry-After": "2"})
        return JSONResponse(state | {"status": "ready"})

    @routes.get("/metrics")
    def measured(request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer realm="metrics"'})
        return Response(exposition(gauges), media_type=MEDIA_TYPE)

    return routes
