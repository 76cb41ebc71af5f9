"""Tokens: ``system|code``, ``|code`` (no system), ``code``, ``system|``; ``:not``, ``:text``, ``:of-type``.

https://hl7.org/fhir/R4/search.html#token
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search import string
from fhirserver.search.clause import CODED, IDENTIFYING, NEGATIVE, TEXT, Clause, either, prefixed
from fhirserver.search.values import split

MODIFIERS = ("not", "text", "of-type", "in", "not-in", "above", "below")
_CODED_ALONE = frozenset({"code", "boolean", "id", "uri", "url", "canonical", "markdown"})


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    """The tags of one value: a coding is tagged with, without and by its system, and by its text."""
    for system, item in codings(type_, value):
        yield f"{code}={item}"
        yield f"{code}={system or ''}|{item}"
    for system in _systems_alone(type_, value):
        yield f"{code}={system}|"
    for text in _texts(type_, value):
        yield f"{code}:text~{string.fold(text)[: string.LONGEST]}"
    if type_ == "Identifier" and "value" in value:
        for coding in value.get("type", {}).get("coding", ()):
            yield f"{code}:of-type={coding.get('system', '')}|{coding.get('code', '')}|{value['value']}"


def codings(type_: str, value: Any) -> Iterator[tuple[str | None, str]]:
    """(system, code) of a value."""
    if type_ == "CodeableConcept":
        for coding in value.get("coding", ()):
            yield from codings("Coding", coding)
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
    elif type_ == "string":
        yield None, value.casefold()  # "… case-insensitive matching is the correct default search behavior"
    elif type_ in _CODED_ALONE:
        yield None, value


def _systems_alone(type_: str, value: Any) -> Iterator[str]:
    """Of what has a system and no code: ``system|`` finds it too."""
    if type_ == "CodeableConcept":
        for coding in value.get("coding", ()):
            yield from _systems_alone("Coding", coding)
    elif type_ in ("Coding", "Identifier") and "system" in value and ("code" if type_ == "Coding" else "value") not in value:
        yield value["system"]


def _texts(type_: str, value: Any) -> Iterator[str]:
    if type_ == "CodeableConcept":
        found = [value.get("text"), *(coding.get("display") for coding in value.get("coding", ()))]
    elif type_ == "Coding":
        found = [value.get("display")]
    elif type_ == "Identifier":
        found = [value.get("type", {}).get("text")]
    else:
        found = []
    yield from (text for text in found if text)


def where(
    code: str, modifier: str | None, values: list[str], lead: bool, systems: tuple[str, ...] = (), folded: bool = False
) -> Clause:
    """``lead``: the parameter identifies (an identifier), so it is worth leading the query.

    ``systems`` are those of a required binding of an element of type code: "the system is implied". ``folded``: the values
    are plain strings, in which case does not count.
    """
    if modifier == "text":
        return either([string.beginning(f"{code}:text", value, code) for value in values])
    if modifier == "of-type":
        if any(len(split(value, "|")) != 3 or not all(split(value, "|")[1:]) for value in values):
            raise BadRequest(f"{code}:of-type takes system|code|value.", code)
        return tagged(code, [f"{code}:of-type={'|'.join(split(value, '|'))}" for value in values], IDENTIFYING)
    tags: list[str] = []
    ranges = []
    for value in values:
        parts = split(value.casefold() if folded else value, "|")
        if len(parts) > 2 or not any(parts):
            raise BadRequest("A token is a code, system|code, |code or system|.", code)
        if len(parts) == 1:
            tags.append(f"{code}={parts[0]}")
        elif parts[1] == "":
            ranges.append("" if parts[0] in systems else f"{parts[0]}|")
        else:
            tags.append(f"{code}={'' if parts[0] in systems else parts[0]}|{parts[1]}")
    if modifier == "not":
        if ranges:
            return Clause({"$nor": [{"t": prefixed(f"{code}={start}")} for start in ranges] + [{"t": {"$in": tags}}]}, NEGATIVE)
        return Clause({"t": {"$nin": tags}}, NEGATIVE)
    weight = IDENTIFYING if lead else CODED
    clauses = [tagged(code, tags, weight)] if tags else []
    for start in ranges:
        within = {"$gte": f"{code}={start}", "$lt": f"{code}={start}\uffff"}
        clauses.append(Clause({"t": within}, max(weight, TEXT), {"t": {"$elemMatch": within}}))
    return either(clauses)


def tagged(code: str, tags: list[str], weight: int = CODED) -> Clause:
    """One of these tags."""
    return Clause({"t": tags[0] if len(tags) == 1 else {"$in": tags}}, weight)
