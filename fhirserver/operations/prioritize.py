"""ServiceRequest/[id]/$prioritize: change urgency. The facility sets its order's; the centre may only raise its own work's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import audit, roster, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import span
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states

_RANKS = states.PRIORITY_RANKS


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    order = work.visible_item(ctx, "ServiceRequest", inputs["id"])
    check_if_match(request, order.stored)
    priority = inputs["priority"]
    if priority not in _RANKS:
        raise Invalid(f"priority is one of {', '.join(_RANKS)}.", "Parameters.parameter")
    if order.status not in states.OPEN_ORDER:
        raise Conflict(f"The urgency of an order that is {order.status} does not change.")
    placer = order.stored.owner == ctx.principal.organization
    scope = inputs.get("scope", "order" if placer else "task")
    if scope not in ("order", "task"):
        raise Invalid("scope is order or task.", "Parameters.parameter")
    t0 = work.coordination(ctx, order)
    told = f"priority from {order.data.get('priority', 'routine')} to {priority} ({scope})"
    if scope == "order":
        saved, tasks = _ordered(ctx, order, t0, priority, inputs.get("due"), placer=placer)
    else:
        saved, tasks = None, _raised(ctx, order, t0, priority, inputs.get("due"))
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    if targets:
        audit.add(
            ctx,
            audit.provenance(
                ctx, targets, "prioritize", {"reason": [inputs["reason"] | {"text": inputs["reason"].get("text", told)}]}
            ),
        )
    return {"order": saved or order.stored, "task": tasks}


def _ordered(
    ctx: Context, order: Item, t0: Item | None, priority: str, due: str | None, *, placer: bool
) -> tuple[Write | None, list[Write]]:
    if not placer:
        raise Forbidden("The order's urgency is the facility's; from here, scope is task.")
    roster.require_role(ctx, "clerk", "referrer")
    saved = work.save(ctx, order, order.data | {"priority": priority}) if order.data.get("priority") != priority else None
    if saved is not None:
        ctx.changes.ordered(order.stored.owner, work.numbers(order.data))  # by its urgency studies are sent on, too
    return saved, follow(ctx, order, t0, priority, due)


def follow(ctx: Context, order: Item, t0: Item | None, priority: str, due: str | None = None) -> list[Write]:
    """The work follows the order's new urgency, unless the centre had raised it above that."""
    if t0 is None:
        return []
    before, own = order.data.get("priority", "routine"), t0.data.get("priority", "routine")
    raised = _RANKS[own] < _RANKS[before]
    return _set(ctx, t0, min(own, priority, key=lambda p: _RANKS[p]) if raised else priority, due)


def _raised(ctx: Context, order: Item, t0: Item | None, priority: str, due: str | None) -> list[Write]:
    if t0 is None:
        raise Conflict("The order has no open reading.")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("The urgency of the reading is that of the organisation that was asked for it.")
    roster.require_role(ctx, "dispatcher")
    if _RANKS[priority] > min(_RANKS[one.data.get("priority", "routine")] for one in (order, t0)):
        raise BusinessRule("The centre may raise the urgency, not lower it.", "Parameters.parameter")
    before = t0.data.get("restriction", {}).get("period", {}).get("end")
    if due and before and span(due)[0] > span(before)[0]:
        raise BusinessRule("The centre may bring the deadline forward, not postpone it.", "Parameters.parameter")
    return _set(ctx, t0, priority, due)


def _set(ctx: Context, t0: Item, priority: str, due: str | None) -> list[Write]:
    """On the coordination Task and what is open below it, with the deadline that follows."""
    if t0.data.get("priority") == priority and not due:
        return []
    return work.follow(ctx, t0, timing.urgent(ctx, t0, priority, due))


PRIORITIZE = Operation(
    code="prioritize",
    type="ServiceRequest",
    levels=("instance",),
    title="Change urgency",
    affects_state=True,
    inputs=(
        Parameter("priority", "code", 1, documentation="routine | urgent | asap | stat"),
        Parameter("reason", "CodeableConcept", 1),
        Parameter("due", "dateTime"),
        Parameter("scope", "code", documentation="order | task"),
    ),
    outputs=(Parameter("order", "ServiceRequest", 1), Parameter("task", "Task", max="*")),
    handler=operate,
    description="By the facility; by the centre upwards only. 403; 409 the order is closed; 422 below the ordered urgency.",
)
