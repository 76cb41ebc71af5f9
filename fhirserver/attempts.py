"""Attempts: one owner's go at reading an order. How each begins and ends, and where the coordination Task stands then.

There is no way back: who gives a reading back ends their attempt, and the next owner gets a new one.
"""

from __future__ import annotations

from typing import Any

from fhirserver import roster, timing, work
from fhirserver.errors import BusinessRule, LockError
from fhirserver.messages import Context
from fhirserver.moments import milliseconds
from fhirserver.sharing import withdraw
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from fhirserver.workflow.eligibility import Reader, Reading, Verdict, judge

_COPIED = ("resourceType", "groupIdentifier", "intent", "focus", "basedOn", "for", "priority", "restriction")
# The clock's are the coordination Task's own.
_OWN_INPUTS = frozenset({"clock-start", "paused-since", "escalated", "sla-policy"})


def made(
    ctx: Context, t0: Item, owner: str, status: str, kind: str = states.READ, reader: str | None = None
) -> Write:  # fmt: skip
    """A new attempt of a kind, one owner's; it belongs to the fulfiller. ``reader``: the person, where it is one's."""
    fulfiller = work.organization(t0.data["owner"])
    assert fulfiller is not None
    rows = [row for row in t0.data.get("input", ()) if not coding.codes(row.get("type"), coding.TASK_TYPE) & _OWN_INPUTS]
    rows += [work.entry("reader", {"reference": reader})] if reader else []
    document: Document = {
        **{name: t0.data[name] for name in _COPIED if name in t0.data},
        **({"input": rows} if rows else {}),
        "partOf": [{"reference": t0.reference}],
        "status": status,
        "code": {"coding": [{"system": coding.TASK_CODE, "code": "fulfill"}, {"system": coding.TASK_TYPE, "code": kind}]},
        "authoredOn": work.timestamp(ctx.now),
        "lastModified": work.timestamp(ctx.now),
        "requester": {"reference": f"Organization/{fulfiller}"},
        "owner": {"reference": owner},
    }
    return work.make(ctx, document, fulfiller)


def pooled(ctx: Context, t0: Item, kind: str = states.READ) -> Write:
    """For the centre's readers to claim."""
    return made(ctx, t0, t0.data["owner"]["reference"], "requested", kind)


def opened(ctx: Context, t0: Item) -> None:
    """The centre takes it: what is to be read is there to be claimed, twice where a double reading was asked for."""
    kinds = {next(iter(coding.codes(a.data["code"], coding.TASK_TYPE))) for a in work.attempts(ctx, t0)}
    if states.READ not in kinds:  # it may have been offered to a reader with the order
        pooled(ctx, t0)
    if "double" in work.inputs(t0.data, "read-type") and states.SECOND_READ not in kinds:
        _second(ctx, t0)


def _second(ctx: Context, t0: Item) -> None:
    blind = work.with_input(t0.data, "blind", True)
    pooled(ctx, Item(t0.stored, t0.data | {"input": blind}), states.SECOND_READ)


def returned(ctx: Context, t0: Item) -> None:
    """What was passed on is the centre's own again: in its pool, to be read twice where that is still owed."""
    pooled(ctx, t0)
    done = [a for a in work.attempts(ctx, t0, states.SECOND_READ) if a.status == "completed"]
    if "double" in work.inputs(t0.data, "read-type") and not done:
        _second(ctx, t0)
    stand(ctx, t0, unassigned(t0))


def given(ctx: Context, t0: Item, reader: Reader, verdict: Verdict, *, offered: bool, kind: str = states.READ) -> Write:
    """To one reader: assigned, or offered for them to accept."""
    assert verdict.role is not None
    task = made(ctx, t0, verdict.role, "requested" if offered else "accepted", kind, reader.reference)
    armed = timing.timed(task.data or {}, shift_end(reader))
    if armed != task.data:
        task = work.save(ctx, work.written(ctx, task), armed)
    stand(ctx, t0, states.AWAITING_ACCEPTANCE if offered else states.ASSIGNED)
    return task


def shift_end(reader: Reader) -> Any:
    """When unread work goes back to the pool; None where no roster says."""
    until = reader.shift.until if reader.shift and reader.shift.on else None
    return timing.at(until) if until else None


def stand(ctx: Context, t0: Item, business: str) -> Write | None:
    """Where the coordination Task stands; once it was started it stays in progress. Waiting for images goes before."""
    pending = ("Task", t0.stored.id) in ctx.changes.writes
    now = (work.item(ctx, t0.reference) if pending else None) or t0
    if coding.business_status(now.data) == states.AWAITING_IMAGES and business in (
        states.READY_FOR_ASSIGNMENT,
        states.ASSIGNED,
    ):
        business = states.AWAITING_IMAGES
    status = now.status if now.status == "in-progress" else "accepted"
    told = coding.told(now.data.get("businessStatus"), business)
    if (status, told) == (now.status, now.data.get("businessStatus")):
        return None
    return work.change(ctx, now, status=status, businessStatus=told)


# ---------------------------------------------------------------- ends


def end(ctx: Context, attempt: Item, reason: str, told: Document | None = None) -> Write:
    """An attempt that its owner no longer has; ``told``: the words that its end was sent in. A report that was open, and not
    published, is cancelled, and the draft stopped."""
    closed = told or attempt.data | {
        "status": states.released(attempt.status),
        "statusReason": coding.concept(coding.STATUS_REASON, reason),
        "lastModified": work.timestamp(ctx.now),
    }
    saved = work.save(ctx, attempt, timing.timed(closed, None))
    for report in work.outputs(ctx, attempt.data, "report"):
        if report.status == "registered":
            work.save(ctx, report, report.data | {"status": "cancelled"})
    for draft in work.outputs(ctx, attempt.data, "draft"):
        if draft.status == "in-progress":
            work.save(ctx, draft, draft.data | {"status": "stopped"})
    return saved


