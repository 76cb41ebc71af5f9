"""Which orders does a study answer? Pure: by facility and accession, and then the patient must agree too.

Nothing is matched by name, and nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """An order of the study's own facility that carries one of the study's accession numbers."""

    order: str
    patient: str
    patient_ids: frozenset[str]
    birth_date: str | None


@dataclass(frozen=True, slots=True)
class Match:
    """``orders`` that the study answers, all for ``patient``; or ``conflicting`` ones, whose patient is another."""

    orders: tuple[str, ...] = ()
    patient: str | None = None
    conflicting: tuple[str, ...] = ()


def match(patient_id: str, birth_date: str | None, candidates: Iterable[Candidate]) -> Match:
    """``birth_date`` as FHIR writes it; it is compared where both sides have it whole."""
    found = list(candidates)
    agreeing = [c for c in found if patient_id and patient_id in c.patient_ids and not _differ(birth_date, c.birth_date)]
    patients = {c.patient for c in agreeing}
    if len(patients) > 1 or (found and not agreeing):
        return Match(conflicting=tuple(sorted(c.order for c in found)))
    if not agreeing:
        return Match()
    conflicting = tuple(sorted(c.order for c in found if c not in agreeing))
    return Match(tuple(sorted(c.order for c in agreeing)), patients.pop(), conflicting)


def _differ(one: str | None, other: str | None) -> bool:
    return bool(one and other and len(one) == len(other) == 10 and one != other)
