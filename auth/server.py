"""Authlib's authorization server, spoken through plain values: form and headers in, status and JSON (or a redirect) out.

https://www.rfc-editor.org/rfc/rfc6749 https://docs.authlib.org/
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timezone
from functools import partial
from typing import Any

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Payload, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidScopeError

from auth import keys
from auth.clients import Client, basic_credentials, client_auth_methods, proofs
from auth.endpoints import Introspection, Revocation
from auth.grants import GRANTS
from auth.scopes import parse, special
from auth.store import LONGEST_TOKEN, AuthStore, Document

Answer = tuple[int, dict[str, str], str]
Pairs = list[tuple[str, str]]

ACCESS_SECONDS = int(LONGEST_TOKEN)
ID_TOKEN_SECONDS = 300
_FAILURES, _WINDOW = 30, 60.0  # failed proofs of one client in so many seconds, before it has to wait
_CONTEXT = ("patient", "encounter", "fhirContext", "intent", "need_patient_banner", "tenant")


@dataclass(frozen=True, slots=True)
class Event:
    """What the audit trail is told: ``what`` is login, logout, consent, token, revoke, …; ``refused`` where it was not to be."""

    what: str
    client: str
    user: str | None
    organization: str
    practitioner: str | None
    refused: bool


class Payload(OAuth2Payload):  # type: ignore[misc]
    """The parameters of a request."""

    def __init__(self, pairs: Pairs) -> None:
        self._lists: dict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._lists[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._lists.items()}

    @property
    def datalist(self) -> dict[str, list[str]]:
        return self._lists

    def replace(self, name: str, value: str) -> None:
        self._lists[name] = [value]


class AskedRequest(OAuth2Request):  # type: ignore[misc]
    """The token endpoint reads the form alone: credentials in a URL would end up in logs. ``granted``: the consent's grant."""

    def __init__(self, uri: str, pairs: Pairs, headers: Mapping[str, str]) -> None:
        super().__init__("POST", uri, headers=headers)
        self.payload = Payload(pairs)
        self.granted = ""

    @property
    def args(self) -> dict[str, str]:
        return {}

    @property
    def form(self) -> dict[str, str]:
        data: dict[str, str] = self.payload.data
        return data


