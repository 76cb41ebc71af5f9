"""Numbers that a country gives to people and providers, and how to tell a mistyped one: a small table for each country.

An identifier with such a ``system`` is checked wherever it is written. Nobody has to have one: newborns and foreigners are
registered by a facility's own number. A number that proved wrong is kept with ``use`` old, one that is only passing with temp.
https://hl7.org/fhir/R4/datatypes.html#Identifier
"""

from __future__ import annotations

from typing import Any

from fhirserver.countries import poland
from fhirserver.countries.number import Number

NUMBERS: dict[str, Number] = {number.system: number for number in (*poland.NUMBERS,)}
_UNCHECKED = frozenset({"old", "temp"})


def wrong(identifier: dict[str, Any]) -> Number | None:
    """The number that an Identifier says it is and is not."""
    system, value, use = (identifier.get(name) for name in ("system", "value", "use"))
    number = NUMBERS.get(system) if isinstance(system, str) else None
    if number is None or not isinstance(value, str) or (isinstance(use, str) and use in _UNCHECKED):
        return None
    return None if number.valid(value) else number
