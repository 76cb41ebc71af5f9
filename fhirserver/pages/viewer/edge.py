"""``/viewer`` and ``/ohif``: images are opened for a signed-in person, or for who was sent with a one-time code.

The browser is given a pass to the studies, in a cookie for /dicomweb alone; no URL and no log holds anything that opens images.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HTTPRequest
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from auth.pages import render
from auth.passes import Passes
from auth.principal import ANONYMOUS, Principal
from auth.records import principal_of
from auth.routes import Endpoint, Pages
from auth.visit import Shown, Visit, see
from fhirserver.errors import BadRequest, FHIRError, Unauthorized
from fhirserver.pages.viewer import plain
from fhirserver.pages.viewer.ohif import Dist
from fhirserver.pages.viewer.opening import KINDS, PRIOR, Opening, uid
from fhirserver.pages.viewer.words import WORDS
from fhirserver.validation import Document

_HERE = Path(__file__).parent
_MAX_BODY = 16 * 1024
_CACHED = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
_JSON = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_TOLD = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_PLAIN = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
_STATIC = {
    f"plain-{sha256(content).hexdigest()[:16]}{suffix}": (content, media)
    for suffix, media in ((".css", "text/css; charset=utf-8"), (".js", "text/javascript; charset=utf-8"))
    for content in ((_HERE / f"plain{suffix}").read_bytes(),)
}
_STYLE, _SCRIPT = _STATIC


@dataclass(frozen=True, slots=True)
class Parts:
    """What the viewer is given. ``authenticate``: by an Authorization header. ``has_images``: whether the archive holds any of a
    study that the caller may see. ``instances``: a study's, as QIDO-RS tells them. ``base``: the public URL; ``prefix``: its path.
    """

    base: str
    prefix: str
    passes: Passes
    dist: Dist
    opening: Opening
    authenticate: Callable[[str | None], Principal]
    has_images: Callable[[Principal, str], bool]
    instances: Callable[[Principal, str], list[dict[str, Any]]]


def install(app: FastAPI, pages: Pages, parts: Parts) -> None:
    """Every route of /viewer and /ohif."""
    viewer = Viewer(parts)

    def with_cookie(name: str, show: Callable[[Visit, str, str | None], Shown]) -> Endpoint:
        async def endpoint(request: HTTPRequest) -> Response:
            cookie, value = request.headers.get("cookie"), request.path_params[name]
            return await pages(lambda visit: show(visit, value, cookie))(request)

        return endpoint

    app.add_route("/viewer", pages(viewer.asked), methods=["GET"])
    app.add_route("/viewer/open", _opener(viewer), methods=["POST"])
    app.add_route("/viewer/static/{name}", _static, methods=["GET"])
    app.add_route("/viewer/plain/{id}", with_cookie("id", viewer.plain), methods=["GET"])
    app.add_route("/viewer/{code}", with_cookie("code", viewer.came), methods=["GET"])
    absent = pages(lambda visit: _told(visit, "viewer_absent", 404))
    root = pages(lambda visit: _told(visit, "viewer_root", 200))
    for path in ("/ohif", "/ohif/", "/ohif/{path:path}"):
        app.add_route(path, _files(parts, absent, root), methods=["GET"])


class OwnPages:
    """Takes the cookies off requests to the archive that are no read, or that another site's page makes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/dicomweb") and not _own_read(scope):
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"cookie"]}
        await self._app(scope, receive, send)


def _own_read(scope: Scope) -> bool:
    """https://www.w3.org/TR/fetch-metadata/: browsers that do not tell it keep the cookie by SameSite=Strict."""
    sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
    return scope["method"] in ("GET", "HEAD") and all(site in (b"same-origin", b"none") for site in sites)


