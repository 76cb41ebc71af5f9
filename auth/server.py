"""Authlib's authorization server, spoken through plain values: form and headers in, status and JSON out.

https://www.rfc-editor.org/rfc/rfc6749 https://docs.authlib.org/
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Payload, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidScopeError

from auth.clients import Client, client_auth_methods
from auth.grants import GRANTS
from auth.store import AuthStore

Answer = tuple[int, dict[str, str], str]


class _Payload(OAuth2Payload):  # type: ignore[misc]
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._lists: dict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._lists[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return {name: values[0] for name, values in self._lists.items()}

    @property
    def datalist(self) -> dict[str, list[str]]:
        return self._lists


class _Request(OAuth2Request):  # type: ignore[misc]
    """The token endpoint reads the form alone: credentials in a URL would end up in logs."""

    def __init__(self, uri: str, pairs: list[tuple[str, str]], headers: Mapping[str, str]) -> None:
        super().__init__("POST", uri, headers=headers)
        self.payload = _Payload(pairs)

    @property
    def args(self) -> dict[str, str]:
        return {}

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class Server(AuthorizationServer):  # type: ignore[misc]
    """The token endpoint. ``issuer`` is the public base URL."""

    def __init__(self, store: AuthStore, issuer: str) -> None:
        super().__init__()
        self.store = store
        self.issuer = issuer
        self.token_url = f"{issuer}/auth/token"
        for name, method in client_auth_methods(store, (self.token_url, issuer)).items():
            self.register_client_auth_method(name, method)
        for grant in GRANTS:
            self.register_grant(grant)
        self.register_token_generator("default", self._generate)

    def token(self, pairs: list[tuple[str, str]], headers: Mapping[str, str]) -> Answer:
        """https://www.rfc-editor.org/rfc/rfc6749#section-3.2"""
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):  # "Request and response parameters MUST NOT be included more than once."
            return self.handle_response(400, {"error": "invalid_request", "error_description": "a parameter is repeated"}, [])
        answer: Answer = self.create_token_response(_Request(self.token_url, pairs, headers))
        return answer

    # ------------------------------------------------------------ what Authlib asks for

    def _generate(self, grant_type: str, client: Client, user: Any = None, scope: str = "", **_: Any) -> dict[str, Any]:
        seconds = GRANTS_BY_TYPE[grant_type].LIFETIME
        token = self.store.issue(client.document, None, scope, seconds)
        return {"token_type": "Bearer", "access_token": token, "expires_in": seconds, "scope": scope}

    def query_client(self, client_id: str) -> Client | None:
        found = self.store.client(client_id)
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


GRANTS_BY_TYPE = {grant.GRANT_TYPE: grant for grant in GRANTS}
