"""Dates and times as ranges of milliseconds since 1970: as long as they are imprecise; without a zone they are UTC.

https://hl7.org/fhir/R4/datatypes.html#dateTime
"""

from __future__ import annotations

import calendar
import re
from datetime import datetime, timedelta, timezone

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
