"""Keys: those that clients sign with, those that this server signs with, and the one that seals what it hands out and wants back.

The only user of joserfc in this package.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, RSAKey

# https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html: RS384 and ES384 SHALL be supported.
ALGORITHMS = ("RS384", "ES384")
_KEY_TYPES = {"RS384": "RSA", "ES384": "EC"}
# https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html: "SHALL support Signing ID Tokens with RSA SHA-256"
ID_TOKEN_ALGORITHM = "RS256"
_ID_TOKEN_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "PS256")
_MAX_ASSERTION = 16 * 1024
_MAX_HEADER = 4 * 1024


def header_of(assertion: str) -> dict[str, Any]:
    """A JWT's header, to choose the key to check it with; empty where it has none that can be read."""
    head = assertion.partition(".")[0]
    return _part(head) if len(assertion) <= _MAX_ASSERTION and len(head) <= _MAX_HEADER else {}


def unverified_subject(assertion: str) -> str:
    """The client that an assertion says it is from: only to choose the keys to check it with."""
    parts = assertion.split(".")
    subject = _part(parts[1]).get("sub") if len(parts) == 3 and len(assertion) <= _MAX_ASSERTION else None
    return subject if isinstance(subject, str) and subject.isprintable() else ""


def _part(text: str) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def has_key(jwks: dict[str, Any], header: dict[str, Any]) -> bool:
    """Whether the set has the one key that the header names."""
    return len(_named(jwks, header)) == 1


def _named(jwks: dict[str, Any], header: dict[str, Any]) -> list[dict[str, Any]]:
    """ "retrieve the key … whose kty matches … and whose kid matches"; without a kid, the only one of the type."""
    kid, type_ = header.get("kid"), _KEY_TYPES.get(str(header.get("alg")))
    return [key for key in jwks["keys"] if key.get("kty") == type_ and (kid is None or key.get("kid") == kid)]


def assertion_claims(assertion: str, jwks: dict[str, Any]) -> dict[str, Any] | None:
    """The claims of a JWT signed with the one key that its header names; None where signature, key or algorithm is not right."""
    header = header_of(assertion)
    keys = _named(jwks, header)
    if len(keys) != 1 or header.get("alg") not in ALGORITHMS:
        return None
    try:
        token = jwt.decode(assertion, KeySet.import_key_set({"keys": keys}), algorithms=list(ALGORITHMS))
    except (JoseError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(token.claims)


def public_keys(jwks: dict[str, Any]) -> dict[str, Any]:
    """A client's key set, checked and without private parts. Error: ValueError."""
    try:
        keys = KeySet.import_key_set(jwks)  # type: ignore[arg-type]
        found = [_to_check_with(key.as_dict(private=False)) for key in keys.keys if key.key_type in ("RSA", "EC")]
    except (JoseError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a JSON Web Key Set") from error
    if not found:
        raise ValueError("a JSON Web Key Set without an RSA or EC key")
    return {"keys": found}


def id_token_claims(token: str, jwks: dict[str, Any]) -> dict[str, Any] | None:
    """Of another provider's id_token, signed with one of its published keys; None where the signature is not right."""
    try:
        checked = jwt.decode(token, KeySet.import_key_set(jwks), algorithms=list(_ID_TOKEN_ALGORITHMS))  # type: ignore[arg-type]
    except (JoseError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(checked.claims)


def _to_check_with(key: dict[str, Any]) -> dict[str, Any]:
    """Without key_ops: clients publish their own ("sign"), which here would forbid to verify."""
    return {name: value for name, value in key.items() if name != "key_ops"}


def client_assertion(claims: dict[str, Any], private: str) -> str:
    """A JWT by a client's own key, a JWK as JSON or PEM. Error: ValueError where it is neither."""
    for type_, algorithm in ((RSAKey, "RS384"), (ECKey, "ES384")):
        try:
            key = type_.import_key(json.loads(private) if private.lstrip().startswith("{") else private)
            header = {"alg": algorithm, "typ": "JWT"} | ({"kid": key.kid} if key.kid else {})
            return jwt.encode(header, claims, key, algorithms=[algorithm])
        except (JoseError, ValueError, KeyError, TypeError, AttributeError):
            continue
    raise ValueError("not a private key, RSA or EC P-384, as a JSON Web Key or PEM")


# ---------------------------------------------------------------- what this server signs


def new_signing_key() -> tuple[str, str]:
    """(kid, private JWK as JSON)."""
    key = RSAKey.generate_key(2048, {"use": "sig", "alg": ID_TOKEN_ALGORITHM}, auto_kid=True)
    return str(key.kid), json.dumps(key.as_dict(private=True))


def published(signing: list[str]) -> dict[str, Any]:
    """The key set for others to check with."""
    return {"keys": [RSAKey.import_key(json.loads(text)).as_dict(private=False) for text in signing]}


def signed(claims: dict[str, Any], signing: str) -> str:
    """A JWT by the key."""
    key = RSAKey.import_key(json.loads(signing))
    return jwt.encode({"alg": ID_TOKEN_ALGORITHM, "typ": "JWT", "kid": str(key.kid)}, claims, key)


def half_hash(token: str) -> str:
    """at_hash: https://openid.net/specs/openid-connect-core-1_0.html#CodeIDToken"""
    return urlsafe_b64encode(sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()


# ---------------------------------------------------------------- sealing


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
