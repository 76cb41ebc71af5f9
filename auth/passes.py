"""A pass: what a browser holds in a cookie to look at a few records, narrower and shorter than the session or the token that it
comes of, and over with that. For a viewer, whose requests can carry no access token and whose URLs must not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from auth.principal import ANONYMOUS, Principal
from auth.records import principal_of
from auth.store import AuthStore
from auth.store.documents import digest
from auth.store.passes import CODE_SECONDS, LONGEST_SECONDS, open_

_FRESH = 0.9  # seconds: as of tokens
_REMEMBERED = 10_000
_SESSION, _TOKEN = "session:", "token:"


class Passes:
    """``secure``: whether the server is reached by TLS. Thread-safe."""

    CODE_SECONDS = CODE_SECONDS

    def __init__(self, store: AuthStore, secure: bool) -> None:
        self._store, self._secure = store, secure
        self.cookie = "__Secure-viewer" if secure else "viewer"
        self._known: dict[str, tuple[float, Principal]] = {}

    # ------------------------------------------------------------ giving one

    @staticmethod
    def of_session(session: Mapping[str, Any]) -> str:
        """The origin of a pass, of a signed-in session."""
        return f"{_SESSION}{session['_id']}"

    @staticmethod
    def of_token(header: str) -> str:
        """The origin of a pass, of the access token in an Authorization header."""
        return f"{_TOKEN}{digest(header.partition(' ')[2].strip())}"

    def add(self, origin: str, records: Iterable[str]) -> str:
        """The handle of a pass for these records, which the caller is known to be able to read."""
        return self._store.passes.add(origin, records)

    def add_code(self, origin: str, records: Iterable[str], where: str) -> str:
        """A code that is good for one pass, for a minute: a browser that has nothing else is sent with it, to go on to ``where``."""
        return self._store.passes.add_code(origin, records, where)

    def redeem(self, code: str) -> tuple[str, str] | None:
        """(the pass's handle, where to), once; None where the code is unknown, used or old, or its origin is over."""
        found = self._store.passes.take_code(code)
        if found is None or self._holder(found["origin"]) is ANONYMOUS:
            return None
        return self.add(found["origin"], found["records"]), str(found["where"])

    def set_cookie(self, handle: str, path: str, same_site: str = "Strict") -> str:
        """Set-Cookie: to no other path, and to no script. https://www.rfc-editor.org/rfc/rfc6265"""
        marks = f"Max-Age={LONGEST_SECONDS}; HttpOnly; SameSite={same_site}" + ("; Secure" if self._secure else "")
        return f"{self.cookie}={handle}; Path={path}; {marks}"

    # ------------------------------------------------------------ who holds it

    def holder(self, cookies: str | None) -> Principal:
        """By the Cookie header: who it is, confined to the pass's records; ANONYMOUS without one, or where it is over."""
        handle = self._handle(cookies)
        if not handle:
            return ANONYMOUS
        key = digest(handle)
        known = self._known.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        found = self._store.passes.get(handle)
        principal = self._holder(found["origin"], worked=found["noted"]) if found else ANONYMOUS
        if found is None or principal is ANONYMOUS:
            return ANONYMOUS
        confined = principal.confined([one["what"] for one in open_(found)])
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = (time.monotonic() + _FRESH, confined)
        return confined

    def _handle(self, cookies: str | None) -> str | None:
        pairs = (part.strip().partition("=") for part in (cookies or "").split(";"))
        return next((value for name, _, value in pairs if name == self.cookie), None)

    def _holder(self, origin: str, worked: bool = False) -> Principal:
        """``worked``: a person who looks at images is not idle."""
        if origin.startswith(_TOKEN):
            return self._store.holder(origin.removeprefix(_TOKEN))
        session = self._store.people.session_of(origin.removeprefix(_SESSION), seen=worked)
        return principal_of(session["person"]) if session else ANONYMOUS
