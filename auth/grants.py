"""The grants that are served; metadata follows from this list.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
"""

from __future__ import annotations

from typing import Any

from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6749.errors import InvalidGrantError, InvalidRequestError, InvalidScopeError
from authlib.oauth2.rfc7636 import CodeChallenge

from auth.clients import METHODS, Client
from auth.scopes import narrowed, subset
from auth.store import AuthStore, Document


class PKCE(CodeChallenge):  # type: ignore[misc]
    """S256, of every client: "SHALL NOT support the plain method"."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)
    CODE_CHALLENGE_METHODS = {"S256": CodeChallenge.CODE_CHALLENGE_METHODS["S256"]}  # noqa: RUF012 - Authlib's own shape

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        asked = grant.request.payload.data
        if not asked.get("code_challenge") or asked.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is needed: code_challenge, with code_challenge_method S256.")
        super().validate_code_challenge(grant, redirect_uri)


class _Held:
    """A code or a refresh token that was found, with the grant that it hangs off, as Authlib asks for it."""

    def __init__(self, document: Document, grant: Document) -> None:
        self.document, self.grant = document, grant

    def get_scope(self) -> str:
        return str(self.grant["scope"])

    def get_redirect_uri(self) -> str:
        return str(self.document["redirect_uri"])

    @property
    def code_challenge(self) -> str:
        return str(self.document["challenge"])

    @property
    def code_challenge_method(self) -> str:
        return "S256"

    def check_client(self, client: Client) -> bool:
        return bool(self.document["client"] == client.get_client_id())


def _person(store: AuthStore, held: _Held) -> Document | None:
    user = store.people.get(held.grant["user"])
    return user if user and not user.get("disabled") else None


class AuthorizationCode(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """A person lets an app act for them."""

    TOKEN_ENDPOINT_AUTH_METHODS = (*METHODS, "none")
    EXTENSIONS = (PKCE(),)

    def save_authorization_code(self, code: str, request: Any) -> None:
        """``request.granted`` is the grant that the person's consent made."""
        asked = request.payload
        self.server.store.grants.add_code(
            code, request.granted, asked.client_id, asked.redirect_uri, asked.data["code_challenge"]
        )

    def query_authorization_code(self, code: str, client: Client) -> _Held | None:
        store: AuthStore = self.server.store
        found = store.grants.code(code, client.get_client_id())
        if found is None:
            return None
        # The grant is looked at before the code is taken: of several at once one gets its answer, whatever the others then end.
        grant = store.live_grant(found["grant"])
        return _Held(found, grant) if store.grants.take(found) and grant else None

    def validate_token_request(self) -> None:
        super().validate_token_request()
        if self.request.payload.redirect_uri is None:
            raise InvalidRequestError("redirect_uri is needed.")

    def delete_authorization_code(self, authorization_code: _Held) -> None:
        """Kept for a while: a replay is to be told."""

    def authenticate_user(self, authorization_code: _Held) -> Document | None:
        return _person(self.server.store, authorization_code)

    def generate_token(self, user: Document, scope: str, include_refresh_token: bool = True, **_: Any) -> dict[str, Any]:
        grant = self.request.authorization_code.grant
        store: AuthStore = self.server.store
        refresh = store.grants.issue_refresh(grant["_id"], grant["client"]) if grant["access"] != "none" else None
        told: dict[str, Any] = self.server.answer_for(grant, user, scope, refresh, identify=True)
        return told


class RefreshToken(grants.RefreshTokenGrant):  # type: ignore[misc]
    """The app goes on acting: with a new refresh token each time, and the end of all where an old one comes back."""

    TOKEN_ENDPOINT_AUTH_METHODS = (*METHODS, "none")
    INCLUDE_NEW_REFRESH_TOKEN = True
    EXTENSIONS = ()

    def authenticate_refresh_token(self, refresh_token: str) -> _Held | None:
        store: AuthStore = self.server.store
        found = store.grants.refresh_token(refresh_token)
        if found is None:
            return None
        grant = store.live_grant(found["grant"])
        if found["used"]:
            store.grants.revoke(found["grant"])
            self.server.told("refresh-reuse", found["client"], grant["user"] if grant else None, refused=True)
            return None
        return _Held(found, grant) if grant else None

    def _validate_token_scope(self, token: _Held) -> None:
        if (asked := self.request.payload.scope) and not subset(asked, token.get_scope()):
            raise InvalidScopeError("More was asked for than was granted.")

    def authenticate_user(self, refresh_token: _Held) -> Document | None:
        return _person(self.server.store, refresh_token)

    def issue_token(self, user: Document, refresh_token: _Held) -> dict[str, Any]:
        """The old one is used up here, after all checks: a request that asks for too much costs nothing."""
        store: AuthStore = self.server.store
        if not narrowed(refresh_token.get_scope(), self.request.client.document["scope"], specials=True):
            raise InvalidGrantError()
        successor = store.grants.rotate(refresh_token.document)
        if successor is None:
            store.grants.revoke(refresh_token.grant["_id"])
            raise InvalidGrantError()
        if refresh_token.grant["access"] == "online":
            store.people.touch(refresh_token.grant["session"])
        # What the registration was narrowed to meanwhile is not widened by an old grant.
        scope = narrowed(
            self.request.payload.scope or refresh_token.get_scope(), self.request.client.document["scope"], specials=True
        )
        told: dict[str, Any] = self.server.answer_for(refresh_token.grant, user, scope, successor, identify=False)
        return told

    def revoke_old_credential(self, refresh_token: _Held) -> None:
        """Used up when its successor was made."""


class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """A system acts for itself. It is given those of the asked-for ``system/`` scopes that it is registered for."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS
    LIFETIME = 300  # "should have … no more than five minutes"
    EXTENSIONS = ()

    def validate_token_request(self) -> None:
        super().validate_token_request()
        granted = narrowed(self.request.payload.scope, self.request.client.document["scope"], frozenset({"system"}))
        granted = " ".join(part for part in granted.split() if self.server.grantable(part))
        if not granted:
            raise InvalidScopeError("None of the requested scopes is registered for this client.")
        self.request.payload.replace("scope", granted)

    def generate_token(self, user: None = None, scope: str = "", **_: Any) -> dict[str, Any]:
        token = self.server.store.issue(self.request.client.document, None, scope, self.LIFETIME)
        return {"token_type": "Bearer", "access_token": token, "expires_in": self.LIFETIME, "scope": scope}


GRANTS = (AuthorizationCode, RefreshToken, ClientCredentials)
