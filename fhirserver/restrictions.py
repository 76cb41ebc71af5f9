"""Whose records are withheld from whom: patients' Consents, and the emergencies in which the glass was broken.

Read off the Consents and Tasks themselves, again when a write has signalled that they changed.
https://hl7.org/fhir/R4/consent.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from auth.principal import Principal
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
_ROUNDS = 4
_ENDED = ("rejected", "cancelled", "failed", "entered-in-error")  # a review that ends the emergency at once
_PAGE, _MOST = 1000, 10_000


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

    def refresh(self) -> None:
        """Every second, and by a request where that did not happen."""
        with self._lock:
            signal = self._store.registers.signal(SIGNAL)
            if signal != self._signal:
                self._rows = tuple(self._of_consents()) if signal else ()
                self._emergencies = frozenset(self._of_tasks()) if signal else frozenset()
            self._signal, self._read = signal, time.monotonic()

    def current(self) -> None:
        if time.monotonic() - self._read > _FRESH and not self._lock.locked():
            self.refresh()

    def applied(self, principal: Principal, now: datetime) -> Principal:
        """The principal, told of the patients whose records are withheld from it."""
        if not self._rows:
            return principal
        at = milliseconds(now)
        mine = f"Practitioner/{principal.practitioner}"
        actors = frozenset({f"Organization/{principal.organization}", *([mine] if principal.practitioner else [])})
        withheld = {row.patient for row in self._rows if row.withholds(actors, principal.organization, at)}
        withheld -= {patient for who, patient, until in self._emergencies if who == mine and at < until}
        return replace(principal, withheld=frozenset(withheld)) if withheld else principal

    def withheld_from(self, organization: str, now: datetime) -> frozenset[str]:
        """The patients whose records are withheld from an organisation as such."""
        at, actors = milliseconds(now), frozenset({f"Organization/{organization}"})
        return frozenset(row.patient for row in self._rows if row.withholds(actors, organization, at))

    def _of_consents(self) -> Iterable[Restriction]:
        consents = []
        for row in self._every("Consent", f"scope={'|'.join(PRIVACY)}"):
            data = relative(loads(row.json), self._base)
            if denies(data):
                consents.append((row.owner, data))
        patients = {data.get("patient", {}).get("reference", "").partition("/")[2] for _, data in consents}
        owners = self._store.owners("Patient", patients)
        for owner, data in consents:
            try:
                patient = data["patient"]["reference"]
                if owners.get(patient.partition("/")[2]) == owner:  # a restriction is the patient's own facility's to record
                    for one in self._merged(patient, owner):
                        yield _restriction(one, owner, data["provision"])
            except (KeyError, ValueError, AttributeError):  # from before it was checked: it stops nothing else
                log.error("A Consent cannot be enforced")

    def _merged(self, patient: str, owner: str) -> list[str]:
        """The patient's records that were merged: a restriction is of the person."""
        type_, found, edge = self._store.types["Patient"], [patient], [patient]
        for _ in range(_ROUNDS):
            tags = [f"{code}={one}" for code in ("replaced-by", "replaces") for one in edge]
            naming = self._store.search(tagged(type_, *tags), EVERYTHING, _MOST)
            these = self._store.fetch("Patient", [one.partition("/")[2] for one in edge], EVERYTHING)
            named = [
                link["other"]["reference"] for row in these for link in relative(loads(row.json), self._base).get("link", ())
            ]
            owned = self._store.owners("Patient", [one.partition("/")[2] for one in named])
            near = [row.reference for row in naming if row.owner == owner]
            near += [one for one in named if owned.get(one.partition("/")[2]) == owner]
            edge = [one for one in dict.fromkeys(near) if one not in found]
            if not edge:
                break
            found += edge
        return found

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
