"""URIs: equal to the last character.

https://hl7.org/fhir/R4/search.html#uri
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import IDENTIFYING, Clause

MODIFIERS: tuple[str, ...] = ()


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield f"{code}={value}"


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    if not all(values):
        raise BadRequest("A URI to search for is not empty.", code)
    return Clause({"t": {"$in": [f"{code}={value}" for value in values]}}, IDENTIFYING)
