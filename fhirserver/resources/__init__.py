"""The resource types that are served, and what each adds to the standard's tables: one file a type that adds something.

https://hl7.org/fhir/R4/resourcelist.html
"""

from __future__ import annotations

from fhirserver.definitions import ResourceType
from fhirserver.resources.audit_event import AUDIT_EVENT
from fhirserver.resources.diagnostic_report import DIAGNOSTIC_REPORT
from fhirserver.resources.directory import (
    ENDPOINT,
    ORGANIZATION,
    ORGANIZATION_AFFILIATION,
    PRACTITIONER,
    PRACTITIONER_ROLE,
)
from fhirserver.resources.imaging_study import IMAGING_STUDY
from fhirserver.resources.patient import PATIENT
from fhirserver.resources.provenance import PROVENANCE
from fhirserver.resources.questionnaire_response import QUESTIONNAIRE_RESPONSE
from fhirserver.resources.service_request import SERVICE_REQUEST
from fhirserver.resources.task import TASK

RESOURCE_TYPES: dict[str, ResourceType] = {
    type_.name: type_
    for type_ in (
        PATIENT,
        PRACTITIONER,
        PRACTITIONER_ROLE,
        ORGANIZATION,
        ORGANIZATION_AFFILIATION,
        ENDPOINT,
        SERVICE_REQUEST,
        TASK,
        IMAGING_STUDY,
        DIAGNOSTIC_REPORT,
        ResourceType("Observation", sorts=("date",)),
        ResourceType("DocumentReference", sorts=("date",)),
        ResourceType("Questionnaire", base_keys=lambda owner, _: [f"org/{owner}", "*"]),
        QUESTIONNAIRE_RESPONSE,
        ResourceType("Communication", sorts=("sent",)),
        PROVENANCE,
        AUDIT_EVENT,
        ResourceType("Binary"),
        ResourceType("Bundle"),
    )
}
