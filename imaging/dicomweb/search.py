"""QIDO-RS over HTTP.

PS3.18 section 10.6: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.6.html
"""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import qido
from imaging.archive import Archive
from imaging.dicomweb.edge import JSON, SECURE, Handler, Problem, json_wanted


def search(level: str) -> Handler:
    def handler(archive: Archive, principal: Principal, request: Request) -> Response:
        return _search(archive, principal, request, level)

    return handler


def _search(archive: Archive, principal: Principal, request: Request, level: str) -> Response:
    json_wanted(request)
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

    if request.url.path.endswith("/count"):
        return _counted(archive, principal, request, asked, see, seen)
    found, more = qido.search(asked, archive.index, see, archive.base)
    told = {value for row in found for value in row.get("0020000D", {}).get("Value", ())}  # StudyInstanceUID
    archive.note(principal, "qido", sorted(pair for pair in seen if pair[1] in told), request.url.query)
    more_ = ["There are additional results that can be requested"] if more else []
    headers = dict(SECURE)
    if warnings := [*more_, *asked.warnings]:
        headers["Warning"] = ", ".join(f"299 fhirserver: {text}" for text in warnings)
    if not found:
        return Response(status_code=204, headers=headers)
    return Response(json.dumps(found), 200, headers, JSON)


def _counted(
    archive: Archive, principal: Principal, request: Request, asked: qido.Asked, see: qido.See, seen: set[tuple[str, str]]
) -> Response:
    number = qido.count(asked, archive.index, see)
    archive.note(principal, "qido", sorted(seen)[:100], request.url.query)
    return Response(json.dumps({"count": number}), 200, dict(SECURE), "application/json")
