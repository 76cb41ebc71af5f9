"""The same acts said in FHIR: a PUT of Task.status or of an order runs the same tables and the same checks.

What a plain write may not do is told with the operation that does it.
"""

from __future__ import annotations

from collections.abc import Callable

from fhirserver import access, work
from fhirserver.definitions import ResourceType
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match, create, reply, update, written
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.assign import end
from fhirserver.operations.claim import claim
from fhirserver.operations.dispatch import attempt, task_create, unmade
from fhirserver.operations.prioritize import follow
from fhirserver.resources.questionnaire_response import is_draft
from fhirserver.sharing import share_again, unshare, withdraw
from fhirserver.studies import follow_order
from fhirserver.validation import Document
from fhirserver.validation import parse as parse_resource
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_MAY_CHANGE = frozenset({"status", "statusReason", "businessStatus", "note", "meta", "lastModified", "executionPeriod", "text"})


def seen(ctx: Context, type_: str, id_: str) -> Item | None:
    """What a PUT is about, as the caller sees it; None where it would create."""
    pending = ctx.changes.writes.get((type_, id_))
    stored = ctx.store.get(type_, id_, access.visible(ctx.principal, type_))
    there = pending is not None or (stored is not None and not stored.deleted)
    return work.visible_item(ctx, type_, id_) if there else None


# ---------------------------------------------------------------- Task


def task_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT Task: of the network's Tasks the status changes, by who may and as the table says; other Tasks are plain ones."""
    current = seen(ctx, "Task", id_)
    if current is None:
        return task_create(ctx, request, type_, id_)
    new = parse_resource(request.body, "Task").data
    if not (work.is_coordination(current.data) or work.is_attempt(current.data)):
        if coding.codes(new.get("code"), coding.TASK_TYPE) != coding.codes(current.data.get("code"), coding.TASK_TYPE):
            unmade(new)
        return update(ctx, request, type_, id_)
    check_if_match(request, current.stored)
    wrong = states.transition("Task", current.status, new["status"])
    changed = sorted(name for name in {*new, *current.data} - _MAY_CHANGE if new.get(name) != current.data.get(name))
    if changed:
        raise BusinessRule(
            "Of this Task the status alone is changed by a plain write; use the operations.", f"Task.{changed[0]}"
        )
    if wrong:
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    if new["status"] == current.status:
        return _same_status(ctx, request, current, new)
    act = (_ON_COORDINATION if work.is_coordination(current.data) else _ON_ATTEMPT).get(new["status"])
    if act is None:
        raise BusinessRule("This status is reached through the operations alone.", "Task.status")
    return written(ctx, request, act(ctx, current, new), 200)


def _same_status(ctx: Context, request: Request, task: Item, new: Document) -> Reply:
    """Sent again: no new version; or with a note, which each of the two parties may add."""
    if new.get("note") == task.data.get("note"):
        return reply(200, task.stored)
    if ctx.principal.organization not in (task.stored.owner, work.organization(task.data.get("owner"))):
        raise Forbidden("A note is added by those whose work this is.")
    return written(ctx, request, work.save(ctx, task, task.data | {"note": _notes(task, new)}), 200)


def _notes(task: Item, new: Document) -> list[Document]:
    """Notes are added; those of the other party stay."""
    before: list[Document] = task.data.get("note", [])
    after: list[Document] = new.get("note", before)
    if after[: len(before)] != before:
        raise BusinessRule("Notes are added to the ones that are there.", "Task.note")
    return list(after)


Act = Callable[[Context, Item, Document], Write]


def _told(ctx: Context, task: Item, new: Document, business: str | None = None) -> Document:
    """The Task with the status, reason and notes that were sent."""
    sent: Document = {name: new[name] for name in ("status", "statusReason") if name in new}
    sent |= {"note": notes} if (notes := _notes(task, new)) else {}
    return (
        task.data
        | sent
        | {"lastModified": work.timestamp(ctx.now)}
        | ({"businessStatus": work.business(business)} if business else {})
    )


def _fulfiller(ctx: Context, t0: Item) -> None:
    work.require_role(ctx, "dispatcher")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("This is answered by the organisation that was asked.")


def _receive(ctx: Context, t0: Item, new: Document) -> Write:
    _fulfiller(ctx, t0)
    return work.save(ctx, t0, _told(ctx, t0, new))


