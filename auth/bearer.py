"""Authorization header -> Principal.

https://www.rfc-editor.org/rfc/rfc6750
"""

from __future__ import annotations

from auth.principal import ANONYMOUS, Principal
from auth.store import AuthStore


class InvalidToken(Exception):
    """A token was sent, and it is unknown, expired or revoked."""


def authenticate(store: AuthStore, header: str | None) -> Principal:
    """ANONYMOUS where no header was sent. Error: InvalidToken."""
    if header is None:
        return ANONYMOUS
    scheme, _, token = header.partition(" ")
    principal = store.principal(token.strip()) if scheme.lower() == "bearer" else ANONYMOUS
    if principal is ANONYMOUS:
        raise InvalidToken
    return principal
