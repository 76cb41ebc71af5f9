"""The HTTP edge of the archive: routes, Accept negotiation, bounds on uploads; errors as JSON.

PS3.18: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/PS3.18.html
"""

from __future__ import annotations

import errno
import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from auth.bearer import InvalidToken
from auth.principal import ANONYMOUS, Principal
from imaging import multipart, qido, stow, wado
from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.blobs import Blobs, Incoming
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused, is_uid
from imaging.index import Index, Row

T = TypeVar("T")

log = logging.getLogger("imaging.dicomweb")

JSON = "application/dicom+json"
MAX_PARTS = 100_000
_SECURE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Content-Security-Policy": "sandbox"}
_STREAM_ABOVE = 8 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM = (507, "The server's disk is nearly full, so it only reads; try again later.")
_LETTERS = {"qido": "s", "wado": "r", "stow": "c"}


@dataclass(frozen=True, slots=True)
class Archive:
    """What the edge is given: the archive's parts, and the functions by which it knows access, audit and orders.

    ``see``: which of these (owner, study UID) the caller may see, by SMART's letter r or s. ``arrived``: instances of a study were stored.
    ``note``: what was read or stored, for the audit. ``unavailable``: whether an error means that the database is away.
    ``room``: whether the disk has any for another instance.
    """

    blobs: Blobs
    index: Index
    base: str
    max_request: int
    max_part: int
    authenticate: Callable[[str | None], Principal]
    see: Callable[[Principal, str, list[tuple[str, str]]], set[tuple[str, str]]]
    arrived: Callable[[Principal, str, str], None]
    note: Callable[[Principal, str, list[tuple[str, str]], str], None]
    unavailable: Callable[[Exception], bool]
    room: Callable[[], bool]