def _accept(ctx: Context, t0: Item, new: Document) -> Write:
    """The centre takes it: a pool attempt is there to be claimed."""
    _fulfiller(ctx, t0)
    saved = work.save(ctx, t0, _told(ctx, t0, new))
    if not work.open_attempts(ctx, t0):  # it may have been offered to a reader with the order
        attempt(ctx, t0, t0.data["owner"]["reference"], "requested")
    return saved


def _decline(ctx: Context, t0: Item, new: Document) -> Write:
    """The centre declines with a reason, and what was shared for this order is withdrawn."""
    _fulfiller(ctx, t0)
    if not new.get("statusReason"):
        raise BusinessRule("Declining needs a reason.", "Task.statusReason")
    for old in work.open_attempts(ctx, t0):
        end(ctx, old, "declined")
    withdraw(ctx, t0.data["focus"]["reference"], f"org/{ctx.principal.organization}")
    return work.save(ctx, t0, _told(ctx, t0, new))


def _cancel(ctx: Context, t0: Item, new: Document) -> Write:
    """The placer takes it back before anyone reads."""
    if t0.stored.owner != ctx.principal.organization:
        raise Forbidden("A reading is cancelled by the organisation that asked for it.")
    work.require_role(ctx, "clerk", "referrer")
    return stop(ctx, t0, "cancelled-by-placer")


def stop(ctx: Context, t0: Item, reason: str) -> Write:
    """No further work: before the start cancelled, after it failed; the open attempts end with it."""
    for old in work.open_attempts(ctx, t0):
        end(ctx, old, reason)
    fulfiller = work.organization(t0.data["owner"])
    if fulfiller != t0.stored.owner:
        withdraw(ctx, t0.data["focus"]["reference"], f"org/{fulfiller}")
    closed = {
        "status": states.released(t0.status),
        "businessStatus": work.business(states.CANCELLED),
        "lastModified": work.timestamp(ctx.now),
    }
    return work.save(ctx, t0, t0.data | closed | {"statusReason": coding.concept(coding.STATUS_REASON, reason)})


def _take(ctx: Context, task: Item, new: Document) -> Write:
    return claim(ctx, task, start=False)


def _start(ctx: Context, task: Item, new: Document) -> Write:
    return claim(ctx, task, start=True)


def _hold(ctx: Context, task: Item, new: Document) -> Write:
    """It waits for information, and so does the coordination Task."""
    _reader(ctx, task)
    t0 = work.coordination_of(ctx, task.data)
    business = work.business(states.AWAITING_INFORMATION)
    work.save(ctx, t0, t0.data | {"businessStatus": business, "lastModified": work.timestamp(ctx.now)})
    return work.save(ctx, task, _told(ctx, task, new))


def _give_back(ctx: Context, task: Item, new: Document) -> Write:
    """Declined, or released by its reader or a dispatcher: the next owner gets a new attempt from the pool."""
    if not ctx.principal.acts_as("dispatcher") or ctx.principal.organization != task.stored.owner:
        _reader(ctx, task)
    if not new.get("statusReason"):
        raise BusinessRule("Giving a reading back needs a reason.", "Task.statusReason")
    t0 = work.coordination_of(ctx, task.data)
    saved = end(ctx, task, "released", _told(ctx, task, new))
    waiting = coding.business_status(t0.data) == states.AWAITING_IMAGES
    business = states.AWAITING_IMAGES if waiting else states.READY_FOR_ASSIGNMENT
    work.save(
        ctx,
        t0,
        t0.data | {"businessStatus": work.business(business), "lastModified": work.timestamp(ctx.now)},
    )
    attempt(ctx, t0, t0.data["owner"]["reference"], "requested")
    return saved


def _reader(ctx: Context, task: Item) -> None:
    if work.practitioner_of(ctx, task.data.get("owner")) != work.require_reader(ctx):
        raise Forbidden("This is done by the reader who has the reading.")


_ON_COORDINATION: dict[str, Act] = {"received": _receive, "accepted": _accept, "rejected": _decline, "cancelled": _cancel}
_ON_ATTEMPT: dict[str, Act] = {
    "accepted": _take,
    "in-progress": _start,
    "on-hold": _hold,
    "rejected": _give_back,
    "cancelled": _give_back,
    "failed": _give_back,
}


# ---------------------------------------------------------------- ServiceRequest


