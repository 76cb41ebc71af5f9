"""Consent: a patient's restriction of who may see their record, or their objection to its being shared.

An active privacy Consent that denies is enforced on every read: without actors nobody but the patient's own facility sees the
record, with actors these organisations and practitioners do not; exceptions are nested provisions that permit.
https://hl7.org/fhir/R4/consent.html
"""

from __future__ import annotations

import re
from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.errors import Issue
from fhirserver.workflow import coding

PRIVACY = ("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy")
SIGNAL = "consents"
_SERVED = frozenset({"type", "actor", "id", "extension"})
_PATIENT = re.compile(r"Patient/[A-Za-z0-9\-.]{1,64}")
_ACTOR = re.compile(r"(?:Organization|Practitioner)/[A-Za-z0-9\-.]{1,64}")


def private(consent: dict[str, Any]) -> bool:
    """Whether it is an active one about privacy."""
    return consent.get("status") == "active" and PRIVACY[1] in coding.codes(consent.get("scope"), PRIVACY[0])


def denies(consent: dict[str, Any]) -> bool:
    """Whether it is one that is enforced."""
    return private(consent) and consent.get("provision", {}).get("type") == "deny"


def _enforceable(_: dict[str, Any] | None, consent: dict[str, Any]) -> list[Issue]:
    """What would be ignored is refused: nobody is to trust in a restriction that is none."""
    whole = consent.get("provision", {})
    nested = whole.get("provision", ())
    if not denies(consent):
        hidden = private(consent) and any(row.get("type") == "deny" for row in nested)
        text = "Enforced is a provision that denies, with exceptions that permit; not the other way round."
        return [Issue("not-supported", text, "Consent.provision.provision")] if hidden else []
    found = []
    if not _PATIENT.fullmatch(consent.get("patient", {}).get("reference", "")):
        found.append(Issue("required", "A restriction names its patient: Patient/id.", "Consent.patient"))
    rows = [("Consent.provision", whole, _SERVED | {"period", "provision"})]
    rows += [(f"Consent.provision.provision[{number}]", row, _SERVED) for number, row in enumerate(nested)]
    for where, row, served in rows:
        for name in sorted(set(row) - served):
            found.append(Issue("not-supported", "Not enforced here: a restriction is of the whole record.", f"{where}.{name}"))
        for number, actor in enumerate(row.get("actor", ())):
            if not _ACTOR.fullmatch(actor.get("reference", {}).get("reference", "")):
                at = f"{where}.actor[{number}].reference"
                found.append(
                    Issue("not-supported", "Enforced is a restriction of an Organization or a Practitioner, by id.", at)
                )
    for number, row in enumerate(nested):
        if row.get("type") != "permit" or not row.get("actor"):
            at = f"Consent.provision.provision[{number}]"
            found.append(Issue("not-supported", "An exception permits some actors.", at))
    return found


CONSENT = ResourceType("Consent", sorts=("date",), rules=(_enforceable,), writers=("clerk", "referrer", "administrator"))
