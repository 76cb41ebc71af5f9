"""Introspection and revocation of tokens.

https://www.rfc-editor.org/rfc/rfc7662 https://www.rfc-editor.org/rfc/rfc7009
https://hl7.org/fhir/smart-app-launch/STU2.2/token-introspection.html
"""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from auth.clients import METHODS, Client
from auth.scopes import INTROSPECT
from auth.store import AuthStore, Document


class Token:
    """An access token, or a refresh token with its grant."""

    def __init__(self, text: str, document: Document, *, refresh: bool) -> None:
        self.text, self.document, self.refresh = text, document, refresh

    def check_client(self, client: Client) -> bool:
        return bool(self.document["client"] == client.get_client_id())

    def is_expired(self) -> bool:
        return False  # what expired is not found

    def is_revoked(self) -> bool:
        return False  # what was revoked is not found


def _found(store: AuthStore, text: str) -> Token | None:
    """Either kind, whatever the hint says: "the authorization server MAY ignore" it."""
    access = store.grants.token(text)
    if access is not None:
        return Token(text, access, refresh=False)
    refresh = store.grants.refresh_token(text)
    return Token(text, refresh, refresh=True) if refresh and not refresh["used"] else None


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """For clients of which an administrator says so (the scope ``__introspect``) any token; for others their own."""

    CLIENT_AUTH_METHODS = METHODS

    def authenticate_endpoint_client(self, request: Any) -> Any:
        """By the client's own proof, or "by providing an appropriate SMART App Launch 2.2.0 Bearer token"."""
        scheme, _, bearer = str(request.headers.get("Authorization", "")).partition(" ")
        if scheme.lower() != "bearer":
            return super().authenticate_endpoint_client(request)
        held = self.server.store.grants.token(bearer.strip())
        client = (
            self.server.query_client(held["client"]) if held and self.server.store.principal(bearer.strip()).client else None
        )
        if held is None or client is None or INTROSPECT not in held["scope"].split():
            raise InvalidClientError(status_code=401, description="The bearer token does not allow introspection.")
        return client

    def check_params(self, request: Any, client: Client) -> None:
        if not request.form.get("token"):
            raise InvalidRequestError("token is needed.")

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return _found(self.server.store, token_string)

    def check_permission(self, token: Token, client: Client, request: Any) -> bool:
        return token.check_client(client) or INTROSPECT in client.document["scope"].split()

    def introspect_token(self, token: Token) -> dict[str, Any]:
        told: dict[str, Any] = self.server.introspected(token.text, token.document, token.refresh)
        return told


class Revocation(RevocationEndpoint):  # type: ignore[misc]
    """A refresh token ends its whole grant; an access token ends alone."""

    CLIENT_AUTH_METHODS = (*METHODS, "none")

    def check_params(self, request: Any, client: Client) -> None:
        if not request.form.get("token"):
            raise InvalidRequestError("token is needed.")

    def query_token(self, token_string: str, token_type_hint: str | None) -> Token | None:
        return _found(self.server.store, token_string)

    def revoke_token(self, token: Token, request: Any) -> None:
        if token.refresh:
            self.server.store.grants.revoke(token.document["grant"])
        else:
            self.server.store.forget(token.text)
        self.server.told("revoke", token.document["client"], None)
