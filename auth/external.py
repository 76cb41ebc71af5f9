"""Login through a hospital's own OpenID provider: Authlib's client, with PKCE and nonce; the person is found by a claim.

https://openid.net/specs/openid-connect-core-1_0.html#CodeFlowAuth
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import OAuth2Client

from auth.keys import Seal, id_token_claims
from auth.store import AuthStore

_SECONDS = 600
_KEEP = 300.0
_TIMEOUT = 10.0
_MAX_BYTES = 256 * 1024
_LEEWAY = 60


class Refused(Exception):
    """The provider did not vouch for the person, or could not be asked."""


@dataclass(frozen=True, slots=True)
class Provider:
    """``claim``: the one of its id_token that names the person to this server, such as sub or preferred_username."""

    name: str
    title: str
    issuer: str
    client_id: str
    client_secret: str
    claim: str


class Providers:
    """Those that are registered. ``base`` is this server's public URL."""

    def __init__(self, store: AuthStore, base: str, seal: Callable[[], Seal]) -> None:
        self._store, self._base, self._seal = store, base, seal
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}

    def all(self) -> list[Provider]:
        return [
            Provider(row["_id"], row["title"], row["issuer"], row["client_id"], row["client_secret"], row["claim"])
            for row in self._store.providers()
        ]

    def get(self, name: str) -> Provider | None:
        return next((provider for provider in self.all() if provider.name == name), None)

    def begin(self, provider: Provider, browser: str, then: str | None) -> str:
        """Where the browser goes. Error: Refused where the provider cannot be asked."""
        told = {"verifier": secrets.token_urlsafe(48), "nonce": secrets.token_urlsafe(16)}
        state = self._seal().close(
            told | {"provider": provider.name, "browser": browser, "next": then, "until": time.time() + _SECONDS}
        )
        where = self._configuration(provider)["authorization_endpoint"]
        with self._client(provider) as client:
            url, _ = client.create_authorization_url(where, state=state, nonce=told["nonce"], code_verifier=told["verifier"])
        return str(url)

    def finish(self, provider: Provider, browser: str, query: Mapping[str, str]) -> tuple[str, str | None]:
        """(the person's claim, where they were going). Error: Refused."""
        sent = self._seal().open(query.get("state", "")) or {}
        fits = sent.get("provider") == provider.name and sent.get("browser") == browser and sent.get("until", 0) > time.time()
        if not fits or "code" not in query or query.get("iss", provider.issuer) != provider.issuer:
            raise Refused
        configuration = self._configuration(provider)
        try:
            with self._client(provider) as client:
                token = client.fetch_token(
                    configuration["token_endpoint"], code=query["code"], code_verifier=sent["verifier"], timeout=_TIMEOUT
                )
        except (AuthlibBaseError, httpx.HTTPError, ValueError):
            raise Refused from None
        keys = _fetched(configuration["jwks_uri"])
        claims = id_token_claims(str(token.get("id_token") or ""), keys)
        now = time.time()
        audience = claims.get("aud") if claims else None
        if (
            claims is None
            or claims.get("iss") != provider.issuer
            or (provider.client_id not in audience if isinstance(audience, list) else audience != provider.client_id)
            or claims.get("nonce") != sent["nonce"]
            or not isinstance(claims.get("exp"), (int, float))
            or claims["exp"] < now - _LEEWAY
            or claims.get("azp", provider.client_id) != provider.client_id
            or any(not isinstance(w := claims.get(name, 0), (int, float)) or w > now + _LEEWAY for name in ("nbf", "iat"))
        ):
            raise Refused
        subject = claims.get(provider.claim)
        if not isinstance(subject, str) or not subject:
            raise Refused
        return subject, sent.get("next")

    def _client(self, provider: Provider) -> OAuth2Client:
        back = f"{self._base}/auth/login/{provider.name}/return"
        return OAuth2Client(
            provider.client_id,
            provider.client_secret,
            scope="openid profile",
            redirect_uri=back,
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic",
        )

    def _configuration(self, provider: Provider) -> dict[str, Any]:
        """https://openid.net/specs/openid-connect-discovery-1_0.html"""
        until, found = self._known.get(provider.name, (0.0, {}))
        if until < time.monotonic():
            found = _fetched(f"{provider.issuer}/.well-known/openid-configuration")
            needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            if found.get("issuer") != provider.issuer or not all(isinstance(found.get(name), str) for name in needed):
                raise Refused
            self._known[provider.name] = (time.monotonic() + _KEEP, found)
        return found


def _fetched(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise Refused
    try:
        answer = httpx.get(url, timeout=_TIMEOUT, follow_redirects=False)
        if answer.status_code != 200 or len(answer.content) > _MAX_BYTES:
            raise Refused
        found = json.loads(answer.content)
    except (httpx.HTTPError, ValueError):
        raise Refused from None
    if not isinstance(found, dict):
        raise Refused
    return found
