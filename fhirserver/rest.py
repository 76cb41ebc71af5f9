"""The HTTP edge: bytes -> Request, Reply -> bytes, every error -> OperationOutcome.

https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from auth.principal import Principal
from fhirserver import binary
from fhirserver.bundle import MAX_ENTRIES
from fhirserver.dispatch import dispatch
from fhirserver.errors import (
    BadRequest,
    FHIRError,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
)
from fhirserver.interactions.patch import JSON_PATCH
from fhirserver.messages import Context, Reply, Request
from fhirserver.observed import TOLD
from fhirserver.operations import OPERATIONS
from fhirserver.shape import Shape, shaped
from fhirserver.validation import MAX_RESOURCE, dumps

log = logging.getLogger("fhirserver.rest")

MEDIA_TYPE = "application/fhir+json"
MAX_BODY = 8 * MAX_RESOURCE
_FORM = "application/x-www-form-urlencoded"
_THREADS = 16
_JSON = ("application/fhir+json", "application/json", "text/json", "json")
_BINARY = re.compile(r"Binary(?:/(?P<id>[A-Za-z0-9\-.]{1,64}))?")
_OF_OPERATIONS = tuple(f"{o.type}/${o.code}" for o in OPERATIONS if [p.type for p in o.outputs] == ["Binary"])
_SINGLE = frozenset({"read", "vread", "create", "update", "patch"})
_DISCOVERY = "/fhir/.well-known/smart-configuration"
_SECURE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

# header -> who; a context for them
Authenticate = Callable[[str | None], Principal]
NewContext = Callable[[Principal], Context]
Handle = Callable[[HTTPRequest], Awaitable[Response]]


def install(app: FastAPI, authenticate: Authenticate, new_context: NewContext) -> Handle:
    """All of /fhir: one function, since ``dispatch.ROUTES`` says what is there; ``Edge`` is given it."""
    threads = ThreadPoolExecutor(_THREADS, "fhir")

    async def handle(request: HTTPRequest) -> Response:
        try:
            body = await _body(request)
            return await asyncio.get_running_loop().run_in_executor(threads, answer, request, body)
        except FHIRError as error:
            return failed(error)
        except Exception as error:
            return unexpected(error)

    def answer(request: HTTPRequest, body: bytes) -> Response:
        principal = authenticate(request.headers.get("authorization"))
        ctx = new_context(principal)
        request.scope[TOLD] = ctx.told
        ctx.told.update(client=principal.client, user=principal.user or "", organization=principal.organization)
        asked = _request(request, body)
        shape = Shape.of(asked.query)  # before anything is written
        reply = dispatch(ctx, asked)
        head = request.method == "HEAD"
        told_as = ctx.told["interaction"] in ("read", "vread", "operation")
        if told_as and _is_native(asked.path) and not _as_fhir(request, asked):
            return _native(reply, head)
        if ctx.told["interaction"] in _SINGLE:
            reply = shaped(shape, reply)
        return _response(reply, head, ("_pretty", "true") in asked.query)

    app.add_exception_handler(HTTPException, _http_error)
    return handle


class Edge:
    """Answers what is below /fhir before the framework looks: it is asked most, and its routes are dispatch's own.

    It spares a read the router and the framework's own middlewares.
    """

    def __init__(self, app: ASGIApp, handle: Handle) -> None:
        self._app, self._handle = app, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith("/fhir") and path[5:6] in ("", "/") and path != _DISCOVERY:
            answer = await self._handle(HTTPRequest(scope, receive))
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _body(request: HTTPRequest) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise TooLarge(f"A request may hold {MAX_BODY} bytes and a Bundle {MAX_ENTRIES} entries.")
        chunks.append(chunk)
    return b"".join(chunks)


def _request(request: HTTPRequest, body: bytes) -> Request:
    path = request.scope["path"][5:].strip("/")
    query = _pairs(request.scope["query_string"])
    _accepted(request, query)
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if path.endswith("_search"):
        if media not in (_FORM, ""):
            raise UnsupportedMediaType(f"POST _search with {_FORM}.")
        query += _pairs(body)
    elif media not in (*_JSON, "") and (named := _BINARY.fullmatch(path)) and request.method in ("POST", "PUT"):
        body = binary.wrapped(
            request.headers.get("content-type", "").strip(), body, named["id"] or "", request.headers.get("x-security-context")
        )
    elif body and media not in (*_JSON, "") and not (request.method == "PATCH" and media == JSON_PATCH):
        raise UnsupportedMediaType(f"Send {MEDIA_TYPE}" + (f" or {JSON_PATCH}." if request.method == "PATCH" else "."))
    method = "GET" if request.method == "HEAD" else request.method
    return Request(method, path, tuple(query), request.headers, body)


def _is_native(path: str) -> bool:
    """Whether what is answered is a Binary: one that is stored, or that an operation makes."""
    return path.endswith(_OF_OPERATIONS) or (path.startswith("Binary/") and "$" not in path)


def _as_fhir(request: HTTPRequest, asked: Request) -> bool:
    """Whether the answer is asked for as a resource."""
    wanted = next((v for n, v in asked.query if n == "_format"), None) or request.headers.get("accept") or ""
    return any(name in wanted.lower().replace(" ", "+") for name in _JSON) or any(
        n in ("_summary", "_elements") for n, _ in asked.query
    )


def _native(reply: Reply, head: bool) -> Response:
    """A Binary as it is, where it is what is answered."""
    if reply.status != 200:
        return _response(reply, head)
    content, media, headers = binary.unwrapped(reply.body)
    told = {**_SECURE, **headers, **reply.headers, "Content-Type": media, "Content-Length": str(len(content))}
    return Response(b"" if head else content, 200, told)


def _pairs(text: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text.decode(), keep_blank_values=True, max_num_fields=200, errors="strict") if text else []
    except ValueError:
        raise BadRequest("The parameters cannot be read: URL-encoded UTF-8, 200 at most.") from None


def _accepted(request: HTTPRequest, query: list[tuple[str, str]]) -> None:
    """https://hl7.org/fhir/R4/http.html#mime-type"""
    wanted = next((v for n, v in query if n == "_format"), None) or request.headers.get("accept") or "*/*"
    ranges = [part.split(";")[0].strip().lower().replace(" ", "+") for part in wanted.split(",")]
    native = request.method in ("GET", "HEAD") and _is_native(request.scope["path"].removeprefix("/fhir/"))
    if native and "application/fhir+xml" not in ranges and not any(name == "_format" for name, _ in query):
        return
    if not any(r in _JSON or r in ("*/*", "application/*") for r in ranges):
        raise NotAcceptable(f"The server answers {MEDIA_TYPE}.")


