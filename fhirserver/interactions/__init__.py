"""The interactions, the same for every type, a file each: plain functions (ctx, Request, ResourceType, …) -> Reply.

https://hl7.org/fhir/R4/http.html
"""

from fhirserver.interactions.conditional import referenced, settled
from fhirserver.interactions.history import history_instance, history_system, history_type
from fhirserver.interactions.patch import patch
from fhirserver.interactions.read import read, reply, vread
from fhirserver.interactions.search import search_compartment, search_system, search_type
from fhirserver.interactions.write import check_if_match, create, delete, existing, put, unchanged, update, written

__all__ = [
    "check_if_match",
    "create",
    "delete",
    "existing",
    "history_instance",
    "history_system",
    "history_type",
    "patch",
    "put",
    "read",
    "referenced",
    "reply",
    "search_compartment",
    "search_system",
    "search_type",
    "settled",
    "unchanged",
    "update",
    "vread",
    "written",
]
