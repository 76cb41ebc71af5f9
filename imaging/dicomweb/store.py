"""STOW-RS over HTTP: the body is read in a stream, each part to its file, with bounds on all of it.

PS3.18 section 10.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

import json

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import multipart, stow
from imaging.archive import Archive
from imaging.blobs import Incoming
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused, is_uid
from imaging.dicomweb.edge import JSON, NO_ROOM, SECURE, Problem

MAX_PARTS = 100_000


async def store(archive: Archive, principal: Principal, request: Request) -> Response:
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
        raise Problem(*NO_ROOM)
    if not outcome.stored and not outcome.refused:
        raise Problem(400, "The body has no part.")
    stored = [(principal.organization, uid) for uid in outcome.studies]
    await run_in_threadpool(archive.note, principal, "stow", stored, "")
    headers = dict(SECURE)
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
            self._problem = Refused(OUT_OF_RESOURCES, NO_ROOM[1])
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
