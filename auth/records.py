"""What the pages ask of the record, always as the person who is signed in. This package knows no FHIR: it is handed the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from auth.principal import Principal
from auth.scopes import parse_all

MOST_CHOICES = 20
Context = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Something to choose in a picker: a reference, and what a person knows it by."""

    reference: str
    title: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """A line of the log of accesses. ``kinds`` are resource types, ``what`` an interaction or an operation."""

    when: str
    organization: str
    who: str
    what: str
    kinds: tuple[str, ...]
    emergency: bool
    refused: bool


@dataclass(frozen=True, slots=True)
class Records:
    """What is asked of the record, always as the person: what they may not see, they cannot launch on.

    ``context``: a reference -> patient, encounter, fhirContext; None where it is hidden. ``choices``: (type, words, patient).
    ``accesses``: a patient's title and the log of their record; None where it is not to be told to the person.
    """

    context: Callable[[Principal, str], Context | None]
    choices: Callable[[Principal, str, str, str | None], list[Choice]]
    accesses: Callable[[Principal, str], tuple[str, list[Access]] | None]


def principal_of(person: Mapping[str, Any]) -> Principal:
    """The person in the server's own pages."""
    return Principal(
        "pages",
        person["organization"],
        parse_all("user/*.rs"),
        person["_id"],
        frozenset(person["roles"]),
        person["practitioner"],
    )
