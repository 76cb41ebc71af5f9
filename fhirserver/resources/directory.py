"""The directory: who and where. Everyone signed in reads it, except which reader may read for whom (PractitionerRole).

https://hl7.org/fhir/R4/administration-module.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType


def everyone(owner: str, _: dict[str, Any]) -> list[str]:
    """The organisation, and whoever is signed in."""
    return [f"org/{owner}", "*"]


def _both_organizations(owner: str, role: dict[str, Any]) -> list[str]:
    """The reader's centre, and the facility that the privilege is for."""
    reference = role.get("organization", {}).get("reference", "")
    facility = [f"org/{reference.removeprefix('Organization/')}"] if reference.startswith("Organization/") else []
    return list(dict.fromkeys([f"org/{owner}", *facility]))


# Licences, privileges and agreements are nobody's to give to themselves.
_WRITERS = ("administrator",)

PRACTITIONER = ResourceType("Practitioner", sorts=("family",), base_keys=everyone, writers=_WRITERS)
PRACTITIONER_ROLE = ResourceType("PractitionerRole", sorts=("date",), base_keys=_both_organizations, writers=_WRITERS)
ORGANIZATION = ResourceType("Organization", sorts=("name",), base_keys=everyone, writers=_WRITERS)
ORGANIZATION_AFFILIATION = ResourceType("OrganizationAffiliation", sorts=("date",), base_keys=everyone, writers=_WRITERS)
LOCATION = ResourceType("Location", sorts=("name",), base_keys=everyone, writers=_WRITERS)
ENDPOINT = ResourceType("Endpoint", sorts=("name",), base_keys=everyone, writers=_WRITERS)
