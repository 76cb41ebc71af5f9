"""The ladder of a reading whose deadline comes near, or has passed: who is told at each level.

Level 1 is the reader and the dispatcher, 2 the requesting doctor too, 3 the ward and the facility's duty.
"""

from __future__ import annotations

from fhirserver import audit, contacts, telling, timing, work
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_ABOVE = {"routine": "urgent", "urgent": "asap", "asap": "stat", "stat": "stat"}


def told(ctx: Context, t0: Item, level: int, *, reason: Document | None = None, raise_priority: bool = False) -> Write:
    """One level: the coordination Task says so, people are told, the timer is set for the next."""
    end = timing.end_of(t0.data)
    late = end is not None and timing.moment_of(end) <= ctx.now
    state = states.BREACHED if late else states.AT_RISK
    known = [coding.business_status(t0.data) or states.READY_FOR_ASSIGNMENT, state]
    standing = {"coding": [{"system": coding.BUSINESS_STATUS, "code": code} for code in known]}
    document = t0.data | {"input": work.with_input(t0.data, "escalated", level), "businessStatus": standing}
    if raise_priority:
        document = timing.urgent(ctx, Item(t0.stored, document), _ABOVE[t0.data.get("priority", "routine")])
    document = timing.rearmed(ctx, t0, document)
    work.follow(ctx, t0, document)
    order = work.order_of(ctx, t0.data)
    centre = work.organization(t0.data["owner"]) or ""
    text = f"The reading is {'overdue' if late else 'at risk of being late'}: due {end or 'at no set time'} (level {level})."
    telling.tell(
        ctx,
        state,
        text,
        _recipients(ctx, t0, order, centre, level),
        [t0.reference, order.reference],
        centre,
        [order.stored.owner] if level > 1 else [],
        **({"reasonCode": [reason]} if reason else {}),
    )
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    audit.add(ctx, audit.provenance(ctx, targets, "escalate", {"reason": [reason]} if reason else {}), [f"org/{centre}"])
    return ctx.changes.writes["Task", t0.stored.id]


def _recipients(ctx: Context, t0: Item, order: Item, centre: str, level: int) -> list[Document]:
    readers = [a.data["owner"] for a in work.open_attempts(ctx, t0)]
    found = [*readers, {"reference": f"Organization/{centre}"}]
    people = [one.document() for one in contacts.ladder(ctx, order, centre)]
    found += people[: {1: 0, 2: 1}.get(level, len(people))]
    return list({str(one): one for one in found}.values())
