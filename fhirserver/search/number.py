"""Numbers: a value is a point or a range; a number that is asked without a prefix is as wide as it is imprecise.

https://hl7.org/fhir/R4/search.html#number
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal
from types import MappingProxyType
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import DATED, NEGATIVE, Clause, Filter, either
from fhirserver.search.values import plain

MODIFIERS: tuple[str, ...] = ()
MOST = 1.7e308
_EXACT = Context(prec=1500)  # of all that _NUMBER takes
_NUMBER = re.compile(r"(eq|ne|lt|gt|le|ge|sa|eb|ap)?([+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?)")


def entries(code: str, type_: str, value: Any) -> Iterator[dict[str, float]]:
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        yield {"l": double(value), "h": double(value)}
    elif type_ == "Range":
        low, high = value.get("low", {}).get("value"), value.get("high", {}).get("value")
        yield {"l": -MOST if low is None else double(low), "h": MOST if high is None else double(high)}


def double(value: Decimal | int) -> float:
    """As near as a double comes; the order of numbers is kept."""
    try:
        return max(-MOST, min(MOST, float(value)))
    except OverflowError:
        return MOST if value > 0 else -MOST


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    return either([compared(f"q.{code}", *asked(plain(value), code)) for value in values])


def asked(text: str, code: str) -> tuple[str, Decimal]:
    """(prefix, number)."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise BadRequest("A number is [prefix]digits, with a decimal point or an exponent.", code)
    return match[1] or "eq", Decimal(match[2])


def half(number: Decimal) -> Decimal:
    """Half of the last digit that is given: 100 is [99.5, 100.5); and as R4's example has it, 1e2 is [95, 105)."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal(5).scaleb(exponent - (2 if exponent > 0 else 1))


def compared(field: str, prefix: str, number: Decimal, also: Mapping[str, Any] = MappingProxyType({})) -> Clause:
    """Ranges stored as ``l`` and ``h`` under ``field``; ``also`` holds of the same one."""
    value, some = double(number), half(number)
    # Digits that a double does not hold must not make the range empty.
    low = min(value, double(_EXACT.subtract(number, some)))
    high = max(double(_EXACT.add(number, some)), math.nextafter(value, math.inf))
    if prefix in ("eq", "ne"):
        element = {"l": {"$gte": low}, "h": {"$lt": high}} | dict(also)
        if prefix == "ne":
            # Values of the unit that is asked for, and none of them equal.
            valued: Filter = {field: {"$elemMatch": dict(also)}} if also else {f"{field}.l": {"$exists": True}}
            return Clause(valued | {"$nor": [{field: {"$elemMatch": element}}]}, NEGATIVE)
        return Clause({f"{field}.l": {"$gte": low, "$lt": high}}, DATED, {field: {"$elemMatch": element}})
    if prefix == "ap":
        tenth = abs(number) / 10
        low, high = double(number - tenth), double(number + tenth)
        return Clause(
            {f"{field}.h": {"$gte": low}},
            DATED,
            {field: {"$elemMatch": {"l": {"$lte": high}, "h": {"$gte": low}} | dict(also)}},
        )
    name, condition = _COMPARED[prefix]
    part: Filter = {name: {condition: value}}
    return Clause({f"{field}.{name}": part[name]}, DATED, {field: {"$elemMatch": part | dict(also)}})


_COMPARED = {
    "gt": ("h", "$gt"),
    "ge": ("h", "$gte"),
    "lt": ("l", "$lt"),
    "le": ("l", "$lte"),
    "sa": ("l", "$gt"),
    "eb": ("h", "$lt"),
}