def _response(reply: Reply, head: bool, pretty: bool = False) -> Response:
    body = reply.body.encode()
    if pretty and body:
        body = msgspec.json.format(body, indent=2)
    headers = {**_SECURE, **reply.headers, **({"Content-Length": str(len(body))} if head else {})}
    media = f"{MEDIA_TYPE};charset=utf-8" if body else None
    return Response(b"" if head else body, reply.status, headers, media)


def failed(error: FHIRError) -> Response:
    """The one place where an error becomes HTTP."""
    if error.status >= 500:
        log.error("%s: %s", type(error).__name__, error.diagnostics)
    body = dumps(error.outcome()).encode()
    return Response(body, error.status, {**_SECURE, **error.headers}, f"{MEDIA_TYPE};charset=utf-8")


def unexpected(error: Exception) -> Response:
    """Our own mistake. Where it happened is logged, its text is not: it may hold patient data."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("Unexpected %s\n%s", type(error).__name__, where)
    return failed(FHIRError("The server failed; nothing was changed by this request."))


async def _http_error(_: HTTPRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: NotFound("There is nothing at this path."), 405: MethodNotAllowed("This path does not have this method.")}
    answer = failed(told.get(error.status_code) or BadRequest(str(error.detail)))
    answer.headers.update(error.headers or {})  # Allow
    return answer
