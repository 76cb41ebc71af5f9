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
TIMEZONE = "http://hl7.org/fhir/StructureDefinition/timezone"

# A kind of Task that the server makes: the review of an access that overrode a patient's restriction.
EMERGENCY = "emergency-access"

IMAGING: Document = {"system": SNOMED, "code": "363679005", "display": "Imaging"}
ACCESSION: Document = {"system": V2_0203, "code": "ACSN"}
DIAGNOSTIC_IMAGING_REPORT: Document = {"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}
RADIOLOGY: Document = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}


def service(code: str) -> Document:
    return {"system": SERVICE_TYPE, "code": code}


def concept(system: str, code: str) -> Document:
    return {"coding": [{"system": system, "code": code}]}


def codes(value: Document | None, system: str | None = None) -> set[str]:
    """The codes of a CodeableConcept, those of one system if it is named."""
    return {c["code"] for c in (value or {}).get("coding", ()) if "code" in c and system in (None, c.get("system"))}


def business_status(task: Document) -> str | None:
    return next(iter(codes(task.get("businessStatus"), BUSINESS_STATUS)), None)


def facility_system(facility: str, kind: str) -> str:
    """The namespace of a facility's own numbers where it names none."""
    return f"urn:fhirserver:{kind}:{facility}"
