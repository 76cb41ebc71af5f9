"""Each HTTP request is counted, timed, logged and given an id; outermost, so that nothing is left out.

https://hl7.org/fhir/R4/http.html#custom
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhirserver.logs import REQUESTS
from fhirserver.metrics import REQUESTS as COUNTED

AREAS = ("fhir", "dicomweb", "auth", "viewer")
TOLD = "fhirserver.told"  # in the scope: what the edges say of a request, for its line in the log
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ID = re.compile(rb"[A-Za-z0-9.\-]{1,64}")


class Observed:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        id_ = given if _ID.fullmatch(given) else os.urandom(8).hex().encode()
        scope[TOLD] = {}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id_)]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            _observed(scope, status or 500, id_.decode(), time.perf_counter() - begun)


def _observed(scope: Scope, status: int, id_: str, seconds: float) -> None:
    area = scope["path"][1:].partition("/")[0]
    area = area if area in AREAS else "other"
    method = scope["method"] if scope["method"] in _METHODS else "other"
    COUNTED.labels(area, method, status).inc()
    if REQUESTS.isEnabledFor(logging.INFO) and area != "other":
        row: dict[str, Any] = {
            "area": area,
            "method": method,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "request_id": id_,
        }
        REQUESTS.info("request", extra=row | scope[TOLD])
