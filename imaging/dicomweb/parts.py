"""The parts of a STOW request: DICOM files, or dicom+json and its bulk data; with bounds on all of it.

PS3.18 section 10.5.2: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.2.html
"""

from __future__ import annotations

import json
from typing import Any

from imaging import multipart
from imaging.attributes import SYNTAX_OF
from imaging.blobs import Incoming
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Refused, is_charset
from imaging.dataset.files import Part, of_json
from imaging.dicomweb.edge import JSON, NO_ROOM, Problem, in_thread
from imaging.dicomweb.receiving import Receiving

DICOM = "application/dicom"
MAX_PARTS = 100_000
MAX_METADATA_REQUEST = 256 * 1024 * 1024  # of dicom+json and its bulk data, which are put together in memory
MAX_TEXT = 32 * 1024 * 1024  # of dicom+json without its bulk data
MAX_NESTED = 1_000_000  # objects and arrays of a text, which take up far more than the text does


class Instances:
    """Parts that are DICOM files, each to its file and then stored or refused.

    Their media type may name the Specific Character Set of a data set that names none, as its source knows it: an extension of ours,
    by which a gateway tells of its modalities. (``application/dicom; charset="ISO_IR 144"``)
    """

    def __init__(self, receiving: Receiving) -> None:
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
        media, given = multipart.parameters(part.headers.get("content-type", DICOM))
        self._problem = None if media == DICOM else Refused(CANNOT_UNDERSTAND, f"A part is not {DICOM}.")
        if not self._receiving.archive.room():
            self._problem = Refused(OUT_OF_RESOURCES, NO_ROOM[1])
        self._file = self._receiving.archive.blobs.receive()
        charset = given.get("charset", "")  # utf-8, as some clients say of everything, is no term of DICOM's
        self._file.charset = charset if is_charset(charset) else None

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


class Metadata:
    """A part of dicom+json, and parts of bulk data that it refers to by their Content-Location."""

    def __init__(self, receiving: Receiving) -> None:
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
            raise Problem(413, f"{JSON} may hold {MAX_TEXT} bytes and {MAX_NESTED} objects and arrays; send {DICOM} instead.")
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
