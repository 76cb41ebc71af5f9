"""ServiceRequest: the order. It belongs to the facility; its placer order number is used once by a facility.

https://hl7.org/fhir/R4/servicerequest.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.workflow import states


def _placer_numbers(order: dict[str, Any]) -> list[str]:
    return [
        f"PLAC|{identifier.get('system', '')}|{identifier['value']}"
        for identifier in order.get("identifier", ())
        if "value" in identifier and any(c.get("code") == "PLAC" for c in identifier.get("type", {}).get("coding", ()))
    ]


SERVICE_REQUEST = ResourceType(
    "ServiceRequest",
    sorts=("authored", "priority"),
    ranks={"priority": states.PRIORITY_RANKS},
    rules=(states.status_rule("ServiceRequest"),),
    unique=_placer_numbers,
    referrers=(("Task", "focus"), ("DiagnosticReport", "based-on"), ("ImagingStudy", "basedon")),
)
