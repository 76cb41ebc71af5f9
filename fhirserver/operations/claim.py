"""Task/[id]/$claim: take a reading from the pool, start it, renew its lease. Of many who claim, one wins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fhirserver import agreements, reporting, roster, timing, work
from fhirserver.attempts import judged, kind_of, preliminary, resumed, shift_end, stand
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Invalid, LockError
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

LONGEST_LEASE = 24 * 60


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    minutes = inputs.get("leaseMinutes")
    if minutes is not None and not 1 <= minutes <= LONGEST_LEASE:
        raise Invalid(f"leaseMinutes is from 1 to {LONGEST_LEASE}.", "Parameters.parameter")
    return {"return": claim(ctx, attempt, start=inputs.get("start", False), minutes=minutes)}


def claim(ctx: Context, attempt: Item, *, start: bool, minutes: int | None = None) -> Write:
    """The act itself: compare-and-set on the attempt's version, so a second claim finds another owner."""
    caller = roster.require_reader(ctx)
    t0 = work.coordination_of(ctx, attempt.data)
    mine = _owned(ctx, attempt, caller)
    if attempt.status not in states.OPEN_TASK:
        raise Conflict(f"A reading that is {attempt.status} is not claimed.")
    reader, verdict = judged(ctx, t0, caller, kind_of(attempt.data))
    if not verdict.eligible:
        raise roster.not_eligible(verdict.failed)
    owner = attempt.data["owner"] if mine else {"reference": verdict.role}
    named = work.with_input(attempt.data, "reader", {"reference": caller})
    document = attempt.data | {"owner": owner, "input": named, "lastModified": work.timestamp(ctx.now), "status": "accepted"}
    started = attempt.status in ("in-progress", "on-hold")
    if start or started:
        minutes = minutes or agreements.assigning(ctx, attempt.stored.owner).lease_minutes
        document = _started(ctx, document, work.order_of(ctx, attempt.data), ctx.now + timedelta(minutes=minutes))
    else:
        document = timing.timed(document, shift_end(reader))
    if attempt.status == "on-hold" and not start:  # a renewal keeps it waiting
        document = timing.timed(document | {"status": "on-hold"}, None)
    write = work.save(ctx, attempt, document)
    _follow(ctx, t0, document)
    return write


def _started(ctx: Context, attempt: Document, order: Item, until: datetime) -> Document:
    """In reading: since when, until when it is kept for this reader, and the versions of order and studies that they see."""
    if not any(study.status == "available" for study in work.answering(ctx, order)):
        raise BusinessRule("There are no complete images to read yet.", "Task.focus")
    leased = work.with_input(attempt, "lease-until", work.timestamp(until))
    started = {
        "status": "in-progress",
        "executionPeriod": attempt.get("executionPeriod") or {"start": work.timestamp(ctx.now)},
        "input": reporting.looked_at(ctx, {"input": leased}, order),
    }
    return timing.timed(attempt | started, until)


def _owned(ctx: Context, attempt: Item, caller: str) -> bool:
    """Whether it is the caller's already. Errors: 409 where it is another's, without a word of whose."""
    owner: Document = attempt.data.get("owner", {})
    if roster.practitioner_of(ctx, owner) == caller:
        return True
    if owner and work.organization(owner) != ctx.principal.organization:
        raise LockError("Another reader has this reading.")
    if attempt.status not in ("requested", "received"):
        raise LockError("Another reader has this reading.")
    return False


_BUSINESS = {"accepted": states.ASSIGNED, "in-progress": states.READING, "on-hold": states.AWAITING_INFORMATION}


def _follow(ctx: Context, t0: Item, attempt: Document) -> None:
    """The coordination Task is assigned with the claim, in progress with the first start; a second reading says so."""
    status = attempt["status"]
    if status == "in-progress":
        t0 = Item(t0.stored, resumed(ctx, t0))
    if kind_of(attempt) == states.READ:
        business = _BUSINESS[status]
        if preliminary(t0) and status == "accepted":
            business = states.PRELIMINARY
    else:
        business = coding.business_status(t0.data) or states.AWAITING_SECOND_READ
    if status == "in-progress" and t0.status != "in-progress":
        work.change(ctx, t0, status="in-progress", businessStatus=coding.told(t0.data.get("businessStatus"), business))
        for passed_on in work.above(ctx, t0)[1:]:  # who passed it on, and the facility, see that it is being read
            if passed_on.status != "in-progress":
                work.change(ctx, passed_on, status="in-progress")
    else:
        stand(ctx, t0, business)


CLAIM = Operation(
    code="claim",
    type="Task",
    levels=("instance",),
    title="Take a reading from the pool, or start and renew a reading",
    affects_state=True,
    inputs=(
        Parameter("start", "boolean", documentation="true: begin reading"),
        Parameter("leaseMinutes", "integer", documentation="default: the assignment policy's, 30"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By a reader. 403 with an eligibility-reason; 409 another reader has it; 422 no complete images.",
)
