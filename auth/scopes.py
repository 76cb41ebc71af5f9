"""SMART App Launch 2.2 scopes: ``patient/Observation.rs?category=laboratory``, ``user/*.cruds``, ``launch/patient``, ``openid``;
version 1 spelling is read as its version 2 meaning.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

LEVELS = frozenset({"patient", "user", "system"})
IDENTITY = ("openid", "fhirUser", "profile")
OFFLINE, ONLINE = "offline_access", "online_access"
# https://hl7.org/fhir/smart-app-launch/STU2.2/token-introspection.html: "an appropriate Bearer token"
INTROSPECT = "__introspect"  # "any string starting with __": not SMART's own
# what a launch can be in the context of, as launch/… names it, and the resource type
CONTEXTS = {
    "patient": "Patient",
    "encounter": "Encounter",
    "imagingstudy": "ImagingStudy",
    "diagnosticreport": "DiagnosticReport",
    "servicerequest": "ServiceRequest",
}

_V2 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(?=[a-z])(c?r?u?d?s?)(?:\?(.+))?")
_V1 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*)")
_V1_LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}
_LAUNCH = re.compile(r"launch/([a-z]+)(?:\?role=([A-Za-z0-9:/.#_-]{1,200}))?")
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Scope:
    """One clause: compartment level, resource type or ``*``, letters out of ``cruds``, and (parameter, value) pairs that the
    resource has to meet."""

    level: str
    type: str
    letters: str
    query: tuple[tuple[str, str], ...] = ()

    def concerns(self, type_: str, letters: str) -> bool:
        """Whether it permits one of these letters on some resources of the type."""
        return self.type in ("*", type_) and not set(letters).isdisjoint(self.letters)

    def covers(self, other: Scope) -> bool:
        """Whether holding this scope is enough for all that ``other`` asks."""
        return (
            self.level == other.level
            and self.type in ("*", other.type)
            and set(other.letters) <= set(self.letters)
            and set(self.query) <= set(other.query)
        )


def parse(text: str) -> Scope | None:
    """None for what is not a resource scope."""
    if len(text) > _LONGEST:
        return None
    if match := _V1.fullmatch(text):
        return Scope(match[1], match[2], _V1_LETTERS[match[3]])
    match = _V2.fullmatch(text)
    if match is None:
        return None
    query: tuple[tuple[str, str], ...] = ()
    if match[4]:
        try:
            query = tuple(parse_qsl(match[4], keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=10))
        except ValueError:
            return None
        if match[2] == "*" or not all(name and value for name, value in query):
            return None
    return Scope(match[1], match[2], match[3], query)


def parse_all(text: str) -> tuple[Scope, ...]:
    """The resource scopes in a space-separated list."""
    return tuple(scope for part in text.split() if (scope := parse(part)))


def launch(text: str) -> tuple[str, str | None] | None:
    """(what to be launched in the context of, its role) of ``launch/…``; None for any other scope."""
    match = _LAUNCH.fullmatch(text)
    return (match[1], match[2]) if match and match[1] in CONTEXTS else None


def special(text: str) -> bool:
    """Whether it is a scope that is about identity, the session or the launch rather than about resources."""
    return text in (*IDENTITY, OFFLINE, ONLINE, INTROSPECT, "launch") or launch(text) is not None


def narrowed(requested: str, allowed: str, levels: frozenset[str] = LEVELS, specials: bool = False) -> str:
    """Those of the requested scopes that the ceiling covers and the levels name, spelled as requested, each once."""
    ceiling, named = parse_all(allowed), set(allowed.split())
    kept = [
        part
        for part in dict.fromkeys(requested.split())
        if (
            any(held.covers(scope) for held in ceiling) and scope.level in levels
            if (scope := parse(part))
            else specials and special(part) and (part in named or part.partition("?")[0] in named)
        )
    ]
    return " ".join(kept)


def subset(asked: str, held: str) -> bool:
    """Whether ``asked`` asks for nothing that ``held`` does not give."""
    ceiling, named = parse_all(held), set(held.split())
    return all(
        part in named or ((scope := parse(part)) is not None and any(one.covers(scope) for one in ceiling))
        for part in asked.split()
    )


def permits(scopes: Iterable[Scope], type_: str, letter: str) -> bool:
    return any(scope.concerns(type_, letter) for scope in scopes)
