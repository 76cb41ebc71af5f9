"""Clients, users, access tokens, seen assertions, keys. The only user of pymongo in this package.

Secrets are kept as hashes: argon2id for what people choose, SHA-256 for 256 random bits.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from auth.principal import ANONYMOUS, Principal
from auth.scopes import parse_all

Document = dict[str, Any]

_HASHER = PasswordHasher()
_DUMMY = _HASHER.hash(secrets.token_hex(16))
_CACHE_SECONDS = 1.0  # a revoked token stops working within this time on every worker
_CACHE_SIZE = 10_000


class AuthStore:
    """What the authorization server keeps. Thread-safe."""

    def __init__(self, database: Database[Document], home: str) -> None:
        self.home = home
        self.clients = database["auth_clients"]
        self.users = database["auth_users"]
        self.tokens = database["auth_tokens"]
        self.assertions = database["auth_assertions"]
        self.keys = database["auth_keys"]
        self._cache: dict[str, tuple[float, Principal]] = {}

    def prepare(self) -> None:
        """Expired tokens and assertions vanish by themselves where the database can do that; they are refused in any case."""
        for collection in (self.tokens, self.assertions):
            collection.create_index("expires", expireAfterSeconds=0)

    # ------------------------------------------------------------ clients and users

    def add_client(
        self, client_id: str, scope: str, *, secret: str | None = None, jwks: Document | None = None, jwks_uri: str | None = None,
        organization: str | None = None, redirect_uris: tuple[str, ...] = (), launch_uri: str | None = None,
    ) -> None:  # fmt: skip
        """Register a client, or replace its registration. Error: ValueError for an organisation that overlaps another."""
        self._distinct(organization or self.home)
        method = "private_key_jwt" if jwks or jwks_uri else "client_secret_basic" if secret else "none"
        document = {
            "_id": client_id,
            "method": method,
            "secret": _HASHER.hash(secret) if secret else None,
            "jwks": jwks,
            "jwks_uri": jwks_uri,
            "scope": scope,
            "organization": organization or self.home,
            "redirect_uris": list(redirect_uris),
            "launch_uri": launch_uri,
        }
        self.clients.replace_one({"_id": client_id}, document, upsert=True)

    def client(self, client_id: str) -> Document | None:
        return self.clients.find_one({"_id": client_id})

    def add_user(self, name: str, roles: tuple[str, ...], practitioner: str | None, organization: str | None) -> None:
        self._distinct(organization or self.home)
        document = {"_id": name, "roles": list(roles), "practitioner": practitioner, "organization": organization or self.home}
        self.users.replace_one({"_id": name}, document, upsert=True)

    def _distinct(self, organization: str) -> None:
        """The ids that an organisation chooses begin with its own: no organisation's id may be another's prefix."""
        known = {*self.clients.distinct("organization"), *self.users.distinct("organization"), self.home}
        for other in known - {organization}:
            if other.startswith(f"{organization}-") or organization.startswith(f"{other}-"):
                raise ValueError(
                    f"the organisation {organization} cannot be told from {other}: one begins with the other and -"
                )

    def user(self, name: str) -> Document | None:
        return self.users.find_one({"_id": name})

    @staticmethod
    def secret_matches(client: Document | None, secret: str) -> bool:
        """In the same time for an unknown client as for a known one."""
        try:
            _HASHER.verify((client and client.get("secret")) or _DUMMY, secret)
        except (VerifyMismatchError, InvalidHashError):
            return False
        return client is not None and client.get("secret") is not None

    # ------------------------------------------------------------ tokens

    def issue(self, client: Mapping[str, Any], user: Mapping[str, Any] | None, scope: str, seconds: int) -> str:
        """A new opaque access token of 256 random bits; kept by its hash."""
        token = secrets.token_urlsafe(32)
        self.save_token(token, client, user, scope, seconds)
        return token

    def save_token(
        self, token: str, client: Mapping[str, Any], user: Mapping[str, Any] | None, scope: str, seconds: int
    ) -> None:
        holder = user or client
        self.tokens.insert_one(
            {
                "_id": _digest(token),
                "client": client["_id"],
                "user": user["_id"] if user else None,
                "roles": list(user["roles"]) if user else [],
                "practitioner": user["practitioner"] if user else None,
                "organization": holder["organization"],
                "scope": scope,
                "expires": datetime.now(timezone.utc) + timedelta(seconds=seconds),
            }
        )

    def principal(self, token: str) -> Principal:
        """Who holds this token; ANONYMOUS where it is unknown, expired or revoked."""
        digest = _digest(token)
        cached = self._cache.get(digest)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        found = self.tokens.find_one({"_id": digest})
        if found is None:
            return ANONYMOUS
        left = (_aware(found["expires"]) - datetime.now(timezone.utc)).total_seconds()
        if left <= 0:
            return ANONYMOUS
        principal = Principal(
            found["client"],
            found["organization"],
            parse_all(found["scope"]),
            found["user"],
            frozenset(found["roles"]),
            found["practitioner"],
        )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (time.monotonic() + min(left, _CACHE_SECONDS), principal)
        return principal

    def revoke(self, token: str) -> None:
        self.tokens.delete_one({"_id": _digest(token)})
        self._cache.pop(_digest(token), None)

    # ------------------------------------------------------------ assertions and keys

    def first_use(self, issuer: str, jti: str, expires: float) -> bool:
        """https://www.rfc-editor.org/rfc/rfc7523#section-3: a jti is accepted once."""
        try:
            when = datetime.fromtimestamp(expires, timezone.utc)
            self.assertions.insert_one({"_id": f"{issuer} {jti}", "expires": when})
        except DuplicateKeyError:
            return False
        return True

    def key(self, name: str, make: bytes) -> bytes:
        """A secret that all processes share: the first one's ``make`` is kept."""
        with suppress(DuplicateKeyError):
            self.keys.insert_one({"_id": name, "key": make})
        found = self.keys.find_one({"_id": name})
        assert found is not None
        return bytes(found["key"])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _aware(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)
