"""Retrieve Capabilities: what is served, as WADL or JSON, of the routes themselves.

PS3.18 section 8.9: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_8.9.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, tostring

from starlette.requests import Request
from starlette.responses import Response

from auth.principal import Principal
from imaging import wado
from imaging.archive import Archive
from imaging.dicomweb.edge import SECURE, Handler, Problem

WADL = "application/vnd.sun.wadl+xml"
_NAMESPACE = "http://wadl.dev.java.net/2009/02"


def capabilities(routes: Iterable[tuple[str, str]]) -> Handler:
    """``routes``: method and path of each."""
    served: dict[str, list[str]] = {}
    for method, path in routes:
        served.setdefault(path, []).append(method)

    def handler(archive: Archive, principal: Principal, request: Request) -> Response:
        for wanted in wado.accepted(request.headers.get("accept", "")):
            if wanted.media in (WADL, "*/*", "application/*", "application/xml", "text/xml"):
                return Response(_wadl(archive.base, served), 200, dict(SECURE), WADL)
            if wanted.media == "application/json":
                resources = [{"path": path, "methods": methods} for path, methods in served.items()]
                return Response(
                    json.dumps({"base": archive.base, "resources": resources}), 200, dict(SECURE), "application/json"
                )
        raise Problem(406, f"Capabilities are {WADL} or application/json.")

    return handler


def _wadl(base: str, served: dict[str, list[str]]) -> bytes:
    root = Element("application", xmlns=_NAMESPACE)
    resources = SubElement(root, "resources", base=base)
    for path, methods in served.items():
        resource = SubElement(resources, "resource", path=path.lstrip("/"))
        for method in methods:
            SubElement(resource, "method", name=method)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + tostring(root)
