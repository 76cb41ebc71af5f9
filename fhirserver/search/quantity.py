"""Quantities: a number, or ``number|system|code``, or ``number||code`` where the code or the unit reads so.

Units are compared as they are written; nothing is converted. https://hl7.org/fhir/R4/search.html#quantity
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search import number
from fhirserver.search.clause import Clause, either
from fhirserver.search.number import MOST, double
from fhirserver.search.values import split

MODIFIERS: tuple[str, ...] = ()
_CURRENCY = "urn:iso:std:iso:4217"


def entries(code: str, type_: str, value: Any) -> Iterator[dict[str, Any]]:
    if type_ == "Range":
        for row in number.entries(code, type_, value):
            yield row | {"u": sorted({unit for end in ("low", "high") for unit in _units(value.get(end, {}))})}
    elif type_ == "SampledData":
        return
    elif "value" in value:
        point = double(value["value"])
        comparator = value.get("comparator", "")
        low = -MOST if comparator.startswith("<") else math.nextafter(point, MOST) if comparator == ">" else point
        high = MOST if comparator.startswith(">") else math.nextafter(point, -MOST) if comparator == "<" else point
        yield {"l": low, "h": high, "u": _units(value)}


def _units(quantity: dict[str, Any]) -> list[str]:
    """``system|code``, and code and unit as they read."""
    if "currency" in quantity:
        return [f"{_CURRENCY}|{quantity['currency']}", quantity["currency"]]
    code, unit = quantity.get("code"), quantity.get("unit")
    found = [f"{quantity.get('system', '')}|{code}" if code else None, code, unit]
    return list(dict.fromkeys(one for one in found if one))


def where(code: str, modifier: str | None, values: list[str], lead: bool) -> Clause:
    asked = [parts(value, code) for value in values]
    return either([number.compared(f"q.{code}", *compared, unit) for compared, unit in asked])


def parts(value: str, code: str) -> tuple[tuple[str, Any], dict[str, str]]:
    """((prefix, number), what holds of the unit)."""
    given = split(value, "|")
    if len(given) not in (1, 3) or (len(given) == 3 and not given[2]):
        raise BadRequest("A quantity is number, number|system|code or number||code.", code)
    asked = number.asked(given[0], code)
    if len(given) == 1:
        return asked, {}
    return asked, {"u": f"{given[1]}|{given[2]}" if given[1] else given[2]}
