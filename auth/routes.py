"""The HTTP edge of the authorization server: /auth/… and the discovery documents.

Requests become plain values here, and answers bytes; the rules are in the other files of this package.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auth import discovery, keys, pages
from auth.account import Account
from auth.authorize import Authorization
from auth.external import Providers
from auth.keys import Seal
from auth.launch import Launch
from auth.log import AccessLog
from auth.records import Records
from auth.server import Answer, Pairs, Server
from auth.visit import Shown, Visit, failure, form_token, new_visit

Endpoint = Callable[[Request], Awaitable[Response]]
Pages = Callable[[Callable[[Visit], Shown]], Endpoint]

log = logging.getLogger("auth.routes")

_MAX_FORM = 64 * 1024
_WEEK = 7 * 86_400
_CACHED = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Cookies:
    """Their names: bound to this host and TLS where there is TLS. https://www.rfc-editor.org/rfc/rfc6265#section-4.1.2"""

    secure: bool

    @property
    def session(self) -> str:
        return "__Host-session" if self.secure else "session"

    @property
    def visit(self) -> str:
        return "__Host-visit" if self.secure else "visit"


def install(
    app: FastAPI, server: Server, records: Records, seal: Callable[[], Seal], unavailable: Callable[[Exception], bool]
) -> Pages:
    """The routes of the authorization server. By what is returned other pages for people who sign in here are shown."""
    providers = Providers(server.store, server.issuer, seal)
    account, launch = Account(server, seal, providers, records), Launch(server, records)
    authorization = Authorization(server, records)
    cookies = Cookies(server.issuer.startswith("https://"))
    forms = cache(lambda: server.store.key("forms", new_visit().encode()))  # the same on all workers, asked for once
    server.style_url = f"{server.issuer}{pages.STYLE_PATH}"

    def form_endpoint(ask: Callable[[Pairs, Mapping[str, str], str], Answer]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            pairs = await _form(request)
            if isinstance(pairs, Response):
                return pairs
            headers = {name.title(): value for name, value in request.headers.items()}
            try:
                status, answered, text = await run_in_threadpool(ask, pairs, headers, _address(request))
            except Exception as error:
                return _failed(error, unavailable)
            return Response(text, status, answered)

        return endpoint

    def page_endpoint(show: Callable[[Visit], Shown]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            pairs = await _form(request) if request.method == "POST" else []
            if isinstance(pairs, Response):
                return pairs
            try:
                return await run_in_threadpool(_shown, server, cookies, forms, request, pairs, show)
            except Exception as error:
                return _failed(error, unavailable)

        return endpoint

    def provider_endpoint(show: Callable[[Visit, str], Shown]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return await page_endpoint(lambda visit: show(visit, request.path_params["provider"]))(request)

        return endpoint

    def document(make: Callable[[], dict[str, Any]]) -> Endpoint:
        async def endpoint(_: Request) -> Response:
            try:
                return JSONResponse(await run_in_threadpool(make), headers={"Cache-Control": "no-cache"})
            except Exception as error:
                return _failed(error, unavailable)

        return endpoint

    for path, ask in (("token", server.token), ("introspect", server.introspect), ("revoke", server.revoke)):
        app.add_route(f"/auth/{path}", form_endpoint(ask), methods=["POST"])
    shown: tuple[tuple[str, Callable[[Visit], Shown], list[str]], ...] = (
        ("authorize", authorization.asked, ["GET", "POST"]),
        ("continue", authorization.continued, ["GET", "POST"]),
        ("login", account.login, ["GET", "POST"]),
        ("code", account.second, ["GET", "POST"]),
        ("logout", account.logout, ["GET", "POST"]),
        ("apps", account.apps, ["GET", "POST"]),
        ("launch", launch.opened, ["GET", "POST"]),
        ("log", AccessLog(records).shown, ["GET"]),
    )
    for path, show, methods in shown:
        app.add_route(f"/auth/{path}", page_endpoint(show), methods=methods)
    app.add_route("/auth/login/{provider}", provider_endpoint(account.external), methods=["GET", "POST"])
    app.add_route("/auth/login/{provider}/return", provider_endpoint(account.returned), methods=["GET"])
    smart = document(lambda: discovery.smart_configuration(server))
    openid = document(lambda: discovery.openid_configuration(server))
    for path in ("/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration"):
        app.add_route(path, smart, methods=["GET"])
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        app.add_route(path, openid, methods=["GET"])
    app.add_route("/auth/jwks", document(lambda: keys.published(server.signing_keys())), methods=["GET"])
    app.add_route(pages.STYLESHEET_PATH, _static(pages.STYLESHEET, "text/css; charset=utf-8"), methods=["GET"])
    app.add_route(pages.STYLE_PATH, _static(pages.STYLE, "application/json"), methods=["GET"])
    return page_endpoint


def _static(body: bytes, media: str) -> Endpoint:
    """What is named by its own contents."""

    async def endpoint(_: Request) -> Response:
        return Response(body, headers=_CACHED, media_type=media)

    return endpoint


async def _form(request: Request) -> Pairs | Response:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM:
            return JSONResponse({"error": "invalid_request", "error_description": "the form is too large"}, 413)
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        return JSONResponse({"error": "invalid_request", "error_description": "the form cannot be read"}, 400)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _query(request: Request) -> Pairs:
    try:
        return parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True, max_num_fields=50, errors="strict")
    except ValueError:
        return []


def _shown(
    server: Server, cookies: Cookies, forms: Callable[[], bytes], request: Request, pairs: Pairs, show: Callable[[Visit], Shown]
) -> Response:
    """One page: who visits is found out, the page is shown, cookies are set."""
    browser, cookie = request.cookies.get(cookies.visit), request.cookies.get(cookies.session)
    new = browser is None
    browser = browser or new_visit()
    many: dict[str, list[str]] = {}
    for name, value in pairs:
        many.setdefault(name, []).append(value)
    asked = _query(request)
    query = dict(asked)
    chosen = (
        query.get("lang") or query.get("ui_locales") or request.cookies.get("lang") or request.headers.get("accept-language")
    )
    visit = Visit(
        request.method,
        pairs if request.method == "POST" else asked,
        query,
        {name: values[0] for name, values in many.items()},
        many,
        pages.language(chosen),
        _address(request),
        server.store.people.session(cookie),
        cookie,
        form_token(forms(), browser, cookie),
    )
    from_elsewhere = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if request.method == "POST" and from_elsewhere and request.scope["path"] != "/auth/authorize":
        result = failure(visit, "again", 403)
    else:
        result = show(visit)
    headers = {**_PRIVATE, **result.headers, **({"Location": result.location} if result.location else {})}
    response = Response(result.body, result.status, headers, "text/html; charset=utf-8" if result.body else None)
    options: dict[str, Any] = {"httponly": True, "secure": cookies.secure, "samesite": "lax", "path": "/"}
    if new:
        response.set_cookie(cookies.visit, browser, max_age=_WEEK, **options)
    if "lang" in query or "ui_locales" in query:
        response.set_cookie("lang", visit.language.code, max_age=52 * _WEEK, **options)
    if result.cookie:
        response.set_cookie(cookies.session, result.cookie, **options)
    elif result.cookie == "":
        response.delete_cookie(cookies.session, **options)
    for cookie_ in result.others:
        response.headers.append("set-cookie", cookie_)
    return response


def _failed(error: Exception, unavailable: Callable[[Exception], bool]) -> Response:
    if unavailable(error):
        body = {"error": "temporarily_unavailable", "error_description": "the database cannot be reached; try again"}
        return JSONResponse(body, 503, {"Retry-After": "2", "Cache-Control": "no-store"})
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("Unexpected %s\n%s", type(error).__name__, where)
    return JSONResponse({"error": "server_error"}, 500, {"Cache-Control": "no-store"})
