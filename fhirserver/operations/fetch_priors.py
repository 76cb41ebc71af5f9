"""ServiceRequest/[id]/$fetch-priors: ask who has earlier studies to release them. Reading is not held up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import access, priors, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Duplicate, Forbidden, Invalid
from fhirserver.interactions import check_if_match, reply, written
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.priors import treating
from fhirserver.validation import Document
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
    named = dict(_source(ctx, one) for one in inputs["source"])
    studies = [_study(ctx, one, patient) for one in inputs["study"]]
    shown, asking = priors.elsewhere(ctx, patient)
    holders = dict.fromkeys(owner for _, owner in (*asking, *shown) if not named or owner in named)
    placer = order.stored.owner == ctx.principal.organization
    sources = list(
        dict.fromkeys([*holders, *(named if placer else ())])
    )  # whom else a patient's number is told is the facility's to say
    if not sources:
        raise BusinessRule("No other facility is known to have earlier studies; name one as source.", "Parameters.parameter")
    open_ = work.items(
        ctx, (order.stored.owner,), "Task", ("focus", order.reference), ("code", f"{coding.TASK_TYPE}|fetch-priors")
    )
    asked_already = {work.organization(t.data["owner"]) for t in open_ if t.status in states.OPEN_TASK}
    if fresh := [one for one in sources if one not in asked_already]:
        ctx.changes.guard(order.stored)
        rows = {one: studies + ([work.entry("endpoint", named[one])] if named.get(one) else []) for one in fresh}
        return {"return": [_asked(ctx, order, patient, source, inputs.get("due"), rows[source]) for source in fresh]}
    raise Duplicate("They were asked already.")


def _source(ctx: Context, named: Document) -> tuple[str, Document | None]:
    """(Organization, its Endpoint where that is named). Errors: 422."""
    endpoint = work.item(ctx, named.get("reference", ""))
    if endpoint is not None and endpoint.stored.type == "Endpoint":
        if organization := work.organization(endpoint.data.get("managingOrganization")):
            return organization, {"reference": endpoint.reference}
    elif organization := work.organization(named):
        return organization, None
    raise BusinessRule(
        "source is an Organization of this network, or an Endpoint that has a managingOrganization.", "Parameters.parameter"
    )


def _study(ctx: Context, named: Document, patient: Item) -> Document:
    """A study that is known of, and kept elsewhere. Errors: 422."""
    study = work.item(ctx, named.get("reference", ""))
    if study is None or study.stored.type != "ImagingStudy" or study.data["subject"].get("reference") != patient.reference:
        raise BusinessRule("study is an ImagingStudy of this patient.", "Parameters.parameter")
    return work.entry("study", {"reference": study.reference})


def _asked(ctx: Context, order: Item, patient: Item, source: str, due: str | None, more: list[Document]) -> Write:
    """A Task for the other facility: it sees who is asked about by number and birth date, and nothing of the order."""
    number = priors.national(patient.data)
    rows = [work.entry("patient-number", f"{number[0]}|{number[1]}")] if number else []
    rows += [work.entry("birth-date", patient.data["birthDate"])] if number else []
    rows += more
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


# ---------------------------------------------------------------- what who was asked says to it

_MAY_CHANGE = frozenset({"status", "statusReason", "output", "note", "meta", "lastModified", "text"})
_RELEASED = ("ImagingStudy", "DiagnosticReport", "DocumentReference")


def answered(ctx: Context, request: Request, task: Item, new: Document) -> Reply:
    """PUT Task: who was asked accepts it, rejects it with a reason, or completes it with what is released (``Task.output``);
    who asked cancels it."""
    check_if_match(request, task.stored)
    changed = sorted(name for name in {*new, *task.data} - _MAY_CHANGE if new.get(name) != task.data.get(name))
    if changed:
        raise BusinessRule("Of this Task the status and what is released are said.", f"Task.{changed[0]}")
    if wrong := states.transition("Task", task.status, new["status"]):
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    if new["status"] == task.status:
        return reply(200, task.stored)
    asked = work.organization(task.data["owner"])
    if ctx.principal.organization != (task.stored.owner if new["status"] == "cancelled" else asked):
        raise Forbidden("It is answered by the organisation that was asked, and cancelled by the one that asked.")
    roster.require_role(ctx, "clerk", "referrer")
    if new["status"] == "rejected" and not new.get("statusReason"):
        raise BusinessRule("Rejecting needs a reason.", "Task.statusReason")
    if new.get("output") and new["status"] != "completed":
        raise BusinessRule("What is released is said when it is completed.", "Task.output")
    for number, row in enumerate(new.get("output", ())):
        _release(ctx, task, row, f"Task.output[{number}]")
    told = {name: new[name] for name in ("status", "statusReason", "output", "note") if name in new}
    return written(ctx, request, work.save(ctx, task, task.data | told | {"lastModified": work.timestamp(ctx.now)}), 200)


def _release(ctx: Context, task: Item, row: Document, where: str) -> None:
    """To who asked and who reads the order now, because of the order. Errors: 422 for what is of another patient than the one
    who is asked about, or is not the facility's to release."""
    access.resolvable(ctx, [(where, row)])
    found = work.item(ctx, row.get("valueReference", {}).get("reference", ""))
    if found is None or found.stored.type not in _RELEASED:
        raise BusinessRule(f"What is released is a {' or '.join(_RELEASED)}.", where)
    patient = work.item(ctx, found.data.get("subject", {}).get("reference", ""))
    if patient is None or patient.stored.owner != ctx.principal.organization or _who(patient.data) != _asked_about(task.data):
        raise BusinessRule("This is not of the patient who is asked about.", where)
    order = work.order_of(ctx, task.data)
    t0 = work.coordination(ctx, order)
    readers = [work.organization(one.data["owner"]) for one in work.chain(ctx, t0)] if t0 else []
    for organization in dict.fromkeys((order.stored.owner, *readers)):
        if organization is None or patient.reference in ctx.withheld_from(organization):
            raise BusinessRule("The patient has restricted their record: it is not shared with this organisation.", where)
        owner = found.stored.owner if found.stored.owner == ctx.principal.organization else None
        ctx.changes.share(found.stored.type, found.stored.id, Grant(order.reference, f"org/{organization}"), owner)
    ctx.changes.guard(order.stored)  # a right that ends at this moment, and this release, do not miss each other


def _who(patient: Document) -> tuple[str, str] | None:
    number, born = priors.national(patient), patient.get("birthDate")
    return (f"{number[0]}|{number[1]}", born) if number and born else None


def _asked_about(task: Document) -> tuple[str, str] | None:
    rows = [next(iter(work.inputs(task, kind)), "") for kind in ("patient-number", "birth-date")]
    return (rows[0], rows[1]) if all(rows) else ("", "")


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
            documentation="Organization or Endpoint; else those with the same national number",
            targets=("Organization", "Endpoint"),
        ),
        Parameter("study", "Reference", max="*", documentation="ImagingStudy kept elsewhere; else all that the source has"),
        Parameter("due", "dateTime"),
    ),
    outputs=(Parameter("return", "Task", 1, "*", documentation="fetch-priors, one for each who is asked"),),
    handler=operate,
    description="By the facility, or who reads the order now. 403; 404; 409 not active, or asked already; 422 nobody to ask.",
)
