"""What the collections of this package share: documents, hashes of secrets, times."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta, timezone
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

Document = dict[str, Any]

_HASHER = PasswordHasher()
_DUMMY = _HASHER.hash(secrets.token_hex(16))


def digest(token: str) -> str:
    """Of 256 random bits: no salt and no slow hash needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def fresh() -> str:
    """256 random bits, as text for URLs."""
    return secrets.token_urlsafe(32)


def hashed(secret: str) -> str:
    """argon2id, of what people choose."""
    return _HASHER.hash(secret)


def matches(kept: str | None, secret: str) -> bool:
    """In the same time whether or not there is one to compare with."""
    try:
        _HASHER.verify(kept or _DUMMY, secret)
    except (VerifyMismatchError, InvalidHashError):
        return False
    return kept is not None


def now() -> datetime:
    return datetime.now(timezone.utc)


def after(seconds: float) -> datetime:
    return now() + timedelta(seconds=seconds)


def left(document: Document) -> float:
    """Seconds until it expires."""
    when: datetime = document["expires"]
    return ((when if when.tzinfo else when.replace(tzinfo=timezone.utc)) - now()).total_seconds()
