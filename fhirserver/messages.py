"""What travels between the HTTP edge and the interactions: no HTTP library's types, so Bundle entries go the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from auth.principal import Principal

if TYPE_CHECKING:
    from fhirserver.store import Store
    from fhirserver.versions import Changes


# (reference, organisation that owns it)
Touched = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """One interaction asked for. ``path`` is relative to the base; ``query`` keeps order and repeats; headers are lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def prefers(self, preference: str) -> bool:
        """https://hl7.org/fhir/R4/http.html#general"""
        return preference in [p.strip() for p in self.headers.get("prefer", "").split(";") for p in p.split(",")]


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, headers and JSON text; ``touched`` names what was read or written, for the audit."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    touched: tuple[Touched, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """What the audit trail is told of a request that wrote nothing. ``outcome``: 0 answered, 4 refused."""

    principal: Principal
    interaction: str
    when: datetime
    outcome: str
    touched: tuple[Touched, ...] = ()
    query: str = ""
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What one request is given: who asks, when, where to read, and the changes that its commit will write.

    ``derived_id`` makes an id from what identifies a thing, the same each time and not to be guessed.
    """

    store: Store
    principal: Principal
    now: datetime
    base: str
    new_id: Callable[[], str]
    changes: Changes
    seal: Callable[[dict[str, Any]], str]
    unseal: Callable[[str], dict[str, Any] | None]
    home: str
    note: Callable[[Note], None]
    derived_id: Callable[..., str]