class Server(AuthorizationServer):  # type: ignore[misc]
    """Token, introspection and revocation endpoints, and the rules of the authorization endpoint. ``issuer`` is the public base
    URL; ``grantable`` says whether a scope is about something that is served; ``note`` is told what happened."""

    def __init__(
        self, store: AuthStore, issuer: str, grantable: Callable[[str], bool] = lambda _: True,
        note: Callable[[Event], None] = lambda _: None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.store, self.issuer, self.note = store, issuer, note
        self._grantable = grantable
        self.audience = f"{issuer}/fhir"
        self.token_url, self.authorize_url = f"{issuer}/auth/token", f"{issuer}/auth/authorize"
        # the style's own contents are in its name: "SHALL be … a new URL whenever contents change"
        self.style_url = ""
        for name, method in client_auth_methods(store, (self.token_url, issuer)).items():
            self.register_client_auth_method(name, method)
        for grant in GRANTS:
            self.register_grant(grant, grant.EXTENSIONS)
        for endpoint in (Introspection, Revocation):
            self.register_endpoint(endpoint)

    # ------------------------------------------------------------ endpoints

    def token(self, pairs: Pairs, headers: Mapping[str, str], address: str) -> Answer:
        """https://www.rfc-editor.org/rfc/rfc6749#section-3.2"""
        return self._checked(pairs, headers, address, self.create_token_response, "token")

    def introspect(self, pairs: Pairs, headers: Mapping[str, str], address: str) -> Answer:
        ask = partial(self.create_endpoint_response, "introspection")
        return self._checked(pairs, headers, address, ask, "introspect")

    def revoke(self, pairs: Pairs, headers: Mapping[str, str], address: str) -> Answer:
        return self._checked(pairs, headers, address, partial(self.create_endpoint_response, "revocation"), "revoke")

    def _checked(
        self, pairs: Pairs, headers: Mapping[str, str], address: str, ask: Callable[[Any], Answer], what: str
    ) -> Answer:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):  # "Request and response parameters MUST NOT be included more than once."
            return self._refused("a parameter is repeated")
        request = AskedRequest(self.token_url, pairs, headers)
        if proofs(headers, request.form) > 1:
            return self._refused("a client authenticates in one way at a time")
        client = self._named(request)
        guard = f"{what} of {client} from {address}"  # so that others cannot lock a client out
        if client and self.store.failures(guard, _WINDOW) >= _FAILURES:
            told = self._refused("too many failures; wait a minute", 429)
            return told[0], told[1] | {"Retry-After": "60"}, told[2]
        answer = ask(request)
        if answer[0] == 401 or '"invalid_client"' in answer[2]:
            self.store.failed(guard, _WINDOW)
            self.told(what, client, None, refused=True)
        elif answer[0] >= 400 and what == "token":
            self.told(what, client, None, refused=True)
        return answer

    def _named(self, request: AskedRequest) -> str:
        """The client that the request is said to be from."""
        by_header = next(iter(basic_credentials(request.headers)), ("", ""))[0]
        by_assertion = keys.unverified_subject(request.form.get("client_assertion", ""))
        return (request.form.get("client_id") or by_assertion or by_header)[:200]

    def _refused(self, text: str, status: int = 400) -> Answer:
        return self.handle_response(status, {"error": "invalid_request", "error_description": text}, [])

    # ------------------------------------------------------------ what a token's answer says

    def answer_for(self, grant: Document, user: Document, scope: str, refresh: str | None, *, identify: bool) -> dict[str, Any]:
        """Token, scope and launch context; an id_token where ``openid`` was granted."""
        store = self.store
        token = store.grants.issue(
            grant["client"], scope, ACCESS_SECONDS, grant=grant["_id"], user=user["_id"], organization=user["organization"]
        )
        told: dict[str, Any] = {"token_type": "Bearer", "access_token": token, "expires_in": ACCESS_SECONDS, "scope": scope}
        if refresh:
            told["refresh_token"] = refresh
        told |= self.context_of(grant)
        if identify and "openid" in scope.split():
            told["id_token"] = self._id_token(grant, user, scope, token)
        self.told("token", grant["client"], user["_id"])
        return told

    def context_of(self, grant: Document) -> dict[str, Any]:
        context = {name: value for name, value in grant["context"].items() if name in _CONTEXT and value not in (None, [])}
        return context | ({"smart_style_url": self.style_url} if "need_patient_banner" in context else {})

    def identity(self, user: Document, scope: str) -> dict[str, Any]:
        """iss and sub, and fhirUser where it was granted."""
        told = {"iss": self.issuer, "sub": user["sub"]}
        if "fhirUser" in scope.split() and user["practitioner"]:
            told["fhirUser"] = f"{self.audience}/Practitioner/{user['practitioner']}"
        return told

    def _id_token(self, grant: Document, user: Document, scope: str, token: str) -> str:
        """https://openid.net/specs/openid-connect-core-1_0.html#IDToken"""
        at = int(time.time())
        claims = self.identity(user, scope) | {"aud": grant["client"], "iat": at, "exp": at + ID_TOKEN_SECONDS}
        claims |= {"at_hash": keys.half_hash(token), "auth_time": int(grant["context"].get("auth_time") or at)}
        if "profile" in scope.split():
            claims["name"] = user["display"]
        if grant["nonce"]:
            claims["nonce"] = grant["nonce"]
        return keys.signed(claims, self.signing_keys()[0])

    def signing_keys(self) -> list[str]:
        """Private JWKs, newest first; the first is made where there is none."""
        rows = self.store.signing_keys()
        if not rows:
            self.store.add_signing_key(*keys.new_signing_key())
            rows = self.store.signing_keys()
        return [row["jwk"] for row in rows]

    def introspected(self, text: str, document: Document, refresh: bool) -> dict[str, Any]:
        """https://hl7.org/fhir/smart-app-launch/STU2.2/token-introspection.html"""
        grant = self.store.live_grant(document["grant"]) if document["grant"] else None
        if (document["grant"] and grant is None) or (not refresh and not self.store.principal(text).client):
            return {"active": False}
        scope = document["scope"] if not refresh else grant["scope"] if grant else ""
        expires = document["expires"].replace(tzinfo=timezone.utc).timestamp()
        told = {"active": True, "client_id": document["client"], "scope": scope, "exp": int(expires), "token_type": "Bearer"}
        if grant:
            user = self.store.people.get(grant["user"])
            told |= self.context_of(grant) | (self.identity(user, scope) if user else {})
        else:
            told |= {"iss": self.issuer, "sub": document["client"]} | (
                {"patient": document["patient"]} if document["patient"] else {}
            )
        return told

    # ------------------------------------------------------------ the authorization endpoint

    def asked(self, pairs: Pairs) -> AskedRequest:
        return AskedRequest(self.authorize_url, pairs, {})

    def consented(self, request: AskedRequest, user: Document, grant: str) -> str:
        """Where the browser goes with the code."""
        request.granted = grant
        status, headers, _ = self.create_authorization_response(request, user, self.get_consent_grant(request, user))
        assert status == 302, status
        return self._issued_by(headers["Location"])

    def error_redirect(self, redirect_uri: str, error: str, text: str, state: str | None) -> str:
        pairs = [("error", error), ("error_description", text), *([("state", state)] if state else [])]
        return self._issued_by(add_params_to_uri(redirect_uri, pairs))

    def _issued_by(self, location: str) -> str:
        """https://www.rfc-editor.org/rfc/rfc9207, in errors too."""
        return str(add_params_to_uri(location, [("iss", self.issuer)]))

    def grantable(self, text: str) -> bool:
        scope = parse(text)
        return special(text) if scope is None else self._grantable(text)

    # ------------------------------------------------------------ the audit

    def told(self, what: str, client: str, user: str | None, *, refused: bool = False) -> None:
        person = self.store.people.get(user) if user else None
        known = self.store.clients.get(client) if client else None
        self.note(
            Event(
                what,
                client if known or person else "",
                user if person else None,
                person["organization"] if person else known["organization"] if known else self.store.home,
                person["practitioner"] if person else None,
                refused,
            )
        )

    # ------------------------------------------------------------ what Authlib asks for

    def query_client(self, client_id: str) -> Client | None:
        found = self.store.clients.get(client_id)
        return Client(found) if found else None

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        """Kept when it was made."""

    def validate_requested_scope(self, scope: str | None) -> None:
        if not scope:
            raise InvalidScopeError("A scope is required.")

    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        return request

    def create_json_request(self, request: Any) -> Any:
        return request

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def get_error_uri(self, request: Any, error: Any) -> None:
        return None

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Answer:
        """https://www.rfc-editor.org/rfc/rfc6749#section-5.1: no-store, no-cache."""
        fixed = {"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}
        return status, dict(headers) | fixed, json.dumps(body) if not isinstance(body, str) else body


__all__ = ["AskedRequest", "Event", "OAuth2Error", "Pairs", "Server"]
