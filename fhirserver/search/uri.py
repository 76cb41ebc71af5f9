"""URIs: equal to the last character; ``:below`` and ``:above`` by whole path segments.

https://hl7.org/fhir/R4/search.html#uri
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import IDENTIFYING, REFERRING, Clause, either
from fhirserver.search.values import plain

MODIFIERS = ("above", "below")


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield f"{code}={value}"


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    if not all(values):
        raise BadRequest("A URI to search for is not empty.", code)
    asked = [plain(value) for value in values]
    if modifier == "below":
        return either([_below(code, value) for value in asked])
    if modifier == "above":
        asked = [url for value in asked for url in _above(value)]
    return Clause({"t": {"$in": [f"{code}={value}" for value in asked]}}, IDENTIFYING)


def _below(code: str, value: str) -> Clause:
    stem = value.removesuffix("/")
    within = {"$gte": f"{code}={stem}/", "$lt": f"{code}={stem}/\uffff"}
    below = Clause({"t": within}, REFERRING, {"t": {"$elemMatch": within}})
    return below if value.endswith("/") else either([Clause({"t": f"{code}={stem}"}, IDENTIFYING), below])


def _above(value: str) -> Iterator[str]:
    """The URI and what it is below of, with a slash at the end and without."""
    ends = [match.start() for match in re.finditer(r"(?<![:/])/", value)]
    for stem in {value.rstrip("/"), *(value[:end] for end in ends)}:
        yield stem
        yield f"{stem}/"
