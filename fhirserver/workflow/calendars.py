"""Working time: a time zone, hours of each weekday, and the days that are free. Pure.

Hours are the wall clock's, so a day on which the clock is changed has one more or one less where it is within them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import holidays
import msgspec

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OFFICE = ("08:00", "16:00")
_LONGEST = 3660  # days: further nobody is asked to look


class Calendar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``hours``: from, to (24:00: midnight) of the days that are worked; ``country`` (ISO 3166): its public holidays are free,
    and so are these ``holidays``."""

    time_zone: str = "UTC"
    hours: Mapping[Day, tuple[str, str]] = msgspec.field(default_factory=lambda: dict.fromkeys(_DAYS[:5], _OFFICE))
    country: str | None = None
    holidays: tuple[date, ...] = ()

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{self.time_zone} is no time zone of the IANA database") from None
        if self.country is not None and self.country not in holidays.list_supported_countries():
            raise ValueError(f"{self.country} is no country whose holidays are known")
        if not self.hours or any(_minutes(start) >= _minutes(end) for start, end in self.hours.values()):
            raise ValueError("hours are of one day at least, each from an earlier to a later time")

    def windows(self, start: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The working hours that end after a moment, in UTC."""
        zone = ZoneInfo(self.time_zone)
        first = start.astimezone(zone).date()
        for number in range(_LONGEST):
            day = first + timedelta(days=number)
            hours = None if self.free(day) else self.hours.get(_DAYS[day.weekday()])
            if hours is None:
                continue
            opens, closes = (_at(day, text, zone) for text in hours)
            if closes > start:
                yield max(opens, start), closes

    def free(self, day: date) -> bool:
        return day in self.holidays or (self.country is not None and day in _holidays(self.country))

    def local(self, when: datetime) -> datetime:
        """On the wall clock."""
        return when.astimezone(ZoneInfo(self.time_zone))

    def band(self, when: datetime) -> str:
        """day, night, weekend or holiday, on the wall clock: by which readings are paid."""
        local = self.local(when)
        if self.free(local.date()):
            return "holiday"
        if local.weekday() >= 5:
            return "weekend"
        return "day" if 7 <= local.hour < 19 else "night"

    def advanced(self, start: datetime, by: timedelta) -> datetime:
        """The moment at which so much working time has passed."""
        left = by
        for opens, closes in self.windows(start):
            if closes - opens >= left:
                return opens + left
            left -= closes - opens
        raise ValueError("the calendar has no working time")

    def elapsed(self, start: datetime, end: datetime) -> timedelta:
        """The working time between two moments."""
        total = timedelta()
        for opens, closes in self.windows(start):
            if opens >= end:
                break
            total += min(closes, end) - opens
        return total


@lru_cache(64)
def _holidays(country: str) -> holidays.HolidayBase:
    return holidays.country_holidays(country)


def _minutes(text: str) -> int:
    hour, _, minute = text.partition(":")
    if not (
        len(text) == 5 and hour.isdecimal() and minute.isdecimal() and int(hour) * 60 + int(minute) <= 1440 and int(minute) < 60
    ):
        raise ValueError(f"{text} is no time of day (08:00)")
    return int(hour) * 60 + int(minute)


def _at(day: date, text: str, zone: ZoneInfo) -> datetime:
    minutes = _minutes(text)
    if minutes == 1440:
        day, minutes = day + timedelta(days=1), 0
    return datetime.combine(day, time(minutes // 60, minutes % 60), zone).astimezone(timezone.utc)
