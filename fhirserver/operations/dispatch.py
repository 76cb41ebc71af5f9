"""ServiceRequest/[id]/$dispatch: release an order for reading and say where. A POSTed coordination Task is the same act."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from fhirserver import access, work
from fhirserver.definitions import Operation, Parameter, ResourceType
from fhirserver.errors import BusinessRule, Conflict, Duplicate, Forbidden, Invalid
from fhirserver.interactions import check_if_match, create, put, update, written
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.reference import local, relative
from fhirserver.sharing import share
from fhirserver.validation import Document, Resource, built
from fhirserver.validation import parse as parse_resource
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, contract, deadlines, states
from fhirserver.workflow.eligibility import within

DESTINATIONS = ("on-site", "central", "organization", "practitioner")
READ_TYPES = ("preliminary", "final")
_SERVERS_OWN = frozenset({"template", "order-version", "lease-until"})
MADE_BY_OPERATIONS = frozenset({"coordinate", "read", "second-read", "arbitration", "reconcile", coding.EMERGENCY})


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    order = work.visible_item(ctx, "ServiceRequest", inputs["id"])
    check_if_match(request, order.stored)
    if inputs["destination"] not in DESTINATIONS:
        raise Invalid(f"destination is one of {', '.join(DESTINATIONS)}.", "Parameters.parameter")
    task: Document = {"input": [work.entry("report-template", t) for t in inputs["reportTemplate"]]}
    task["input"].append(work.entry("read-type", inputs.get("readType", "final")))
    if "reportLanguage" in inputs:
        task["input"].append(work.entry("report-language", inputs["reportLanguage"]))
    if "due" in inputs:
        task["restriction"] = {"period": {"end": inputs["due"]}}
    fulfiller, offered = _fulfiller(ctx, order, inputs["destination"], inputs.get("target"))
    return {"return": dispatch(ctx, order, fulfiller, task, offered=offered, expect_images=inputs.get("expectImages", False))}


def _fulfiller(ctx: Context, order: Item, destination: str, target: Document | None) -> tuple[str, str | None]:
    """(organisation, reader that it is offered to)"""
    if destination in ("on-site", "central"):
        return (order.stored.owner if destination == "on-site" else ctx.home), None
    named = work.item(ctx, (target or {}).get("reference", ""))
    if named is None or named.stored.type != ("Organization" if destination == "organization" else "PractitionerRole"):
        raise BusinessRule(f"For this destination, target is the {destination} that reads.", "Parameters.parameter")
    return (named.stored.id, None) if destination == "organization" else (named.stored.owner, named.reference)


def dispatch(
    ctx: Context, order: Item, fulfiller: str, task: Document, *, offered: str | None = None, expect_images: bool = True
) -> Write:  # fmt: skip
    """The act itself. ``task`` are the elements that the caller gives the coordination Task."""
    work.require_role(ctx, "clerk", "referrer")
    if order.stored.owner != ctx.principal.organization:
        raise Forbidden("An order is dispatched by the organisation that it belongs to.")
    if order.status not in states.OPEN_ORDER:
        raise Conflict(f"An order that is {order.status} is not dispatched.")
    if work.coordination(ctx, order) is not None:
        raise Duplicate("This order is dispatched already.")
    if not order.data["subject"].get("reference", "").startswith("Patient/"):
        raise BusinessRule("The order's patient is one of the ordering organisation's, by reference.", "ServiceRequest.subject")
    _agreed(ctx, order.stored.owner, fulfiller)
    if order.data["subject"]["reference"] in ctx.withheld_from(fulfiller):
        raise BusinessRule(
            "The patient has restricted their record: it is not shared with this organisation.", "ServiceRequest.subject"
        )
    _complete(order.data)
    _readable(ctx, order, fulfiller, task)
    there = work.answering(ctx, order)
    if not there and not expect_images:
        raise BusinessRule("No images are linked to the order; if they are still to come, say expectImages.", "ServiceRequest")
    first = _coordination(ctx, order, fulfiller, task, ready=any(study.status == "available" for study in there))
    t0 = put(ctx, ctx.store.types["Task"], built(first), ctx.new_id(), None, "POST", order.stored.owner)
    t0.grants.append(Grant(order.reference, f"org/{fulfiller}").document())
    ctx.changes.guard(order.stored)  # a study that arrives at this moment and this act do not miss each other
    active = _activated(order.data, order.stored.owner)
    if active != order.data:
        work.save(ctx, order, active)
    if fulfiller != order.stored.owner:
        share(ctx, order, f"org/{fulfiller}")
    if offered:
        _offer(ctx, work.written(ctx, t0), offered)
    return t0


def _offer(ctx: Context, t0: Item, role: str) -> None:
    practitioner = work.practitioner_of(ctx, {"reference": role})
    verdict = work.verdict(ctx, practitioner, t0) if practitioner else None
    if verdict is None or not verdict.eligible or verdict.role is None:
        failed = verdict.failed if verdict and verdict.failed else ("no-such-reader",)
        raise BusinessRule(
            f"This reader may not read this: {', '.join(failed)}.", "Parameters.parameter", (coding.ELIGIBILITY, failed[0])
        )
    attempt(ctx, t0, verdict.role, "requested")


def _agreed(ctx: Context, facility: str, fulfiller: str) -> None:
    """The installation's own centre reads for all; another organisation for those that it has an affiliation with."""
    if fulfiller in (facility, ctx.home):
        return
    pair = {f"Organization/{facility}", f"Organization/{fulfiller}"}
    primary = ("primary-organization", ",".join(sorted(pair)))
    for row in work.items(ctx, (facility, fulfiller), "OrganizationAffiliation", primary):
        parties = {row.data.get(name, {}).get("reference") for name in ("organization", "participatingOrganization")}
        if parties == pair and row.data.get("active", True) and within(row.data.get("period"), ctx.now):
            return
    raise BusinessRule("There is no agreement (OrganizationAffiliation) with this organisation.", "Parameters.parameter")


