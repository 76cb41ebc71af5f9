"""DiagnosticReport/[id]/$report-discrepancy: flag a suspected error in a published report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import quality, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Duplicate, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.workflow import coding, states

SOURCES = ("clinician", "later-study", "pathology", "preliminary-vs-final", "peer-review")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    roster.require_role(ctx, "referrer", "clerk", "reader", "quality", "dispatcher")
    for name, known in (("source", SOURCES), ("severity", quality.SEVERITIES)):
        if inputs[name] not in known:
            raise Invalid(f"{name} is one of {', '.join(known)}.", "Parameters.parameter")
    if report.status not in (*states.PUBLISHED, "preliminary") or not report.data.get("basedOn"):
        raise Conflict("A discrepancy is of a published report.")
    about = (("focus", report.reference), ("code", f"{coding.TASK_TYPE}|discrepancy-review"))
    same = work.items(ctx, (report.stored.owner,), "Task", *about)
    if any(t.status in states.OPEN_TASK and inputs["source"] in work.inputs(t.data, "category") for t in same):
        raise Duplicate("A discrepancy from this source is being looked at already.")
    ctx.changes.guard(report.stored)  # two who report at the same moment meet here
    task = quality.discrepancy(ctx, report, inputs["source"], inputs["description"], inputs["severity"], inputs["evidence"])
    return {"return": task}


REPORT_DISCREPANCY = Operation(
    code="report-discrepancy",
    type="DiagnosticReport",
    levels=("instance",),
    title="Flag a suspected error",
    affects_state=True,
    inputs=(
        Parameter("source", "code", 1, documentation=" | ".join(SOURCES)),
        Parameter("description", "markdown", 1),
        Parameter("severity", "code", 1, documentation=" | ".join(quality.SEVERITIES)),
        Parameter("evidence", "Reference", max="*"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By any clinician or reader who may read the report. 403; 409 not published, or reported already.",
)
