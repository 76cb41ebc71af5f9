"""Task/[id]/$respond: accept or decline what was offered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, roster, work
from fhirserver.attempts import judged, kind_of, shift_end, stand
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.task_status import accept, decline
from fhirserver.timing import timed
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if inputs["response"] not in ("accept", "decline"):
        raise Invalid("response is accept or decline.", "Parameters.parameter")
    accepts = inputs["response"] == "accept"
    if not accepts and "reason" not in inputs:
        wrong = BadRequest("Declining needs a reason.", "Parameters.parameter")
        wrong.issues[0] = type(wrong.issues[0])("required", wrong.diagnostics, "Parameters.parameter")
        raise wrong
    if work.is_coordination(task.data):
        return {"return": _centre(ctx, task, inputs, accepts=accepts)}
    kind_of(task.data)
    caller = roster.require_reader(ctx)
    if roster.practitioner_of(ctx, task.data.get("owner")) != caller:
        raise Forbidden("An offer is answered by the reader it was made to.")
    if task.status not in ("requested", "received"):
        raise Conflict(f"A reading that is {task.status} is no offer any more.")
    return {"return": _accepted(ctx, task, caller) if accepts else _declined(ctx, task, inputs)}


def _centre(ctx: Context, t0: Item, inputs: Mapping[str, Any], *, accepts: bool) -> Write:
    """The centre's own answer to what a facility, or another centre, asks of it."""
    if t0.status not in ("requested", "received"):
        raise Conflict(f"A request that is {t0.status} is answered already.")
    told = t0.data | ({"status": "accepted"} if accepts else {"status": "rejected", "statusReason": inputs["reason"]})
    return accept(ctx, t0, told) if accepts else decline(ctx, t0, told)


def _accepted(ctx: Context, task: Item, caller: str) -> Write:
    t0 = work.coordination_of(ctx, task.data)
    reader, verdict = judged(ctx, t0, caller, kind_of(task.data))
    if not verdict.eligible:
        raise roster.not_eligible(verdict.failed)
    if kind_of(task.data) == states.READ:
        stand(ctx, t0, states.ASSIGNED)
    taken = task.data | {"status": "accepted", "lastModified": work.timestamp(ctx.now)}
    return work.save(ctx, task, timed(taken, shift_end(reader)))


def _declined(ctx: Context, task: Item, inputs: Mapping[str, Any]) -> Write:
    """The offer ends as it was answered; the reading is in the pool, with the reader who was suggested in its notes."""
    told = task.data | {"status": "rejected", "statusReason": inputs["reason"], "lastModified": work.timestamp(ctx.now)}
    if "alternative" in inputs:
        row = work.entry("alternative", inputs["alternative"])
        told["output"] = [*task.data.get("output", ()), row]
    attempts.given_back(ctx, task, "declined", told)
    return ctx.changes.writes["Task", task.stored.id]


RESPOND = Operation(
    code="respond",
    type="Task",
    levels=("instance",),
    title="Accept or decline an offer",
    affects_state=True,
    inputs=(
        Parameter("response", "code", 1, documentation="accept | decline"),
        Parameter("reason", "CodeableConcept", documentation="required when declining"),
        Parameter(
            "alternative", "Reference", documentation="another reader, suggested", targets=("PractitionerRole", "Practitioner")
        ),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By the reader it was offered to, or by the centre that was asked. 400 no reason; 403; 409 answered already.",
)
