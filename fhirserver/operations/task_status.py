"""PUT Task: an act said in FHIR. A change of status runs the same tables and the same checks as the operation."""

from __future__ import annotations

from collections.abc import Callable

from fhirserver import attempts, roster, timing, work
from fhirserver.definitions import ResourceType
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match, reply, update, written
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.claim import claim
from fhirserver.operations.dispatch import task_create, unmade
from fhirserver.operations.fetch_priors import answered
from fhirserver.resources.consent import SIGNAL as CONSENTS
from fhirserver.search.reference import relative
from fhirserver.sharing import withdraw
from fhirserver.validation import Document
from fhirserver.validation import parse as parse_resource
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_MAY_CHANGE = frozenset({"status", "statusReason", "businessStatus", "note", "meta", "lastModified", "executionPeriod", "text"})


def task_update(ctx: Context, request: Request, type_: ResourceType, id_: str) -> Reply:
    """PUT Task: of the network's Tasks the status changes, by who may and as the table says; other Tasks are plain ones."""
    current = work.seen(ctx, "Task", id_)
    if current is None:
        return task_create(ctx, request, type_, id_)
    new = relative(parse_resource(request.body, "Task").data, ctx.base)
    if coding.EMERGENCY in coding.codes(current.data.get("code"), coding.TASK_TYPE):
        return _reviewed(ctx, request, type_, current, new)
    if work.is_a(current.data, "fetch-priors"):
        return answered(ctx, request, current, new)
    if not (work.is_coordination(current.data) or work.is_attempt(current.data)):
        if coding.codes(current.data.get("code"), coding.TASK_TYPE) & coding.ENDED_BY_OPERATIONS:
            check_if_match(request, current.stored)
            if new["status"] == current.status:
                return _same_status(ctx, request, current, new)
            if work.is_a(current.data, "feedback"):
                return _taken_note_of(ctx, request, current, new)
            raise BusinessRule("This status is reached through the operations alone.", "Task.status")
        if coding.codes(new.get("code"), coding.TASK_TYPE) != coding.codes(current.data.get("code"), coding.TASK_TYPE):
            unmade(new)
        return update(ctx, request, type_, id_)
    check_if_match(request, current.stored)
    wrong = states.transition("Task", current.status, new["status"])
    _status_alone(current, new)
    if wrong:
        raise Invalid(wrong[0].diagnostics, issues=wrong)
    if new["status"] == current.status:
        return _same_status(ctx, request, current, new)
    act = (_ON_COORDINATION if work.is_coordination(current.data) else _ON_ATTEMPT).get(new["status"])
    if act is None:
        raise BusinessRule("This status is reached through the operations alone.", "Task.status")
    return written(ctx, request, act(ctx, current, new), 200)


def _status_alone(current: Item, new: Document) -> None:
    changed = sorted(name for name in {*new, *current.data} - _MAY_CHANGE if new.get(name) != current.data.get(name))
    if changed:
        raise BusinessRule(
            "Of this Task the status alone is changed by a plain write; use the operations.", f"Task.{changed[0]}"
        )


def _reviewed(ctx: Context, request: Request, type_: ResourceType, current: Item, new: Document) -> Reply:
    """The review of an emergency access: what it was stays, how it was judged is the quality office's."""
    if not ctx.principal.acts_as("quality"):
        raise Forbidden("An emergency access is reviewed in the role of quality.")
    _status_alone(current, new)
    ctx.changes.signals.add(CONSENTS)
    return update(ctx, request, type_, current.stored.id)


def _taken_note_of(ctx: Context, request: Request, task: Item, new: Document) -> Reply:
    """Feedback is closed by who it is for: they have read it, or what it proposes is done, or is not."""
    roster.require_owner(ctx, task, "Feedback is closed")
    _status_alone(task, new)
    if new["status"] not in ("completed", "rejected"):
        raise BusinessRule("Feedback is completed or rejected.", "Task.status")
    return written(ctx, request, work.save(ctx, task, timing.timed(_told(ctx, task, new), None)), 200)


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


def _told(ctx: Context, task: Item, new: Document) -> Document:
    """The Task with the status, reason and notes that were sent."""
    sent: Document = {name: new[name] for name in ("status", "statusReason") if name in new}
    sent |= {"note": notes} if (notes := _notes(task, new)) else {}
    return task.data | sent | {"lastModified": work.timestamp(ctx.now)}


