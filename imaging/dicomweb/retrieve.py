"""WADO-RS over HTTP: instances, metadata, frames.

PS3.18 section 10.4: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.4.html
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import wado
from imaging.archive import Archive
from imaging.dicomweb.edge import JSON, SECURE, Problem, acceptable, found, json_wanted, multipart_response


async def instances(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_instances, archive, principal, request)


def _instances(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, rows = found(archive, principal, request, archive.index.stored)
    form = acceptable(lambda: wado.instance_form(wado.accepted(request.headers.get("accept", "")), rows))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    if not form.multipart:
        [row] = rows
        [(media, data)] = wado.instances(archive.blobs, rows, form)
        disposition = {"Content-Disposition": f'attachment; filename="{row.uid}.dcm"'}
        return Response(data, 200, {**SECURE, **disposition}, media)
    return multipart_response(wado.instances(archive.blobs, rows, form), wado.DICOM, sum(row.size for row in rows))


async def metadata(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_told, archive, principal, request)


def _told(archive: Archive, principal: Principal, request: Request) -> Response:
    json_wanted(request)
    owner, uids, texts = found(archive, principal, request, archive.index.metadata)
    archive.note(principal, "wado", [(owner, uids[0])], "")
    return Response(f"[{','.join(texts)}]", 200, dict(SECURE), JSON)


async def frames(archive: Archive, principal: Principal, request: Request) -> Response:
    return await run_in_threadpool(_frames_of, archive, principal, request)


def _frames_of(archive: Archive, principal: Principal, request: Request) -> Response:
    owner, uids, [stored] = found(archive, principal, request, archive.index.stored)
    try:
        numbers = wado.frame_numbers(request.path_params["frames"], stored)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    except LookupError:
        raise Problem(404, "There is no frame of this number.") from None
    form, media = acceptable(lambda: wado.frame_form(wado.accepted(request.headers.get("accept", "")), stored))
    archive.note(principal, "wado", [(owner, uids[0])], "")
    parts = wado.frames(archive.blobs, stored, numbers, media)
    if not form.multipart:
        if len(numbers) > 1:
            raise Problem(406, "Several frames are multipart/related.")
        return Response(next(parts)[1], 200, dict(SECURE), media)
    size = sum(length for number in numbers for _, length in stored.frames[number - 1])
    return multipart_response(parts, media.split(";")[0], size)
