"""DiagnosticReport/[id]/$retract: withdraw a report of the wrong patient or study. Two people say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, audit, closing, issuing, revising, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    if report.stored.owner != ctx.principal.organization:
        raise Forbidden("A report is withdrawn by the organisation that made it.")
    second = _approved(ctx, report, inputs["second"])
    found = _preliminary(ctx, report) if report.status == "preliminary" else revising.signed(ctx, report)
    gone = work.save(ctx, report, report.data | {"status": "entered-in-error"})
    for listed in issuing.former(ctx, report.data, found.orders):
        work.save(ctx, listed, listed.data | {"status": "entered-in-error"}, sealed=True)
    revising.inform(ctx, found, "The report was withdrawn: do not act on it.", "report-withdrawn")
    closing.delivery(ctx, gone.data or {}, found.facility, found.orders)
    for task in found.tasks:
        for one in work.above(ctx, task):
            if one.status in states.OPEN_TASK:
                attempts.stop(ctx, one, "withdrawn", states.WITHDRAWN)
            else:
                work.change(ctx, one, states.WITHDRAWN)
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    both = audit.provenance(ctx, targets, "retract", {"reason": [inputs["reason"]]})
    both["agent"].append({"who": {"reference": second}, "onBehalfOf": {"reference": f"Organization/{report.stored.owner}"}})
    audit.add(ctx, both)
    return {"return": gone}


def _approved(ctx: Context, report: Item, named: Mapping[str, Any]) -> str:
    """The second of two, beside the caller: any two of the signing reader, the quality lead and a dispatcher. Errors: 403, 422."""
    roster.require_role(ctx, "reader", "quality", "dispatcher")
    if ctx.principal.practitioner is None:
        raise Forbidden("A report is withdrawn by people: a token for a user with a Practitioner.")
    first = f"Practitioner/{ctx.principal.practitioner}"
    signer = roster.practitioner_of(ctx, report.data.get("resultsInterpreter", [{}])[0])
    if first != signer and not (ctx.principal.acts_as("quality") or ctx.principal.acts_as("dispatcher")):
        raise Forbidden("A report is withdrawn by its reader, the quality lead or a dispatcher.")
    second = roster.practitioner_of(ctx, dict(named))
    if second is None or second == first:
        raise BusinessRule("second is another person who approves: a Practitioner, not you.", "Parameters.parameter")
    person = work.item(ctx, second)
    if person is None or person.stored.owner != report.stored.owner or not person.data.get("active", True):
        raise BusinessRule("second is a person of the organisation that made the report.", "Parameters.parameter")
    return second


def _preliminary(ctx: Context, report: Item) -> revising.Signed:
    """One that is out, whose final reading has not been signed."""
    if not work.made_here(report.data):
        raise Conflict("This report was not made by a reading here.")
    orders = [order for reference in work.based_on(report.data) if (order := work.item(ctx, reference))]
    tasks = [work.chain(ctx, t0)[-1] for order in orders if (t0 := work.coordination(ctx, order))]
    if not tasks:
        raise Conflict("The reading of this report cannot be found.")
    said = [one for t in tasks for one in work.outputs(ctx, t.data, "preliminary-response")]
    return revising.Signed(report, orders, tasks, said[-1] if said else report)


RETRACT = Operation(
    code="retract",
    type="DiagnosticReport",
    levels=("instance",),
    title="Withdraw a report (wrong patient, wrong study)",
    affects_state=True,
    inputs=(
        Parameter("reason", "CodeableConcept", 1),
        Parameter("second", "Reference", 1, documentation="the second person who approves"),
    ),
    outputs=(Parameter("return", "DiagnosticReport", 1, documentation="entered-in-error"),),
    handler=operate,
    description="By two of the signing reader, the quality lead and a dispatcher. The order stays completed; a new reading goes under "
    "a new order that replaces it. 403; 409 not published; 422 not a second person.",
)