class Problem(Exception):
    """An error on its way to the client."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


Handler = Callable[[Archive, Principal, Request], Awaitable[Response]]


def install(app: FastAPI, archive: Archive) -> None:
    """Every route of /dicomweb."""
    for method, path, kind, handler in ROUTES:
        app.add_route(f"/dicomweb{path}", _guarded(archive, kind, handler), methods=[method])


def _guarded(archive: Archive, kind: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            principal = await run_in_threadpool(_principal, archive, request, kind)
            return await handler(archive, principal, request)
        except Problem as problem:
            return _failed(problem)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            if (isinstance(error, OSError) and error.errno in _FULL) or getattr(error, "status", 0) == 507:
                return _failed(Problem(*_NO_ROOM))
            if archive.unavailable(error):
                return _failed(Problem(503, "The database cannot be reached; try again.", **{"Retry-After": "2"}))
            log.error("Unexpected %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            return _failed(Problem(500, "The server failed."))

    return endpoint


def _failed(problem: Problem) -> Response:
    return Response(json.dumps({"message": problem.text}), problem.status, {**_SECURE, **problem.headers}, "application/json")


def _principal(archive: Archive, request: Request, kind: str) -> Principal:
    try:
        principal = archive.authenticate(request.headers.get("authorization"))
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


# ---------------------------------------------------------------- STOW-RS


async def _stow(archive: Archive, principal: Principal, request: Request) -> Response:
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        raise Problem(400, "The study in the URL is not a UID.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Send the body without a Content-Encoding.")
    outcome = stow.Outcome()
    try:
        await _receive(archive, principal, request, study, outcome)
    finally:  # what was stored before a cut stays, and its studies are told of it
        for uid in outcome.studies:
            await run_in_threadpool(archive.arrived, principal, principal.organization, uid)
    if not outcome.stored and outcome.refused and not archive.room():
        raise Problem(*_NO_ROOM)
    if not outcome.stored and not outcome.refused:
        raise Problem(400, "The body has no part.")
    stored = [(principal.organization, uid) for uid in outcome.studies]
    await run_in_threadpool(archive.note, principal, "stow", stored, "")
    headers = dict(_SECURE)
    if outcome.refused:
        headers["Warning"] = f'299 fhirserver "{stow.texts(outcome.refused)[:500]}"'
    return Response(json.dumps(stow.response(outcome, archive.base)), outcome.status, headers, JSON)


async def _receive(archive: Archive, principal: Principal, request: Request, study: str | None, outcome: stow.Outcome) -> None:
    media, given = multipart.parameters(request.headers.get("content-type", ""))
    if media == "application/dicom":
        await _receive_one(archive, principal, request, study, outcome)
        return
    if media != "multipart/related" or not given.get("boundary"):
        raise Problem(415, 'Send multipart/related; type="application/dicom"; boundary=…, or application/dicom.')
    if given.get("type", "application/dicom").lower() != "application/dicom":
        raise Problem(415, "The parts are application/dicom.")
    reader, parts = multipart.Reader(given["boundary"]), _Parts(archive, principal, study, outcome)
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > archive.max_request:
                raise Problem(413, f"A request may hold {archive.max_request} bytes.")
            for event in reader.feed(chunk):
                await parts.take(event)
    except multipart.MultipartError as error:
        raise Problem(400, str(error)) from None
    finally:
        parts.abandon()
    if not reader.complete:
        raise Problem(400, "The multipart body ends before its last boundary; the parts before the cut are stored.")


async def _receive_one(
    archive: Archive, principal: Principal, request: Request, study: str | None, outcome: stow.Outcome
) -> None:
    parts = _Parts(archive, principal, study, outcome)
    try:
        await parts.take(multipart.PartBegins({}))
        async for chunk in request.stream():
            await parts.take(multipart.PartData(chunk))
        await parts.take(multipart.PartEnds())
    finally:
        parts.abandon()


class _Parts:
    """The parts of one request, each to its file and then stored or refused."""

    def __init__(self, archive: Archive, principal: Principal, study: str | None, outcome: stow.Outcome) -> None:
        self._archive, self._principal, self._study, self._outcome = archive, principal, study, outcome
        self._file: Incoming | None = None
        self._problem: Refused | None = None
        self._count = 0

    async def take(self, event: multipart.Event) -> None:
        if isinstance(event, multipart.PartBegins):
            self._begin(event)
        elif isinstance(event, multipart.PartData):
            self._write(event.data)
        else:
            await self._end()

    def abandon(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _begin(self, part: multipart.PartBegins) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise Problem(413, f"A request may have {MAX_PARTS} parts.")
        media, _ = multipart.parameters(part.headers.get("content-type", "application/dicom"))
        self._problem = None if media == "application/dicom" else Refused(CANNOT_UNDERSTAND, "A part is not application/dicom.")
        if not self._archive.room():
            self._problem = Refused(OUT_OF_RESOURCES, _NO_ROOM[1])
        self._file = self._archive.blobs.receive()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        if self._problem is None and self._file.size + len(data) > self._archive.max_part:
            self._problem = Refused(OUT_OF_RESOURCES, f"An instance may hold {self._archive.max_part} bytes.")
        if self._problem is None:
            self._file.write(data)

    async def _end(self) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        if self._problem is not None:
            file.discard()
            self._outcome.refused.append(self._problem)
            return
        stored = await run_in_threadpool(
            stow.store, file, self._principal.organization, self._archive.blobs, self._archive.index, self._study
        )
        if isinstance(stored, Refused):
            self._outcome.refused.append(stored)
        else:
            self._outcome.stored.append(stored)


# ---------------------------------------------------------------- QIDO-RS


def _qido(level: str) -> Handler:
    async def handler(archive: Archive, principal: Principal, request: Request) -> Response:
        return await run_in_threadpool(_search, archive, principal, request, level)

    return handler


def _search(archive: Archive, principal: Principal, request: Request, level: str) -> Response:
    _json_wanted(request)
    names = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID"}
    fixed = {names[name]: value for name, value in request.path_params.items()}
    try:
        pairs = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=100)
        asked = qido.parse(level, pairs, fixed)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    seen: set[tuple[str, str]] = set()

    def see(rows: list[tuple[str, str]]) -> set[tuple[str, str]]:
        allowed = archive.see(principal, "s", rows)
        seen.update(allowed)
        return allowed

    found, more = qido.search(asked, archive.index, see, archive.base)
    told = {value for row in found for value in row.get("0020000D", {}).get("Value", ())}  # StudyInstanceUID
    archive.note(principal, "qido", sorted(pair for pair in seen if pair[1] in told), request.url.query)
    headers = dict(_SECURE)
    if more:
        headers["Warning"] = "299 fhirserver: There are additional results that can be requested"
    if not found:
        return Response(status_code=204, headers=headers)
    return Response(json.dumps(found), 200, headers, JSON)


def _json_wanted(request: Request) -> None:
    """Errors: 406 where JSON is not among what is accepted."""
    ranges = [r.media for r in wado.accepted(request.headers.get("accept", ""))]
    if not any(media in (JSON, "application/json", "application/*", "*/*") for media in ranges):
        raise Problem(406, f"This is given as {JSON}.")


# ---------------------------------------------------------------- WADO-RS


async def _retrieve(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_instances, archive, principal, request)


def _instances(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, rows = _found(archive, principal, request, archive.index.stored)
    form = _acceptable(lambda: wado.instance_form(wado.accepted(request.headers.get("accept", "")), rows))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    if not form.multipart:
        [row] = rows
        [(media, data)] = wado.instances(archive.blobs, rows, form)
        disposition = {"Content-Disposition": f'attachment; filename="{row.uid}.dcm"'}
        return Response(data, 200, {**_SECURE, **disposition}, media)
    return _multipart(wado.instances(archive.blobs, rows, form), wado.DICOM, sum(row.size for row in rows))


async def _metadata(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_told, archive, principal, request)


def _told(archive: Archive, principal: Principal, request: Request) -> Response:
    _json_wanted(request)
    owner, uids, texts = _found(archive, principal, request, archive.index.metadata)
    archive.note(principal, "wado", [(owner, uids[0])], "")
    return Response(f"[{','.join(texts)}]", 200, dict(_SECURE), JSON)


async def _frames(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_frames_of, archive, principal, request)


def _frames_of(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, [stored] = _found(archive, principal, request, archive.index.stored)
    try:
        numbers = wado.frame_numbers(request.path_params["frames"], stored)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    except LookupError:
        raise Problem(404, "There is no frame of this number.") from None
    form, media = _acceptable(lambda: wado.frame_form(wado.accepted(request.headers.get("accept", "")), stored))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    parts = wado.frames(archive.blobs, stored, numbers, media)
    if not form.multipart:
        if len(numbers) > 1:
            raise Problem(406, "Several frames are multipart/related.")
        return Response(next(parts)[1], 200, dict(_SECURE), media)
    size = sum(length for number in numbers for _, length in stored.frames[number - 1])
    return _multipart(parts, media.split(";")[0], size)


def _acceptable(choose: Callable[[], Any]) -> Any:
    try:
        return choose()
    except wado.NotAcceptableError as error:
        raise Problem(406, str(error)) from None


def _found(
    archive: Archive, principal: Principal, request: Request, look: Callable[..., list[T]]
) -> tuple[str, tuple[str, ...], list[T]]:
    """(owner, UIDs of the path, what is there). Errors: 404 for what is not there, or hidden."""
    owner, uids = _located(archive, principal, request)
    rows = look(owner, *uids)
    if not rows:
        raise Problem(404, "There is nothing here.")
    return owner, uids, rows


def _located(archive: Archive, principal: Principal, request: Request) -> tuple[str, tuple[str, ...]]:
    """(owner, UIDs of the path): the caller's own copy of the study first, else one that they may see; 404 for none."""
    uids = tuple(request.path_params[name] for name in (STUDY, SERIES, INSTANCE) if name in request.path_params)
    copies = archive.index.copies(uids[0]) if all(is_uid(uid) for uid in uids) else []
    seen = archive.see(principal, "r", [(row["owner"], row["uid"]) for row in copies]) if copies else set()
    visible: list[Row] = [row for row in copies if (row["owner"], row["uid"]) in seen]
    if not visible:
        raise Problem(404, "There is nothing here.")
    visible.sort(key=lambda row: (row["owner"] != principal.organization, -row.get("arrived", 0)))
    return visible[0]["owner"], uids


