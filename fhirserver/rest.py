"""The HTTP edge: bytes -> Request, Reply -> bytes, every error -> OperationOutcome.

https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from auth.principal import ANONYMOUS, Principal
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
from fhirserver.messages import Context, Reply, Request
from fhirserver.validation import MAX_RESOURCE, dumps

log = logging.getLogger("fhirserver.rest")

MEDIA_TYPE = "application/fhir+json"
MAX_BODY = 8 * MAX_RESOURCE
_JSON = ("application/fhir+json", "application/json", "text/json", "json")
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
_SECURE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

# header -> who; a context for them; what was read is noted
Authenticate = Callable[[str | None], Principal]
NewContext = Callable[[Principal], Context]
Note = Callable[[Principal, str, str, datetime, Reply], None]


def install(app: FastAPI, authenticate: Authenticate, new_context: NewContext, note: Note) -> None:
    """All of /fhir: one plain route, since ``dispatch.ROUTES`` says what is there."""

    async def handle(request: HTTPRequest) -> Response:
        try:
            body = await _body(request)
            return await run_in_threadpool(answer, request, body)
        except FHIRError as error:
            return failed(error)
        except Exception as error:
            return unexpected(error)

    def answer(request: HTTPRequest, body: bytes) -> Response:
        principal = ANONYMOUS
        path = request.path_params.get("path", "")
        try:
            principal = authenticate(request.headers.get("authorization"))
            asked = _request(request, path, body)
            ctx = new_context(principal)
            reply = dispatch(ctx, asked)
            if asked.method == "GET" or asked.path.endswith("_search"):
                note(principal, asked.path, request.url.query, ctx.now, reply)
        except FHIRError as error:
            return failed(error)
        return _response(reply, request.method == "HEAD", request.query_params.get("_pretty") == "true")

    app.add_route("/fhir", handle, methods=_METHODS)
    app.add_route("/fhir/{path:path}", handle, methods=_METHODS)
    app.add_exception_handler(HTTPException, _http_error)


async def _body(request: HTTPRequest) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY:
            raise TooLarge(f"A request may hold {MAX_BODY} bytes and a Bundle {MAX_ENTRIES} entries.")
        chunks.append(chunk)
    return b"".join(chunks)


def _request(request: HTTPRequest, path: str, body: bytes) -> Request:
    _accepted(request)
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    query = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=200)
    if path.endswith("/_search"):
        if media not in ("application/x-www-form-urlencoded", ""):
            raise UnsupportedMediaType("POST _search with application/x-www-form-urlencoded.")
        query += _form(body)
    elif body and media not in (*_JSON, "application/x-www-form-urlencoded", ""):
        raise UnsupportedMediaType(f"Send {MEDIA_TYPE}.")
    method = "GET" if request.method == "HEAD" else request.method
    return Request(method, path.strip("/"), tuple(query), request.headers, body)


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise BadRequest("The form cannot be read.") from None


def _accepted(request: HTTPRequest) -> None:
    """https://hl7.org/fhir/R4/http.html#mime-type"""
    wanted = request.query_params.get("_format") or request.headers.get("accept") or "*/*"
    ranges = [part.split(";")[0].strip().lower().replace(" ", "+") for part in wanted.split(",")]
    if not any(r in _JSON or r in ("*/*", "application/*") for r in ranges):
        raise NotAcceptable(f"The server answers {MEDIA_TYPE}.")


def _response(reply: Reply, head: bool, pretty: bool = False) -> Response:
    body = reply.body.encode()
    if pretty and body:
        body = msgspec.json.format(body, indent=2)
    headers = {**_SECURE, **reply.headers}
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
    return failed(told.get(error.status_code) or BadRequest(str(error.detail)))
