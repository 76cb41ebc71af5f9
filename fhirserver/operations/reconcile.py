"""Task/[id]/$reconcile: images and record do not agree, and a person says what is so. The bytes stay as they were sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import reconciling, revising, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, BusinessRule, Conflict, Forbidden
from fhirserver.following import follow_order
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.sharing import share_again
from fhirserver.studies import UNVERIFIED
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states

# decision -> the reasons for which it makes sense
_DECISIONS = {
    "link": (reconciling.PATIENT_MISMATCH, reconciling.PATIENT_CHANGED),
    "correct": (reconciling.PATIENT_MISMATCH, reconciling.PATIENT_CHANGED),
    "reject": (reconciling.PATIENT_MISMATCH, reconciling.SAME_EXAMINATION),
    "replace": (reconciling.SET_ASIDE,),
    "keep": (
        reconciling.PATIENT_MISMATCH,
        reconciling.PATIENT_CHANGED,
        reconciling.SET_ASIDE,
        reconciling.SAME_EXAMINATION,
        reconciling.LATE_IMAGES,
    ),
}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    reason, decision = reconciling.reason_of(task.data), inputs["decision"]
    _permitted(ctx, task, reason, decision)
    facility = work.organization(task.data["requester"]) or ""
    if decision in ("link", "correct"):
        _moved(ctx, facility, _study(ctx, task), inputs, decision)
    elif decision == "reject":
        _rejected(ctx, facility, _study(ctx, task))
    elif reason == reconciling.SET_ASIDE:
        study = _study(ctx, task)
        id_ = task.stored.id

        def is_about(named: str) -> bool:
            return id_ == reconciling.task_id(ctx, facility, study.stored.id, reason, named)

        # Where the study is another patient's then, its record follows, and its reports are withdrawn, when it is next looked at.
        ctx.take_from_quarantine(facility, _uid(study.data), decision == "replace", id_, is_about)
        for less in reconciling.older(ctx, task):
            work.change(ctx, less, None, status="cancelled", statusReason={"text": "A newer Task about all of it was settled."})
    said = {"type": {"text": "decision"}, "valueCode": decision}
    note = [{"text": inputs["note"], "time": work.timestamp(ctx.now)}] if "note" in inputs else []
    notes = [*task.data.get("note", ()), *note]
    members = {"output": [*task.data.get("output", ()), said], **({"note": notes} if notes else {})}
    done = work.change(ctx, task, None, status="completed", **members)
    for given in task.data.get("input", ()):  # what a stat order showed unverified is shown as what it is, or no longer
        order = work.item(ctx, given.get("valueReference", {}).get("reference", ""))
        if order is not None and order.stored.type == "ServiceRequest" and order.stored.owner == facility:
            share_again(ctx, order)
    return {"return": done}


def _permitted(ctx: Context, task: Item, reason: str, decision: str) -> None:
    """Errors: 400, 403, 409, 422."""
    if decision not in _DECISIONS:
        raise BadRequest(f"decision is one of {', '.join(_DECISIONS)}.", "Parameters.parameter")
    if not work.is_a(task.data, "reconcile"):
        raise BusinessRule("This Task is not about images and record that do not agree.", "Task.code")
    if work.organization(task.data.get("owner")) != ctx.principal.organization:
        raise Forbidden("This is settled by the organisation whose Task it is.")
    reader = reason == reconciling.LATE_IMAGES
    roster.require_role(ctx, "clerk", "dispatcher", *(("reader",) if reader else ()))
    if task.status not in states.OPEN_TASK:
        raise Conflict("This has been settled already.")
    if reason not in _DECISIONS[decision]:
        fitting = [name for name, reasons in _DECISIONS.items() if reason in reasons]
        raise BusinessRule(f"For {reason} the decisions are: {', '.join(fitting)}.", "Parameters.parameter")


def _study(ctx: Context, task: Item) -> Item:
    found = work.item(ctx, task.data["focus"]["reference"])
    if found is None or found.stored.type != "ImagingStudy":
        raise Conflict("The study of this Task was deleted.")
    return found


def _uid(study: Document) -> str:
    named = (i["value"] for i in study["identifier"] if i.get("system") == "urn:dicom:uid")
    return str(next(named)).removeprefix("urn:oid:")


def _moved(ctx: Context, facility: str, study: Item, inputs: Mapping[str, Any], decision: str) -> None:
    """To an order and its patient, or to a patient; a report that rests on it for another patient is withdrawn."""
    if decision == "link":
        order = _own(ctx, facility, inputs.get("order"), "ServiceRequest", "order")
        subject, orders = order.data["subject"], [order.reference]
    else:
        person = _own(ctx, facility, inputs.get("patient"), "Patient", "patient")
        subject = {"reference": person.reference}
        rows = [work.item(ctx, reference) for reference in work.based_on(study.data)]
        orders = [row.reference for row in rows if row is not None and row.data["subject"] == subject]
    before = work.based_on(study.data)
    if subject != study.data["subject"]:
        revising.unfounded(ctx, facility, study.stored.id)
        before, kept = [], before
    else:
        kept = [reference for reference in before if reference not in orders]
        orders = [*before, *(reference for reference in orders if reference not in before)]
    document = {name: value for name, value in study.data.items() if name != "basedOn"} | {"subject": subject}
    if notes := [note for note in document.pop("note", ()) if note.get("text") != UNVERIFIED]:
        document["note"] = notes
    if orders:
        document["basedOn"] = [{"reference": reference} for reference in orders]
    work.save(ctx, study, document)
    for reference in orders:
        if not follow_order(ctx, facility, reference, study.stored.id, document):
            raise BusinessRule("The study and the order are of two patients.", "Parameters.parameter")
    for reference in kept:
        if reference not in orders and (left := work.item(ctx, reference)) is not None and left.stored.owner == facility:
            share_again(ctx, left)


def _rejected(ctx: Context, facility: str, study: Item) -> None:
    """Out of the record; the bytes stay."""
    if reconciling.reports(ctx, facility, study.stored.id):
        raise Conflict("A report rests on this study: correct it, or have the report withdrawn.")
    work.save(ctx, study, study.data | {"status": "entered-in-error"})


def _own(ctx: Context, facility: str, named: Any, type_: str, name: str) -> Item:
    """Errors: 400 where it is not named, 422 where it is not the facility's."""
    if not named:
        raise BadRequest(f"This decision needs {name}.", "Parameters.parameter")
    found = work.item(ctx, named.get("reference", ""))
    if found is None or found.stored.type != type_ or found.stored.owner != facility:
        raise BusinessRule(f"{name} is a {type_} of yours.", "Parameters.parameter")
    return found


RECONCILE = Operation(
    code="reconcile",
    type="Task",
    levels=("instance",),
    title="Settle what images and record do not agree about",
    affects_state=True,
    inputs=(
        Parameter("decision", "code", 1, documentation="link, correct, reject, replace, keep"),
        Parameter("order", "Reference", documentation="with link: the ServiceRequest that the study answers"),
        Parameter("patient", "Reference", documentation="with correct: the Patient whose study it is"),
        Parameter("note", "string"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By the organisation whose Task it is. link and correct move the study, and withdraw a report that rests on it for another "
    "patient; replace shows what was set aside, keep what came first. Nothing is deleted. 400; 403; 409 settled; 422 does not fit.",
)
