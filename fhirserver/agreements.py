"""The Libraries that a facility's agreement and a centre's assignment policy are kept in, read as what they say.

https://hl7.org/fhir/R4/library.html
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from fhirserver.messages import Context
from fhirserver.search.query import tagged
from fhirserver.validation import loads
from fhirserver.versions import Stored, owned_by
from fhirserver.workflow import agreement, policy
from fhirserver.workflow.agreement import Agreement
from fhirserver.workflow.policy import Policy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Agreed:
    """What was agreed, and the canonical that says so; None where the defaults hold."""

    terms: Agreement
    canonical: str | None = None


_DEFAULT = Agreed(agreement.DEFAULT)


def between(ctx: Context, facility: str, fulfiller: str | None) -> Agreed:
    """The reading organisation's word on the facility before the facility's own."""
    rows = _libraries(ctx, f"{agreement.AGREEMENTS}|{facility}", fulfiller, facility)
    return _agreed(rows[0].json) if rows else _DEFAULT


def assigning(ctx: Context, centre: str) -> Policy:
    """By which policy the centre assigns."""
    rows = _libraries(ctx, f"{policy.POLICIES}|{centre}", centre)
    return _policy(rows[0].json) if rows else policy.DEFAULT


def _libraries(ctx: Context, identifier: str, *owners: str | None) -> list[Stored]:
    """The active ones, those of the first owner first; looked up once for a plan."""
    asked = (identifier, *owners)
    if asked not in ctx.changes.looked_up:
        found = ctx.store.search(tagged(ctx.store.types["Library"], f"identifier={identifier}"), owned_by(*owners), 10)
        active = [row for row in found if loads(row.json).get("status") == "active"]
        ctx.changes.looked_up[asked] = sorted(active, key=lambda row: owners.index(row.owner))
    return ctx.changes.looked_up[asked]


@lru_cache(1024)
def _agreed(text: str) -> Agreed:
    library = loads(text)
    return Agreed(agreement.parsed(content(library)), _canonical(library))


@lru_cache(256)
def _policy(text: str) -> Policy:
    return policy.parsed(content(loads(text)))


def content(library: dict) -> bytes:  # type: ignore[type-arg]
    return base64.b64decode(library["content"][0]["data"])


def _canonical(library: dict) -> str:  # type: ignore[type-arg]
    """What tells this version of it, also where nobody numbered it."""
    url = library.get("url") or f"Library/{library['id']}"
    version = library.get("version") or hashlib.sha256(content(library)).hexdigest()[:8]
    return f"{url}|{version}"
