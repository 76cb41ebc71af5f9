"""A resource's index entries, and the indexes that a type needs.

https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from fhirserver import r4
from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.search import KINDS, composite, date, string
from fhirserver.search.parameters import code_of, parameters, tuples
from fhirserver.search.paths import Value, compiled
from fhirserver.store import Index

_SCHEMA = 3  # what ``index`` makes of the standard's parameters: raise it when that changes
_LAST_TEXT = "\uffff"
COMPARTMENTS = ("Patient", "Practitioner", "RelatedPerson", "Encounter", "Device")
HELD = ("token", "string", "uri", "reference")  # the kinds by which chains into contained resources look
QUEUE_ORDER = ("priority", "due")  # a worklist's: the more urgent first, then what is due first
_RANGED = ("number", "quantity", "special")


@cache
def _accessors(type_: ResourceType) -> list[tuple[SearchParam, Callable[[dict[str, Any]], list[Value]]]]:
    rows = [(p, compiled(type_.name, p.expression)) for p in parameters(type_).values() if p.kind != "composite"]
    return [(p, accessor) for p, accessor in rows if accessor is not None]


@cache
def _composites(type_: ResourceType) -> list[SearchParam]:
    return [p for p in parameters(type_).values() if p.kind == "composite"]


def index(type_: ResourceType, data: dict[str, Any], base: str = "") -> dict[str, Any]:
    """Tags ``t``, date ranges ``d``, quantities and tuples ``q``, sort scalars ``o``, compartments ``c``, unique keys ``u``, worklists ``w``.

    A reference that begins with this server's ``base`` is indexed as a relative one.
    """
    tags: dict[str, None] = {}
    dates: dict[str, list[dict[str, int]]] = {}
    ranges: dict[str, list[dict[str, Any]]] = {}
    pointed: dict[str, list[Value]] = {}
    for param, accessor in _accessors(type_):
        found = accessor(data)
        if not found:
            continue
        pointed[param.code] = found
        code, entries = param.code, KINDS[param.kind].entries
        rows = [row for fhir_type, value in found if value is not None for row in entries(code, fhir_type, value)]
        if not rows:
            tags[f"{code}:present"] = None  # a value with nothing to search by is not missing
            continue
        if param.kind == "date":
            dates[code] = [{"l": low, "h": high} for low, high in rows]
        elif param.kind in _RANGED:
            ranges[code] = rows
        else:
            tags.update(dict.fromkeys(rows))
    for param in _composites(type_):
        rows = [row for found in tuples(type_, param, data) for row in composite.entries(param.code, param.components, found)]
        if rows:
            ranges[param.code] = rows
            tags.update(dict.fromkeys(composite.leads(param.code, rows)))
    if "contained" in data:
        tags.update(dict.fromkeys(_held(type_, data)))
    tags.update(dict.fromkeys(type_.derived(data)))
    if base:
        tags = dict.fromkeys(tag.replace(f"={base}/", "=", 1) if base in tag else tag for tag in tags)
    return {
        "t": list(tags),
        "d": dates,
        "q": ranges,
        "o": {code: scalar(type_, code, pointed.get(code, [])) for code in type_.sorts},
        "c": _compartments(type_, pointed),
        "u": type_.unique(data),
        "w": type_.queues(data) if type_.queues else [],
        "schema": schema(type_),
    }


@cache
def schema(type_: ResourceType) -> int | str:
    """By which an entry tells whether it was made as entries of this type are made now."""
    if not type_.custom:
        return _SCHEMA
    rows = [(p.code, p.kind, p.expression) for p in type_.custom]
    return f"{_SCHEMA}-{hashlib.sha256(repr(rows).encode()).hexdigest()[:16]}"


@cache
def _plain(name: str) -> ResourceType:
    """A type with the standard's parameters: what is contained is not found by our own."""
    return ResourceType(name)


