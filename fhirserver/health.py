"""/healthz: the process lives. /readyz: it can serve, or says what is missing."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from starlette.responses import JSONResponse

from fhirserver.errors import Unavailable
from fhirserver.store import Store


def router(store: Store, crashes: Callable[[], int]) -> APIRouter:
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

    return routes
