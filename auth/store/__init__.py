"""What the authorization server keeps: clients, people, grants, keys, seen assertions, failures. The only users of pymongo in
``auth`` are the files of this package.

Secrets are kept as hashes: argon2id for what people choose, SHA-256 for 256 random bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from auth.principal import ANONYMOUS, Principal
from auth.scopes import parse_all
from auth.store.clients import Clients
from auth.store.documents import Document, after, digest, left
from auth.store.grants import Grants
from auth.store.passes import KeptPasses
from auth.store.people import People, otpauth

__all__ = ["LONGEST_TOKEN", "AuthStore", "Document", "otpauth"]

_CACHE_SECONDS = 0.9  # "a revoked grant stops working within one second on every worker"
_CACHE_SIZE = 10_000
LONGEST_TOKEN = 3600.0  # seconds: "SHOULD have a valid lifetime no greater than one hour"


class AuthStore:
    """All of it. Thread-safe. ``home`` is the installation's own organisation."""

    def __init__(self, database: Database[Document], home: str) -> None:
        self.home = home
        self.clients, self.people, self.grants = Clients(database, home), People(database), Grants(database)
        self.passes = KeptPasses(database)
        self._assertions = database["auth_assertions"]
        self._keys = database["auth_keys"]
        self._failures = database["auth_failures"]
        self._providers = database["auth_providers"]
        self._cache: dict[str, tuple[float, Principal]] = {}

    def prepare(self) -> None:
        self.people.prepare()
        self.grants.prepare()
        self.passes.prepare()
        for collection in (self._assertions, self._failures):
            collection.create_index("expires", expireAfterSeconds=0)

    # ------------------------------------------------------------ who holds a token

    def principal(self, token: str) -> Principal:
        """Who holds this token; ANONYMOUS where it is unknown, expired or revoked."""
        key = digest(token)
        cached = self._cache.get(key)
        if cached is not None and cached[0] > time.monotonic():
            return cached[1]
        found = self.grants.token(token)
        principal = self._holder(found) if found else None
        if found is None or principal is None:
            return ANONYMOUS
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key] = (time.monotonic() + min(left(found), _CACHE_SECONDS), principal)
        return principal

    def holder(self, id_: str) -> Principal:
        """Who holds the token with this stored id; ANONYMOUS as above."""
        found = self.grants.token_of(id_)
        return (self._holder(found) if found else None) or ANONYMOUS

    def _holder(self, token: Document) -> Principal | None:
        """None where its grant was revoked, its person's session is over, or client or person are not there any more."""
        client = self.clients.get(token["client"])
        if client is None:
            return None
        patient = token.get("patient")
        if token.get("grant"):
            grant = self.live_grant(token["grant"])
            if grant is None:
                return None
            patient = grant["context"].get("patient")
        user = self.people.get(token["user"]) if token["user"] else None
        if token["user"] and (user is None or user.get("disabled")):
            return None
        return Principal(
            client["_id"],
            user["organization"] if user else token["organization"] or client["organization"],
            parse_all(token["scope"]),
            user["_id"] if user else None,
            frozenset(user["roles"]) if user else frozenset(),
            user["practitioner"] if user else None,
            patient,
            "fhirUser" in token["scope"].split(),
        )

    def live_grant(self, id_: str) -> Document | None:
        """The grant, where it was not revoked and, with online access, its session goes on."""
        grant = self.grants.get(id_)
        if grant is None or grant["revoked"]:
            return None
        if grant["access"] == "online" and not self.people.session_alive(grant["session"]):
            return None
        return grant

    def in_use(self, grant: Document) -> bool:
        """Whether some token of it may still work."""
        if grant["access"] == "none":
            return left({"expires": grant["created"]}) > -LONGEST_TOKEN
        return self.live_grant(grant["_id"]) is not None

    def issue(
        self, client: Mapping[str, Any], user: Mapping[str, Any] | None, scope: str, seconds: float, patient: str | None = None
    ) -> str:
        """A token outside any grant: of a client for itself, or by the command line."""
        name = user["_id"] if user else None
        organization = user["organization"] if user else client["organization"]
        return self.grants.issue(client["_id"], scope, seconds, user=name, patient=patient, organization=organization)

    def forget(self, token: str) -> None:
        """A single token ends."""
        self.grants.drop_token(token)
        self._cache.pop(digest(token), None)

    # ------------------------------------------------------------ people

    def add_user(
        self, name: str, roles: tuple[str, ...], practitioner: str | None, organization: str | None, display: str = ""
    ) -> bool:
        """False where the person was there. Error: ValueError for an organisation that overlaps another."""
        self.clients.distinct(organization or self.home)
        return self.people.add(name, roles, practitioner, organization or self.home, display)

    def disable_user(self, name: str) -> bool:
        """They are out, at once, and so is what they let in."""
        self.grants.end_all(user=name)
        return self.people.disable(name)

    def remove_client(self, client_id: str) -> bool:
        """Its tokens and grants end with its registration, also for whoever is registered under its id later."""
        self.grants.end_all(client=client_id)
        return self.clients.remove(client_id)

    def add_provider(self, name: str, document: Mapping[str, Any]) -> None:
        """A hospital's own OpenID provider."""
        self._providers.replace_one({"_id": name}, {"_id": name, **document}, upsert=True)

    def providers(self) -> list[Document]:
        return list(self._providers.find({}).sort("_id", 1))

    # ------------------------------------------------------------ assertions, failures, keys

    def first_use(self, issuer: str, jti: str, expires: float) -> bool:
        """https://www.rfc-editor.org/rfc/rfc7523#section-3: a jti is accepted once."""
        try:
            when = datetime.fromtimestamp(expires, timezone.utc)
            self._assertions.insert_one({"_id": f"{issuer} {jti}", "expires": when})
        except DuplicateKeyError:
            return False
        return True

    def failed(self, what: str, seconds: float) -> int:
        """One more failure; how many there were of it within about so many seconds, on all workers."""
        window = int(time.time() // seconds)
        id_ = f"{digest(what)} {window}"
        with suppress(DuplicateKeyError):  # another worker was first
            self._failures.update_one({"_id": id_}, {"$inc": {"n": 1}, "$set": {"expires": after(2 * seconds)}}, upsert=True)
        return self.failures(what, seconds)

    def failures(self, what: str, seconds: float) -> int:
        window = int(time.time() // seconds)
        rows = self._failures.find({"_id": {"$in": [f"{digest(what)} {number}" for number in (window, window - 1)]}})
        return sum(row["n"] for row in rows)

    def taken_back(self, what: str, seconds: float) -> None:
        """One that was counted before it was known that it was none."""
        self._failures.update_one(
            {"_id": f"{digest(what)} {int(time.time() // seconds)}", "n": {"$gt": 0}}, {"$inc": {"n": -1}}
        )

    def succeeded(self, what: str, seconds: float) -> None:
        """What failed before is forgotten."""
        window = int(time.time() // seconds)
        self._failures.delete_many({"_id": {"$in": [f"{digest(what)} {number}" for number in (window, window - 1)]}})

    def key(self, name: str, make: bytes) -> bytes:
        """A secret that all processes share: the first one's ``make`` is kept."""
        with suppress(DuplicateKeyError):
            self._keys.insert_one({"_id": name, "key": make})
        found = self._keys.find_one({"_id": name})
        assert found is not None
        return bytes(found["key"])

    def signing_keys(self) -> list[Document]:
        """Private keys as JSON, newest first: the first signs, all are published."""
        return list(self._keys.find({"kind": "signing"}).sort("created", -1))

    def add_signing_key(self, id_: str, jwk: str, keep: int = 3) -> None:
        """A newer one; of the older ones the last few stay published, for what they have signed."""
        self._keys.insert_one({"_id": id_, "kind": "signing", "jwk": jwk, "created": datetime.now(timezone.utc)})
        for row in self.signing_keys()[keep:]:
            self._keys.delete_one({"_id": row["_id"]})
