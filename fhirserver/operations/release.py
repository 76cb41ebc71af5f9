"""Task/[id]/$release: give a reading back; the next owner gets a new one from the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    attempts.kind_of(attempt.data)
    releasable(ctx, attempt)
    told = attempt.data | {
        "status": states.released(attempt.status),
        "statusReason": inputs["reason"],
        "lastModified": work.timestamp(ctx.now),
    }
    if "note" in inputs:
        told["note"] = [*attempt.data.get("note", ()), note(ctx, inputs["note"])]
    return {"return": attempts.given_back(ctx, attempt, "released", told, keep_draft=inputs.get("keepDraft", False))}


def releasable(ctx: Context, attempt: Item) -> None:
    """Errors: 403 for who neither has it nor dispatches it; 409 where nobody has it any more."""
    if not ctx.principal.acts_as("dispatcher") or ctx.principal.organization != attempt.stored.owner:
        caller = roster.require_reader(ctx)
        if roster.practitioner_of(ctx, attempt.data.get("owner")) != caller:
            raise Forbidden("A reading is given back by the reader who has it, or by a dispatcher.")
    if attempt.status not in states.OPEN_TASK:
        raise Conflict(f"A reading that is {attempt.status} is not given back.")
    if work.organization(attempt.data.get("owner")):
        raise Conflict("The reading is in the pool already.")


def note(ctx: Context, text: str) -> Document:
    """An Annotation by the caller."""
    author = (
        {"authorReference": {"reference": f"Practitioner/{ctx.principal.practitioner}"}} if ctx.principal.practitioner else {}
    )
    return author | {"time": work.timestamp(ctx.now), "text": text}


RELEASE = Operation(
    code="release",
    type="Task",
    levels=("instance",),
    title="Give a reading back",
    affects_state=True,
    inputs=(
        Parameter("reason", "CodeableConcept", 1),
        Parameter("note", "string", documentation="for who reads it next"),
        Parameter("keepDraft", "boolean", documentation="hand the draft to the next reader"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the new attempt, in the pool"),),
    handler=operate,
    description="By its reader or a dispatcher. 403; 409 it is closed, or in the pool already.",
)
