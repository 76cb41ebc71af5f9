"""``:in``, ``:not-in``, ``:above``, ``:below`` on tokens, by the ValueSets and CodeSystems that are stored here.

https://hl7.org/fhir/R4/search.html#token https://hl7.org/fhir/R4/valueset.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.errors import TooCostly, Unsupported
from fhirserver.primitives import is_id
from fhirserver.search.lookup import Lookup
from fhirserver.search.values import escaped, plain, split
from fhirserver.validation import loads

MAX_CODES = 5000
Code = tuple[str, str]


def of_value_set(code: str, value: str, lookup: Lookup, depth: int = 0) -> list[Code]:
    """(system, code) of a ValueSet, by URL, ``ValueSet/id`` or id. Errors: 400 where it is not here or cannot be expanded."""
    if depth > 5:
        raise TooCostly(f"{code}: the value set includes others more than 5 deep.", code)
    compose = _only(code, "ValueSet", plain(value), lookup).get("compose", {})
    found = [c for include in compose.get("include", ()) for c in _included(code, include, lookup, depth)]
    without = {c for exclude in compose.get("exclude", ()) for c in _included(code, exclude, lookup, depth)}
    return [c for c in dict.fromkeys(found) if c not in without]


def _included(code: str, include: dict[str, Any], lookup: Lookup, depth: int) -> list[Code]:
    if include.get("filter"):
        raise Unsupported(f"{code}: a value set that is defined by a filter is not expanded here.", code)
    sets = [set(of_value_set(code, escaped(url), lookup, depth + 1)) for url in include.get("valueSet", ())]
    codes: list[Code] = []
    if "system" in include:
        system = include["system"]
        listed = [concept["code"] for concept in include.get("concept", ())]
        listed = listed or [c for c, _ in _concepts(_only(code, "CodeSystem", system, lookup).get("concept", []), ())]
        codes = [(system, one) for one in listed]
    elif sets:
        codes = sorted(set.intersection(*sets))
    if len(codes) > MAX_CODES:
        raise TooCostly(f"{code}: the value set has more than {MAX_CODES} codes.", code)
    return [c for c in codes if all(c in one for one in sets)]


def related(code: str, direction: str, value: str, lookup: Lookup) -> list[Code]:
    """The concept ``system|code`` and what is above or below it in its CodeSystem."""
    parts = split(value, "|")
    if len(parts) != 2 or not all(parts):
        raise Unsupported(f"{code}:{direction} takes system|code.", code)
    system, wanted = parts
    concepts = list(_concepts(_only(code, "CodeSystem", system, lookup).get("concept", []), ()))
    if direction == "above":
        found = [one for c, parents in concepts if c == wanted for one in (*parents, c)]
    else:
        found = [c for c, parents in concepts if wanted in (*parents, c)]
    return [(system, one) for one in dict.fromkeys([wanted, *found])]


def _concepts(concepts: list[dict[str, Any]], above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(code, the codes above it)."""
    for concept in concepts:
        yield concept["code"], above
        yield from _concepts(concept.get("concept", []), (*above, concept["code"]))


def _only(code: str, type_: str, name: str, lookup: Lookup) -> dict[str, Any]:
    """A ValueSet or CodeSystem by its canonical URL or id."""
    id_ = name.removeprefix(f"{type_}/")
    asked = ("_id", id_) if is_id(id_) else ("url", escaped(name.split("|")[0]))
    found = [loads(row.json) for row in lookup.find(type_, [asked])]
    if not found:
        raise Unsupported(f"{code}: this {type_} is not known here; store it first.", code)
    complete: dict[str, Any] = found[0]
    if type_ == "CodeSystem" and complete.get("content") != "complete":
        raise Unsupported(f"{code}: this CodeSystem is not complete here.", code)
    return complete
