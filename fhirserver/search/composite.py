"""Composites: ``a$b`` hold of one and the same element. A tuple keeps each component's own entries side by side.

https://hl7.org/fhir/R4/search.html#composite
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from fhirserver.definitions import Component
from fhirserver.errors import BadRequest
from fhirserver.search import date, number, quantity, reference, string, token, uri
from fhirserver.search.clause import CODED, Clause, Filter, either
from fhirserver.search.values import divided

MODIFIERS: tuple[str, ...] = ()
_KINDS: dict[str, Any] = {
    "token": token, "reference": reference, "uri": uri, "string": string, "date": date, "number": number, "quantity": quantity,
}  # fmt: skip
_TAGGED = ("token", "reference", "uri", "string")


def entries(code: str, components: tuple[Component, ...], found: list[list[tuple[str, Any]]]) -> Iterator[dict[str, Any]]:
    """One tuple for each combination of the components' values on one element: ``t0`` are tags, ``l1 h1 u1`` a range."""
    sides = [_side(place, part, values) for place, (part, values) in enumerate(zip(components, found, strict=True))]
    for combination in product(*sides):
        yield {name: value for side in combination for name, value in side.items()}


def _side(place: int, part: Component, values: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for type_, value in values:
        if part.kind in _TAGGED:
            tags = list(_KINDS[part.kind].entries("", type_, value))
            rows += [{f"t{place}": tags}] if tags else []
        elif part.kind == "date":
            rows += [{f"l{place}": low, f"h{place}": high} for low, high in date.entries("", type_, value)]
        else:
            rows += [{f"{k}{place}": v for k, v in row.items()} for row in _KINDS[part.kind].entries("", type_, value)]
    return rows


def leads(code: str, tuples: list[dict[str, Any]]) -> Iterator[str]:
    """The first component's tags, by which an index finds the resource."""
    for row in tuples:
        yield from (f"{code}{tag}" for tag in row.get("t0", ()))


def where(code: str, components: tuple[Component, ...], values: list[str]) -> Clause:
    return either([_tuple(code, components, value) for value in values])


def _tuple(code: str, components: tuple[Component, ...], value: str) -> Clause:
    parts = divided(value, "$")
    if len(parts) != len(components):
        raise BadRequest(f"{code} takes {len(components)} parts with $ between them.", code)
    try:
        asked = [_asked(component, part) for component, part in zip(components, parts, strict=True)]
    except BadRequest as error:
        raise BadRequest(error.diagnostics, code) from None
    holds: Filter = {}  # each component has its own names, so that they stand side by side
    for place, clause in enumerate(asked):
        holds |= _within(place, clause.second)
    return Clause({"t": _lead(code, asked[0].flat["t"])}, CODED, {f"q.{code}": {"$elemMatch": holds}})


def _asked(component: Component, part: str) -> Clause:
    also = {"targets": component.targets} if component.kind == "reference" else {}
    clause: Clause = _KINDS[component.kind].where("", None, [part], False, **also)
    return clause


def _lead(code: str, first: Any) -> Any:
    """What the first component looks for, among the tags that ``leads`` made."""
    if isinstance(first, str):
        return f"{code}{first}"
    if "$in" in first:
        return {"$in": [f"{code}{tag}" for tag in first["$in"]]}
    return {name: f"{code}{tag}" for name, tag in first.items()}


def _within(place: int, filter_: Filter) -> Filter:
    """The filter of a parameter of its own, asked of its side of a tuple."""
    renamed: Filter = {}
    for name, condition in filter_.items():
        if name in ("$or", "$and", "$nor"):
            renamed[name] = [_within(place, one) for one in condition]
        elif name == "t":
            renamed[f"t{place}"] = condition
        else:  # d. or q.: ranges stand in the tuple itself
            renamed |= _ranged(place, condition)
    return renamed


def _ranged(place: int, condition: Filter) -> Filter:
    if "$elemMatch" in condition:
        return {f"{name}{place}": bound for name, bound in condition["$elemMatch"].items()}
    if "$not" in condition:
        return {"$nor": [_ranged(place, condition["$not"])]}
    return {}  # that it exists: it does