def held_code(code: str, target: str, inner: str) -> str:
    """Under which a contained resource's parameter is found through the reference to it."""
    return f"{code}>{target}.{inner}"


def _held(type_: ResourceType, data: dict[str, Any]) -> Iterator[str]:
    """The tags of contained resources, for chains through the references to them."""
    inside = {f"#{one['id']}": one for one in data["contained"] if isinstance(one, dict) and "id" in one}
    for param, accessor in _accessors(type_):
        for kind, value in accessor(data) if param.kind == "reference" else ():
            one = inside.get(value.get("reference", "")) if kind == "Reference" else None
            if one is not None:
                target = _plain(one["resourceType"])
                for inner, inner_accessor in _accessors(target):
                    if inner.kind in HELD:
                        code = held_code(param.code, target.name, inner.code)
                        for fhir_type, found in inner_accessor(one):
                            yield from KINDS[inner.kind].entries(code, fhir_type, found)


def scalar(type_: ResourceType, code: str, found: list[Value]) -> int | float | str:
    """What to sort by, of the parameter's values; what is missing sorts as the greatest."""
    param = parameters(type_)[code]
    if param.kind == "date":
        return min((low for kind, value in found for low, _ in date.entries(code, kind, value)), default=date.LAST)
    if code in type_.ranks:
        ranks = type_.ranks[code]
        return min((ranks.get(value, len(ranks)) for _, value in found), default=len(ranks))
    if param.kind in _RANGED:
        rows = (row["l"] for fhir_type, value in found for row in KINDS[param.kind].entries(code, fhir_type, value))
        return min(rows, default=float("inf"))
    if param.kind == "string":
        return min(
            (string.fold(text) for fhir_type, value in found for text in string.texts(fhir_type, value)), default=_LAST_TEXT
        )
    tags = (tag.partition("=")[2] for fhir_type, value in found for tag in KINDS[param.kind].entries(code, fhir_type, value))
    return min(tags, default=_LAST_TEXT)


@cache
def _memberships(type_: ResourceType) -> list[tuple[str, list[str]]]:
    """(compartment, the parameters that put a resource of this type into it)."""
    return [(name, [code_of(type_, code) for code in r4.compartment_parameters(name, type_.name)]) for name in COMPARTMENTS]


def _compartments(type_: ResourceType, pointed: dict[str, list[Value]]) -> list[str]:
    """``Patient/1``, … : those that the resource is in. https://hl7.org/fhir/R4/compartmentdefinition.html"""
    found: set[str] = set()
    for name, codes in _memberships(type_):
        for code in codes:
            for kind, value in pointed.get(code, ()):
                reference = value.get("reference", "") if kind == "Reference" else ""
                if reference.startswith(f"{name}/"):
                    found.add(reference.split("/_history/")[0])
    return sorted(found)


@cache
def indexes(type_: ResourceType) -> list[Index]:
    """One for all tags, "mine, newest first", compartments, two a date or quantity, one a sort offered, the unique keys."""
    dates = [p.code for p in parameters(type_).values() if p.kind == "date"]
    ranged = [p.code for p in parameters(type_).values() if p.kind in _RANGED]
    fields = [f"d.{code}.{end}" for code in dates for end in "lh"] + [f"q.{code}.{end}" for code in ranged for end in "lh"]
    queues = [Index((("w", 1), *((f"o.{code}", 1) for code in QUEUE_ORDER), ("_id", 1)), sparse=True)] if type_.queues else []
    return [
        *queues,
        Index((("t", 1), ("ts", -1), ("_id", 1))),
        Index((("acl", 1), ("ts", -1))),
        Index((("ts", -1),)),
        Index((("u", 1),), unique=True),
        Index((("c", 1), ("ts", -1)), sparse=True),
        *(Index(((field, 1),), sparse=True) for field in fields),
        *(Index(((f"o.{code}", 1),)) for code in type_.sorts),
    ]
