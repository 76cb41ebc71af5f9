"""/auth/token and the discovery documents.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from auth.grants import GRANTS
from auth.keys import ALGORITHMS
from auth.server import Server

_MAX_FORM = 64 * 1024


def router(server: Server) -> APIRouter:
    """The routes of the authorization server."""
    routes = APIRouter()

    @routes.post("/auth/token")
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
        status, answered, text = await run_in_threadpool(server.token, pairs, headers)
        return Response(text, status, answered)

    @routes.get("/.well-known/smart-configuration")
    @routes.get("/fhir/.well-known/smart-configuration")
    def smart_configuration() -> JSONResponse:
        return JSONResponse(configuration(server), headers={"Access-Control-Allow-Origin": "*"})

    return routes


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
