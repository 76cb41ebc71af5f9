"""STOW-RS over HTTP: the body is read in a stream, each part to its file.

PS3.18 section 10.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import multipart
from imaging.archive import Archive
from imaging.dataset import is_uid
from imaging.dicomweb.edge import JSON, Problem
from imaging.dicomweb.parts import DICOM, MAX_METADATA_REQUEST, Instances, Metadata
from imaging.dicomweb.receiving import Receiving


async def store(archive: Archive, principal: Principal, request: Request) -> Response:
    study = request.path_params.get("study")
    if study is not None and not is_uid(study):
        raise Problem(400, "The study in the URL is not a UID.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "Send the body without a Content-Encoding.")
    receiving = Receiving(archive, principal, study)
    try:
        await _receive(receiving, request)
        return await receiving.finish()
    except BaseException:
        await receiving.abandon()
        raise


class _Parts(Protocol):
    """What takes the parts of a request."""

    async def take(self, event: multipart.Event) -> None: ...

    async def finish(self) -> None: ...

    def abandon(self) -> None: ...


async def _receive(receiving: Receiving, request: Request) -> None:
    media, given = multipart.parameters(request.headers.get("content-type", ""))
    if media == DICOM:
        await _one(Instances(receiving), request, receiving.archive.max_part)
        return
    if media == JSON:
        await _one(Metadata(receiving), request, MAX_METADATA_REQUEST)
        return
    kinds: dict[str, type[Instances | Metadata]] = {DICOM: Instances, JSON: Metadata}
    kind = kinds.get(given.get("type", DICOM).lower())
    if media != "multipart/related" or not given.get("boundary") or kind is None:
        raise Problem(415, f'Send multipart/related; type="{DICOM}" or "{JSON}"; boundary=…, or {DICOM}.')
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