class Viewer:
    """The pages."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # ------------------------------------------------------------ opening

    def asked(self, visit: Visit) -> Shown:
        """``/viewer?study=ImagingStudy/…``, ``order=ServiceRequest/…`` or ``report=DiagnosticReport/…``, for a signed-in person."""
        pairs = [pair for pair in visit.sent if pair[0] in (*KINDS, PRIOR, "plain")]
        if visit.session is None:
            return see("/auth/login", next=f"/viewer?{urlencode(pairs)}")
        passes = self._parts.passes
        try:
            where, records = self.found(principal_of(visit.person), pairs)
        except FHIRError as error:
            if error.status >= 500:
                raise
            return _told(visit, "viewer_hidden", 404)
        if where is None:
            return _told(visit, "viewer_waiting", 404)
        return self._passed(passes.add(passes.of_session(visit.session), records), where)

    def came(self, visit: Visit, code: str, _: str | None) -> Shown:
        """``/viewer/<code>``: who was sent here by an app, once; not who only looks whether something is there."""
        found = self._parts.passes.redeem(code) if visit.method == "GET" else None
        return self._passed(*found) if found else _told(visit, "viewer_code", 404)

    def code(self, header: str | None, body: bytes) -> Document:
        """What an app is told that wants images opened with its access token. Errors: FHIRError."""
        principal = self._parts.authenticate(header)
        if principal is ANONYMOUS or header is None:
            raise Unauthorized("Send an access token: Authorization: Bearer …")
        where, records = self.found(principal, _named(body))
        if where is None:
            raise BadRequest("The images have not arrived yet.")
        code = self._parts.passes.add_code(self._parts.passes.of_token(header), records, where)
        return {"url": f"{self._parts.base}/viewer/{code}", "expires_in": self._parts.passes.CODE_SECONDS}

    def found(self, principal: Principal, pairs: Iterable[tuple[str, str]]) -> tuple[str | None, list[str]]:
        """(the path where it is shown, None where no images are there; the records that this takes)."""
        asked, dist = list(pairs), self._parts.dist
        studies, priors = self._parts.opening.studies(principal, asked)
        shown = [study for study in studies if uid(study) and self._parts.has_images(principal, uid(study))]
        records = [f"ImagingStudy/{study['id']}" for study in (*shown, *priors)]
        if not shown:
            return None, records
        if dist.installed and ("plain", "1") not in asked:
            return dist.url([uid(study) for study in shown]), records
        first, *others = [study["id"] for study in (*shown, *priors)]
        also = f"?{urlencode({'also': ','.join(others)}, safe=',')}" if others else ""
        return f"{self._parts.prefix}/viewer/plain/{first}{also}", records

    def _passed(self, handle: str, where: str) -> Shown:
        """The plain page's own cookie comes along when another site leads here, which one for images never needs to."""
        passes, prefix = self._parts.passes, self._parts.prefix
        strict, lax = (
            passes.set_cookie(handle, f"{prefix}/dicomweb"),
            passes.set_cookie(handle, f"{prefix}/viewer/plain", "Lax"),
        )
        return Shown(303, location=where, others=(strict, lax))

    # ------------------------------------------------------------ the plain page

    def plain(self, visit: Visit, id_: str, cookie: str | None) -> Shown:
        principal = self._parts.passes.holder(cookie).confined([f"ImagingStudy/{id_}"])
        try:
            resource = self._parts.opening.study(principal, id_) if principal.scopes else None
        except FHIRError as error:
            if error.status >= 500:
                raise
            resource = None
        if resource is None:
            return see("/viewer", study=f"ImagingStudy/{id_}", plain="1")
        study = plain.study(self._parts.instances(principal, uid(resource)), f"{self._parts.prefix}/dicomweb")
        if study is None:
            return _told(visit, "viewer_waiting", 404)
        others = [one for one in dict.fromkeys((visit.query.get("also") or "").split(",")) if one and one != id_]
        values = _chosen(visit, study) | {"others": self._others(self._parts.passes.holder(cookie), id_, others)}
        full = f"/viewer?{urlencode({'study': f'ImagingStudy/{id_}'})}" if self._parts.dist.installed else ""
        body = render(
            "plain", visit.language, "fhirserver.pages.viewer", WORDS, study=study, full=full if visit.session else "",
            installed=bool(full), style=f"/viewer/static/{_STYLE}", script=f"/viewer/static/{_SCRIPT}", **values,
        )  # fmt: skip
        return Shown(200, body, headers={"Content-Security-Policy": _PLAIN})

    def _others(self, principal: Principal, id_: str, ids: list[str]) -> list[dict[str, str]]:
        """The other studies that were opened together with this one."""
        found = []
        for one in ids[:20]:
            try:
                study = self._parts.opening.study(principal, one)
            except FHIRError:
                continue
            rest = ",".join(other for other in (id_, *ids) if other != one)
            title = " ".join(part for part in (study.get("description", ""), study.get("started", "")[:10]) if part)
            href = f"{self._parts.prefix}/viewer/plain/{one}?{urlencode({'also': rest}, safe=',')}"
            found.append({"href": href, "title": title or one})
        return found


