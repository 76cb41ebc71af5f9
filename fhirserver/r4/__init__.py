"""The standard, as tables: what R4 (4.0.1) says of structures, code bindings, reference targets, search and compartments.

The JSON files beside this one are made by ``generate.py`` from hl7.fhir.r4.core and are read lazily, a type at a time.
https://hl7.org/fhir/R4/
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its JSON key, FHIR type, cardinality, the codes a required binding allows and their systems, reference
    targets, choice, and whether a summary has it."""

    key: str
    type: str
    min: int
    many: bool
    codes: frozenset[str] | None
    targets: frozenset[str] | None
    choice: str | None
    summary: bool = False
    systems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in FHIRPath, where a choice has no type suffix."""
        return self.choice or self.key


@dataclass(frozen=True, slots=True)
class Structure:
    """A resource type, data type or backbone element with all elements, the inherited ones too."""

    name: str
    kind: str
    elements: dict[str, Element]
    required: tuple[tuple[str, tuple[str, ...]], ...]
    choices: dict[str, tuple[str, ...]]
    regex: str | None


@cache
def _table(name: str) -> dict[str, Any]:
    return dict(json.loads(resources.files(__package__).joinpath(f"{name}.json").read_bytes()))


@cache
def codes(name: str) -> frozenset[str]:
    return frozenset(_table("elements")["#codes"][name])


@cache
def structure(name: str) -> Structure | None:
    """None where R4 has no such type."""
    row = _table("elements").get(name)
    if row is None or name.startswith("#"):
        return None
    inherited = structure(row["base"]) if row["base"] else None
    elements = dict(inherited.elements) if inherited else {}
    for key, (type_, low, many, bound, targets, choice, summary) in row["elements"].items():
        allowed, systems = (codes(bound), tuple(_table("elements")["#systems"][bound])) if bound else (None, ())
        aims = frozenset(targets) if targets else None
        elements[key] = Element(key, type_, low, bool(many), allowed, aims, choice, bool(summary), systems)
    choices: dict[str, list[str]] = {}
    required: dict[str, list[str]] = {}
    for element in elements.values():
        if element.choice:
            choices.setdefault(element.choice, []).append(element.key)
        if element.min:
            required.setdefault(element.name, []).append(element.key)
    return Structure(
        name,
        row["kind"],
        elements,
        tuple((n, tuple(keys)) for n, keys in required.items()),
        {n: tuple(keys) for n, keys in choices.items()},
        row.get("regex"),
    )


@cache
def is_resource(name: str) -> bool:
    row = _table("elements").get(name)
    return bool(row and row["kind"] == "resource" and not row.get("abstract"))


@cache
def resource_types() -> tuple[str, ...]:
    """All that can be stored, in the order of the alphabet."""
    return tuple(sorted(name for name in _table("elements") if not name.startswith("#") and is_resource(name)))


def search_parameters(type_: str) -> dict[str, list[Any]]:
    """Code -> [kind, FHIRPath expression, targets, id, components]."""
    return dict(_table("search_parameters").get(type_, {}))


def compartment_parameters(compartment: str, type_: str) -> tuple[str, ...]:
    """The search parameters that put a resource of this type into the compartment."""
    return tuple(_table("compartments")[compartment].get(type_, ()))