def _readable(ctx: Context, order: Item, fulfiller: str, task: Document) -> None:
    """What is asked of the reader exists: the kind of read, and each template."""
    for kind in work.inputs(task, "read-type"):
        if kind not in READ_TYPES:
            raise BusinessRule(f"The read type is one of {', '.join(READ_TYPES)}.", "Task.input")
    for canonical in work.inputs(task, "report-template"):
        questionnaire(ctx, canonical, order.stored.owner, fulfiller)


def questionnaire(ctx: Context, canonical: str | None, facility: str, fulfiller: str) -> Document:
    """A template by its canonical URL: the facility's own before the fulfiller's. Errors: 422 where there is none."""
    if canonical is None:
        return contract.FREE_TEXT
    url, _, version = canonical.partition("|")
    rows = work.items(ctx, (facility, fulfiller, ctx.home), "Questionnaire", ("url", url))
    found = [row for row in rows if version in ("", row.data.get("version"))]
    if not found:
        raise BusinessRule("The template that the facility asked for cannot be found.", "Task.input")
    return min(found, key=lambda row: row.stored.owner != facility).data


def _complete(order: Document) -> None:
    """A reader needs a question: in words, by reference, or on the scanned referral."""
    documents = [r for r in order.get("supportingInfo", ()) if r.get("reference", "").startswith("DocumentReference/")]
    reasons = [e for e in order.get("extension", ()) if e["url"].endswith("ServiceRequest.reason")]
    if not (order.get("reasonCode") or order.get("reasonReference") or order.get("note") or documents or reasons):
        raise BusinessRule(
            "The order has no clinical question: give a reason, a note or the referral.", "ServiceRequest.reasonCode"
        )


def _activated(order: Document, facility: str) -> Document:
    """Active, and with an accession number: the facility's, or one minted for it. (An identifier without a type may be one.)"""
    identifiers = order.get("identifier", [])
    kinds = [coding.codes(i.get("type")) for i in identifiers]
    if any("ACSN" in codes or not codes for codes in kinds):
        return order | {"status": "active"}
    number = secrets.token_hex(7).upper()  # 14 characters of the 16 that DICOM's SH has
    minted = {"type": {"coding": [coding.ACCESSION]}, "system": coding.facility_system(facility, "accession"), "value": number}
    return order | {"status": "active", "identifier": [*identifiers, minted]}


