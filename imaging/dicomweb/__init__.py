"""The HTTP edge of the archive: every route of /dicomweb.

PS3.18: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/PS3.18.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from imaging.archive import Archive
from imaging.attributes import INSTANCE, SERIES, STUDY
from imaging.dicomweb.capabilities import capabilities
from imaging.dicomweb.edge import Endpoint, Problem, answering, failed, streamed
from imaging.dicomweb.rendered import rendered, thumbnail
from imaging.dicomweb.retrieve import bulkdata, frames, instances, metadata
from imaging.dicomweb.search import search
from imaging.dicomweb.store import store

_ROOT = "/dicomweb"
Route = tuple[str, str, str, Callable[..., Any]]


class Edge:
    """Answers what is below /dicomweb before the framework looks: it spares a frame, and each chunk of an upload, the framework's
    own middlewares."""

    def __init__(self, app: ASGIApp, archive: Archive) -> None:
        self._app = app
        endpoints: dict[str, dict[str, Endpoint]] = {}
        for method, path, kind, handler in ROUTES:
            wrapped = streamed if kind == "stow" else answering
            endpoints.setdefault(path, {})[method] = wrapped(archive, kind, handler)
        self._endpoints = [(compile_path(path), by_method) for path, by_method in endpoints.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(_ROOT) and path[len(_ROOT) :][:1] in ("", "/"):
            answer = await self._answer(path[len(_ROOT) :].rstrip("/") or "/", Request(scope, receive))
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, path: str, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        for (pattern, _, convertors), by_method in self._endpoints:
            match = pattern.match(path)
            if match is None:
                continue
            if method not in by_method:
                return failed(Problem(405, f"Here is {' or '.join(by_method)}.", Allow=", ".join(by_method)))
            request.scope["path_params"] = {name: convertors[name].convert(text) for name, text in match.groupdict().items()}
            return await by_method[method](request)
        return failed(Problem(404, "There is nothing here."))


_S, _E, _I = "/studies/{study}", "/studies/{study}/series/{series}", "/studies/{study}/series/{series}/instances/{instance}"
_F = f"{_I}/frames/{{frames}}"
# Method, path, what kind of service it is, and what answers, in a thread; of ``stow`` a coroutine that reads the body as it comes. In the
# order of how often they are asked for: the edge tries one after the other.
_TRANSACTIONS: tuple[Route, ...] = (
    ("GET", _F, "wado", frames),
    *(("GET", f"{path}/metadata", "wado", metadata) for path in (_E, _I, _S)),
    ("POST", "/studies", "stow", store),
    ("GET", "/studies", "qido", search(STUDY)),
    ("GET", "/series", "qido", search(SERIES)),
    ("GET", "/instances", "qido", search(INSTANCE)),
    ("GET", "/studies/count", "qido", search(STUDY)),
    ("GET", "/series/count", "qido", search(SERIES)),
    ("GET", "/instances/count", "qido", search(INSTANCE)),
    ("GET", f"{_S}/series", "qido", search(SERIES)),
    ("GET", f"{_S}/instances", "qido", search(INSTANCE)),
    ("GET", f"{_E}/instances", "qido", search(INSTANCE)),
    *(("GET", f"{path}/rendered", "wado", rendered) for path in (_S, _E, _I, _F)),
    *(("GET", f"{path}/thumbnail", "wado", thumbnail) for path in (_S, _E, _I, _F)),
    ("GET", f"{_I}/bulkdata/{{path:path}}", "wado", bulkdata),
    ("GET", _I, "wado", instances),
    ("GET", _E, "wado", instances),
    ("GET", _S, "wado", instances),
    ("POST", _S, "stow", store),
)
ROUTES: tuple[Route, ...] = (
    *_TRANSACTIONS,
    ("OPTIONS", "/", "options", capabilities([(method, path) for method, path, *_ in _TRANSACTIONS])),
)