def _chosen(visit: Visit, study: plain.Study) -> dict[str, Any]:
    """Which series, image and window the URL names; what it names wrongly is the first."""
    query = visit.query

    def link(**changes: Any) -> str:
        named = {name: query[name] for name in ("series", "image", "window", "also") if query.get(name)}
        pairs = {name: value for name, value in (named | changes).items() if value != ""}
        return f"?{urlencode(pairs, safe=',')}"

    if not study.series:
        return {"series": None, "picture": None, "link": link, "here": link()}
    series = study.series[_index(query.get("series"), len(study.series))]
    image = _index(query.get("image"), len(series.pictures))
    windows = {preset[0]: plain.window(preset) for preset in series.presets}
    wanted = query.get("window", "")
    return {
        "series": series, "image": image, "picture": series.pictures[image], "pictures": [p.path for p in series.pictures],
        "windows": windows, "chosen": wanted if wanted in windows else next(iter(windows)), "link": link, "here": link(),
    }  # fmt: skip


def _index(text: str | None, length: int) -> int:
    return min(int(text), length - 1) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _told(visit: Visit, what: str, status: int) -> Shown:
    keep = "".join(f"&{urlencode([pair])}" for pair in visit.sent if pair[0] != "lang")
    person = visit.session["person"] if visit.session else None
    body = render(
        "told", visit.language, "fhirserver.pages.viewer", WORDS, what=what, keep=keep, token=visit.token, person=person
    )  # fmt: skip
    return Shown(status, body, headers={"Content-Security-Policy": _TOLD})


# ---------------------------------------------------------------- for apps


def _named(body: bytes) -> list[tuple[str, str]]:
    """``{"study": "ImagingStudy/…", "priors": ["ImagingStudy/…"]}``, or ``order`` or ``report``. Error: 400."""
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not set(asked) <= {*KINDS, "priors", "plain"}:
        raise BadRequest('Send JSON: {"study": "ImagingStudy/…"}, or "order" or "report"; with "priors" if there are any.')
    priors = asked.pop("priors", [])
    simple = asked.pop("plain", False)
    if not isinstance(priors, list) or not all(isinstance(value, str) for value in (*asked.values(), *priors)):
        raise BadRequest("References are text: Type/id.")
    return [*asked.items(), *((PRIOR, one) for one in priors), *([("plain", "1")] if simple is True else [])]


def _opener(viewer: Viewer) -> Endpoint:
    async def endpoint(request: HTTPRequest) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                return Response(json.dumps({"message": "The request is too large."}), 413, _JSON, "application/json")
        try:
            told = await run_in_threadpool(viewer.code, request.headers.get("authorization"), body)
        except FHIRError as error:
            return Response(
                json.dumps({"message": error.diagnostics}), error.status, {**_JSON, **error.headers}, "application/json"
            )
        return Response(json.dumps(told), 200, _JSON, "application/json")

    return endpoint


# ---------------------------------------------------------------- files


async def _static(request: HTTPRequest) -> Response:
    found = _STATIC.get(request.path_params["name"])
    return Response(found[0], 200, _CACHED, found[1]) if found else Response(status_code=404, headers=_JSON)


def _files(parts: Parts, absent: Endpoint, root: Endpoint) -> Endpoint:
    dist = parts.dist

    async def endpoint(request: HTTPRequest) -> Response:
        path = request.path_params.get("path")
        if not path:
            return (
                RedirectResponse(f"{dist.root}/", 308) if path is None and request.url.path == "/ohif" else await root(request)
            )
        if not dist.installed:
            return await absent(request)
        return await run_in_threadpool(_file, dist, path, request)

    return endpoint


def _file(dist: Dist, path: str, request: HTTPRequest) -> Response:
    if path == "app-config.js":
        headers = dist.page("")[1] | {"Cache-Control": "no-cache"}
        return Response(dist.configuration, 200, headers, "text/javascript; charset=utf-8")
    asset = dist.asset(path)
    if asset is None:  # a place inside the application
        text, headers = dist.page(secrets.token_urlsafe(16))
        return Response(text, 200, headers, "text/html; charset=utf-8")
    headers = dict(asset.headers)
    if "ETag" in headers and request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if asset.squeezed and "gzip" in request.headers.get("accept-encoding", ""):
        more = headers | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return FileResponse(asset.squeezed, 200, more, asset.media)
    return FileResponse(asset.path, 200, headers | ({"Vary": "Accept-Encoding"} if asset.squeezed else {}), asset.media)
