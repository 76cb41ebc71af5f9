"""SearchParameters that an administrator declares: from the resource to what a type serves, or what is wrong with it.

https://hl7.org/fhir/R4/searchparameter.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import Issue
from fhirserver.search.index import indexes
from fhirserver.search.parameters import code_of, parameters
from fhirserver.search.paths import compiled, ends
from fhirserver.store import MAX_INDEXES

Document = dict[str, Any]

STANDARDS = ("http://hl7.org/fhir/SearchParameter/", "urn:fhirserver:SearchParameter:")
# kind -> the FHIR types that it can be of
_OF: Mapping[str, frozenset[str]] = {
    "token": frozenset({"code", "Coding", "CodeableConcept", "Identifier", "ContactPoint", "boolean", "string", "id", "uri"}),
    "string": frozenset({"string", "markdown", "code", "HumanName", "Address"}),
    "date": frozenset({"date", "dateTime", "instant", "Period", "Timing"}),
    "reference": frozenset({"Reference", "canonical"}),
    "number": frozenset({"integer", "positiveInt", "unsignedInt", "decimal"}),
    "quantity": frozenset({"Quantity", "SimpleQuantity", "Age", "Duration", "Distance", "Count", "Money", "Range"}),
    "uri": frozenset({"uri", "url", "canonical", "oid", "uuid"}),
}
_CODE = re.compile(r"[a-z][A-Za-z0-9-]{0,63}")


def is_active(document: Document) -> bool:
    return document.get("status") == "active" and not document.get("url", "").startswith(STANDARDS)


def served(document: Document, base: str) -> bool:
    """Whether it can be, whoever let it in."""
    told = all(isinstance(document.get(name), str) for name in ("url", "code", "expression"))
    return is_active(document) and told and document.get("type") in _OF and not _wrong(declared(document, base), base)


def fitting(type_: ResourceType, added: tuple[SearchParam, ...]) -> tuple[SearchParam, ...]:
    """Those of them for which a collection has room, the first ones first."""
    kept: tuple[SearchParam, ...] = ()
    for param in added:
        if len(indexes(extended(type_, (*kept, param)))) < MAX_INDEXES:
            kept = (*kept, param)
    return kept


def declared(document: Document, base: str) -> SearchParam:
    """What it is for resources of type ``base``; a stored one is told by its id and version."""
    return SearchParam(
        document["code"],
        document["type"],
        " | ".join(_branches(document, base)),
        tuple(document.get("target", ())) or None,
        document["url"],
        version=f"{document.get('id', '')}/{document.get('meta', {}).get('versionId', '')}",
    )


def extended(type_: ResourceType, added: tuple[SearchParam, ...]) -> ResourceType:
    """The type with these in the place of all that were added before."""
    return replace(type_, custom=tuple(sorted(added, key=lambda param: param.code)))


def _branches(document: Document, base: str) -> list[str]:
    """The parts of the expression that are about this type."""
    parts = [part.strip() for part in document.get("expression", "").split(" | ")]
    heads = [(part, re.match(r"\(*([A-Z]\w*)(?=[.)]|$)", part)) for part in parts]
    return [part for part, head in heads if head is None or head[1] in (base, "Resource", "DomainResource")]


def problems(document: Document, types: Mapping[str, ResourceType], beside: Mapping[str, list[SearchParam]]) -> Iterator[Issue]:
    """Why it cannot be served; a resource that is not active may be anything. ``beside``: those that come with it, by type."""
    if document.get("url", "").startswith(STANDARDS):
        yield Issue("invalid", "This URL is of a parameter that the server has already.", "SearchParameter.url")
    if not is_active(document):
        return
    for name in ("url", "code", "expression"):
        if not isinstance(document.get(name), str):
            yield Issue("required", f"An active SearchParameter has this: {name}.", f"SearchParameter.{name}")
            return
    code, kind = document["code"], document["type"]
    if not _CODE.fullmatch(code):
        yield Issue("value", "The code begins with a small letter and has letters, digits and - in it.", "SearchParameter.code")
    if kind not in _OF:
        yield Issue("not-supported", f"The type is one of {', '.join(_OF)}.", "SearchParameter.type")
        return
    if kind == "reference" and "target" not in document:
        yield Issue("required", "A reference parameter names its targets, so that chains know them.", "SearchParameter.target")
    for number, base in enumerate(document["base"]):
        yield from _of_base(document, base, types.get(base), beside.get(base, []), f"SearchParameter.base[{number}]")


def _of_base(
    document: Document, base: str, type_: ResourceType | None, beside: list[SearchParam], where: str
) -> Iterator[Issue]:
    if type_ is None:
        yield Issue("not-supported", "A base is a resource type that is served here.", where)
        return
    code = document["code"]
    if code_of(type_, code) in parameters(extended(type_, ())):
        yield Issue("duplicate", f"{base} has a parameter of this code already.", "SearchParameter.code")
        return
    param = declared(document, base)
    if wrong := _wrong(param, base):
        yield wrong
        return
    kept = tuple(p for p in (*type_.custom, *beside) if p.code != code)
    if fitting(type_, (*kept, param)) != (*kept, param):
        yield Issue("too-costly", f"{base} has as many indexes as a collection can have.", where)


def _wrong(param: SearchParam, base: str) -> Issue | None:
    """Of the expression: that it is not understood, or ends at what such a parameter is not made of."""
    found = {element.type for element in ends(base, param.expression)} if compiled(base, param.expression) else set()
    if not found:
        return Issue(
            "not-supported",
            f"For {base}, the expression is not one that can be indexed: paths, as(), ofType(), where(x = 'y'), "
            "where(resolve() is T), extension('url') and [n] are.",
            "SearchParameter.expression",
        )
    if unfit := sorted(found - _OF[param.kind]):
        return Issue(
            "invalid",
            f"For {base}, the expression ends at {', '.join(unfit[:5])}, of which a {param.kind} is not made; "
            "narrow it with ofType().",
            "SearchParameter.expression",
        )
    return None
