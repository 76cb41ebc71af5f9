"""Registered clients: systems and apps.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#register-app-with-ehr
"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from pymongo.database import Database

from auth.store.documents import Document, hashed, matches

_CACHE_SECONDS = 1.0


class Clients:
    """``home`` is the installation's own organisation, to which a client without one belongs."""

    def __init__(self, database: Database[Document], home: str) -> None:
        self.home = home
        self._database = database
        self._clients = database["auth_clients"]
        self._origins: tuple[float, frozenset[str]] = (0.0, frozenset())

    def add(
        self, client_id: str, scope: str, *, secret: str | None = None, jwks: Document | None = None, jwks_uri: str | None = None,
        organization: str | None = None, redirect_uris: tuple[str, ...] = (), launch_uri: str | None = None, name: str = "",
    ) -> bool:  # fmt: skip
        """Register a client; False where that replaced a registration. Error: ValueError for an organisation that overlaps
        another, or a URL that is none."""
        self.distinct(organization or self.home)
        for url in (*redirect_uris, *([launch_uri] if launch_uri else ())):
            _url(url)
        method = "private_key_jwt" if jwks or jwks_uri else "client_secret_basic" if secret else "none"
        document = {
            "_id": client_id,
            "name": name or client_id,
            "method": method,
            "secret": hashed(secret) if secret else None,
            "jwks": jwks,
            "jwks_uri": jwks_uri,
            "scope": scope,
            "organization": organization or self.home,
            "redirect_uris": list(redirect_uris),
            "launch_uri": launch_uri,
        }
        return self._clients.replace_one({"_id": client_id}, document, upsert=True).matched_count == 0

    def get(self, client_id: str) -> Document | None:
        found = self._clients.find_one({"_id": client_id})
        return {"name": client_id} | found if found else None

    def remove(self, client_id: str) -> bool:
        """Its tokens end with it."""
        return self._clients.delete_one({"_id": client_id}).deleted_count == 1

    def launchable(self) -> list[Document]:
        """Those that can be launched from here, by name."""
        return list(self._clients.find({"launch_uri": {"$ne": None}}).sort("name", 1))

    def origins(self) -> frozenset[str]:
        """The web origins of registered apps, at most a second old."""
        until, known = self._origins
        if until < time.monotonic():
            uris = (uri for row in self._clients.find({}, {"redirect_uris": 1}) for uri in row["redirect_uris"])
            known = frozenset(origin for uri in uris if (origin := _origin(uri)))
            self._origins = (time.monotonic() + _CACHE_SECONDS, known)
        return known

    def distinct(self, organization: str) -> None:
        """The ids that an organisation chooses begin with its own: no organisation's id may be another's prefix."""
        users = self._database["auth_users"]
        known = {*self._clients.distinct("organization"), *users.distinct("organization"), self.home}
        for other in known - {organization}:
            if other.startswith(f"{organization}-") or organization.startswith(f"{other}-"):
                raise ValueError(
                    f"the organisation {organization} cannot be told from {other}: one begins with the other and -"
                )

    @staticmethod
    def secret_matches(client: Document | None, secret: str) -> bool:
        """In the same time for an unknown client as for a known one."""
        return matches(client.get("secret") if client else None, secret)


def _url(text: str) -> None:
    parts = urlsplit(text)
    private = "." in parts.scheme and not parts.netloc  # com.example.app:/callback, RFC 8252 7.1
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.fragment or not (private or local or (parts.scheme == "https" and parts.hostname)):
        raise ValueError(f"not a URL that an app can be at: {text} (https, or http on this machine, without a fragment)")


def _origin(uri: str) -> str | None:
    parts = urlsplit(uri)
    place = parts.netloc.removesuffix(":443" if parts.scheme == "https" else ":80")  # as browsers tell it
    return f"{parts.scheme}://{place}".lower() if place else None
