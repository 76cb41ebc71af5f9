"""Dates: every value is a half-open range of milliseconds, as long as it is imprecise. ``eq`` is containment, as R4 says.

A date without a zone is taken as UTC. https://hl7.org/fhir/R4/search.html#date
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.moments import span
from fhirserver.primitives import is_datetime
from fhirserver.search.clause import DATED, NEGATIVE, Clause, Filter, either

MODIFIERS: tuple[str, ...] = ()
FIRST, LAST, DAY = -(2**53), 2**53, 86_400_000
_PREFIX = re.compile(r"(eq|ne|lt|gt|le|ge|sa|eb|ap)?([0-9].*)")
_MINUTES = re.compile(r"(.{10}T\d\d:\d\d)(Z|[+-]\d\d:\d\d)?")


def entries(code: str, type_: str, value: Any) -> Iterator[tuple[int, int]]:
    if type_ == "instant":  # "a fixed point in time with an interval smaller than the precision of the system"
        low = span(value)[0]
        yield low, low + 1
    elif type_ in ("date", "dateTime") and isinstance(value, str):
        yield span(value)
    elif type_ == "Period":
        start, end = value.get("start"), value.get("end")
        yield (span(start)[0] if start else FIRST), (span(end)[1] if end else LAST)
    elif type_ == "Timing":
        found = [span(event) for event in value.get("event", ()) if event]
        bounds = value.get("repeat", {}).get("boundsPeriod")
        found += entries(code, "Period", bounds) if bounds else []
        if found:
            yield min(low for low, _ in found), max(high for _, high in found)


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    return either([clause(f"d.{code}", *bounds(code, value)) for value in values])


def updated(value: str) -> Clause:
    """``_lastUpdated``: an instant, kept to the millisecond."""
    prefix, low, high = bounds("_lastUpdated", value)
    if prefix == "ap":
        tolerance = max(high - low, DAY)
        prefix, low, high = "eq", low - tolerance, high + tolerance
    compared: dict[str, Filter] = {
        "eq": {"$gte": low, "$lt": high},
        "ne": {"$not": {"$gte": low, "$lt": high}},
        "gt": {"$gte": high},
        "sa": {"$gte": high},
        "ge": {"$gte": low},
        "lt": {"$lt": low},
        "eb": {"$lt": low},
        "le": {"$lt": high},
    }
    return Clause({"ts": compared[prefix]}, NEGATIVE if prefix == "ne" else DATED)


def bounds(code: str, value: str) -> tuple[str, int, int]:
    match = _PREFIX.fullmatch(value)
    text = match[2].replace(" ", "+") if match else ""
    if minutes := _MINUTES.fullmatch(text):
        text, width = f"{minutes[1]}:00{minutes[2] or 'Z'}", 60_000
    else:
        width = 0
        if "T" in text and not re.search(r"Z$|[+-]\d\d:\d\d$", text):
            text += "Z"
    if match is None or not is_datetime(text):
        raise BadRequest("A date is [prefix]yyyy[-mm[-dd[Thh:mm[:ss[.sss]][zone]]]].", code)
    low, high = span(text)
    return match[1] or "eq", low, low + width if width else high


def clause(field: str, prefix: str, low: int, high: int) -> Clause:
    """Ranges stored as ``l`` and ``h`` under ``field``, compared with the range that the query means."""
    start, end = f"{field}.l", f"{field}.h"
    element: dict[str, Any]
    if prefix in ("eq", "ne"):
        element = {"l": {"$gte": low}, "h": {"$lte": high}}
        if prefix == "ne":
            return Clause({field: {"$not": {"$elemMatch": element}}, start: {"$exists": True}}, NEGATIVE)
        return Clause({start: {"$gte": low, "$lt": high}}, DATED, {field: {"$elemMatch": element}})
    if prefix == "ap":
        tolerance = max(high - low, DAY)
        low, high = low - tolerance, high + tolerance
        element = {"l": {"$lt": high}, "h": {"$gt": low}}
        return Clause({start: {"$lt": high}}, DATED, {field: {"$elemMatch": element}})
    if prefix in ("ge", "le"):
        # "… the range above the search value intersects …, or the range of the search value fully contains the range of the target"
        outside = {"h": {"$gt": high}} if prefix == "ge" else {"l": {"$lt": low}}
        within = {"l": {"$gte": low}, "h": {"$lte": high}}
        flat = {end: {"$gt": low}} if prefix == "ge" else {start: {"$lt": high}}
        return Clause(flat, DATED, {"$or": [{field: {"$elemMatch": outside}}, {field: {"$elemMatch": within}}]})
    compared = {
        "gt": ("h", {"$gt": high}),
        "lt": ("l", {"$lt": low}),
        "sa": ("l", {"$gte": high}),
        "eb": ("h", {"$lte": low}),
    }
    name, condition = compared[prefix]
    return Clause({f"{field}.{name}": condition}, DATED, {field: {"$elemMatch": {name: condition}}})
