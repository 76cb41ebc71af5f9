"""Task/[id]/$escalate: tell that a reading is at risk or late, a level at a time; each level once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, escalation, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Duplicate, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations import assign
from fhirserver.timing import level
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states

ACTIONS = ("notify", "raise-priority", "reassign")
HIGHEST = 100


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    t0 = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, t0.stored)
    roster.require_role(ctx, "dispatcher")
    if not work.is_coordination(t0.data):
        raise BusinessRule("Escalate the coordination Task.", "Task.code")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("A reading is escalated by the organisation that was asked for it.")
    if t0.status not in states.OPEN_TASK:
        raise Conflict(f"A reading that is {t0.status} is not escalated.")
    if not 1 <= inputs["level"] <= HIGHEST:
        raise Invalid(f"level is from 1 to {HIGHEST}.", "Parameters.parameter")
    if unknown := [one for one in inputs["action"] if one not in ACTIONS]:
        raise Invalid(f"action is one of {', '.join(ACTIONS)}, not {unknown[0][:20]}.", "Parameters.parameter")
    if inputs["level"] <= level(t0.data):
        raise Duplicate(f"Level {level(t0.data)} was told already.")
    if "reassign" in inputs["action"]:
        _reassign(ctx, t0)
        t0 = work.item(ctx, t0.reference) or t0
    raised = "raise-priority" in inputs["action"]
    return {"return": escalation.told(ctx, t0, inputs["level"], reason=inputs["reason"], raise_priority=raised)}


def _reassign(ctx: Context, t0: Item) -> None:
    """To the best reader who has not had it, as $assign does; where there is none, to the pool. Error: 409 it is being read."""
    assign.assignable(ctx, t0)
    had = {roster.practitioner_of(ctx, attempt.data.get("owner")) for attempt in work.attempts(ctx, t0, states.READ)}
    found = assign.considered(ctx, t0)
    try:
        chosen = assign.best([one for one in found if one.reader.reference not in had])
    except BusinessRule:
        attempts.cleared(ctx, t0, force=False)
        attempts.pooled(ctx, t0)
        attempts.stand(ctx, t0, states.READY_FOR_ASSIGNMENT)
    else:
        assign.assigned(ctx, t0, found, chosen, {"mode": "auto"})


ESCALATE = Operation(
    code="escalate",
    type="Task",
    levels=("instance",),
    title="Escalate a task at risk or overdue",
    affects_state=True,
    inputs=(
        Parameter("level", "integer", 1, documentation="greater than the last"),
        Parameter("reason", "CodeableConcept", 1, documentation="sla-at-risk, sla-breached, no-ack, manual"),
        Parameter("action", "code", max="*", documentation=" | ".join(ACTIONS)),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By a dispatcher; the server does it by itself as deadlines come near. 403; 409 closed, or told already.",
)
