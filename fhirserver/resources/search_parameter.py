"""SearchParameter: the standard's and the server's own are published, others an administrator adds.

https://hl7.org/fhir/R4/searchparameter.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType
from fhirserver.resources.directory import everyone


def _served_once(document: dict[str, Any]) -> list[str]:
    """One that is active has its URL, and its code of each type, for itself."""
    if document.get("status") != "active":
        return []
    return [f"url|{document['url']}", *(f"code|{base}|{document['code']}" for base in document["base"])]


SEARCH_PARAMETER = ResourceType(
    "SearchParameter",
    base_keys=everyone,
    writers=("administrator",),
    unique=_served_once,
)
