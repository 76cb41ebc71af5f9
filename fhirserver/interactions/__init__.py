"""The interactions, the same for every type, a file each: plain functions (ctx, Request, ResourceType, …) -> Reply.

https://hl7.org/fhir/R4/http.html
"""

from fhirserver.interactions.conditional import referenced, settled
from fhirserver.interactions.history import history_instance, history_system, history_type
from fhirserver.interactions.merged import same as same_patient
from fhirserver.interactions.patch import patch, patched
from fhirserver.interactions.read import read, reply, vread
from fhirserver.interactions.search import answered, search_compartment, search_system, search_type, understood
from fhirserver.interactions.write import check_if_match, create, delete, existing, put, unchanged, update, written

__all__ = [
    "answered",
    "check_if_match",
    "create",
    "delete",
    "existing",
    "history_instance",
    "history_system",
    "history_type",
    "patch",
    "patched",
    "put",
    "read",
    "referenced",
    "reply",
    "same_patient",
    "search_compartment",
    "search_system",
    "search_type",
    "settled",
    "unchanged",
    "understood",
    "update",
    "vread",
    "written",
]
