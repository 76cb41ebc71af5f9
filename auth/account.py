"""Signing in and out, and the apps that a person has let in.

Who fails too often waits, on all workers: soon for one name from one address, so that nobody is locked out by others; later for
a name from everywhere, and for an address. Every failure is answered alike, in the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from auth.external import Providers, Refused
from auth.keys import Seal
from auth.records import Records, principal_of
from auth.server import Server
from auth.store import Document
from auth.visit import Shown, Visit, failure, inside, page, see

_WINDOW = 300.0  # seconds
_FEW, _MANY = 5, 100  # failures in about that time
_SECOND_STEP = 300  # seconds for the second factor
HOME = "/auth/apps"


class Account:
    """The pages about a person's own account."""

    def __init__(self, server: Server, seal: Callable[[], Seal], providers: Providers, records: Records) -> None:
        self._server, self._store, self._records = server, server.store, records
        self._seal, self._providers = seal, providers

    # ------------------------------------------------------------ signing in

    def login(self, visit: Visit) -> Shown:
        if visit.method != "POST":
            if visit.session:
                return see(_then(visit.query.get("next")))
            return self._asked(visit, visit.query.get("next"))
        then = visit.form.get("next")
        if not visit.genuine():
            return self._asked(visit, then, "again", 403)
        name = visit.form.get("name", "").strip()[:200]
        if self._waits(visit, name):
            self._server.told("login", "", name, refused=True)
            return self._asked(visit, then, "wait", 429)
        if not self._store.people.password_matches(name, visit.form.get("password", "")):
            self._server.told("login", "", name, refused=True)
            return self._asked(visit, then, "wrong", 403)
        user = self._store.people.get(name)
        assert user is not None
        if user.get("totp"):
            self._take_back(visit, name)
            sealed = self._seal().close({"second": name, "until": time.time() + _SECOND_STEP})
            return page(visit, "code", first=sealed, next=then)
        return self._signed_in(visit, user, ("pwd",), then)

    def second(self, visit: Visit) -> Shown:
        """The code of the person's authenticator."""
        if visit.method != "POST":  # the other language was chosen here
            return see("/auth/login", next=inside(visit.query.get("next")) or HOME)
        first = self._seal().open(visit.form.get("first", "")) or {}
        then, name = visit.form.get("next"), str(first.get("second") or "")
        user = self._store.people.get(name) if name and first.get("until", 0) > time.time() else None
        if user is None or user.get("disabled") or not user.get("totp") or not visit.genuine():
            return self._asked(visit, then, "again", 403)
        if self._waits(visit, name):
            return self._asked(visit, then, "wait", 429)
        if not self._store.people.totp_matches(user, visit.form.get("code", "")):
            self._server.told("login", "", name, refused=True)
            return page(visit, "code", 403, first=visit.form["first"], next=then, wrong=True)
        return self._signed_in(visit, user, ("pwd", "otp"), then)

    def _asked(self, visit: Visit, then: str | None, wrong: str = "", status: int = 200) -> Shown:
        offered = [(provider.name, provider.title) for provider in self._providers.all()]
        typed = visit.form.get("name", "")[:200]
        return page(visit, "login", status, next=inside(then) or "", wrong=wrong, providers=offered, typed=typed)

    def _waits(self, visit: Visit, name: str) -> bool:
        """Each attempt counts as a failure until it is known to be none, so that many at once are not all let through. What one
        address is not let do counts for nothing else: it must not lock a name out from everywhere."""
        return any(self._store.failed(what, _WINDOW) > most for what, most in _limits(visit, name))

    def _take_back(self, visit: Visit, name: str) -> None:
        for what, _ in _limits(visit, name):
            self._store.taken_back(what, _WINDOW)

    def _signed_in(self, visit: Visit, user: Document, methods: tuple[str, ...], then: str | None) -> Shown:
        if methods != ("ext",):
            self._take_back(visit, user["_id"])
            self._store.succeeded(_limits(visit, user["_id"])[0][0], _WINDOW)
        cookie = self._store.people.sign_in(user["_id"], methods)
        self._server.told("login", "", user["_id"])
        return Shown(303, location=_then(then), cookie=cookie)

    def logout(self, visit: Visit) -> Shown:
        """The session ends, and with it what apps have by online access."""
        if visit.method != "POST" or not visit.genuine():
            return page(visit, "logout")
        if visit.session and visit.cookie:
            self._store.people.sign_out(visit.cookie)
            self._server.told("logout", "", visit.person["_id"])
        return Shown(303, location="/auth/login", cookie="")

    # ------------------------------------------------------------ a hospital's own provider

    def external(self, visit: Visit, name: str) -> Shown:
        """Off to the provider: state, nonce and verifier travel sealed in the state, bound to this browser."""
        provider = self._providers.get(name)
        if provider is None:
            return failure(visit, "again", 404)
        if visit.method != "POST":  # the other language was chosen here
            return see("/auth/login")
        if not visit.genuine():
            return failure(visit, "again", 403)
        try:
            return see(self._providers.begin(provider, visit.token, inside(visit.form.get("next"))))
        except Refused:
            return self._asked(visit, visit.form.get("next"), "provider", 502)

    def returned(self, visit: Visit, name: str) -> Shown:
        """Back from the provider. Who is not known here by the provider's claim does not come in."""
        provider = self._providers.get(name)
        if provider is None:
            return failure(visit, "again", 404)
        try:
            subject, then = self._providers.finish(provider, visit.token, visit.query)
        except Refused:
            self._server.told("login", "", None, refused=True)
            return self._asked(visit, None, "provider", 403)
        user = self._store.people.linked(provider.name, subject)
        if user is None:
            self._server.told("login", "", None, refused=True)
            return self._asked(visit, then, "unknown", 403)
        return self._signed_in(visit, user, ("ext",), then)

    # ------------------------------------------------------------ apps with access

    def apps(self, visit: Visit) -> Shown:
        """The management page: what the person has let in, each to be revoked."""
        if visit.session is None:
            return see("/auth/login", next=HOME)
        if visit.method == "POST" and visit.genuine():
            self.revoked(visit)
            return see(HOME)
        rows: list[dict[str, Any]] = []
        for grant in self._store.grants.of_user(visit.person["_id"]):
            client = self._store.clients.get(grant["client"])
            if client and self._store.in_use(grant):
                patient = grant["context"].get("patient")
                found = self._records.context(principal_of(visit.person), f"Patient/{patient}") if patient else None
                scopes = grant["scope"].split()
                rows.append({"grant": grant, "client": client, "scopes": scopes, "patient": (found or {}).get("title")})
        return page(visit, "apps", rows=rows)

    def revoked(self, visit: Visit) -> None:
        grant = self._store.grants.get(visit.form.get("grant", ""))
        if grant and grant["user"] == visit.person["_id"] and self._store.grants.revoke(grant["_id"]):
            self._server.told("revoke", grant["client"], grant["user"])


def _limits(visit: Visit, name: str) -> tuple[tuple[str, int], ...]:
    return (
        (f"login {name} from {visit.address}", _FEW),
        (f"login {name}", _MANY),
        (f"login from {visit.address}", _MANY),
    )


def _then(path: str | None) -> str:
    return inside(path) or HOME
