"""Keys: those that clients sign with, and the one that seals what this server hands out and wants back.

The only user of joserfc in this package.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

# https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html: RS384 and ES384 SHALL be supported.
ALGORITHMS = ("RS384", "ES384")


def assertion_claims(assertion: str, jwks: dict[str, Any]) -> dict[str, Any] | None:
    """The claims of a JWT signed with one of the keys; None where the signature, key or algorithm is not right."""
    try:
        token = jwt.decode(assertion, KeySet.import_key_set(jwks), algorithms=list(ALGORITHMS))  # type: ignore[arg-type]
    except (JoseError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(token.claims)


def unverified_subject(assertion: str) -> str:
    """The client that an assertion says it is from: only to choose the keys to check it with."""
    try:
        payload = assertion.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return ""
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) else ""


def public_keys(jwks: dict[str, Any]) -> dict[str, Any]:
    """A client's key set, checked and without private parts. Error: ValueError."""
    try:
        keys = KeySet.import_key_set(jwks)  # type: ignore[arg-type]
        return {"keys": [key.as_dict(private=False) for key in keys.keys if key.key_type in ("RSA", "EC")]}
    except (JoseError, KeyError, TypeError) as error:
        raise ValueError("not a JSON Web Key Set") from error


class Seal:
    """Encrypts and authenticates small values (page cursors), so that a client can hold but not read or change them."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    def close(self, content: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(content, separators=(",", ":")).encode()).decode()

    def open(self, sealed: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._fernet.decrypt(sealed.encode())))
        except (InvalidToken, ValueError, TypeError):
            return None


def new_seal_key() -> bytes:
    return Fernet.generate_key()