def _coordination(ctx: Context, order: Item, fulfiller: str, task: Document, *, ready: bool) -> Document:
    priority = order.data.get("priority", "routine")
    given = [row for row in task.get("input", ()) if not coding.codes(row.get("type"), coding.TASK_TYPE) & _SERVERS_OWN]
    asked = task.get("restriction", {}).get("period", {}).get("end")
    due = asked or (work.timestamp(deadlines.due(priority, ctx.now)) if ready else None)
    return {
        "resourceType": "Task",
        **{name: task[name] for name in ("identifier", "note", "description", "encounter") if task.get(name)},
        **({"input": given} if given else {}),
        "groupIdentifier": {"system": "urn:fhirserver:order", "value": order.stored.id},
        "status": "requested",
        "businessStatus": work.business(states.READY_FOR_ASSIGNMENT if ready else states.AWAITING_IMAGES),
        "intent": "order",
        "priority": priority,
        "code": {
            "coding": [{"system": coding.TASK_CODE, "code": "fulfill"}, {"system": coding.TASK_TYPE, "code": "coordinate"}]
        },
        "focus": {"reference": order.reference},
        "basedOn": [{"reference": order.reference}],
        "for": order.data["subject"],
        "authoredOn": work.timestamp(ctx.now),
        "lastModified": work.timestamp(ctx.now),
        "requester": {"reference": f"Organization/{order.stored.owner}"},
        "owner": {"reference": f"Organization/{fulfiller}"},
        **({"restriction": {"period": {"end": due}}} if due else {}),
    }


def attempt(ctx: Context, t0: Item, owner: str, status: str) -> Write:
    """A new attempt at reading, one owner's; it belongs to the fulfiller."""
    fulfiller = work.organization(t0.data["owner"])
    assert fulfiller is not None
    document: Document = {
        **{
            name: t0.data[name]
            for name in ("resourceType", "groupIdentifier", "intent", "focus", "basedOn", "for")
            if name in t0.data
        },
        **{name: t0.data[name] for name in ("priority", "restriction", "input") if name in t0.data},
        "partOf": [{"reference": t0.reference}],
        "status": status,
        "code": {"coding": [{"system": coding.TASK_CODE, "code": "fulfill"}, {"system": coding.TASK_TYPE, "code": "read"}]},
        "authoredOn": work.timestamp(ctx.now),
        "lastModified": work.timestamp(ctx.now),
        "requester": {"reference": f"Organization/{fulfiller}"},
        "owner": {"reference": owner},
    }
    return work.make(ctx, document, fulfiller)


# ---------------------------------------------------------------- said in FHIR


def task_create(ctx: Context, request: Request, type_: ResourceType, id_: str | None = None) -> Reply:
    """POST Task: code ``fulfill``, focus an order, owner who is to read = $dispatch; other Tasks are plain ones."""
    resource: Resource = parse_resource(request.body, "Task")
    task = relative(resource.data, ctx.base)
    focus = local(task.get("focus", {}).get("reference", ""), ctx.base)
    if (
        "fulfill" in coding.codes(task.get("code"), coding.TASK_CODE)
        and focus
        and focus[0] == "ServiceRequest"
        and not task.get("partOf")
    ):
        access.resolvable(ctx, [("Task", resource.data)])
        if id_ is not None:
            raise BusinessRule("POST this Task: it dispatches the order, and the server names it.", "Task.code")
        fulfiller = work.organization(task.get("owner"))
        if fulfiller is None:
            raise BusinessRule("Task.owner is the Organization that is to read.", "Task.owner")
        order = work.visible_item(ctx, "ServiceRequest", focus[1])
        return written(ctx, request, dispatch(ctx, order, fulfiller, task), 201)
    unmade(task)
    return create(ctx, request, type_) if id_ is None else update(ctx, request, type_, id_)


def unmade(task: Document) -> None:
    """Errors: 422 for a Task of a kind that the server alone makes."""
    if coding.codes(task.get("code"), coding.TASK_TYPE) & MADE_BY_OPERATIONS:
        raise BusinessRule("Tasks of this kind are made by the server.", "Task.code")


DISPATCH = Operation(
    code="dispatch",
    type="ServiceRequest",
    levels=("instance",),
    title="Release an order for reading and say where",
    affects_state=True,
    inputs=(
        Parameter("destination", "code", 1, documentation="on-site | central | organization | practitioner"),
        Parameter("target", "Reference", documentation="Organization or PractitionerRole, where destination is one"),
        Parameter("readType", "code", documentation="preliminary | final"),
        Parameter("reportTemplate", "canonical", max="*", documentation="Questionnaire that the report must satisfy"),
        Parameter("reportLanguage", "code", documentation="BCP-47"),
        Parameter("due", "dateTime", documentation="requested deadline; else by urgency"),
        Parameter("expectImages", "boolean", documentation="images are still to come"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the coordination Task"),),
    handler=operate,
    description="By the ordering facility. 403 not its order; 409 dispatched already; 422 no clinical question, images or agreement.",
)
