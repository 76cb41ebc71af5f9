"""The parameters of a type: the standard's that are served, and our own. Queries and index entries both read these.

https://hl7.org/fhir/R4/searchparameter-registry.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from fhirserver import r4
from fhirserver.definitions import Component, ResourceType, SearchParam
from fhirserver.errors import Unsupported
from fhirserver.search import KINDS
from fhirserver.search.paths import Value, compiled, ends, is_single

_CANONICAL = "http://hl7.org/fhir/SearchParameter/"
# Parameters of every type whose values are in the resource. _id and _lastUpdated are columns; the others are no values.
_COMMON = ("_profile", "_security", "_source", "_tag")
# What R4 has and this server refuses, each with its reason.
LEFT_OUT: Mapping[str, str] = {
    "_text": "full-text search of narratives needs a text engine beside the database",
    "_content": "full-text search of whole resources needs a text engine beside the database",
    "_query": "there are no named queries",
    "_filter": "what it can say, chains, _has, comma lists and modifiers say",
    "_contained": "contained resources are found with what contains them alone",
    "_containedType": "contained resources are found with what contains them alone",
}


@cache
def parameters(type_: ResourceType) -> dict[str, SearchParam]:
    """Those that are indexed: the standard's, our own, and administrators'."""
    rows = r4.search_parameters("Resource") | r4.search_parameters("DomainResource") | r4.search_parameters(type_.name)
    standard = {
        code: SearchParam(code, kind, expression, tuple(targets or ()) or None, _CANONICAL + id_, (), _components(components))
        for code, (kind, expression, targets, id_, components) in rows.items()
        if kind in KINDS and code not in type_.left_out and (not code.startswith("_") or code in _COMMON)
    }
    return standard | {parameter.code: parameter for parameter in (*type_.search, *type_.custom)}


@cache
def searchable(type_: ResourceType) -> dict[str, SearchParam]:
    """Those by which a query may ask: the index has them all."""
    return {code: param for code, param in parameters(type_).items() if code not in type_.pending}


def _components(rows: list[list[Any]] | None) -> tuple[Component, ...]:
    return tuple(Component(kind, expression, tuple(targets or ()), url) for kind, expression, targets, url in rows or ())


@cache
def _spellings(type_: ResourceType) -> dict[str, str]:
    own = {alias: p.code for p in type_.search for alias in p.aliases}
    return {code: code for code in parameters(type_)} | own | dict(type_.aliases)


def code_of(type_: ResourceType, name: str) -> str:
    """A spelling that partners use, as the parameter is called."""
    return _spellings(type_).get(name, name)


def parameter(type_: ResourceType, name: str) -> SearchParam | None:
    """What a query means by a name. Error: 400 for what is still being indexed."""
    code = code_of(type_, name)
    if code in type_.pending:
        raise Unsupported(f"{code} of {type_.name} is being indexed, {type_.pending[code]}; until then it finds nothing.", code)
    return parameters(type_).get(code)


def values(type_: ResourceType, param: SearchParam, data: dict[str, Any]) -> list[Value]:
    """(FHIR type, value) of everything that a parameter points at."""
    accessor = compiled(type_.name, param.expression)
    assert accessor is not None, (type_.name, param.expression)
    return accessor(data)


def tuples(type_: ResourceType, param: SearchParam, data: dict[str, Any]) -> Iterator[list[list[Value]]]:
    """Of a composite: for each element of its expression, each component's values there."""
    for branch in param.expression.split(" | "):
        accessor = compiled(type_.name, branch)
        assert accessor is not None
        for fhir_type, node in accessor(data):
            owner = fhir_type or type_.name
            yield [_of(owner, type_, component.expression, node, data) for component in param.components]


def _of(owner: str, type_: ResourceType, expression: str, node: dict[str, Any], data: dict[str, Any]) -> list[Value]:
    whole = expression.startswith("%resource.")
    accessor = compiled(type_.name if whole else owner, expression)
    assert accessor is not None, (owner, expression)
    return accessor(data if whole else node)


@cache
def of_strings(type_: ResourceType, param: SearchParam) -> bool:
    """Whether every value of the parameter is a plain string."""
    found = ends(type_.name, param.expression)
    return bool(found) and all(e.type == "string" for e in found)


@cache
def single_dates(type_: ResourceType) -> frozenset[str]:
    """The dates offered for _sort of which a resource has one at most."""
    dates = (param for code, param in parameters(type_).items() if code in type_.sorts and param.kind == "date")
    return frozenset(param.code for param in dates if is_single(type_.name, param.expression))


@cache
def systems(type_: ResourceType, param: SearchParam) -> tuple[str, ...]:
    """The code systems that a required binding implies, where every value of the parameter is a plain code."""
    found = ends(type_.name, param.expression)
    return found[0].systems if found and all(e.type == "code" and e.systems == found[0].systems for e in found) else ()
