"""Task/[id]/$claim: take a reading from the pool, start it, renew its lease. Of many who claim, one wins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fhirserver import work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid, LockError
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

DEFAULT_LEASE, LONGEST_LEASE = 30, 24 * 60


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    minutes = inputs.get("leaseMinutes", DEFAULT_LEASE)
    if not 1 <= minutes <= LONGEST_LEASE:
        raise Invalid(f"leaseMinutes is from 1 to {LONGEST_LEASE}.", "Parameters.parameter")
    return {"return": claim(ctx, attempt, start=inputs.get("start", False), minutes=minutes)}


def claim(ctx: Context, attempt: Item, *, start: bool, minutes: int = DEFAULT_LEASE) -> Write:
    """The act itself: compare-and-set on the attempt's version, so a second claim finds another owner."""
    caller = work.require_reader(ctx)
    t0 = work.coordination_of(ctx, attempt.data)
    mine = _owned(ctx, attempt, caller)
    if attempt.status not in states.OPEN_TASK:
        raise Conflict(f"A reading that is {attempt.status} is not claimed.")
    verdict = work.verdict(ctx, caller, t0)
    if not verdict.eligible:
        raise Forbidden(f"You may not read this: {', '.join(verdict.failed)}.", details=(coding.ELIGIBILITY, verdict.failed[0]))
    owner = attempt.data["owner"] if mine else {"reference": verdict.role}
    document = attempt.data | {"owner": owner, "lastModified": work.timestamp(ctx.now), "status": "accepted"}
    started = attempt.status in ("in-progress", "on-hold")
    if start or started:
        document |= _started(ctx, attempt, work.order_of(ctx, attempt.data), minutes)
    if attempt.status == "on-hold" and not start:
        document["status"] = "on-hold"  # a renewal keeps it waiting
    write = work.save(ctx, attempt, document)
    _follow(ctx, t0, document["status"])
    return write


def _started(ctx: Context, attempt: Item, order: Item, minutes: int) -> Document:
    """In reading: since when, until when it is kept for this reader, and the version of the order that they see."""
    if not any(study.status == "available" for study in work.answering(ctx, order)):
        raise BusinessRule("There are no complete images to read yet.", "Task.focus")
    until = work.timestamp(ctx.now + timedelta(minutes=minutes))
    leased = work.with_input(attempt.data, "lease-until", until)
    return {
        "status": "in-progress",
        "executionPeriod": attempt.data.get("executionPeriod") or {"start": work.timestamp(ctx.now)},
        "input": work.with_input({"input": leased}, "order-version", str(order.stored.version)),
    }


def _owned(ctx: Context, attempt: Item, caller: str) -> bool:
    """Whether it is the caller's already. Errors: 409 where it is another's, without a word of whose."""
    owner: Document = attempt.data.get("owner", {})
    if work.practitioner_of(ctx, owner) == caller:
        return True
    if owner and work.organization(owner) != ctx.principal.organization:
        raise LockError("Another reader has this reading.")
    if attempt.status not in ("requested", "received"):
        raise LockError("Another reader has this reading.")
    return False


_BUSINESS = {"accepted": states.ASSIGNED, "in-progress": states.READING, "on-hold": states.AWAITING_INFORMATION}


def _follow(ctx: Context, t0: Item, status: str) -> None:
    """The coordination Task is assigned with the claim, in progress with the first start."""
    moved = "accepted" if status == "accepted" and t0.status != "in-progress" else "in-progress"
    business = work.business(_BUSINESS[status])
    waiting = coding.business_status(t0.data) == states.AWAITING_IMAGES
    if waiting or (moved, business) == (t0.status, t0.data.get("businessStatus")):
        business = t0.data["businessStatus"]
    if (moved, business) != (t0.status, t0.data.get("businessStatus")):
        work.save(ctx, t0, t0.data | {"status": moved, "businessStatus": business, "lastModified": work.timestamp(ctx.now)})


CLAIM = Operation(
    code="claim",
    type="Task",
    levels=("instance",),
    title="Take a reading from the pool, or start and renew a reading",
    affects_state=True,
    inputs=(
        Parameter("start", "boolean", documentation="true: begin reading"),
        Parameter("leaseMinutes", "integer", documentation=f"default {DEFAULT_LEASE}"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By a reader. 403 with an eligibility-reason; 409 another reader has it; 422 no complete images.",
)
