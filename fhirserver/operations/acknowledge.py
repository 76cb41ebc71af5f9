"""Task/[id]/$acknowledge: a person at the facility has the finding. Late is late, and taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import alerts, closing, contacts, roster, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.validation import Document


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    if not work.is_a(task.data, "acknowledge"):
        raise BusinessRule("This Task is not the acknowledgement of a finding.", "Task.code")
    facility = work.organization(task.data["owner"])
    if ctx.principal.organization == facility:
        roster.require_role(ctx, "referrer", "clerk")
    elif ctx.principal.organization == task.stored.owner:
        roster.require_role(ctx, "dispatcher")  # who was told by telephone is recorded for them
    else:
        raise Forbidden("A finding is acknowledged by who was told, or for them by the centre's dispatcher.")
    if task.status == "completed":
        return {"return": task.stored}
    check_if_match(request, task.stored)
    if task.status != "requested":
        raise Conflict(f"An acknowledgement that is {task.status} is not given.")
    at = inputs.get("at") or work.timestamp(ctx.now)
    if span(at)[0] > milliseconds(ctx.now) + 60_000:
        raise BusinessRule("at is in the future.", "Parameters.parameter")
    if span(at)[1] <= span(task.data["authoredOn"])[0]:
        raise BusinessRule("at is before the finding was told.", "Parameters.parameter")
    done, _ = alerts.answered(
        ctx, task, inputs["by"], at, read_back=inputs.get("readBack", False), plan=inputs.get("plan")
    )  # fmt: skip
    measured(ctx, task.data)
    return {"return": done}


def measured(ctx: Context, task: Document) -> None:
    """How long the answer took, by the server's own clock."""
    asked, facility = work.item(ctx, task["focus"]["reference"]), work.organization(task["owner"])
    report = work.item(ctx, asked.data["about"][0]["reference"]) if asked else None
    if report is None or facility is None:
        return
    end, took = timing.end_of(task), milliseconds(ctx.now) - span(task["authoredOn"])[0]
    closing.figure(
        ctx,
        "alert",
        report.data,
        facility,
        priority=task["priority"],
        category=next(iter(work.inputs(task, "category")), None),
        met=end is None or milliseconds(ctx.now) <= span(end)[0],
        took={"acknowledged": max(0, took)},
    )


ACKNOWLEDGE = Operation(
    code="acknowledge",
    type="Task",
    levels=("instance",),
    title="Acknowledge an actionable finding",
    affects_state=True,
    inputs=(
        Parameter("by", "Reference", 1, documentation="the person who has it", targets=contacts.REACHABLE),
        Parameter("at", "dateTime", documentation="default: now"),
        Parameter("readBack", "boolean"),
        Parameter("plan", "string", documentation="what will be done"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="completed"),),
    handler=operate,
    description="By the facility, or for it by the centre's dispatcher. Once it is done it is answered with what was done. 403; 409.",
)
