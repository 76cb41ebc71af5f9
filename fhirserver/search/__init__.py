"""Search, one file a parameter kind: what a value puts into the index, and what a query looks for there.

https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from fhirserver.search import composite, date, number, quantity, reference, special, string, token, uri

KINDS: Mapping[str, ModuleType] = {
    "token": token,
    "string": string,
    "date": date,
    "reference": reference,
    "uri": uri,
    "number": number,
    "quantity": quantity,
    "composite": composite,
    "special": special,
}
