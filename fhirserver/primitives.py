"""FHIR's primitive types: is this JSON value one?

https://hl7.org/fhir/R4/datatypes.html
"""

from __future__ import annotations

import binascii
import calendar
import re
from base64 import b64decode
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

_DATE = re.compile(r"([0-9]{4})(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12][0-9]|3[01]))?)?")
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?")
_ZONE = re.compile(r"Z|[+-](0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_CODE = re.compile(r"[^\s]+(\s[^\s]+)*")
_OID = re.compile(r"urn:oid:[0-2](\.(0|[1-9][0-9]*))+")
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_URI = re.compile(r"\S+")

XHTML = "{http://www.w3.org/1999/xhtml}"
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)\w+;")
# https://hl7.org/fhir/R4/narrative.html#xhtml: no head, body, script, form, frame, object or event attribute.
_TAGS = frozenset(
    [
        "div",
        "p",
        "span",
        "a",
        "img",
        "b",
        "i",
        "u",
        "em",
        "strong",
        "small",
        "big",
        "tt",
        "sub",
        "sup",
        "br",
        "hr",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "caption",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "col",
        "colgroup",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "pre",
        "code",
        "blockquote",
        "q",
        "abbr",
        "acronym",
        "cite",
        "dfn",
        "kbd",
        "samp",
        "var",
        "address",
        "bdo",
        "ins",
        "del",
    ]
)


def is_text(value: Any) -> bool:
    """A non-empty string that can be stored and sent: no control characters, no lone surrogates."""
    return isinstance(value, str) and bool(value) and not value.isspace() and not _CONTROL.search(value)


def is_date(value: Any) -> bool:
    """Year, year-month or a day that the calendar has."""
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[1] == "0000":
        return False
    return match[3] is None or int(match[3]) <= calendar.monthrange(int(match[1]), int(match[2]))[1]


def is_datetime(value: Any) -> bool:
    """A date, or a date with time and zone (R4: "If hours and minutes are specified, a time zone SHALL be populated")."""
    if not isinstance(value, str):
        return False
    return is_date(value) or is_instant(value)


def is_instant(value: Any) -> bool:
    if not isinstance(value, str) or len(value) < 20 or value[10] != "T" or not is_date(value[:10]):
        return False
    time = _TIME.match(value, 11)
    return time is not None and _ZONE.fullmatch(value, time.end()) is not None


def is_time(value: Any) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def is_base64(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return bool(value)


def is_integer(value: Any, low: int = -(2**31)) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31


def is_decimal(value: Any) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def is_xhtml(value: Any) -> bool:
    """A safe narrative: one XHTML ``div`` of basic formatting, nothing that runs."""
    if not isinstance(value, str) or re.search("<!(?!--)", value) or not value.lstrip().startswith("<div"):
        return False
    try:
        root = ElementTree.fromstring(_ENTITY.sub(" ", value))  # noqa: S314 - declarations, so entities too, are refused above
    except (ElementTree.ParseError, ValueError):
        return False
    said = any(True for _ in root.itertext() if _.strip()) or any(True for node in root.iter() if node.tag == f"{XHTML}img")
    return root.tag == f"{XHTML}div" and said and all(_is_formatting(node) for node in root.iter())


def _is_formatting(node: ElementTree.Element) -> bool:
    if not isinstance(node.tag, str) or not node.tag.startswith(XHTML) or node.tag.removeprefix(XHTML) not in _TAGS:
        return False
    return not any(
        name.startswith("on") or "".join(value.split()).lower().startswith(("javascript:", "vbscript:", "data:text"))
        for name, value in node.attrib.items()
    )


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None and not _CONTROL.search(value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": is_integer,
    "unsignedInt": lambda value: is_integer(value, 0),
    "positiveInt": lambda value: is_integer(value, 1),
    "decimal": is_decimal,
    "string": is_text,
    "markdown": is_text,
    "code": _matching(_CODE),
    "id": _matching(_ID),
    "uri": _matching(_URI),
    "url": _matching(_URI),
    "canonical": _matching(_URI),
    "oid": _matching(_OID),
    "uuid": _matching(_UUID),
    "date": is_date,
    "dateTime": is_datetime,
    "instant": is_instant,
    "time": is_time,
    "base64Binary": is_base64,
    "xhtml": is_xhtml,
}


def is_id(value: Any) -> bool:
    """https://hl7.org/fhir/R4/datatypes.html#id"""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
