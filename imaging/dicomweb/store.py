"""STOW-RS over HTTP: the body is read in a stream, each part to its file, with bounds on all of it.

PS3.18 section 10.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import multipart, stow
from imaging.archive import Archive
from imaging.attributes import SYNTAX_OF
from imaging.blobs import Incoming
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused, is_charset, is_uid
from imaging.dataset.files import Part, of_json
from imaging.dicomweb.edge import JSON, NO_ROOM, SECURE, Problem, in_thread

MAX_PARTS = 100_000
MAX_METADATA_REQUEST = 256 * 1024 * 1024  # of dicom+json and its bulk data, which are put together in memory
MAX_TEXT = 32 * 1024 * 1024  # of dicom+json without its bulk data
MAX_NESTED = 1_000_000  # objects and arrays of a text, which take up far more than the text does
_DICOM = "application/dicom"
_BEHIND = 16  # parts that wait for those before them to be stored, before no more is received


async def store(archive: Archive, principal: Principal, request: Request) -> Response:
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        raise Problem(400, "The study in the URL is not a UID.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Send the body without a Content-Encoding.")
    receiving = _Receiving(archive, principal, study)
    try:
        await _receive(receiving, request)
        return await receiving.finish()
    except BaseException:
        await receiving.abandon()
        raise


def _answer(archive: Archive, principal: Principal, outcome: stow.Outcome) -> Response:
    _arriving(archive, principal, outcome)
    if not outcome.studies and outcome.refused and not archive.room():
        raise Problem(*NO_ROOM)
    if not outcome.studies and not outcome.refused:
        raise Problem(400, "The body has no part.")
    archive.note(principal, "stow", [(principal.organization, uid) for uid in outcome.studies], "")
    headers = dict(SECURE)
    if text := stow.texts(outcome):
        headers["Warning"] = f'299 fhirserver "{text[:500]}"'
    return Response(json.dumps(stow.response(outcome, archive.base)), outcome.status, headers, JSON)


def _arriving(archive: Archive, principal: Principal, outcome: stow.Outcome) -> None:
    for uid in outcome.studies:
        archive.arriving(principal, principal.organization, uid)


class _Receiving:
    """One request: whose it is, what it says of itself, what became of it. What has ended is stored while more is received."""

    def __init__(self, archive: Archive, principal: Principal, study: str | None) -> None:
        self.archive, self.study, self.outcome = archive, study, stow.Outcome()
        self._principal = principal
        self._ended: list[Incoming | Refused] = []
        self._storing: asyncio.Future[None] | None = None

    async def take(self, part: Incoming | Refused) -> None:
        """Those before it are stored, unless some are; the last one waits for the answer, which the same thread gives."""
        if self._ended and (self._storing is None or self._storing.done() or len(self._ended) >= _BEHIND):
            await self._stored()
            self._storing = asyncio.ensure_future(in_thread(self._store, self._taken()))
        self._ended.append(part)

    async def finish(self) -> Response:
        await self._stored()
        return await in_thread(self._last, self._taken())

    async def abandon(self) -> None:
        """After a cut or an error: what has ended is stored, and its studies are told of it."""
        with suppress(Exception):
            await self._stored()
            await in_thread(self._store, self._taken())
        for part in self._taken():
            if isinstance(part, Incoming):
                part.discard()
        await in_thread(_arriving, self.archive, self._principal, self.outcome)

    async def _stored(self) -> None:
        storing, self._storing = self._storing, None
        if storing is not None:
            await storing

    def _taken(self) -> list[Incoming | Refused]:
        parts, self._ended = self._ended, []
        return parts

    def _last(self, parts: list[Incoming | Refused]) -> Response:
        self._store(parts)
        return _answer(self.archive, self._principal, self.outcome)

    def _store(self, parts: list[Incoming | Refused]) -> None:
        archive, owner = self.archive, self._principal.organization
        try:
            stow.store_all(parts, owner, archive.blobs, archive.index, self.study, self.outcome.take)
        except BaseException:
            for part in parts:
                if isinstance(part, Incoming):
                    part.discard()
            raise


class _Parts(Protocol):
    """What takes the parts of a request."""

    async def take(self, event: multipart.Event) -> None: ...

    async def finish(self) -> None: ...

    def abandon(self) -> None: ...


async def _receive(receiving: _Receiving, request: Request) -> None:
    media, given = multipart.parameters(request.headers.get("content-type", ""))
    if media == _DICOM:
        await _one(_Instances(receiving), request, receiving.archive.max_part)
        return
    if media == JSON:
        await _one(_Metadata(receiving), request, MAX_METADATA_REQUEST)
        return
    kinds: dict[str, type[_Instances | _Metadata]] = {_DICOM: _Instances, JSON: _Metadata}
    kind = kinds.get(given.get("type", _DICOM).lower())
    if media != "multipart/related" or not given.get("boundary") or kind is None:
        raise Problem(415, f'Send multipart/related; type="{_DICOM}" or "{JSON}"; boundary=…, or {_DICOM}.')
    reader, parts = multipart.Reader(given["boundary"]), kind(receiving)
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > receiving.archive.max_request:
                raise Problem(413, f"A request may hold {receiving.archive.max_request} bytes.")
            for event in reader.feed(chunk):
                await parts.take(event)
        if not reader.complete:
            raise Problem(400, "The multipart body ends before its last boundary; the parts before the cut are stored.")
        await parts.finish()
    except multipart.MultipartError as error:
        raise Problem(400, str(error)) from None
    finally:
        parts.abandon()


async def _one(parts: _Parts, request: Request, bound: int) -> None:
    """A body that is one part."""
    size = 0
    try:
        await parts.take(multipart.PartBegins({"content-type": request.headers["content-type"]}))
        async for chunk in request.stream():
            size += len(chunk)
            if size > bound + 1024 * 1024:  # what is too large by less is refused with a reason
                raise Problem(413, f"An instance may hold {bound} bytes.")
            await parts.take(multipart.PartData(chunk))
        await parts.take(multipart.PartEnds())
        await parts.finish()
    finally:
        parts.abandon()


class _Instances:
    """Parts that are DICOM files, each to its file and then stored or refused.

    Their media type may name the Specific Character Set of a data set that names none, as its source knows it: an extension of ours,
    by which a gateway tells of its modalities. (``application/dicom; charset="ISO_IR 144"``)
    """

    def __init__(self, receiving: _Receiving) -> None:
        self._receiving = receiving
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

    async def finish(self) -> None:
        """Each part was stored as it ended."""

    def abandon(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _begin(self, part: multipart.PartBegins) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise Problem(413, f"A request may have {MAX_PARTS} parts.")
        media, given = multipart.parameters(part.headers.get("content-type", _DICOM))
        self._problem = None if media == _DICOM else Refused(CANNOT_UNDERSTAND, f"A part is not {_DICOM}.")
        charset = given.get("charset")
        if charset is not None and not is_charset(charset):
            self._problem = Refused(CANNOT_UNDERSTAND, "The charset is not a Specific Character Set of DICOM.")
        if not self._receiving.archive.room():
            self._problem = Refused(OUT_OF_RESOURCES, NO_ROOM[1])
        self._file = self._receiving.archive.blobs.receive()
        self._file.charset = charset

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        bound = self._receiving.archive.max_part
        if self._problem is None and self._file.size + len(data) > bound:
            self._problem = Refused(OUT_OF_RESOURCES, f"An instance may hold {bound} bytes.")
        if self._problem is None:
            self._file.write(data)

    async def _end(self) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        if self._problem is not None:
            file.discard()
        await self._receiving.take(self._problem or file)


class _Metadata:
    """A part of dicom+json, and parts of bulk data that it refers to by their Content-Location."""

    def __init__(self, receiving: _Receiving) -> None:
        self._receiving = receiving
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._size = 0
        self._texts: list[bytes] = []
        self._bulk: dict[str, Part] = {}

    async def take(self, event: multipart.Event) -> None:
        if isinstance(event, multipart.PartBegins):
            self._headers, self._body = event.headers, bytearray()
        elif isinstance(event, multipart.PartData):
            self._size += len(event.data)
            if self._size > MAX_METADATA_REQUEST:
                raise Problem(413, f"A request of {JSON} may hold {MAX_METADATA_REQUEST} bytes.")
            self._body += event.data
        else:
            self._end()

    def abandon(self) -> None:
        self._bulk.clear()

    def _end(self) -> None:
        media, given = multipart.parameters(self._headers.get("content-type", ""))
        if media == JSON:
            self._texts.append(bytes(self._body))
            return
        location = self._headers.get("content-location", "")
        if not location or len(self._bulk) >= MAX_PARTS:
            raise Problem(400, "A part of bulk data has no Content-Location.")
        compressed = given.get("transfer-syntax", SYNTAX_OF[media]) if media in SYNTAX_OF else None
        self._bulk[location] = Part(bytes(self._body), compressed)

    async def finish(self) -> None:
        made = 0
        for told in await in_thread(self._data_sets):
            try:
                data = await in_thread(of_json, told, self._bulk)
            except Refused as refused:
                await self._receiving.take(refused)
                continue
            made += len(data)
            if made > self._receiving.archive.max_request:
                raise Problem(413, f"What a request makes may hold {self._receiving.archive.max_request} bytes.")
            if not self._receiving.archive.room():
                await self._receiving.take(Refused(OUT_OF_RESOURCES, NO_ROOM[1]))
                continue
            file = self._receiving.archive.blobs.receive()
            await in_thread(file.write, data)
            await self._receiving.take(file)

    def _data_sets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if sum(map(len, self._texts)) > MAX_TEXT or sum(t.count(b"{") + t.count(b"[") for t in self._texts) > MAX_NESTED:
            raise Problem(413, f"{JSON} may hold {MAX_TEXT} bytes and {MAX_NESTED} objects and arrays; send {_DICOM} instead.")
        for text in self._texts:
            try:
                told = json.loads(text)
            except (ValueError, RecursionError):
                raise Problem(400, f"A part is not {JSON}: no JSON.") from None
            rows = told if isinstance(told, list) else [told]
            if not all(isinstance(row, dict) and all(isinstance(e, dict) for e in row.values()) for row in rows):
                raise Problem(400, f"A part is not {JSON}: an array of data sets.")
            found += rows
        return found
