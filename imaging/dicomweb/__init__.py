"""The HTTP edge of the archive: every route of /dicomweb.

PS3.18: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/PS3.18.html
"""

from __future__ import annotations

from fastapi import FastAPI

from imaging.archive import Archive
from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dicomweb.capabilities import capabilities
from imaging.dicomweb.edge import Handler, guarded
from imaging.dicomweb.rendered import rendered, thumbnail
from imaging.dicomweb.retrieve import bulkdata, frames, instances, metadata
from imaging.dicomweb.search import search
from imaging.dicomweb.store import store


def install(app: FastAPI, archive: Archive) -> None:
    for method, path, kind, handler in ROUTES:
        app.add_route(f"/dicomweb{path}", guarded(archive, kind, handler), methods=[method])


_S, _E, _I = "/studies/{study}", "/studies/{study}/series/{series}", "/studies/{study}/series/{series}/instances/{instance}"
_F = f"{_I}/frames/{{frames}}"
_TRANSACTIONS: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/studies", "stow", store),
    ("POST", _S, "stow", store),
    ("GET", "/studies", "qido", search(STUDY)),
    ("GET", "/series", "qido", search(SERIES)),
    ("GET", "/instances", "qido", search(INSTANCE)),
    ("GET", "/studies/count", "qido", search(STUDY)),
    ("GET", "/series/count", "qido", search(SERIES)),
    ("GET", "/instances/count", "qido", search(INSTANCE)),
    ("GET", f"{_S}/series", "qido", search(SERIES)),
    ("GET", f"{_S}/instances", "qido", search(INSTANCE)),
    ("GET", f"{_E}/instances", "qido", search(INSTANCE)),
    *(("GET", f"{path}/metadata", "wado", metadata) for path in (_S, _E, _I)),
    *(("GET", f"{path}/rendered", "wado", rendered) for path in (_S, _E, _I, _F)),
    *(("GET", f"{path}/thumbnail", "wado", thumbnail) for path in (_S, _E, _I, _F)),
    ("GET", _F, "wado", frames),
    ("GET", f"{_I}/bulkdata/{{path:path}}", "wado", bulkdata),
    ("GET", _S, "wado", instances),
    ("GET", _E, "wado", instances),
    ("GET", _I, "wado", instances),
)
ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    *_TRANSACTIONS,
    ("OPTIONS", "/", "options", capabilities([(method, path) for method, path, *_ in _TRANSACTIONS])),
)
