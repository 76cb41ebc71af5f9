"""Strings: the beginning of a value, letters folded (case, accents, ł, ø, ß); ``:exact`` as written; ``:contains``.

https://hl7.org/fhir/R4/search.html#string
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import NEGATIVE, TEXT, Clause, either
from fhirserver.search.values import plain

MODIFIERS = ("exact", "contains")
LONGEST = 4000
_LETTERS = str.maketrans(
    {"ł": "l", "đ": "d", "ø": "o", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ħ": "h", "ŧ": "t"}
)
_PARTS = {
    "HumanName": ("family", "given", "prefix", "suffix", "text"),
    "Address": ("line", "city", "district", "state", "postalCode", "country", "text"),
}


def fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_LETTERS)


def entries(code: str, type_: str, value: Any) -> Iterator[str]:
    for text in texts(type_, value):
        yield f"{code}~{fold(text)[:LONGEST]}"
        yield f"{code}:exact={text[:LONGEST]}"


def texts(type_: str, value: Any) -> Iterator[str]:
    if type_ in _PARTS:
        for part in _PARTS[type_]:
            found = value.get(part)
            yield from (text for text in (found if isinstance(found, list) else [found]) if text)
    elif isinstance(value, str):
        yield value


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    if modifier == "exact":
        if not all(values):
            raise BadRequest("A string to search for is not empty.", code)
        tags = [f"{code}:exact={plain(value)[:LONGEST]}" for value in values]
        return Clause({"t": tags[0] if len(tags) == 1 else {"$in": tags}}, TEXT)
    if modifier == "contains":
        return either([_containing(code, value) for value in values])
    return either([beginning(code, value, code) for value in values])


def beginning(tag: str, value: str, code: str) -> Clause:
    """A folded value that begins so."""
    folded = fold(plain(value))[:LONGEST]
    if not folded:
        raise BadRequest("A string to search for is not empty.", code)
    within = {"$gte": f"{tag}~{folded}", "$lt": f"{tag}~{folded}\uffff"}
    return Clause({"t": within}, TEXT, {"t": {"$elemMatch": within}})


def _containing(code: str, value: str) -> Clause:
    folded = fold(plain(value))[:LONGEST]
    if not folded:
        raise BadRequest("A string to search for is not empty.", code)
    return Clause({"t": {"$regex": f"^{re.escape(code)}~(?s:.*){re.escape(folded)}"}}, NEGATIVE)
