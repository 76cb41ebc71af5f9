"""DiagnosticReport/[id]/$acknowledge-receipt: the facility has the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import closing, contacts, telling, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Duplicate, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.versions import Write
from fhirserver.workflow import coding, states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    at = inputs.get("at") or work.timestamp(ctx.now)
    if span(at)[0] > milliseconds(ctx.now) + 60_000:
        raise BusinessRule("at is in the future.", "Parameters.parameter")
    caller = ctx.principal.organization
    about = (("focus", report.reference), ("code", f"{coding.TASK_TYPE}|deliver"))
    mine = [t for t in work.items(ctx, (report.stored.owner,), "Task", *about) if work.organization(t.data["owner"]) == caller]
    if not mine:
        if report.status in ("registered", "preliminary"):
            raise Conflict(f"A report that is {report.status} is not delivered yet.")
        raise Forbidden("Receipt is confirmed by the organisation that the report goes to.")
    waiting = [task for task in mine if task.status == "requested"]
    if not waiting:
        raise Duplicate("Receipt was confirmed already.")
    orders = work.based_on(report.data)
    said = telling.tell(
        ctx, "receipt", "The report was received.", [inputs["by"]], [report.reference, *orders], caller, [report.stored.owner],
        received=at, subject=report.data["subject"],
    )  # fmt: skip
    for task in waiting:
        work.change(ctx, task, "acknowledged", status="completed")
        took = milliseconds(ctx.now) - span(task.data["authoredOn"])[0]
        closing.figure(ctx, "receipt", report.data, caller, took={"received": max(0, took)})
    for reference in orders:
        order = work.item(ctx, reference)
        t0 = work.root(ctx, order) if order else None
        if t0 is not None and coding.business_status(t0.data) in (states.DELIVERED, states.CHANGED):
            work.change(ctx, t0, states.ACKNOWLEDGED)
    return {"return": said}


ACKNOWLEDGE_RECEIPT = Operation(
    code="acknowledge-receipt",
    type="DiagnosticReport",
    levels=("instance",),
    title="Confirm that a report was received",
    affects_state=True,
    inputs=(
        Parameter("by", "Reference", 1, documentation="the person or organisation that has it", targets=contacts.REACHABLE),
        Parameter("at", "dateTime", documentation="default: now"),
    ),
    outputs=(Parameter("return", "Communication", 1),),
    handler=operate,
    description="By the organisation that the report goes to. 403; 409 not delivered yet, or confirmed already.",
)
