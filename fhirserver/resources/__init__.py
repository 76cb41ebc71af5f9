"""All of R4's resource types, and what some add to the standard's tables: one file a type that adds something.

https://hl7.org/fhir/R4/resourcelist.html
"""

from __future__ import annotations

from fhirserver import r4
from fhirserver.definitions import ResourceType
from fhirserver.resources.audit_event import AUDIT_EVENT
from fhirserver.resources.consent import CONSENT
from fhirserver.resources.diagnostic_report import DIAGNOSTIC_REPORT
from fhirserver.resources.directory import (
    ENDPOINT,
    LOCATION,
    ORGANIZATION,
    ORGANIZATION_AFFILIATION,
    PRACTITIONER,
    PRACTITIONER_ROLE,
    everyone,
)
from fhirserver.resources.imaging_study import IMAGING_STUDY
from fhirserver.resources.library import LIBRARY
from fhirserver.resources.patient import PATIENT
from fhirserver.resources.provenance import PROVENANCE
from fhirserver.resources.questionnaire_response import QUESTIONNAIRE_RESPONSE
from fhirserver.resources.search_parameter import SEARCH_PARAMETER
from fhirserver.resources.service_request import SERVICE_REQUEST
from fhirserver.resources.task import TASK

_ADDING: tuple[ResourceType, ...] = (
    PATIENT,
    PRACTITIONER,
    PRACTITIONER_ROLE,
    ORGANIZATION,
    ORGANIZATION_AFFILIATION,
    LOCATION,
    ENDPOINT,
    SERVICE_REQUEST,
    TASK,
    IMAGING_STUDY,
    DIAGNOSTIC_REPORT,
    ResourceType("Observation", sorts=("date",)),
    ResourceType("Encounter", sorts=("date",)),
    ResourceType("DocumentReference", sorts=("date",)),
    ResourceType("Questionnaire", base_keys=everyone),
    QUESTIONNAIRE_RESPONSE,
    ResourceType("Communication", sorts=("sent",)),
    LIBRARY,
    CONSENT,
    PROVENANCE,
    AUDIT_EVENT,
    SEARCH_PARAMETER,
    ResourceType("OperationDefinition", base_keys=everyone, insert_only=True),
)

RESOURCE_TYPES: dict[str, ResourceType] = {name: ResourceType(name) for name in r4.resource_types()} | {
    type_.name: type_ for type_ in _ADDING
}


def served(names: str) -> dict[str, ResourceType]:
    """Those that a setting narrows the list to, and those that the server itself writes. Error: ValueError."""
    wanted = set(names.replace(",", " ").split())
    if unknown := wanted - set(RESOURCE_TYPES):
        raise ValueError(f"R4 has no resource type {', '.join(sorted(unknown))}")
    keep = wanted | {type_.name for type_ in _ADDING} if wanted else set(RESOURCE_TYPES)
    return {name: type_ for name, type_ in RESOURCE_TYPES.items() if name in keep}