def cleared(ctx: Context, t0: Item, *, force: bool, kind: str = states.READ, reason: str = "reassigned") -> None:
    """End the open attempts of a kind: before the start cancelled, after it failed. Error: 409 where it is being read."""
    for old in work.open_attempts(ctx, t0, kind):
        if old.status in ("in-progress", "on-hold") and not force:
            raise LockError("The reading is in progress; take it over with force.")
        end(ctx, old, reason)


def given_back(
    ctx: Context, attempt: Item, reason: str, told: Document | None = None, *, keep_draft: bool = False
) -> Write:  # fmt: skip
    """It ends, and the next owner gets a new one from the pool, with the draft where it is handed over."""
    t0 = work.coordination_of(ctx, attempt.data)
    drafts = work.outputs(ctx, attempt.data, "draft")
    end(ctx, attempt, reason, told)
    t0 = Item(t0.stored, resumed(ctx, t0))
    [kind] = coding.codes(attempt.data["code"], coding.TASK_TYPE) & states.ATTEMPTS
    fresh = pooled(ctx, t0, kind)
    if keep_draft and drafts:
        kept = work.with_input(fresh.data or {}, "draft", {"reference": drafts[0].reference})
        fresh = work.save(ctx, work.written(ctx, fresh), (fresh.data or {}) | {"input": kept})
    if kind == states.READ:
        stand(ctx, t0, unassigned(t0))
    return fresh


def preliminary(t0: Item) -> bool:
    """Whether a preliminary report is out; its final reading may have begun since."""
    return work.has_output(t0.data, "preliminary-response")


def preliminary_out(ctx: Context, t0: Item) -> bool:
    """Whether one is out, here or where it was passed on."""
    return any(preliminary(one) for one in work.chain(ctx, t0))


def unassigned(t0: Item) -> str:
    """Where it stands while it is nobody's."""
    return states.PRELIMINARY if preliminary(t0) else states.READY_FOR_ASSIGNMENT


_STANDS = {"accepted": states.ASSIGNED, "in-progress": states.READING, "on-hold": states.AWAITING_INFORMATION}


def standing(ctx: Context, t0: Item) -> str:
    """Where it stands by its first reading, while second ones are open or not."""
    first = next(iter(work.open_attempts(ctx, t0, states.READ)), None)
    if first is None or first.status not in _STANDS:
        offered = first is not None and work.organization(first.data.get("owner")) is None
        return states.AWAITING_ACCEPTANCE if offered else unassigned(t0)
    stands = states.PRELIMINARY if first.status == "accepted" and preliminary(t0) else _STANDS[first.status]
    second = any(work.open_attempts(ctx, t0, kind) for kind in (states.SECOND_READ, states.ARBITRATION))
    return states.AWAITING_SECOND_READ if second and stands in (states.READING, states.ASSIGNED) else stands


def resumed(ctx: Context, t0: Item) -> Document:
    """The clock runs again, where it stood for the attempt that ends; it is the facility's, also where it was passed on."""
    top = work.above(ctx, work.item(ctx, t0.reference) or t0)[-1]
    document = timing.resumed(ctx, top, top.data)
    if document != top.data:
        work.follow(ctx, top, document)
    return (work.item(ctx, t0.reference) or t0).data


def stop(ctx: Context, t0: Item, reason: str, business: str = states.CANCELLED) -> Write:
    """No further work, here and wherever it was passed on: open attempts end, what was shared for the order is withdrawn."""
    below = work.passed_on(ctx, t0)
    if below is not None:
        stop(ctx, below, reason, business)
    for old in work.open_attempts(ctx, t0):
        end(ctx, old, reason)
    fulfiller = work.organization(t0.data["owner"])
    if fulfiller != work.facility_of(t0):
        withdraw(ctx, t0.data["focus"]["reference"], f"org/{fulfiller}")
    closed = timing.timed(t0.data, None) | {
        "status": states.released(t0.status),
        "businessStatus": work.business_status(business),
        "lastModified": work.timestamp(ctx.now),
        "statusReason": coding.concept(coding.STATUS_REASON, reason),
    }
    return work.save(ctx, t0, closed)


# ---------------------------------------------------------------- who may have it


def judged(ctx: Context, t0: Item, practitioner: str, kind: str, read_type: str | None = None) -> tuple[Reader, Verdict]:
    """A reader's facts and the verdict on them, now. Errors: 422 for nobody known."""
    found = roster.reader(ctx, practitioner, t0)
    if found is None:
        raise roster.refusal(("no-such-reader",))
    return found, judge(asked(ctx, t0, kind, read_type), found, milliseconds(ctx.now))


def asked(ctx: Context, t0: Item, kind: str, read_type: str | None = None) -> Reading:
    """For the rules; what was already read preliminarily is read finally now."""
    if read_type is None and preliminary(t0):
        read_type = "final"
    return roster.reading(ctx, t0, kind, read_type)


def kind_of(attempt: Document) -> str:
    """Errors: 422 where the Task is no attempt."""
    found = coding.codes(attempt.get("code"), coding.TASK_TYPE) & states.ATTEMPTS
    if not found:
        raise BusinessRule("This Task is not a reading; give the attempt, not the coordination Task.", "Task.code")
    return next(iter(found))
