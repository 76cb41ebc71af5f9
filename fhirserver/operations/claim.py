"""Task/[id]/$claim: take a reading from the pool, start it, renew its lease. Of many who claim, one wins."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid, LockError
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations import work
from fhirserver.operations.work import Item
from fhirserver.validation import Document
from fhirserver.versions import Write
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
    reading = start or attempt.status == "in-progress"
    if reading and not any(s.status == "available" for s in work.studies(ctx, attempt.data["focus"]["reference"])):
        raise BusinessRule("There are no complete images to read yet.", "Task.focus")
    owner = attempt.data["owner"] if mine else {"reference": verdict.role}
    document = attempt.data | {
        "owner": owner,
        "lastModified": work.timestamp(ctx.now),
        "status": "in-progress" if reading else "accepted",
    }
    if reading:
        document["executionPeriod"] = attempt.data.get("executionPeriod") or {"start": work.timestamp(ctx.now)}
        document["input"] = [
            *(row for row in attempt.data.get("input", ()) if not work.inputs({"input": [row]}, "lease-until")),
            _lease(ctx, minutes),
        ]
    if attempt.status == "on-hold" and reading:
        document["status"] = "in-progress"
    write = work.save(ctx, attempt, document)
    _follow(ctx, t0, reading=reading)
    return write


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


def _lease(ctx: Context, minutes: int) -> Document:
    return work.entry("lease-until", "valueDateTime", work.timestamp(ctx.now + timedelta(minutes=minutes)))


def _follow(ctx: Context, t0: Item, *, reading: bool) -> None:
    """The coordination Task is assigned with the claim, in progress with the first start."""
    status = "in-progress" if reading or t0.status == "in-progress" else "accepted"
    business = work.business(states.READING if reading else states.ASSIGNED)
    if (status, business) != (t0.status, t0.data.get("businessStatus")):
        work.save(ctx, t0, t0.data | {"status": status, "businessStatus": business, "lastModified": work.timestamp(ctx.now)})


CLAIM = Operation(
    code="claim",
    type="Task",
    level="instance",
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
