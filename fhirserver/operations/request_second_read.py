"""Task/[id]/$request-second-read: somebody else reads it too. Nothing is signed until they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Duplicate, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.consult import draft_text
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

KINDS = ("independent", "sequential", "over-read", "arbitration")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if inputs["kind"] not in KINDS:
        raise Invalid(f"kind is one of {', '.join(KINDS)}.", "Parameters.parameter")
    t0 = task if work.is_coordination(task.data) else work.coordination_of(ctx, task.data)
    _permitted(ctx, t0)
    kind = states.ARBITRATION if inputs["kind"] == "arbitration" else states.SECOND_READ
    return {"return": second(ctx, t0, kind, inputs)}


def _permitted(ctx: Context, t0: Item) -> None:
    roster.require_role(ctx, "reader", "trainee", "dispatcher")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("A second reading is asked for by the organisation that reads it.")
    if not ctx.principal.acts_as("dispatcher"):
        me = roster.require_reader(ctx)
        held = [a for a in work.open_attempts(ctx, t0) if roster.practitioner_of(ctx, a.data.get("owner")) == me]
        if not held:
            raise Forbidden("A second reading is asked for by the reader who has the reading, or by a dispatcher.")
    if t0.status not in ("accepted", "in-progress"):
        raise Conflict(f"A reading that is {t0.status} is not read a second time.")
    if work.passed_on(ctx, t0) is not None:
        raise Conflict("The reading was forwarded; it is read a second time where it went.")


def second(ctx: Context, t0: Item, kind: str, inputs: Mapping[str, Any]) -> Write:
    """The sibling attempt: one reader's, or in the pool. Errors: 409 one is open, 422 the reader has read it already."""
    if work.open_attempts(ctx, t0, kind):
        raise Duplicate("Such a reading is open already.")
    if kind == states.ARBITRATION and not _disagreed(ctx, t0):
        raise Conflict("There is no second reading to arbitrate.")
    blind = inputs.get("blind", kind != states.ARBITRATION)
    rows = work.with_input(t0.data, "blind", blind)
    if not blind:
        rows += [work.entry("draft-text", text) for text in _shown(ctx, t0)]
    asked = Item(t0.stored, t0.data | {"input": rows})
    if "due" in inputs:
        asked.data["restriction"] = {"period": {"end": inputs["due"]}}
    if "recipient" in inputs:
        practitioner = roster.practitioner_of(ctx, inputs["recipient"])
        if practitioner is None:
            raise Invalid("recipient is a PractitionerRole or Practitioner.", "Parameters.parameter")
        _, verdict = attempts.judged(ctx, t0, practitioner, kind, "final")
        if not verdict.eligible or verdict.role is None:
            raise roster.refusal(verdict.failed)
        made = attempts.made(ctx, asked, verdict.role, "requested", kind, practitioner)
    else:
        made = attempts.pooled(ctx, asked, kind)
    ctx.changes.guard(t0.stored)  # a signature at this moment and this request do not miss each other
    told = coding.told(t0.data.get("businessStatus"), states.AWAITING_SECOND_READ)
    if coding.business_status(t0.data) in (states.READING, states.ASSIGNED):
        work.change(ctx, t0, businessStatus=told)
    return made


def _shown(ctx: Context, t0: Item) -> list[str]:
    """What the first reader has written so far: a draft is its author's, who shows it by asking."""
    me = f"Practitioner/{ctx.principal.practitioner}"
    first = work.open_attempts(ctx, t0, states.READ)
    mine = [a for a in first if roster.practitioner_of(ctx, a.data.get("owner")) == me]
    return [text for attempt in mine for text in draft_text(ctx, attempt)]


def _disagreed(ctx: Context, t0: Item) -> bool:
    return any(a.status == "completed" for a in work.attempts(ctx, t0, states.SECOND_READ))


REQUEST_SECOND_READ = Operation(
    code="request-second-read",
    type="Task",
    levels=("instance",),
    title="Second read, over-read or arbitration",
    affects_state=True,
    inputs=(
        Parameter("kind", "code", 1, documentation=" | ".join(KINDS)),
        Parameter(
            "recipient",
            "Reference",
            documentation="who is to read it; else the pool",
            targets=("PractitionerRole", "Practitioner"),
        ),
        Parameter("blind", "boolean", documentation="default true, but for arbitration: without the first reader's answers"),
        Parameter("due", "dateTime"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the sibling attempt"),),
    handler=operate,
    description="By the reader who has it, or a dispatcher. 403; 409 closed, or one is open; 422 the reader has read it already.",
)
