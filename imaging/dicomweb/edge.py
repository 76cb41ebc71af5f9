"""What every route of DICOMweb does alike: who asks, what may be seen, which forms are accepted; errors as JSON."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from auth.bearer import InvalidToken
from auth.principal import ANONYMOUS, Principal
from imaging import multipart, wado
from imaging.archive import Archive
from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dataset import is_uid
from imaging.decoding import DecodingFailed
from imaging.index import Stored

log = logging.getLogger("imaging.dicomweb")
T = TypeVar("T")

JSON = "application/dicom+json"
SECURE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": "sandbox"}
NO_ROOM = (507, "The server's disk is nearly full, so it only reads; try again later.")
_STREAM_ABOVE = 8 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_THREADS = ThreadPoolExecutor(40, "dicomweb")
_LETTERS = {"qido": "s", "wado": "r", "stow": "c"}


class Problem(Exception):
    """An error on its way to the client."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


Handler = Callable[[Archive, Principal, Request], Response]
Streaming = Callable[[Archive, Principal, Request], Awaitable[Response]]  # which reads the body as it comes
Endpoint = Callable[[Request], Awaitable[Response]]


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, function, *arguments)


def answering(archive: Archive, kind: str, handler: Handler) -> Endpoint:
    """All of it in one thread: who asks, and the answer."""

    def answer(request: Request) -> Response:
        return handler(archive, _principal(archive, request, kind), request)

    return _guarded(archive, lambda request: in_thread(answer, request))


def streamed(archive: Archive, kind: str, handler: Streaming) -> Endpoint:
    async def receive(request: Request) -> Response:
        return await handler(archive, await in_thread(_principal, archive, request, kind), request)

    return _guarded(archive, receive)


def _guarded(archive: Archive, handle: Endpoint) -> Endpoint:
    """Errors as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handle(request)
        except Problem as problem:
            return failed(problem)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            if (isinstance(error, OSError) and error.errno in _FULL) or getattr(error, "status", 0) == 507:
                return failed(Problem(*NO_ROOM))
            if archive.unavailable(error):
                return failed(
                    Problem(
                        503, "The database, or the store of the images, cannot be reached; try again.", **{"Retry-After": "2"}
                    )
                )
            log.error("Unexpected %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            return failed(Problem(500, "The server failed."))

    return endpoint


def failed(problem: Problem) -> Response:
    return Response(json.dumps({"message": problem.text}), problem.status, {**SECURE, **problem.headers}, "application/json")


def _principal(archive: Archive, request: Request, kind: str) -> Principal:
    if kind == "options":
        return ANONYMOUS
    try:
        principal = archive.authenticate(request.headers.get("authorization"), request.headers.get("cookie"))
    except InvalidToken:
        raise Problem(
            401,
            "The access token is unknown or expired.",
            **{"WWW-Authenticate": 'Bearer realm="dicomweb", error="invalid_token"'},
        ) from None
    if principal is ANONYMOUS:
        raise Problem(401, "Send an access token.", **{"WWW-Authenticate": 'Bearer realm="dicomweb"'})
    # Whose images they are is not known before they are read: to store some takes a scope for all.
    allowed = principal.unconfined if kind == "stow" else principal.permits
    if not allowed("ImagingStudy", _LETTERS[kind]):
        raise Problem(
            403,
            f"The token has no scope for this: ImagingStudy.{_LETTERS[kind]} is needed.",
            **{"WWW-Authenticate": 'Bearer realm="dicomweb", error="insufficient_scope"'},
        )
    return principal


def json_wanted(request: Request) -> None:
    """Errors: 406 where JSON is not among what is accepted."""
    ranges = [r.media for r in wado.accepted(request.headers.get("accept", ""))]
    if not any(media in (JSON, "application/json", "application/*", "*/*") for media in ranges):
        raise Problem(406, f"This is given as {JSON}.")


def acceptable(choose: Callable[[], Any]) -> Any:
    try:
        return choose()
    except wado.NotAcceptableError as error:
        raise Problem(406, str(error)) from None


@contextmanager
def decoding() -> Iterator[None]:
    """A decoder that fails costs one request: 406 for what has no such form, 500 for what came to nothing."""
    try:
        yield
    except DecodingFailed as error:
        raise Problem(500 if error.crashed else 406, str(error)) from None


def found(archive: Archive, principal: Principal, request: Request) -> tuple[str, tuple[str, ...], list[Stored]]:
    """(whose copy of the study it is, UIDs of the path, the instances that are there). Errors: 404 for what is not there, or hidden."""
    owner, uids = located(archive, principal, request)
    rows = archive.index.stored(owner, *uids)
    if not rows:
        raise Problem(404, "There is nothing here.")
    return owner, uids, rows


def located(archive: Archive, principal: Principal, request: Request) -> tuple[str, tuple[str, ...]]:
    """(owner, UIDs of the path): the caller's own copy of the study first, else the newest that they may see; 404 for none."""
    uids = tuple(request.path_params[name] for name in (STUDY, SERIES, INSTANCE) if name in request.path_params)
    owners = archive.index.owners(uids[0]) if all(is_uid(uid) for uid in uids) else ()
    seen = archive.see(principal, "r", [(owner, uids[0]) for owner in owners]) if owners else set()
    visible = [owner for owner in owners if (owner, uids[0]) in seen]
    if not visible:
        raise Problem(404, "There is nothing here.")
    return (principal.organization if principal.organization in visible else visible[0]), uids


def multipart_response(parts: Iterable[tuple[str, Iterable[bytes]]], type_: str) -> Response:
    """What is small is given at once, which is faster. How large it is shows when it is made: a few bytes may be large images."""
    boundary = multipart.new_boundary()
    media = f'multipart/related; type="{type_}"; boundary={boundary}'
    body = multipart.written(boundary, parts)
    begun, size = [], 0
    for chunk in body:
        begun.append(chunk)
        size += len(chunk)
        if size > _STREAM_ABOVE:
            return StreamingResponse(chain(begun, body), 200, dict(SECURE), media)
    return Response(b"".join(begun), 200, dict(SECURE), media)
