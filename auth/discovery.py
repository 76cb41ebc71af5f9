"""The discovery documents, computed from what is registered.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html https://openid.net/specs/openid-connect-discovery-1_0.html
"""

from __future__ import annotations

from typing import Any

from auth import scopes
from auth.clients import METHODS
from auth.grants import GRANTS, AuthorizationCode
from auth.keys import ALGORITHMS, ID_TOKEN_ALGORITHM
from auth.server import Server

# What each of these promises is tested: tests/auth; of the last, which is no part of SMART App Launch: tests/imaging/test_imaging_access.py
CAPABILITIES = (
    "launch-ehr", "launch-standalone", "authorize-post", "client-public", "client-confidential-symmetric",
    "client-confidential-asymmetric", "sso-openid-connect", "context-banner", "context-style", "context-ehr-patient",
    "context-ehr-encounter", "context-standalone-patient", "context-standalone-encounter", "permission-offline",
    "permission-online", "permission-patient", "permission-user", "permission-v1", "permission-v2",
    "smart-imaging-access",
)  # fmt: skip


def scopes_supported() -> list[str]:
    launches = [f"launch/{name}" for name in scopes.CONTEXTS]
    levels = [f"{level}/*.{letters}" for level in ("patient", "user", "system") for letters in ("rs", "cruds")]
    return [*scopes.IDENTITY, "launch", *launches, scopes.OFFLINE, scopes.ONLINE, *levels]


def smart_configuration(server: Server) -> dict[str, Any]:
    return {
        **_common(server),
        "management_endpoint": f"{server.issuer}/auth/apps",
        "capabilities": list(CAPABILITIES),
    }


def openid_configuration(server: Server) -> dict[str, Any]:
    return {
        **_common(server),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ID_TOKEN_ALGORITHM],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash", "fhirUser", "name"],
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def _common(server: Server) -> dict[str, Any]:
    return {
        "issuer": server.issuer,
        "jwks_uri": f"{server.issuer}/auth/jwks",
        "authorization_endpoint": server.authorize_url,
        "token_endpoint": server.token_url,
        "introspection_endpoint": f"{server.issuer}/auth/introspect",
        "revocation_endpoint": f"{server.issuer}/auth/revoke",
        "grant_types_supported": [grant.GRANT_TYPE for grant in GRANTS],
        "response_types_supported": sorted(AuthorizationCode.RESPONSE_TYPES),
        "response_modes_supported": ["query"],
        "scopes_supported": scopes_supported(),
        "token_endpoint_auth_methods_supported": [*METHODS, "none"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "introspection_endpoint_auth_methods_supported": list(METHODS),
        "introspection_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": [*METHODS, "none"],
        "revocation_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
    }


def oauth_uris(server_base: str) -> list[dict[str, Any]]:
    """For the CapabilityStatement, as SMART 1 apps look for it: the same URLs as in the configuration."""
    names = {"authorize": "authorize", "token": "token", "introspect": "introspect", "revoke": "revoke", "manage": "apps"}
    return [{"url": name, "valueUri": f"{server_base}/auth/{path}"} for name, path in names.items()]