def _fulfiller(ctx: Context, t0: Item) -> None:
    roster.require_role(ctx, "dispatcher")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("This is answered by the organisation that was asked.")


def _receive(ctx: Context, t0: Item, new: Document) -> Write:
    _fulfiller(ctx, t0)
    return work.save(ctx, t0, _told(ctx, t0, new))


def accept(ctx: Context, t0: Item, new: Document) -> Write:
    """The centre takes it: a pool attempt is there to be claimed."""
    _fulfiller(ctx, t0)
    saved = work.save(ctx, t0, _told(ctx, t0, new))
    attempts.opened(ctx, work.written(ctx, saved))
    return saved


def decline(ctx: Context, t0: Item, new: Document) -> Write:
    """The centre declines with a reason, and what was shared for this order is withdrawn. Of what another centre passed on,
    the reading is that one's again."""
    _fulfiller(ctx, t0)
    if not new.get("statusReason"):
        raise BusinessRule("Declining needs a reason.", "Task.statusReason")
    for old in work.open_attempts(ctx, t0):
        attempts.end(ctx, old, "declined")
    if work.facility_of(t0) != ctx.principal.organization:
        withdraw(ctx, t0.data["focus"]["reference"], f"org/{ctx.principal.organization}")
    saved = work.save(ctx, t0, timing.timed(_told(ctx, t0, new), None))
    if t0.data.get("partOf"):
        [_, parent, *_] = work.above(ctx, t0)
        attempts.returned(ctx, parent)
    return saved


def _cancel(ctx: Context, t0: Item, new: Document) -> Write:
    """Who asked for it takes it back: before anyone reads it is cancelled, while it is being read it fails."""
    if t0.stored.owner != ctx.principal.organization:
        raise Forbidden("A reading is cancelled by the organisation that asked for it.")
    if attempts.preliminary_out(ctx, t0):
        raise Conflict("A preliminary report is out for this reading: it is withdrawn with $retract, not silently.")
    if not t0.data.get("partOf"):
        roster.require_role(ctx, "clerk", "referrer")
        return attempts.stop(ctx, t0, "cancelled-by-placer")
    roster.require_role(ctx, "dispatcher")
    saved = attempts.stop(ctx, t0, "cancelled-by-placer")
    [_, parent, *_] = work.above(ctx, t0)
    attempts.returned(ctx, parent)
    return saved


def _take(ctx: Context, task: Item, new: Document) -> Write:
    return claim(ctx, task, start=False)


def _start(ctx: Context, task: Item, new: Document) -> Write:
    return claim(ctx, task, start=True)


def _hold(ctx: Context, task: Item, new: Document) -> Write:
    """It waits for information, and so does the coordination Task; its clock stands where that was agreed."""
    roster.require_owner(ctx, task, "This is done")
    return waiting(ctx, task, _told(ctx, task, new))


def waiting(ctx: Context, task: Item, document: Document) -> Write:
    t0 = work.coordination_of(ctx, task.data)
    told = coding.told(t0.data.get("businessStatus"), states.AWAITING_INFORMATION)
    changed = work.written(ctx, work.change(ctx, t0, businessStatus=told))
    top = work.above(ctx, changed)[-1]  # whose clock it is, also where it was passed on
    if timing.pauses(ctx, top) and (stands := timing.paused(ctx, top.data)) != top.data:
        work.save(ctx, top, stands | {"lastModified": work.timestamp(ctx.now)})
    return work.save(ctx, task, timing.timed(document, None))


def _give_back(ctx: Context, task: Item, new: Document) -> Write:
    """Declined, or released by its reader or a dispatcher: the next owner gets a new attempt from the pool."""
    if not ctx.principal.acts_as("dispatcher") or ctx.principal.organization != task.stored.owner:
        roster.require_owner(ctx, task, "This is done")
    if not new.get("statusReason"):
        raise BusinessRule("Giving a reading back needs a reason.", "Task.statusReason")
    attempts.given_back(ctx, task, "released", _told(ctx, task, new))
    return ctx.changes.writes["Task", task.stored.id]


_ON_COORDINATION: dict[str, Act] = {
    "received": _receive,
    "accepted": accept,
    "rejected": decline,
    "cancelled": _cancel,
    "failed": _cancel,
}
_ON_ATTEMPT: dict[str, Act] = {
    "accepted": _take,
    "in-progress": _start,
    "on-hold": _hold,
    "rejected": _give_back,
    "cancelled": _give_back,
    "failed": _give_back,
}
