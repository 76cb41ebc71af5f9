"""A person's visit to a page: what the browser sent, and what it is answered. No HTTP library's types."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode, urlsplit

from auth.pages import Language, render

_INSIDE = re.compile(r"/(?:(?:auth|desk|viewer)/[A-Za-z0-9_/.-]*|viewer)(?:\?[A-Za-z0-9_=&%.~:+-]*)?")


@dataclass(frozen=True, slots=True)
class Visit:
    """``sent`` are the parameters in their order, of the form or else of the URL; ``session`` is the signed-in session with its ``person``, if there is one; ``token`` protects this browser's forms."""

    method: str
    sent: list[tuple[str, str]]
    query: Mapping[str, str]
    form: Mapping[str, str]
    many: Mapping[str, list[str]]
    language: Language
    address: str
    session: Mapping[str, Any] | None
    cookie: str | None
    token: str

    @property
    def person(self) -> Mapping[str, Any]:
        assert self.session is not None
        person: Mapping[str, Any] = self.session["person"]
        return person

    def genuine(self) -> bool:
        """Whether the form is one that this browser was given."""
        return hmac.compare_digest(self.form.get("token", "").encode(), self.token.encode())


@dataclass(frozen=True, slots=True)
class Shown:
    """A page, or where to go. ``cookie``: a new session's, "" to end it, None to leave it; ``others``: more Set-Cookie headers."""

    status: int
    body: str = ""
    location: str | None = None
    cookie: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def form_token(key: bytes, visit: str, session: str | None) -> str:
    return hmac.new(key, f"{visit} {session or ''}".encode(), sha256).hexdigest()


def new_visit() -> str:
    return secrets.token_urlsafe(16)


def page(visit: Visit, name: str, status: int = 200, targets: tuple[str, ...] = (), **values: Any) -> Shown:
    """``targets``: where its forms may lead besides this server: https://www.w3.org/TR/CSP3/#directive-form-action"""
    actions = " ".join(["'self'", *(_origin(target) for target in targets)])
    policy = (
        f"default-src 'none'; style-src 'self'; img-src 'self'; form-action {actions}; frame-ancestors 'none'; base-uri 'none'"
    )
    person = visit.session["person"] if visit.session else None
    body = render(name, visit.language, token=visit.token, person=person, **values)
    return Shown(status, body, headers={"Content-Security-Policy": policy})


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def see(path: str, **query: str) -> Shown:
    """Never 307: the browser must not send a form on. https://www.rfc-editor.org/rfc/rfc9700#section-4.12"""
    return Shown(303, location=f"{path}?{urlencode(query)}" if query else path)


def failure(visit: Visit, what: str, status: int = 400) -> Shown:
    """An error that is told to the person: there is nowhere safe to send the browser."""
    return page(visit, "error", status, what=what)


def inside(path: str | None) -> str | None:
    """A path of this server's own pages; None for anything else."""
    return path if path and _INSIDE.fullmatch(path) and "//" not in path else None
