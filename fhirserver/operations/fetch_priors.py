"""ServiceRequest/[id]/$fetch-priors: ask who has earlier studies to release them. Reading is not held up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import priors, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Duplicate
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.priors import treating
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    order = work.visible_item(ctx, "ServiceRequest", inputs["id"])
    check_if_match(request, order.stored)
    treating(ctx, order)
    if order.status != "active":
        raise Conflict(f"For an order that is {order.status} nothing is fetched.")
    patient = work.item(ctx, order.data["subject"].get("reference", ""))
    if patient is None:
        raise Conflict("The patient of this order was deleted.")
    named = [organization for one in inputs["source"] if (organization := work.organization(one))]
    if len(named) != len(inputs["source"]):
        raise BusinessRule("source is an Organization of this network.", "Parameters.parameter")
    shown, asking = priors.elsewhere(ctx, patient)
    holders = dict.fromkeys(owner for _, owner in (*asking, *shown) if not named or owner in named)
    sources = list(holders) or named
    if not sources:
        raise BusinessRule("No other facility is known to have earlier studies; name one as source.", "Parameters.parameter")
    open_ = work.items(
        ctx, (order.stored.owner,), "Task", ("focus", order.reference), ("code", f"{coding.TASK_TYPE}|fetch-priors")
    )
    asked_already = {work.organization(t.data["owner"]) for t in open_ if t.status in states.OPEN_TASK}
    if fresh := [one for one in sources if one not in asked_already]:
        ctx.changes.guard(order.stored)
        return {"return": [_asked(ctx, order, patient, source, inputs.get("due")) for source in fresh]}
    raise Duplicate("They were asked already.")


def _asked(ctx: Context, order: Item, patient: Item, source: str, due: str | None) -> Write:
    """A Task for the other facility: it sees who is asked about by number and birth date, and nothing of the order."""
    number = priors.national(patient.data)
    rows = [work.entry("patient-number", f"{number[0]}|{number[1]}")] if number else []
    rows += [work.entry("birth-date", patient.data["birthDate"])] if number else []
    made = work.make(
        ctx,
        {
            "resourceType": "Task",
            "status": "requested",
            "intent": "order",
            "priority": order.data.get("priority", "routine"),
            "code": coding.concept(coding.TASK_TYPE, "fetch-priors"),
            "description": "Release the patient's earlier studies and reports for an examination that is read now.",
            "focus": {"reference": order.reference},
            "authoredOn": work.timestamp(ctx.now),
            "lastModified": work.timestamp(ctx.now),
            "requester": {"reference": f"Organization/{ctx.principal.organization}"},
            "owner": {"reference": f"Organization/{source}"},
            **({"input": rows} if rows else {}),
            **({"restriction": {"period": {"end": due}}} if due else {}),
        },
        order.stored.owner,
    )
    made.grants += [
        Grant(order.reference, f"org/{one}").document() for one in {source, ctx.principal.organization} - {order.stored.owner}
    ]
    return made


FETCH_PRIORS = Operation(
    code="fetch-priors",
    type="ServiceRequest",
    levels=("instance",),
    title="Ask for priors to be released",
    affects_state=True,
    inputs=(
        Parameter(
            "source",
            "Reference",
            max="*",
            documentation="Organization; else those with the same national number",
            targets=("Organization",),
        ),
        Parameter("due", "dateTime"),
    ),
    outputs=(Parameter("return", "Task", 1, "*", documentation="fetch-priors, one for each who is asked"),),
    handler=operate,
    description="By the facility, or who reads the order now. 403; 404; 409 not active, or asked already; 422 nobody to ask.",
)
