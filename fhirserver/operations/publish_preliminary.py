"""DiagnosticReport/[id]/$publish-preliminary: issue a preliminary report; a final reading waits for its reader then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, closing, issuing, reporting, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    caller = roster.require_reader(ctx)
    opened = reporting.opened(ctx, report, caller, _privilege(ctx, report, caller))
    for row in opened.answered:
        reporting.seen(ctx, row)
    said = reporting.response(ctx, opened.draft, inputs["response"])
    reporting.fulfils(ctx, opened, said)
    answered = work.save(ctx, opened.draft, said, sealed=True)
    notes = [("Limitations", inputs["limitations"])] if inputs.get("limitations") else []
    issued = work.save(ctx, report, issuing.told(ctx, opened.document, said, "preliminary", notes))
    for row in opened.answered:
        closing.attempt(ctx, row, answered.reference)
        kept = [*row.t0.data.get("output", ()), work.entry("preliminary-response", {"reference": answered.reference})]
        told = coding.told(row.t0.data.get("businessStatus"), states.PRELIMINARY)
        t0 = work.change(ctx, row.t0, businessStatus=told, output=kept)
        rows = work.with_input(row.t0.data, "read-type", "final")
        attempts.pooled(ctx, Item(row.t0.stored, (t0.data or {}) | {"input": rows}))
    closing.figures(ctx, opened, opened.document, "preliminary")
    return {"return": issued}


def _privilege(ctx: Context, report: Item, caller: str) -> str:
    """Who may read it finally may do so preliminarily."""
    order = work.item(ctx, work.based_on(report.data)[0]) if report.data.get("basedOn") else None
    t0 = work.coordination(ctx, order) if order else None
    if t0 is None:
        return "preliminary"
    t0 = work.chain(ctx, t0)[-1]
    found = roster.reader(ctx, caller, t0)
    finally_ = found and roster.verdict(ctx, caller, t0, read_type="final").eligible
    return "final" if finally_ else "preliminary"


PUBLISH_PRELIMINARY = Operation(
    code="publish-preliminary",
    type="DiagnosticReport",
    levels=("instance",),
    title="Issue a preliminary report",
    affects_state=True,
    inputs=(
        Parameter("response", "QuestionnaireResponse", 1, documentation="the answers"),
        Parameter("limitations", "string", documentation="what it rests on, and what it does not tell"),
    ),
    outputs=(Parameter("return", "DiagnosticReport", 1),),
    handler=operate,
    description="By the reader whose reading is in progress. The attempt is completed; the final one is in the pool. 403; 409; 422.",
)
