"""ServiceRequest: the order. It belongs to the facility; its placer order number is used once by a facility.

https://hl7.org/fhir/R4/servicerequest.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Issue
from fhirserver.workflow import states


def _placer_numbers(order: dict[str, Any]) -> list[str]:
    return [
        f"PLAC|{identifier.get('system', '')}|{identifier['value']}"
        for identifier in order.get("identifier", ())
        if "value" in identifier and any(c.get("code") == "PLAC" for c in identifier.get("type", {}).get("coding", ()))
    ]


def _same_patient(old: dict[str, Any] | None, new: dict[str, Any]) -> list[Issue]:
    """Once it is released an order stays its patient's: it is taken back and ordered anew."""
    if old is None or old["status"] == "draft" or old["subject"] == new["subject"]:
        return []
    return [Issue("business-rule", "The patient of an order that was released does not change.", "ServiceRequest.subject")]


SERVICE_REQUEST = ResourceType(
    "ServiceRequest",
    sorts=("authored", "priority"),
    ranks={"priority": states.PRIORITY_RANKS},
    rules=(states.status_rule("ServiceRequest"), _same_patient),
    writers=("clerk", "referrer", "dispatcher"),
    unique=_placer_numbers,
    referrers=(("Task", "focus"), ("DiagnosticReport", "based-on"), ("ImagingStudy", "basedon")),
)
