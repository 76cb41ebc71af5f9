"""Dates: every value is a half-open range of milliseconds, as long as it is imprecise. ``eq`` is containment, as R4 says.

A date without a zone is taken as UTC. https://hl7.org/fhir/R4/search.html#date
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.primitives import is_datetime
from fhirserver.search.clause import DATED, Clause

MODIFIERS: tuple[str, ...] = ()
FIRST, LAST = -(2**53), 2**53
_PREFIX = re.compile(r"(eq|ne|lt|gt|le|ge|sa|eb|ap)?([0-9].*)")
_MINUTES = re.compile(r"(.{10}T\d\d:\d\d)(Z|[+-]\d\d:\d\d)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def milliseconds(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(milliseconds=1)


def span(text: str) -> tuple[int, int]:
    """The range that a date, dateTime or instant means."""
    if len(text) <= 10:
        year, month, day = (int(part) for part in (text + "-01-01")[: 10 if len(text) < 10 else None].split("-")[:3])
        start = datetime(year, month, day, tzinfo=timezone.utc)
        days = {4: 366 if calendar.isleap(year) else 365, 7: calendar.monthrange(year, month)[1], 10: 1}[len(text)]
        low = milliseconds(start)
        return low, low + days * 86_400_000
    clock, fraction, zone = re.fullmatch(r"(.{19})(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text).groups()  # type: ignore[union-attr]
    leap = clock.endswith(":60")
    start = datetime.fromisoformat((clock[:-2] + "59" if leap else clock) + ("+00:00" if zone == "Z" else zone))
    low = milliseconds(start) + (1000 if leap else 0)
    if fraction is None:
        return low, low + 1000
    low += int((fraction + "00")[:3])
    return low, low + 10 ** max(0, 3 - len(fraction))


def entries(code: str, type_: str, value: Any) -> Iterator[tuple[int, int]]:
    if type_ in ("date", "dateTime", "instant") and isinstance(value, str):
        yield span(value)
    elif type_ == "Period":
        start, end = value.get("start"), value.get("end")
        yield (span(start)[0] if start else FIRST), (span(end)[1] if end else LAST)
    elif type_ == "Timing":
        found = [span(event) for event in value.get("event", ())]
        bounds = value.get("repeat", {}).get("boundsPeriod")
        found += entries(code, "Period", bounds) if bounds else []
        if found:
            yield min(low for low, _ in found), max(high for _, high in found)


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    asked = [bounds(code, value) for value in values]
    clauses = [clause(f"d.{code}", prefix, low, high) for prefix, low, high in asked]
    if len(clauses) == 1:
        return clauses[0]
    return Clause({"$or": [c.second for c in clauses]}, DATED + 10)


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
            return Clause({field: {"$not": {"$elemMatch": element}}, start: {"$exists": True}}, DATED + 10)
        return Clause({start: {"$gte": low, "$lt": high}}, DATED, {field: {"$elemMatch": element}})
    if prefix == "ap":
        tolerance = max((high - low), 86_400_000)
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
