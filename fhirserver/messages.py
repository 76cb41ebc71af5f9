"""What travels between the HTTP edge and the interactions: no HTTP library's types, so Bundle entries go the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from auth.principal import Principal

if TYPE_CHECKING:
    from fhirserver.store import Store
    from fhirserver.versions import Changes, Touched


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
class Line:
    """What the audit trail is told of a request. ``outcome``: 0 answered, 4 refused, 8 failed; ``query`` as it was asked;
    ``made``: of what is written here, by activity, the Provenance is yet to be made."""

    principal: Principal
    interaction: str
    when: datetime
    outcome: str
    touched: tuple[Touched, ...] = ()
    query: str = ""
    operation: str = ""
    made: Mapping[str, list[str]] = field(default_factory=dict)

    def text(self) -> str:
        """One line of JSON."""
        p = self.principal
        who = [p.client, p.user, p.organization, p.practitioner]
        ms = round(self.when.timestamp() * 1000)
        return json.dumps([ms, who, self.interaction, self.outcome, self.touched, self.query, self.operation, self.made])

    @classmethod
    def read(cls, text: str | bytes) -> Line:
        ms, (client, user, organization, practitioner), interaction, outcome, touched, query, operation, made = json.loads(text)
        principal = Principal(client, organization, (), user, frozenset(), practitioner)
        rows = tuple((reference, owner, tuple(patients), tuple(*keys)) for reference, owner, patients, *keys in touched)
        when = datetime.fromtimestamp(ms / 1000, timezone.utc)
        return cls(principal, interaction, when, outcome, rows, query, operation, made)


# A plan in a transaction of its own, planned again where another request was faster; what it gives back
Alone = Callable[["Callable[[Context], Any]"], Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What one request is given: who asks, when, where to read, and the changes that its commit will write.

    ``withheld_from``: the patients whose records are kept from an organisation. ``take_from_quarantine`` decides about what the archive set aside of a study (owner, UID, whether it takes the place of what is
    shown, the Task's id, whether that is about what is named so). ``derived_id`` makes an id from what identifies a thing, the same each time and not to be guessed. ``told`` is what
    the log is told of the request: the kind of interaction, and on what type. ``alone``: for what commits more than once;
    None within a transaction.
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
    note: Callable[[Line], None]
    derived_id: Callable[..., str]
    withheld_from: Callable[[str], frozenset[str]]
    take_from_quarantine: Callable[[str, str, bool, str, Callable[[str], bool]], None]
    told: dict[str, str] = field(default_factory=dict)
    alone: Alone | None = None
