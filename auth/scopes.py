"""SMART App Launch 2.2 scopes: ``system/Patient.rs``, ``user/*.cruds``; version 1 spelling is read as its version 2 meaning.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_V2 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(?=.)(c?r?u?d?s?)")
_V1 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*)")
_V1_LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Scope:
    """One clause: compartment level, resource type or ``*``, letters out of ``cruds``."""

    level: str
    type: str
    letters: str

    def permits(self, type_: str, letter: str) -> bool:
        """A ``patient/`` scope permits nothing without the launch context that confines it."""
        return self.level != "patient" and letter in self.letters and self.type in ("*", type_)

    def covers(self, other: Scope) -> bool:
        """Whether holding this scope is enough for all that ``other`` asks."""
        return self.level == other.level and self.type in ("*", other.type) and set(other.letters) <= set(self.letters)


def parse(text: str) -> Scope | None:
    """None for what is not a resource scope (or has a query part, which this server does not grant yet)."""
    if match := _V2.fullmatch(text):
        return Scope(match[1], match[2], match[3])
    if match := _V1.fullmatch(text):
        return Scope(match[1], match[2], _V1_LETTERS[match[3]])
    return None


def parse_all(text: str) -> tuple[Scope, ...]:
    """The resource scopes in a space-separated list."""
    return tuple(scope for part in text.split() if (scope := parse(part)))


def permits(scopes: Iterable[Scope], type_: str, letter: str) -> bool:
    return any(scope.permits(type_, letter) for scope in scopes)


def narrowed(requested: str, allowed: str, levels: frozenset[str]) -> str:
    """Those of the requested scopes that the ceiling covers and the levels name, spelled as requested."""
    ceiling = parse_all(allowed)
    return " ".join(
        part
        for part in requested.split()
        if (scope := parse(part)) and scope.level in levels and any(held.covers(scope) for held in ceiling)
    )
