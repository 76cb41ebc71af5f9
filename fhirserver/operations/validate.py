"""$validate: is this resource what the standard asks for, and would the server take it?

With a mode, what is checked is the very write: access, references, the type's rules; nothing is kept of it.
https://hl7.org/fhir/R4/resource-operation-validate.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fhirserver import access
from fhirserver.definitions import Operation, Parameter, ResourceType
from fhirserver.errors import BadRequest, Duplicate, FHIRError, Gone, Invalid, Issue, Unsupported, outcome
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.plain_writes import way_to
from fhirserver.validation import dumps, loads, parse
from fhirserver.versions import EVERYTHING, Changes, Stored, Write

_LETTERS = {"create": "c", "update": "u", "delete": "d"}
_MODES = (*_LETTERS, "profile")
_FINE = Issue("informational", "No problem was found.", severity="information")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """200 with an OperationOutcome, whatever is found. Errors: 400 for a profile that is not known here, 404, 410, 422."""
    type_, mode = inputs["type"], inputs.get("mode", "profile")
    stored = access.found(ctx, type_, inputs["id"], "rsu") if "id" in inputs else None
    _asked(type_, mode, stored, inputs)
    resource = inputs.get("resource")
    if resource is None and stored is not None and mode != "delete":
        if stored.deleted:
            raise Gone(f"This {type_.name} was deleted.")
        resource = loads(stored.json)
    body = dumps(resource).encode() if resource is not None else b""
    try:
        if mode != "delete":
            parse(body, type_.name)
        if mode in _LETTERS:
            _tried(ctx, type_, mode, stored, body)
    except FHIRError as error:
        found = error.issues
    else:
        found = [_FINE]
    return Reply(200, dumps(outcome(found)), touched=(stored.touched,) if stored else ())


def _asked(type_: ResourceType, mode: str, stored: Stored | None, inputs: Mapping[str, Any]) -> None:
    """ "If a profile is nominated, and the server cannot validate against the nominated profile, it SHALL return an error" """
    profile = inputs.get("profile", "")
    if profile.partition("|")[0] not in ("", f"http://hl7.org/fhir/StructureDefinition/{type_.name}"):
        raise Unsupported(
            "This profile is not known here; resources are checked by R4's own definition.", "Parameters.parameter"
        )
    if mode not in _MODES:
        raise Invalid(f"mode is one of {', '.join(_MODES)}.", "Parameters.parameter")
    if mode in ("update", "delete") and stored is None:
        raise BadRequest(f"The mode {mode} is asked of a resource: {type_.name}/[id]/$validate.", "Parameters.parameter")
    if stored is None and inputs.get("resource") is None:
        raise Invalid("The parameter resource is required.", "Parameters.parameter")


def _tried(ctx: Context, type_: ResourceType, mode: str, stored: Stored | None, body: bytes) -> None:
    """The write, planned and thrown away."""
    access.require(ctx.principal, type_, _LETTERS[mode])
    trial = replace(ctx, changes=Changes())
    path = f"{type_.name}/{stored.id}" if stored and mode != "create" else type_.name
    arguments = [stored.id] if stored and mode != "create" else []
    way_to(mode, type_)(trial, Request("POST", path, body=body), type_, *arguments)
    for write in trial.changes.writes.values():
        _unique(ctx, write, stored if stored and stored.reference == write.reference else None)


def _unique(ctx: Context, write: Write, before: Stored | None) -> None:
    """What the commit would find: another resource of the organisation with this business key."""
    own = ctx.store.types[write.type].unique(loads(before.json)) if before and not before.deleted else []
    keys = [f"{write.owner}|{key}" for key in write.index.get("u", ()) if key not in own]
    if keys and ctx.store.business_keys(write.type, keys, EVERYTHING):
        raise Duplicate("The organisation already has a resource with this business identifier.")


VALIDATE = Operation(
    code="validate",
    type="Resource",
    levels=("type", "instance"),
    title="Validate a resource",
    affects_state=False,
    inputs=(
        Parameter("resource", "Resource", documentation="of the instance where it is left out", as_sent=True),
        Parameter("mode", "code", documentation="create | update | delete | profile: the write that it is for"),
        Parameter("profile", "uri", documentation="R4's own of the type"),
    ),
    outputs=(Parameter("return", "OperationOutcome", 1),),
    handler=operate,
    description="Structure, required bindings, targets and invariants; with a mode, whether the server would take this write.",
    standard=True,
    free=True,
)
