"""References: ``id``, ``Type/id`` or a URL; ``:Type``, ``:identifier``, ``:above`` and ``:below`` in a hierarchy.

https://hl7.org/fhir/R4/search.html#reference
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fhirserver import r4
from fhirserver.errors import BadRequest
from fhirserver.primitives import is_id
from fhirserver.search import token
from fhirserver.search.clause import NOTHING, REFERRING, Clause
from fhirserver.search.values import plain

MODIFIERS = ("identifier", "above", "below")  # and [:Type]
# Widens the references asked for, by what stands for the same thing (merged patients) or below it in a hierarchy
Widen = Callable[[list[str]], list[str]]


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    if type_ == "Reference":
        if "reference" in value:
            reference = value["reference"]
            yield f"{code}={reference}"
            if "/_history/" in reference:
                yield f"{code}={reference.split('/_history/')[0]}"
        if "identifier" in value:
            yield from token.entries(f"{code}:identifier", "Identifier", value["identifier"])
    elif type_ == "Resource":  # the first of a stored Bundle
        if isinstance(value, dict) and "id" in value:
            yield f"{code}={value.get('resourceType')}/{value['id']}"
    elif type_ == "Attachment":
        if "url" in value:
            yield f"{code}={value['url']}"
    elif isinstance(value, str):  # a canonical, found with its version and without
        yield f"{code}={value}"
        if "|" in value:
            yield f"{code}={value.split('|')[0]}"


def where(
    code: str, modifier: str | None, values: list[str], lead: bool, targets: tuple[str, ...] = (), widen: Widen = list
) -> Clause:
    if modifier == "identifier":
        return token.where(f"{code}:identifier", None, values, lead=True)
    named = modifier if modifier not in ("above", "below") else None
    meant = widen([reference for value in values for reference in _meant(code, named, plain(value), targets)])
    if not meant:
        return NOTHING
    tags = [f"{code}={reference}" for reference in meant]
    return Clause({"t": tags[0] if len(tags) == 1 else {"$in": tags}}, REFERRING)


def _meant(code: str, modifier: str | None, value: str, targets: tuple[str, ...]) -> list[str]:
    """An id alone may be of any of the types that the parameter can point to."""
    if modifier and not r4.is_resource(modifier):
        raise BadRequest(f"{code} has no modifier of this name.", code)
    if not value:
        raise BadRequest("A reference to search for is not empty.", code)
    if is_id(value):
        types = [modifier] if modifier else list(targets)
        return [f"{type_}/{value}" for type_ in types]
    if modifier and f"/{modifier}/" not in f"/{value}":
        return []
    return [value]


def relative(value: Any, base: str) -> Any:
    """A resource, or a part of one, with its references to this server as ``Type/id``, whichever way they were sent."""
    if isinstance(value, dict):
        return {
            key: item.removeprefix(f"{base}/") if key == "reference" and isinstance(item, str) else relative(item, base)
            for key, item in value.items()
        }
    return [relative(item, base) for item in value] if isinstance(value, list) else value


def local(reference: str, base: str) -> tuple[str, str] | None:
    """(type, id) where the reference is to a resource of this server."""
    relative = reference.removeprefix(f"{base}/").split("/_history/")[0]
    if relative.startswith(("#", "urn:", "http:", "https:")):
        return None
    type_, _, id_ = relative.partition("/")
    return (type_, id_) if id_ and "/" not in id_ else None