def _multipart(parts: Any, type_: str, size: int) -> Response:
    boundary = multipart.new_boundary()
    media = f'multipart/related; type="{type_}"; boundary={boundary}'
    body = multipart.written(boundary, parts)
    if size > _STREAM_ABOVE:
        return StreamingResponse(body, 200, dict(_SECURE), media)
    return Response(b"".join(body), 200, dict(_SECURE), media)


_S, _E, _I = "/studies/{study}", "/studies/{study}/series/{series}", "/studies/{study}/series/{series}/instances/{instance}"
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/studies", "stow", _stow),
    ("POST", _S, "stow", _stow),
    ("GET", "/studies", "qido", _qido(STUDY)),
    ("GET", "/series", "qido", _qido(SERIES)),
    ("GET", "/instances", "qido", _qido(INSTANCE)),
    ("GET", f"{_S}/series", "qido", _qido(SERIES)),
    ("GET", f"{_S}/instances", "qido", _qido(INSTANCE)),
    ("GET", f"{_E}/instances", "qido", _qido(INSTANCE)),
    ("GET", f"{_S}/metadata", "wado", _metadata),
    ("GET", f"{_E}/metadata", "wado", _metadata),
    ("GET", f"{_I}/metadata", "wado", _metadata),
    ("GET", f"{_I}/frames/{{frames}}", "wado", _frames),
    ("GET", _S, "wado", _retrieve),
    ("GET", _E, "wado", _retrieve),
    ("GET", _I, "wado", _retrieve),
)
