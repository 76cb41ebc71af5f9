"""WADO-RS over HTTP: instances, metadata, frames, bulk data.

PS3.18 section 10.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.4.html
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from auth.principal import Principal
from imaging import wado
from imaging.archive import Archive
from imaging.attributes import BIG_ENDIAN, INSTANCE
from imaging.dataset.metadata import word_of
from imaging.dicomweb.edge import (
    JSON,
    SECURE,
    Problem,
    acceptable,
    decoding,
    found,
    json_wanted,
    located,
    multipart_response,
)
from imaging.index import Stored, linked
from imaging.multipart import parameters


def _ranges(request: Request) -> list[wado.Range]:
    return wado.accepted(request.headers.get("accept", ""))


# ---------------------------------------------------------------- instances


def instances(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, rows = found(archive, principal, request)
    form = acceptable(lambda: wado.instance_form(_ranges(request), rows))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    if form.multipart:
        parts = wado.instances(archive.blobs, archive.decoders, rows, form)
        if len(rows) == 1:
            with decoding():
                parts = iter([wado.instance(archive.blobs, archive.decoders, rows[0], form)])
        return multipart_response(parts, wado.DICOM)
    [row] = rows
    with decoding():
        media, chunks = wado.instance(archive.blobs, archive.decoders, row, form)
    disposition = {"Content-Disposition": f'attachment; filename="{row.uid}.dcm"'}
    return StreamingResponse(chunks, 200, {**SECURE, **disposition}, media)


# ---------------------------------------------------------------- metadata


def metadata(archive: Archive, principal: Principal, request: Request) -> Response:
    """With an ETag, by which a client that has it already asks again. PS3.18 section 8.4"""
    json_wanted(request)
    owner, uids = located(archive, principal, request)
    if INSTANCE in request.path_params:
        text = archive.index.metadata(owner, uids[0], uids[1], uids[2])
        body = None if text is None else b"[" + linked(text, archive.base) + b"]"
        packed, tag = None, hashlib.sha256(body or b"").hexdigest()[:32]
    else:
        kept = _kept(archive, owner, uids)
        packed, tag = kept or (None, "")
        body = None
    if body is None and packed is None:
        raise Problem(404, "There is nothing here.")
    archive.note(principal, "wado", [(owner, uids[0])], "")
    headers = SECURE | {
        "ETag": f'W/"{tag}"',
        "Cache-Control": "private, no-cache",
        "Vary": "Accept-Encoding, Authorization, Cookie",
    }
    if f'"{tag}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if packed is not None and _takes_gzip(request):
        return Response(packed, 200, headers | {"Content-Encoding": "gzip"}, JSON)
    return Response(body if packed is None else gzip.decompress(packed), 200, headers, JSON)


def _takes_gzip(request: Request) -> bool:
    """RFC 9110 section 12.5.3"""
    codings = [parameters(part.strip()) for part in request.headers.get("accept-encoding", "").split(",")]
    return any(coding in ("gzip", "*") and wado.weight(given.get("q", "1")) > 0 for coding, given in codings)


def _kept(archive: Archive, owner: str, uids: tuple[str, ...]) -> tuple[bytes, str] | None:
    """(gzip, hash) of a series' or a study's metadata, each series as it is kept."""
    study = archive.index.row(owner, uids[0])
    if study is None:
        return None
    if len(uids) > 1:
        return archive.index.kept_metadata(study, uids[1], archive.base)
    found_ = [archive.index.kept_metadata(study, uid, archive.base) for uid in archive.index.series_of(study["_id"])]
    kept = [one for one in found_ if one is not None]
    if len(kept) <= 1:
        return kept[0] if kept else None
    text = b"[" + b",".join(gzip.decompress(packed)[1:-1] for packed, _ in kept) + b"]"
    return gzip.compress(text, 1, mtime=0), hashlib.sha256("".join(tag for _, tag in kept).encode()).hexdigest()[:32]


# ---------------------------------------------------------------- frames


def frames(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, [stored] = found(archive, principal, request)
    numbers = frame_numbers(request, stored)
    form = acceptable(lambda: wado.frame_form(_ranges(request), stored))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    if not form.multipart:
        if len(numbers) > 1:
            raise Problem(406, "Several frames are multipart/related.")
        with decoding():
            data = wado.frame(archive.blobs, archive.decoders, stored, numbers[0], form)
        return ranged(request, data, f"{form.media}; transfer-syntax={form.syntax}")
    return _several(archive, stored, numbers, form)


def _several(archive: Archive, stored: Stored, numbers: list[int], form: wado.Form) -> Response:
    with decoding():  # what cannot be decoded is found out before the answer begins
        return multipart_response(wado.frames(archive.blobs, archive.decoders, stored, numbers, form), form.media)


def frame_numbers(request: Request, stored: Stored) -> list[int]:
    """Those that the path names, or that there are. Errors: 400, 404."""
    if "frames" not in request.path_params:
        return list(range(1, stored.count + 1))
    try:
        return wado.frame_numbers(request.path_params["frames"], stored)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    except LookupError:
        raise Problem(404, "There is no frame of this number.") from None


# ---------------------------------------------------------------- bulk data


def bulkdata(archive: Archive, principal: Principal, request: Request) -> Response:
    """PS3.18 section 10.4.1.1.4: one value, as it is stored but for its byte order; of compressed pixels the frames."""
    owner, uids, [stored] = found(archive, principal, request)
    path = request.path_params["path"].replace("/", ".").upper()
    there = stored.bulk.get(path)
    pixels = path in ("7FE00010", "7FE00008", "7FE00009") and stored.count > 0
    if there is None and not pixels:
        raise Problem(404, "There is no bulk data here.")
    archive.note(principal, "wado", [(owner, uids[0])], "")
    if there is None:
        form = acceptable(lambda: wado.frame_form([*_ranges(request), wado.Range("*/*", True, "*")], stored))
        return _several(archive, stored, frame_numbers(request, stored), form)
    wanted = next((one for one in _ranges(request) if one.media in (wado.OCTETS, "*/*", "application/*")), None)
    if wanted is None:
        raise Problem(406, f"Bulk data are {wado.OCTETS}.")
    word = 1
    if stored.transfer_syntax == BIG_ENDIAN:
        word = word_of(json.loads(archive.index.metadata(owner, uids[0], uids[1], uids[2]) or "{}"), path)
    start, end = _asked(request, there[1])
    chunks = wado.value(archive.blobs, stored, there, word, start, end)
    if wanted.multipart and "multipart/" in request.headers.get("accept", ""):
        answer = multipart_response(iter([(wado.OCTETS, chunks)]), wado.OCTETS)
        answer.status_code = 200 if end - start == there[1] else 206
        return answer
    status, headers = _partial(start, end, there[1])
    return StreamingResponse(chunks, status, {**headers, "Content-Disposition": "attachment"}, wado.OCTETS)


def ranged(request: Request, data: bytes, media: str) -> Response:
    """The bytes, or those that a Range asks for."""
    start, end = _asked(request, len(data))
    return Response(data[start:end], *_partial(start, end, len(data)), media)


def _asked(request: Request, length: int) -> tuple[int, int]:
    """RFC 9110 section 14: one range of bytes; a header of another kind is ignored. Errors: 416."""
    wanted = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", request.headers.get("range", "").replace(" ", ""))
    if wanted is None or wanted[0] == "bytes=-":
        return 0, length
    if not wanted[1]:
        start, end = max(0, length - int(wanted[2])), length
    else:
        start, end = int(wanted[1]), int(wanted[2] or length - 1) + 1
    if start >= min(end, length):
        raise Problem(416, "The range lies outside.", **{"Content-Range": f"bytes */{length}"})
    return start, min(end, length)


def _partial(start: int, end: int, length: int) -> tuple[int, dict[str, str]]:
    headers = {**SECURE, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if end - start == length:
        return 200, headers
    return 206, headers | {"Content-Range": f"bytes {start}-{end - 1}/{length}"}
