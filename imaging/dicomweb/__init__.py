"""The HTTP edge of the archive: every route of /dicomweb.

PS3.18: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/PS3.18.html
"""

from __future__ import annotations

from fastapi import FastAPI

from imaging.archive import Archive
from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dicomweb.edge import Handler, guarded
from imaging.dicomweb.retrieve import frames, instances, metadata
from imaging.dicomweb.search import search
from imaging.dicomweb.store import store


def install(app: FastAPI, archive: Archive) -> None:
    for method, path, kind, handler in ROUTES:
        app.add_route(f"/dicomweb{path}", guarded(archive, kind, handler), methods=[method])


_S, _E, _I = "/studies/{study}", "/studies/{study}/series/{series}", "/studies/{study}/series/{series}/instances/{instance}"
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/studies", "stow", store),
    ("POST", _S, "stow", store),
    ("GET", "/studies", "qido", search(STUDY)),
    ("GET", "/series", "qido", search(SERIES)),
    ("GET", "/instances", "qido", search(INSTANCE)),
    ("GET", f"{_S}/series", "qido", search(SERIES)),
    ("GET", f"{_S}/instances", "qido", search(INSTANCE)),
    ("GET", f"{_E}/instances", "qido", search(INSTANCE)),
    ("GET", f"{_S}/metadata", "wado", metadata),
    ("GET", f"{_E}/metadata", "wado", metadata),
    ("GET", f"{_I}/metadata", "wado", metadata),
    ("GET", f"{_I}/frames/{{frames}}", "wado", frames),
    ("GET", _S, "wado", instances),
    ("GET", _E, "wado", instances),
    ("GET", _I, "wado", instances),
)
