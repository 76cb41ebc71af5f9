"""Strings: the beginning of a value, letters folded (case, accents, ł, ø, ß); ``:exact`` as written.

https://hl7.org/fhir/R4/search.html#string
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import TEXT, Clause

MODIFIERS = ("exact",)
_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ø": "o", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"})
_LONGEST = 200
_PARTS = {
    "HumanName": ("family", "given", "prefix", "suffix", "text"),
    "Address": ("line", "city", "district", "state", "postalCode", "country", "text"),
}


def fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_LETTERS)


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    for text in texts(type_, value):
        yield f"{code}~{fold(text)[:_LONGEST]}"
        yield f"{code}:exact={text[:_LONGEST]}"


def texts(type_: str, value: Any) -> Iterator[str]:
    if type_ in _PARTS:
        for part in _PARTS[type_]:
            found = value.get(part)
            yield from (text for text in (found if isinstance(found, list) else [found]) if text)
    elif isinstance(value, str):
        yield value


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    if not all(values):
        raise BadRequest("A string to search for is not empty.", code)
    if modifier == "exact":
        return Clause({"t": {"$in": [f"{code}:exact={value[:_LONGEST]}" for value in values]}}, TEXT)
    ranges = [{"$gte": f"{code}~{folded}", "$lt": f"{code}~{folded}\uffff"} for folded in (fold(v)[:_LONGEST] for v in values)]
    if len(ranges) == 1:
        return Clause({"t": ranges[0]}, TEXT, {"t": {"$elemMatch": ranges[0]}})
    return Clause({"$or": [{"t": {"$elemMatch": one}} for one in ranges]}, TEXT + 10)
