"""The codes of the reading network and where they come from.

Service categories are CH RAD-Order's; the rest of the local systems is published under ``urn:fhirserver:CodeSystem:``.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

SNOMED = "http://snomed.info/sct"
LOINC = "http://loinc.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
TASK_CODE = "http://hl7.org/fhir/CodeSystem/task-code"
TASK_TYPE = "urn:fhirserver:CodeSystem:task-type"
BUSINESS_STATUS = "urn:fhirserver:CodeSystem:task-business-status"
STATUS_REASON = "urn:fhirserver:CodeSystem:task-status-reason"
READ_TYPE = "urn:fhirserver:CodeSystem:read-type"
ELIGIBILITY = "urn:fhirserver:CodeSystem:eligibility-reason"
SERVICE_TYPE = "urn:fhirserver:CodeSystem:service-request-type"
ORDER_DEFAULTS = "urn:fhirserver:StructureDefinition:order-defaults"
JURISDICTION = "urn:fhirserver:StructureDefinition:jurisdiction"
TIMER = "urn:fhirserver:StructureDefinition:timer"
SPECIALTY = "urn:fhirserver:CodeSystem:specialty"
ALERT = "urn:fhirserver:CodeSystem:alert-category"
RADPEER = "urn:fhirserver:CodeSystem:radpeer-score"
ALERT_STEP = "urn:fhirserver:CodeSystem:alert-step"
REVIEW_CASE = "urn:fhirserver:review-case"
PULLED_FROM = "urn:fhirserver:StructureDefinition:pulled-from"
CONNECTION_TYPE = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
# SMART Imaging Access: images are had by the same access token as the ImagingStudy
REQUIRES_TOKEN = "http://hl7.org/fhir/smart-app-launch/StructureDefinition/requires-access-token"
TIMEZONE = "http://hl7.org/fhir/StructureDefinition/timezone"

# Why images and record do not agree: the accession number is that of an order for another patient.
PATIENT_MISMATCH = "patient-mismatch"

# A kind of Task that the server makes: the review of an access that overrode a patient's restriction.
EMERGENCY = "emergency-access"

# Kinds of Task that nobody makes by a plain write
MADE_BY_OPERATIONS = frozenset({
    "coordinate", "read", "second-read", "arbitration", "reconcile", "acknowledge", "consult", "peer-review", "review-case",
    "adjudicate", "feedback", "discrepancy-review", "fetch-priors", "release-priors", "deliver", EMERGENCY,
})  # fmt: skip

# and kinds that no plain write ends either
ENDED_BY_OPERATIONS = frozenset({
    "acknowledge", "consult", "peer-review", "review-case", "adjudicate", "feedback", "discrepancy-review",
})  # fmt: skip

IMAGING: Document = {"system": SNOMED, "code": "363679005", "display": "Imaging"}
ACCESSION: Document = {"system": V2_0203, "code": "ACSN"}
DIAGNOSTIC_IMAGING_REPORT: Document = {"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
DICOM_PAYLOAD: Document = {"system": "http://terminology.hl7.org/CodeSystem/endpoint-payload-type", "code": "any"}
RADIOLOGY: Document = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}


def service(code: str) -> Document:
    return {"system": SERVICE_TYPE, "code": code}


def concept(system: str, code: str) -> Document:
    return {"coding": [{"system": system, "code": code}]}


def codes(value: Document | None, system: str | None = None) -> set[str]:
    """The codes of a CodeableConcept, those of one system if it is named."""
    return {c["code"] for c in (value or {}).get("coding", ()) if "code" in c and system in (None, c.get("system"))}


def pulled(study: Document) -> bool:
    """Whether it was fetched from elsewhere, to compare with: it answers no order of ours, and is not sent on."""
    return any(extension.get("url") == PULLED_FROM for extension in study.get("extension", ()))


def sources(study: Document) -> set[str]:
    """From whose archives."""
    rows = (
        extension.get("valueReference", {}) for extension in study.get("extension", ()) if extension.get("url") == PULLED_FROM
    )
    return {row["reference"] for row in rows if "reference" in row}


def business_status(task: Document) -> str | None:
    coded = (task.get("businessStatus") or {}).get("coding", ())
    return next((c["code"] for c in coded if c.get("system") == BUSINESS_STATUS and "code" in c), None)


def told(before: Document | None, status: str) -> Document:
    """businessStatus: where it stands, beside the second coding that tells of a deadline at risk or missed."""
    late = [c for c in (before or {}).get("coding", ()) if c.get("code") in ("sla-at-risk", "sla-breached")]
    return {"coding": [{"system": BUSINESS_STATUS, "code": status}, *late]}


def facility_system(facility: str, kind: str) -> str:
    """The namespace of a facility's own numbers where it names none."""
    return f"urn:fhirserver:{kind}:{facility}"