def order_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """An order may come after its study: the facility's studies of its number are looked at again."""
    answer = create(ctx, request, type_)
    [(reference, owner)] = answer.touched
    made = ctx.changes.writes["ServiceRequest", reference.removeprefix("ServiceRequest/")]
    ctx.changes.ordered(owner, _numbers(made.data or {}))
    return answer


def _numbers(order: Document) -> list[str]:
    return [identifier["value"] for identifier in order.get("identifier", ()) if "value" in identifier]


def order_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT ServiceRequest by its facility: the work follows a change of urgency, and ends when the order is taken back."""
    before = seen(ctx, "ServiceRequest", id_)
    answer = update(ctx, request, type_, id_)
    saved = ctx.changes.writes.get(("ServiceRequest", id_))
    if saved is None or saved.data is None:
        return answer
    if before is None or _numbers(before.data) != _numbers(saved.data):
        ctx.changes.ordered(saved.owner, _numbers(saved.data))
    t0 = work.coordination(ctx, before) if before is not None else None
    if before is None or t0 is None:
        return answer
    ctx.changes.guard(before.stored)
    if saved.data["status"] in ("revoked", "entered-in-error"):
        stop(ctx, t0, "cancelled-by-placer")
        return answer
    if saved.data["status"] == "completed":
        raise Conflict("An order is completed when its reading is; the reading is still open.")
    if saved.data.get("priority", "routine") != before.data.get("priority", "routine"):
        follow(ctx, before, t0, saved.data.get("priority", "routine"))
    share_again(ctx, Item(before.stored, saved.data))
    return answer


# ---------------------------------------------------------------- ImagingStudy


def study_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    answer = create(ctx, request, type_)
    _linked(ctx, answer.touched[0][0].removeprefix("ImagingStudy/"), [])
    return answer


def study_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT ImagingStudy by its facility: a study linked by hand goes where its orders went, like one that was matched."""
    before = seen(ctx, "ImagingStudy", id_)
    answer = update(ctx, request, type_, id_)
    _linked(ctx, id_, _orders(before.data) if before else [])
    return answer


def _orders(study: Document) -> list[str]:
    return [reference["reference"] for reference in study.get("basedOn", ()) if "reference" in reference]


def _linked(ctx: Context, id_: str, before: list[str]) -> None:
    """The orders that it answers now see it, those that it no longer answers do not."""
    saved = ctx.changes.writes.get(("ImagingStudy", id_))
    if saved is None or saved.data is None:
        return
    now = _orders(saved.data)
    for reference in now:
        if not follow_order(ctx, saved.owner, reference, id_, saved.data):
            raise BusinessRule(
                "The study and the order are of two patients; link it with the order's patient as its subject.",
                "ImagingStudy.basedOn",
            )
    for order in set(before) - set(now):
        unshare(ctx, order, ("ImagingStudy", id_))


# ---------------------------------------------------------------- QuestionnaireResponse


def response_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    _not_a_draft(parse_resource(request.body, "QuestionnaireResponse").data)
    return create(ctx, request, type_)


def response_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """A report's draft is answered by its author, and completed by $sign alone."""
    current, new = seen(ctx, "QuestionnaireResponse", id_), parse_resource(request.body, "QuestionnaireResponse").data
    if current is None or not is_draft(current.data):
        _not_a_draft(new)
    elif new["status"] != current.status:
        raise BusinessRule("A draft is completed by signing its report.", "QuestionnaireResponse.status")
    return update(ctx, request, type_, id_)


def _not_a_draft(response: Document) -> None:
    if is_draft(response):
        raise BusinessRule("The draft of a report is made by $start-report.", "QuestionnaireResponse.identifier")


# ---------------------------------------------------------------- DiagnosticReport


def report_create(ctx: Context, request: Request, type_: ResourceType) -> Reply:
    """Imported reports are created as they are; those of the network are made by $start-report."""
    _imported(parse_resource(request.body, "DiagnosticReport").data)
    return create(ctx, request, type_)


def report_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    current = seen(ctx, "DiagnosticReport", id_)
    if current is not None:
        _imported(current.data)
    _imported(parse_resource(request.body, "DiagnosticReport").data)
    return update(ctx, request, type_, id_)


def _imported(report: Document) -> None:
    if any(identifier.get("system") == work.REPORTS for identifier in report.get("identifier", ())):
        raise Conflict("Reports made in the network change only through the operations.")
