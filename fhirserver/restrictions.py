"""Whose records are withheld from whom: patients' Consents, and the emergencies in which the glass was broken.

Read off the Consents and Tasks themselves, again when a write has signalled that they changed.
https://hl7.org/fhir/R4/consent.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from auth.principal import Principal
from fhirserver.interactions import merged
from fhirserver.moments import milliseconds, span
from fhirserver.resources.consent import PRIVACY, SIGNAL, denies
from fhirserver.search.query import tagged
from fhirserver.search.reference import relative
from fhirserver.store import Store
from fhirserver.validation import loads
from fhirserver.versions import EVERYTHING, FOREVER, Stored
from fhirserver.workflow import coding

log = logging.getLogger("fhirserver.restrictions")

_FRESH = 2.0  # seconds
_ENDED = ("rejected", "cancelled", "failed", "entered-in-error")  # a review that ends the emergency at once
_PAGE, _MOST, _AT_ONCE = 1000, 10_000, 200


@dataclass(frozen=True, slots=True)
class Restriction:
    """``patient`` is a reference; ``owner`` is the facility whose patient it is; without ``denied`` it denies all others."""

    patient: str
    owner: str
    denied: frozenset[str]
    excepted: frozenset[str]
    begins: int
    ends: int

    def withholds(self, actors: frozenset[str], organization: str, now: int) -> bool:
        if not self.begins <= now < self.ends or actors & self.excepted:
            return False
        return bool(actors & self.denied) if self.denied else organization != self.owner


class Restrictions:
    """What this process knows of them. ``base`` is this server's own URL."""

    def __init__(self, store: Store, base: str) -> None:
        self._store, self._base = store, base
        self._lock = threading.Lock()
        self._signal, self._read = -1, float("-inf")
        self._rows: tuple[Restriction, ...] = ()
        self._emergencies: frozenset[tuple[str, str, int]] = frozenset()  # practitioner, patient, until
        self._second = -1  # of which ``_told`` is
        self._told: dict[tuple[str, str | None], frozenset[str]] = {}  # (organisation, practitioner) -> patients

    def refresh(self) -> None:
        """Every second, and by a request where that did not happen."""
        with self._lock:
            signal = self._store.registers.signal(SIGNAL)
            if signal != self._signal:
                self._rows, self._emergencies = tuple(self._of_consents()), frozenset(self._of_tasks())
                self._second = -1
            self._signal, self._read = signal, time.monotonic()

    def current(self) -> None:
        if time.monotonic() - self._read > _FRESH and not self._lock.locked():
            self.refresh()

    def applied(self, principal: Principal, now: datetime) -> Principal:
        """The principal, told of the patients whose records are withheld from it."""
        if not self._rows:
            return principal
        at, who = milliseconds(now), (principal.organization, principal.practitioner)
        if at // 1000 != self._second:  # worked out once a second for each caller, however many restrictions there are
            self._second, self._told = at // 1000, {}
        withheld = self._told.get(who)
        if withheld is None:
            withheld = self._told[who] = self._withheld(*who, at)
        return replace(principal, withheld=withheld) if withheld else principal

    def _withheld(self, organization: str, practitioner: str | None, at: int) -> frozenset[str]:
        mine = f"Practitioner/{practitioner}"
        actors = frozenset({f"Organization/{organization}", *([mine] if practitioner else [])})
        withheld = {row.patient for row in self._rows if row.withholds(actors, organization, at)}
        return frozenset(withheld - {patient for who, patient, until in self._emergencies if who == mine and at < until})

    def withheld_from(self, organization: str, now: datetime) -> frozenset[str]:
        """The patients whose records are withheld from an organisation as such."""
        return self._withheld(organization, None, milliseconds(now))

    def _of_consents(self) -> Iterable[Restriction]:
        consents = [
            (row.owner, relative(loads(row.json), self._base)) for row in self._every("Consent", f"scope={'|'.join(PRIVACY)}")
        ]
        told = [(owner, data, data.get("patient", {}).get("reference", "")) for owner, data in consents if denies(data)]
        patients = [patient for _, _, patient in told]
        owners = self._store.owners("Patient", [patient.partition("/")[2] for patient in patients])
        people = self._people(patients)
        for owner, data, patient in told:
            try:
                if owners.get(patient.partition("/")[2]) == owner:  # a restriction is the patient's own facility's to record
                    for one in people(patient):
                        yield _restriction(one, owner, data["provision"])
            except (KeyError, ValueError, AttributeError):  # from before it was checked: it stops nothing else
                log.error("A Consent cannot be enforced")

    def _people(self, patients: list[str]) -> Callable[[str], set[str]]:
        """A record -> all of the same person, itself too: a restriction is of the person. Looked up for many at a time."""
        beside: dict[str, set[str]] = {}
        known: set[str] = set()
        edge = list(dict.fromkeys(patients))
        for _ in range(merged.ROUNDS):
            known.update(edge)
            for start in range(0, len(edge), _AT_ONCE):
                for one, other in merged.pairs(self._store, EVERYTHING, edge[start : start + _AT_ONCE], self._base, _MOST):
                    beside.setdefault(one, set()).add(other)
                    beside.setdefault(other, set()).add(one)
            edge = [one for one in beside if one not in known]

        def person(patient: str) -> set[str]:
            found, near = {patient}, [patient]
            while near:
                near = [one for one in beside.get(near.pop(), ()) if one not in found] + near
                found.update(near)
            return found

        return person

    def _every(self, name: str, tag: str) -> Iterable[Stored]:
        """However many there are: none may be missed."""
        after: tuple[Any, ...] | None = None
        while rows := self._store.search(tagged(self._store.types[name], tag), EVERYTHING, _PAGE, after):
            yield from rows
            after = rows[-1].order

    def _of_tasks(self) -> Iterable[tuple[str, str, int]]:
        type_ = self._store.types["Task"]
        for row in self._store.search(tagged(type_, f"code={coding.TASK_TYPE}|{coding.EMERGENCY}"), EVERYTHING, _MOST):
            task: dict[str, Any] = loads(row.json)
            until = task.get("restriction", {}).get("period", {}).get("end")
            if until and task["status"] not in _ENDED:
                yield task["requester"]["reference"], task["for"]["reference"], span(until)[0]


def _restriction(patient: str, owner: str, provision: dict[str, Any]) -> Restriction:
    period = provision.get("period", {})
    begins = span(period["start"])[0] if "start" in period else 0
    ends = span(period["end"])[1] if "end" in period else FOREVER
    excepted = frozenset(actor for row in provision.get("provision", ()) for actor in _actors(row))
    return Restriction(patient, owner, frozenset(_actors(provision)), excepted, begins, ends)


def _actors(provision: dict[str, Any]) -> list[str]:
    return [actor["reference"]["reference"] for actor in provision.get("actor", ())]
