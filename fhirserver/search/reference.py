"""References: ``id``, ``Type/id`` or a URL; ``:Type`` and ``:identifier``.

https://hl7.org/fhir/R4/search.html#reference
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver import r4
from fhirserver.errors import BadRequest
from fhirserver.primitives import is_id
from fhirserver.search import token
from fhirserver.search.clause import REFERRING, Clause

MODIFIERS = ("identifier",)  # and [:Type]


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    if type_ == "Reference":
        if "reference" in value:
            reference = value["reference"]
            yield f"{code}={reference}"
            if "/_history/" in reference:
                yield f"{code}={reference.split('/_history/')[0]}"
        if "identifier" in value:
            yield from token.entries(f"{code}:identifier", "Identifier", value["identifier"])
    elif isinstance(value, str):  # a canonical, found with its version and without
        yield f"{code}={value}"
        if "|" in value:
            yield f"{code}={value.split('|')[0]}"


def where(code: str, modifier: str | None, values: list[str], lead: bool, targets: tuple[str, ...] | None = None) -> Clause:
    if modifier == "identifier":
        return token.where(f"{code}:identifier", None, values, lead=True)
    tags = [f"{code}={reference}" for value in values for reference in _meant(code, modifier, value, targets)]
    return Clause({"t": tags[0] if len(tags) == 1 else {"$in": tags}}, REFERRING)


def _meant(code: str, modifier: str | None, value: str, targets: tuple[str, ...] | None) -> list[str]:
    """An id alone may be of any of the types that the parameter can point to."""
    if modifier and not r4.is_resource(modifier):
        raise BadRequest(f"{code} has no modifier of this name.", code)
    if not value:
        raise BadRequest("A reference to search for is not empty.", code)
    if is_id(value):
        types = [modifier] if modifier else list(targets or ())
        return [f"{type_}/{value}" for type_ in types]
    if modifier and not value.startswith(f"{modifier}/"):
        raise BadRequest(f"{code}:{modifier} takes an id or {modifier}/id.", code)
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
