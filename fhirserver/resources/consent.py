"""Consent: a patient's restriction of who may see their record, or their objection to its being shared.

An active privacy Consent that denies is enforced on every read: without actors nobody but the patient's own facility sees the
record, with actors these organisations and practitioners do not; exceptions are nested provisions that permit.
https://hl7.org/fhir/R4/consent.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Issue
from fhirserver.workflow import coding

PRIVACY = ("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy")
SIGNAL = "consents"
_SERVED = frozenset({"type", "period", "actor", "provision", "id", "extension"})
_ACTORS = ("Organization/", "Practitioner/")


def denies(consent: dict[str, Any]) -> bool:
    """Whether it is one that is enforced."""
    return (
        consent.get("status") == "active"
        and PRIVACY[1] in coding.codes(consent.get("scope"), PRIVACY[0])
        and consent.get("provision", {}).get("type") == "deny"
    )


def _enforceable(_: dict[str, Any] | None, consent: dict[str, Any]) -> list[Issue]:
    """What would be ignored is refused: nobody is to trust in a restriction that is none."""
    if not denies(consent):
        return []
    found = [] if "patient" in consent else [Issue("required", "A restriction names its patient.", "Consent.patient")]
    whole = consent["provision"]
    rows = [("Consent.provision", whole)]
    rows += [(f"Consent.provision.provision[{number}]", row) for number, row in enumerate(whole.get("provision", ()))]
    for where, row in rows:
        for name in sorted(set(row) - _SERVED):
            found.append(Issue("not-supported", "Not enforced here: a restriction is of the whole record.", f"{where}.{name}"))
        for number, actor in enumerate(row.get("actor", ())):
            if not actor.get("reference", {}).get("reference", "").startswith(_ACTORS):
                at = f"{where}.actor[{number}].reference"
                found.append(Issue("not-supported", "Enforced is a restriction of an Organization or a Practitioner.", at))
    for number, row in enumerate(whole.get("provision", ())):
        if row.get("type") != "permit" or not row.get("actor") or "provision" in row:
            at = f"Consent.provision.provision[{number}]"
            found.append(Issue("not-supported", "An exception permits some actors.", at))
    return found


CONSENT = ResourceType("Consent", sorts=("date",), rules=(_enforceable,), writers=("clerk", "referrer", "administrator"))
