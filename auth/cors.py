"""Cross-origin requests of browser apps.

"For requests from any origin, CORS configuration permits access to the public discovery endpoints"; "for requests from a client's
registered origin(s), CORS configuration permits access to the token endpoint and to FHIR REST API endpoints". Never with
credentials, and never for the pages that people see.
https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#considerations-for-cross-origin-resource-sharing-cors-support
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN = frozenset({"/fhir/metadata", "/fhir/openapi.json", "/auth/jwks", "/auth/style.json"})
_REGISTERED = ("/fhir", "/dicomweb", "/viewer/open", "/auth/token", "/auth/introspect", "/auth/revoke")
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_ALLOWED = b"Authorization, Content-Type, Accept, Prefer, If-Match, If-None-Match, If-Modified-Since, If-None-Exist, X-Provenance, X-Request-Id"
_EXPOSED = b"Content-Location, ETag, Last-Modified, Location, Retry-After, WWW-Authenticate, X-Request-Id"


class CORS:
    """The middleware. ``origins``: those of registered apps."""

    def __init__(self, app: ASGIApp, origins: Callable[[], frozenset[str]]) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = next((value for name, value in scope.get("headers", ()) if name == b"origin"), None)
        if scope["type"] != "http" or origin is None:
            await self._app(scope, receive, send)
            return
        allowed = await self._allowed(scope["path"], origin)
        preflight = scope["method"] == "OPTIONS" and any(n == b"access-control-request-method" for n, _ in scope["headers"])
        if preflight:
            await _answer(send, allowed)
        else:
            await self._app(scope, receive, _told(send, allowed) if allowed else send)

    async def _allowed(self, path: str, origin: bytes) -> bytes | None:
        if path in _OPEN or "/.well-known/" in path or (path.startswith("/auth/style-") and path.endswith(".json")):
            return b"*"
        if not path.startswith(_REGISTERED):
            return None
        known = await run_in_threadpool(self._origins)
        return origin if origin.decode("latin-1").lower() in known else None


def _told(send: Send, allowed: bytes) -> Callable[[Message], Awaitable[None]]:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [
                (b"access-control-allow-origin", allowed),
                (b"access-control-expose-headers", _EXPOSED),
                (b"vary", b"Origin"),
            ]
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return answer


async def _answer(send: Send, allowed: bytes | None) -> None:
    """A preflight. Where the origin is not allowed the browser is told nothing, and sends nothing."""
    headers = [(b"vary", b"Origin"), (b"content-length", b"0")]
    if allowed:
        headers += [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _ALLOWED),
            (b"access-control-max-age", b"600"),
        ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
