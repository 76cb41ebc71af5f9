"""/auth/token and the discovery documents.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html
"""

from __future__ import annotations

import logging
import traceback
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auth.grants import GRANTS
from auth.keys import ALGORITHMS
from auth.server import Server

log = logging.getLogger("auth.routes")

_MAX_FORM = 64 * 1024


def install(app: FastAPI, server: Server) -> None:
    """The routes of the authorization server."""

    async def token(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                return JSONResponse({"error": "invalid_request", "error_description": "the form is too large"}, 413)
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50)
        except ValueError:
            return JSONResponse({"error": "invalid_request", "error_description": "the form cannot be read"}, 400)
        headers = {name.title(): value for name, value in request.headers.items()}
        try:
            status, answered, text = await run_in_threadpool(server.token, pairs, headers)
        except Exception as error:  # its text may hold what was sent: it is neither told nor logged
            log.error("Unexpected %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            return JSONResponse({"error": "server_error"}, 503, {"Cache-Control": "no-store", "Retry-After": "2"})
        return Response(text, status, answered)

    async def smart_configuration(_: Request) -> Response:
        return JSONResponse(configuration(server), headers={"Access-Control-Allow-Origin": "*"})

    for path in ("/.well-known/smart-configuration", "/fhir/.well-known/smart-configuration"):
        app.add_route(path, smart_configuration, methods=["GET"])
    app.add_route("/auth/token", token, methods=["POST"])


def configuration(server: Server) -> dict[str, Any]:
    """Computed from what is registered. https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html"""
    methods = list(dict.fromkeys(method for grant in GRANTS for method in grant.TOKEN_ENDPOINT_AUTH_METHODS))
    return {
        "issuer": server.issuer,
        "token_endpoint": server.token_url,
        "grant_types_supported": [grant.GRANT_TYPE for grant in GRANTS],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "scopes_supported": ["system/*.cruds", "user/*.cruds"],
        "code_challenge_methods_supported": ["S256"],
        "capabilities": ["client-confidential-symmetric", "client-confidential-asymmetric", "permission-v1", "permission-v2"],
    }
