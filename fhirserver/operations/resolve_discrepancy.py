"""Task/[id]/$resolve-discrepancy: what came of it, by the author or the quality lead; who reported it sees the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import quality, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write

OUTCOMES = ("confirmed", "not-confirmed", "addendum", "corrected")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if not work.is_a(task.data, "discrepancy-review"):
        raise BusinessRule("This Task is no discrepancy.", "Task.code")
    if inputs["outcome"] not in OUTCOMES:
        raise Invalid(f"outcome is one of {', '.join(OUTCOMES)}.", "Parameters.parameter")
    mine = (
        ctx.principal.practitioner is not None
        and roster.practitioner_of(ctx, task.data["owner"]) == f"Practitioner/{ctx.principal.practitioner}"
    )
    lead = ctx.principal.user is not None and ctx.principal.acts_as("quality")
    if ctx.principal.organization != task.stored.owner or not (mine or lead):
        raise Forbidden("A discrepancy is resolved by the author or the quality lead.")
    if task.status != "requested":
        raise Conflict(f"A discrepancy that is {task.status} is not resolved again.")
    outputs = [work.entry("category", inputs["outcome"])]
    outputs += [work.entry("comment", inputs["comment"])] if inputs.get("comment") else []
    return {"return": quality.closed(ctx, task, outputs)}


RESOLVE_DISCREPANCY = Operation(
    code="resolve-discrepancy",
    type="Task",
    levels=("instance",),
    title="Say what came of a suspected error",
    affects_state=True,
    inputs=(
        Parameter("outcome", "code", 1, documentation=" | ".join(OUTCOMES)),
        Parameter("comment", "markdown", documentation="who reported it reads this"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By the author or the quality lead. 403; 409 resolved already.",
)
