"""``near``: Locations within a distance, ``latitude|longitude|distance|unit``.

https://hl7.org/fhir/R4/location.html#search
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from fhirserver.errors import BadRequest
from fhirserver.search.clause import DATED, Clause, either
from fhirserver.search.values import split

MODIFIERS: tuple[str, ...] = ()
_KILOMETRES = {"km": 1.0, "m": 0.001, "[mi_us]": 1.609344, "mi": 1.609344, "[nmi_i]": 1.852}
_DEGREE, _RADIUS = 111.19, 6371.0


def entries(code: str, type_: str, value: Any) -> Iterator[dict[str, float]]:
    if "latitude" in value and "longitude" in value:
        yield {"l": float(value["latitude"]), "h": float(value["longitude"])}


def where(code: str, values: list[str], positions: Callable[[Clause], list[tuple[str, Any]]]) -> Clause:
    """``positions`` gives (id, position) of what a rough clause finds; the distance is then measured."""
    return either([_near(code, value, positions) for value in values])


def _near(code: str, value: str, positions: Callable[[Clause], list[tuple[str, Any]]]) -> Clause:
    latitude, longitude, distance = _asked(code, value)
    tall = distance / _DEGREE
    wide = min(180.0, tall / max(0.01, math.cos(math.radians(latitude))))
    element = {"l": {"$gte": latitude - tall, "$lte": latitude + tall}}
    if abs(longitude) + wide < 180:
        element["h"] = {"$gte": longitude - wide, "$lte": longitude + wide}
    rough = Clause({f"q.{code}.l": element["l"]}, DATED, {f"q.{code}": {"$elemMatch": element}})
    found = [id_ for id_, at in positions(rough) if _apart(latitude, longitude, at) <= distance]
    return Clause({"_id": {"$in": found}}, 0)


def _asked(code: str, value: str) -> tuple[float, float, float]:
    """Degrees, and the distance in kilometres."""
    parts = [*split(value, "|"), "", "", ""][:4]
    numbers = [float(part) if re.fullmatch(r"-?[0-9]{1,6}(\.[0-9]{1,20})?", part) else None for part in parts[:3]]
    latitude, longitude, distance = numbers[0], numbers[1], numbers[2] if parts[2] else 10.0
    unit = _KILOMETRES.get(parts[3] or "km")
    if (
        latitude is None
        or longitude is None
        or distance is None
        or unit is None
        or not -90 <= latitude <= 90
        or not -180 <= longitude <= 180
    ):
        raise BadRequest(f"{code} is latitude|longitude|distance|unit; units: {', '.join(_KILOMETRES)}.", code)
    return latitude, longitude, distance * unit


def _apart(latitude: float, longitude: float, at: Any) -> float:
    """Kilometres on the sphere."""
    there, along = math.radians(float(at["latitude"])), math.radians(float(at["longitude"]) - longitude)
    here = math.radians(latitude)
    angle = math.sin(here) * math.sin(there) + math.cos(here) * math.cos(there) * math.cos(along)
    return _RADIUS * math.acos(max(-1.0, min(1.0, angle)))
