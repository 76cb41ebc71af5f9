"""Chaining, reverse chaining, lists and hierarchies: searches that pass through other resources.

https://hl7.org/fhir/R4/search.html#chaining https://hl7.org/fhir/R4/search.html#has
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import BadRequest, TooCostly, Unsupported
from fhirserver.primitives import is_id
from fhirserver.search.clause import IDENTIFYING, NOTHING, Clause, either
from fhirserver.search.lookup import Lookup
from fhirserver.search.parameters import parameter, values
from fhirserver.search.reference import local
from fhirserver.validation import loads

MAX_DEPTH = 5
MAX_HIERARCHY = 1000
# Types in a strict hierarchy, by the parameter that points upwards.
_UPWARDS = {"Location": "partof", "Organization": "partof", "Encounter": "part-of", "Procedure": "part-of", "Task": "part-of"}


# (reference parameter, target type, parameter, value) -> the clause for targets that are contained
Held = Callable[[SearchParam, ResourceType, str, str], Clause | None]


def shown(name: str) -> str:
    """A parameter's name, safe to tell in an error."""
    return name if len(name) <= 64 and all(c.isascii() and (c.isalnum() or c in "-_:.") for c in name) else "?"


def forward(type_: ResourceType, name: str, value: str, lookup: Lookup, held: Held) -> Clause | None:
    """``based-on:ServiceRequest.subject.family=…``; None where the first is no reference parameter."""
    stem, _, rest = name.partition(".")
    stem, _, named = stem.partition(":")
    param = parameter(type_, stem)
    if param is None or param.kind != "reference":
        return None
    if rest.count(".") >= MAX_DEPTH or rest.count("_has:") >= MAX_DEPTH:
        raise TooCostly(f"A chain has at most {MAX_DEPTH} levels.", stem)
    targets = _targets(param, named, rest, lookup)
    if not targets:
        raise BadRequest(f"{stem} points to no type that has {shown(rest)}.", stem)
    references = [row.reference for target in targets for row in lookup.find(target, [(rest, value)])]
    tags = [f"{param.code}={reference}" for reference in lookup.same(references)] if references else []
    found = [Clause({"t": {"$in": tags}}, IDENTIFYING + 1)] if tags else []
    for target in targets:
        inside = held(param, lookup.types[target], rest, value)
        if inside is not None and inside.tags is not None:
            found.append(inside)
        elif inside is not None and (ids := [row.id for row in lookup.meeting(type_, inside)]):
            found.append(Clause({"_id": {"$in": ids}}, IDENTIFYING - 1))
    return either(found) if found else NOTHING


def _targets(param: SearchParam, named: str, rest: str, lookup: Lookup) -> list[str]:
    """The types that a chain passes through: the one that is named, or each that has the next parameter."""
    if named:
        if named not in lookup.types or (param.targets and named not in param.targets):
            raise BadRequest(f"{param.code} does not point to the type named here.", param.code)
        return [named]
    head = rest.partition(".")[0].partition(":")[0]
    common = head in ("_id", "_lastUpdated", "_has", "_list")
    types = [lookup.types[t] for t in param.targets or () if t in lookup.types]
    names = [t.name for t in types if common or parameter(t, head)]
    # Through what the caller may not search nothing is found; where that is all, it is told so.
    return [name for name in names if lookup.may(name)] or names


def reverse(type_: ResourceType, name: str, value: str, lookup: Lookup) -> Clause:
    """``_has:Observation:patient:code=…``: those that such a resource refers to."""
    parts = name.split(":", 3)
    if len(parts) != 4 or not all(parts[1:]):
        raise BadRequest("_has is _has:Type:reference-parameter:parameter.", "_has")
    if name.count("_has:") > MAX_DEPTH:
        raise TooCostly(f"_has is nested at most {MAX_DEPTH} deep.", "_has")
    _, source, reference, rest = parts
    origin = lookup.types.get(source)
    param = parameter(origin, reference) if origin else None
    if origin is None or param is None or param.kind != "reference":
        raise BadRequest(f"_has: {shown(source)} has no reference parameter {shown(reference)} here.", "_has")
    found = lookup.find(source, [(rest, value)])
    references = dict.fromkeys(one for row in found for one in _pointed(origin, param, loads(row.json), lookup.base))
    ids = [r.partition("/")[2] for r in lookup.same(list(references)) if r.startswith(f"{type_.name}/")]
    return Clause({"_id": {"$in": ids}}, IDENTIFYING - 1)


def _pointed(type_: ResourceType, param: SearchParam, data: dict[str, Any], base: str) -> list[str]:
    found = (value.get("reference", "") for kind, value in values(type_, param, data) if kind == "Reference")
    return ["/".join(target) for reference in found if (target := local(reference, base))]


def listed(type_: ResourceType, value: str, lookup: Lookup) -> Clause:
    """``_list=42``: the members of a List. https://hl7.org/fhir/R4/search.html#list"""
    if not is_id(value):
        raise Unsupported("_list is the id of a List; the functional lists ($current-…) are not served.", "_list")
    members = [
        entry.get("item", {}).get("reference", "")
        for row in lookup.find("List", [("_id", value)])
        for entry in loads(row.json).get("entry", ())
        if not entry.get("deleted")
    ]
    local_ids = [target[1] for reference in members if (target := local(reference, lookup.base)) and target[0] == type_.name]
    return Clause({"_id": {"$in": local_ids}}, IDENTIFYING - 1)


def hierarchy(param: SearchParam, direction: str, references: list[str], lookup: Lookup) -> list[str]:
    """The references and all that are above or below them, where their type is a hierarchy."""
    found = dict.fromkeys(references)
    edge = list(found)
    while edge:
        edge = [one for one in _next(param, direction, edge, lookup) if one not in found]
        found.update(dict.fromkeys(edge))
        if len(found) > MAX_HIERARCHY:
            raise TooCostly(f"More than {MAX_HIERARCHY} are {direction} this.", param.code)
    return list(found)


def _next(param: SearchParam, direction: str, edge: list[str], lookup: Lookup) -> list[str]:
    following: list[str] = []
    for name in {reference.partition("/")[0] for reference in edge}:
        type_, code = lookup.types.get(name), _UPWARDS.get(name)
        upwards = parameter(type_, code) if type_ and code else None
        if type_ is None or upwards is None or upwards.targets is None or name not in upwards.targets:
            raise Unsupported(f"{param.code}: {shown(name)} is not in a hierarchy.", param.code)
        these = [reference for reference in edge if reference.startswith(f"{name}/")]
        if direction == "below":
            following += [row.reference for row in lookup.find(name, [(upwards.code, ",".join(these))])]
        else:
            rows = lookup.find(name, [("_id", ",".join(r.partition("/")[2] for r in these))])
            following += [
                one
                for row in rows
                for one in _pointed(type_, upwards, loads(row.json), lookup.base)
                if one.startswith(f"{name}/")
            ]
    return list(dict.fromkeys(following))
