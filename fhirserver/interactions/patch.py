"""patch: JSON Patch and FHIRPath Patch, on the version that is there; what it does not touch keeps its text.

https://hl7.org/fhir/R4/http.html#patch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fhirserver import access
from fhirserver.definitions import ResourceType
from fhirserver.errors import BadRequest, Gone, UnsupportedMediaType
from fhirserver.interactions import fhirpath_patch, json_patch
from fhirserver.interactions.write import check_if_match
from fhirserver.messages import Context, Reply, Request
from fhirserver.validation import Document, dumps, loads, rebuilt
from fhirserver.versions import Stored

JSON_PATCH = "application/json-patch+json"
Update = Callable[[Context, Request, ResourceType, str], Reply]


def patch(ctx: Context, request: Request, type_: ResourceType, id_: str, update: Update) -> Reply:
    """``update`` is the type's own: a patch goes the way of the whole resource that it makes.

    Errors: 404, 410, 412 by If-Match, 415, 422 where the patch does not apply or its result is not valid.
    """
    stored = access.found(ctx, type_, id_, "u")
    if stored.deleted:
        raise Gone(f"This {type_.name} was deleted.")
    check_if_match(request, stored)
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == JSON_PATCH:
        after = json_patch.patched(loads(stored.json), loads(request.body))
    elif media in ("application/fhir+json", "application/json", ""):
        after = fhirpath_patch.patched(loads(stored.json), loads(request.body))
    else:
        raise UnsupportedMediaType(f"PATCH with {JSON_PATCH}, or with a Parameters resource as application/fhir+json.")
    if not isinstance(after, dict) or after.get("resourceType") != type_.name or after.get("id") != id_:
        raise BadRequest("A patch does not change the type or the id of a resource.", type_.name)
    return patched(ctx, request, type_, stored, after, update)


def patched(ctx: Context, request: Request, type_: ResourceType, stored: Stored, after: Document, update: Update) -> Reply:
    """The update that a change of some members comes to; the others keep their text."""
    members = rebuilt(stored.json, loads(stored.json), after).members
    text = "{" + ",".join(f"{dumps(key)}:{value}" for key, value in members.items()) + "}"
    headers = {name: value for name, value in request.headers.items() if name not in ("if-none-match", "if-match")}
    return update(ctx, replace(request, method="PUT", headers=headers, body=text.encode()), type_, stored.id)
