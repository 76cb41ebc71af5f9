"""A client as Authlib sees it, and the ways in which clients authenticate.

https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, unquote_plus

from authlib.oauth2.rfc6749 import ClientMixin

from auth import keys
from auth.jwks import KeySets
from auth.store import AuthStore

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_SECONDS = 300
_LEEWAY = 30
METHODS = ("private_key_jwt", "client_secret_basic", "client_secret_post")


class Client(ClientMixin):  # type: ignore[misc]
    """A registered client."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @property
    def is_public(self) -> bool:
        return bool(self.document["method"] == "none")

    def get_client_id(self) -> str:
        return str(self.document["_id"])

    def get_default_redirect_uri(self) -> str:
        return ""

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """ "exact string matching": https://www.rfc-editor.org/rfc/rfc9700#section-2.1"""
        return redirect_uri in self.document["redirect_uris"]

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.document["method"] or (method == "client_secret_post" and "secret" in self.document["method"])

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and bool(self.document["redirect_uris"])

    def check_grant_type(self, grant_type: str) -> bool:
        if grant_type == "client_credentials":
            return not self.is_public
        return grant_type in ("authorization_code", "refresh_token") and bool(self.document["redirect_uris"])


def client_auth_methods(store: AuthStore, audiences: tuple[str, ...]) -> dict[str, Callable[[Any, Any], Client | None]]:
    """Method name -> (query_client, request) -> the client, or None where it is not proven."""
    key_sets = KeySets()

    def basic(_: Any, request: Any) -> Client | None:
        for client_id, secret in basic_credentials(request.headers):
            if found := _with_secret(client_id, secret, request):
                return found
        return None

    def post(_: Any, request: Any) -> Client | None:
        return _with_secret(request.form.get("client_id"), request.form.get("client_secret"), request)

    def _with_secret(client_id: str | None, secret: str | None, request: Any) -> Client | None:
        if not client_id or not secret or request.form.get("client_id", client_id) != client_id:
            return None
        found = store.clients.get(client_id)
        return Client(found) if store.clients.secret_matches(found, secret) and found else None

    def private_key_jwt(_: Any, request: Any) -> Client | None:
        if request.form.get("client_assertion_type") != ASSERTION_TYPE:
            return None
        client_id, claims = _asserted(store, key_sets, request.form.get("client_assertion") or "")
        if (
            claims is None
            or not _acceptable(claims, client_id, audiences)
            or request.form.get("client_id", client_id) != client_id
        ):
            return None
        if not store.first_use(client_id, claims["jti"], claims["exp"] + 2 * _LEEWAY):
            return None
        found = store.clients.get(client_id)
        return Client(found) if found else None

    def none(_: Any, request: Any) -> Client | None:
        """A public client says who it is; when it refreshes, its token says so too."""
        if proofs(request.headers, request.form):
            return None
        client_id = request.form.get("client_id")
        if not client_id and request.form.get("grant_type") == "refresh_token":
            held = store.grants.refresh_token(request.form.get("refresh_token") or "")
            client_id = held["client"] if held else None
        found = store.clients.get(client_id) if client_id else None
        return Client(found) if found else None

    return {"private_key_jwt": private_key_jwt, "client_secret_basic": basic, "client_secret_post": post, "none": none}


def basic_credentials(headers: Any) -> list[tuple[str, str]]:
    """Id and secret, form-encoded as RFC 6749 2.3.1 says, or as they are, as many clients send them; each reading once."""
    scheme, _, encoded = str(headers.get("Authorization", "")).partition(" ")
    try:
        text = b64decode(encoded, validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        return []
    if ":" not in text:
        return []
    raw = text.split(":", 1)
    readings = [tuple(read(part) for part in raw) for read in (unquote_plus, unquote, str)]
    return list(dict.fromkeys(readings))  # type: ignore[arg-type]


def proofs(headers: Any, form: Any) -> int:
    """In how many ways a client authenticates: "The client MUST NOT use more than one authentication method in each request." """
    basic = str(headers.get("Authorization", "")).lower().startswith("basic ")
    return basic + ("client_secret" in form) + ("client_assertion" in form)


def _asserted(store: AuthStore, key_sets: KeySets, assertion: str) -> tuple[str, dict[str, Any] | None]:
    """The client that the assertion names, and its claims if that client's key signed it."""
    client_id, header = keys.unverified_subject(assertion), keys.header_of(assertion)
    found = store.clients.get(client_id) if client_id else None
    if found is None or found["method"] != "private_key_jwt":
        return client_id, None
    # "verify that the jku is whitelisted (i.e., that it matches the JWKS URL value supplied at registration time)"
    if "jku" in header and header["jku"] != found.get("jwks_uri"):
        return client_id, None
    key_set = found.get("jwks") or key_sets.get(found["jwks_uri"])
    if found.get("jwks_uri") and not (key_set and keys.has_key(key_set, header)):
        key_set = key_sets.get(found["jwks_uri"], again=True)
    return client_id, keys.assertion_claims(assertion, key_set) if key_set else None


def _acceptable(claims: dict[str, Any], client_id: str, audiences: tuple[str, ...]) -> bool:
    """iss = sub = client, one audience that is ours, and "exp … no more than five minutes in the future"."""
    now, expires, audience = time.time(), claims.get("exp"), claims.get("aud")
    audience = audience[0] if isinstance(audience, list) and len(audience) == 1 else audience
    early = [claims[name] for name in ("nbf", "iat") if name in claims]
    return (
        claims.get("iss") == client_id
        and claims.get("sub") == client_id
        and isinstance(audience, str)
        and audience in audiences
        and isinstance(expires, (int, float))
        and now - _LEEWAY < expires <= now + MAX_ASSERTION_SECONDS + _LEEWAY
        and all(isinstance(when, (int, float)) and when <= now + _LEEWAY for when in early)
        and isinstance(claims.get("jti"), str)
        and 0 < len(claims["jti"]) <= 255
    )
