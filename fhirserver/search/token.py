"""Tokens: ``system|code``, ``|code`` (no system), ``code``, ``system|``.

https://hl7.org/fhir/R4/search.html#token
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import CODED, IDENTIFYING, NEGATIVE, Clause

MODIFIERS = ("not",)
_CODED_ALONE = frozenset({"code", "boolean", "string", "id", "uri"})


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    """The tags of one value: a coding is tagged with, without and by its system."""
    for system, item in _codings(type_, value):
        yield f"{code}={item}"
        yield f"{code}={system or ''}|{item}"


def _codings(type_: str, value: Any) -> Iterator[tuple[str | None, str]]:
    if type_ == "CodeableConcept":
        for coding in value.get("coding", ()):
            yield from _codings("Coding", coding)
    elif type_ == "Coding":
        if "code" in value:
            yield value.get("system"), value["code"]
    elif type_ == "Identifier":
        if "value" in value:
            yield value.get("system"), value["value"]
    elif type_ == "ContactPoint":
        if "value" in value:
            yield value.get("use"), value["value"]
    elif type_ == "boolean":
        yield None, "true" if value else "false"
    elif type_ in _CODED_ALONE:
        yield None, value


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    """``lead``: the parameter identifies (an identifier), so it is worth leading the query."""
    tags: list[str] = []
    ranges = []
    for value in values:
        if value.endswith("|") and value != "|":
            ranges.append((f"{code}={value}", f"{code}={value}\uffff"))
        elif value in ("", "|"):
            raise BadRequest("A token is a code, system|code, |code or system|.", code)
        else:
            tags.append(f"{code}={value}")
    weight = IDENTIFYING if lead else CODED
    if modifier == "not":
        if ranges:
            raise BadRequest("Give :not a code, not a system alone.", code)
        return Clause({"t": {"$nin": tags}}, NEGATIVE)
    if not ranges:
        return Clause({"t": tags[0] if len(tags) == 1 else {"$in": tags}}, weight)
    if len(ranges) == 1 and not tags:
        [(low, high)] = ranges
        return Clause({"t": {"$gte": low, "$lt": high}}, weight + 1, {"t": {"$elemMatch": {"$gte": low, "$lt": high}}})
    either = [{"t": {"$elemMatch": {"$gte": low, "$lt": high}}} for low, high in ranges]
    return Clause({"$or": [*either, {"t": {"$in": tags}}]}, NEGATIVE)
