"""Task/[id]/$forward: pass a reading to another centre. Each hop sees less, for a shorter time, and is told of in Provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import agreements, attempts, audit, roster, telling, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match, put
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.operations.dispatch import affiliated
from fhirserver.sharing import share
from fhirserver.validation import Document, built
from fhirserver.versions import FOREVER, Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_COPIED = ("resourceType", "groupIdentifier", "intent", "focus", "basedOn", "for", "priority")
_OWN = frozenset({"clock-start", "paused-since", "escalated"})


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    t0 = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, t0.stored)
    _permitted(ctx, t0)
    target = work.organization(inputs["organization"])
    if target is None or work.item(ctx, f"Organization/{target}") is None:
        raise BusinessRule("organization is the centre that is to read: Organization/id.", "Parameters.parameter")
    above = work.above(ctx, t0)
    facility = work.facility_of(t0)
    _allowed(ctx, above, facility, target)
    order = work.order_of(ctx, t0.data)
    until = _until(ctx, order, inputs.get("accessUntil"))
    due = _due(t0, inputs.get("due"))
    for kind in sorted(states.ATTEMPTS):
        attempts.cleared(ctx, t0, force=False, kind=kind, reason="forwarded")
    child = _child(ctx, t0, target, due)
    made = put(ctx, ctx.store.types["Task"], built(child), ctx.new_id(), None, "POST", ctx.principal.organization)
    made.grants.append(Grant(order.reference, f"org/{target}", until).document())
    ctx.changes.guard(order.stored)  # a right that ends at this moment, and this act, do not miss each other
    share(ctx, order, f"org/{target}", until)
    attempts.stand(ctx, t0, states.FORWARDED)
    telling.tell(
        ctx, "forwarded", "The reading was passed on to another centre.", [{"reference": f"Organization/{facility}"}],
        [order.reference, t0.reference], ctx.principal.organization, [facility, *(one.stored.owner for one in above)],
    )  # fmt: skip
    _proven(ctx, above, inputs["reason"])
    return {"return": made}


def _permitted(ctx: Context, t0: Item) -> None:
    roster.require_role(ctx, "dispatcher")
    if not work.is_coordination(t0.data):
        raise BusinessRule("Forward the coordination Task.", "Task.code")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("A reading is forwarded by the organisation that was asked for it.")
    if t0.status not in ("requested", "received", "accepted", "in-progress"):
        raise Conflict(f"A reading that is {t0.status} is not forwarded.")
    if coding.business_status(t0.data) == states.FORWARDED:
        raise Conflict("The reading was forwarded already.")
    if attempts.preliminary(t0):
        raise Conflict("A preliminary report is out: it is read finally here, or withdrawn with $retract.")


def _allowed(ctx: Context, above: list[Item], facility: str, target: str) -> None:
    """Errors: 403 the facility forbids it, 409 a circle, 422 no agreement, jurisdiction or restriction."""
    first = work.organization(above[-1].data["owner"])
    terms = agreements.between(ctx, facility, first).terms
    if facility != first and not terms.subcontracting:
        raise Forbidden("The facility's agreement does not allow its readings to be passed on.")
    if target in {facility, *(work.organization(one.data["owner"]) for one in above)}:
        raise Conflict("The reading would come back to who has had it.")
    affiliated(ctx, ctx.principal.organization, target)
    centre = work.item(ctx, f"Organization/{target}")
    countries = {one.get("country") for one in (centre.data.get("address", ()) if centre else ())}
    if terms.countries and not countries & set(terms.countries):
        raise BusinessRule(
            "The facility's agreement keeps its data in other countries than this centre's.", "Parameters.parameter",
            (coding.ELIGIBILITY, "data-residency"),
        )  # fmt: skip
    if above[0].data["for"]["reference"] in ctx.withheld_from(target):
        raise BusinessRule("The patient has restricted their record: it is not shared with this organisation.", "Task.for")
    ends = [
        e for e in (work.item(ctx, r.get("reference", "")) for r in (centre.data.get("endpoint", ()) if centre else ())) if e
    ]
    if ends and not any(e.status == "active" for e in ends):
        raise BusinessRule("The centre's endpoints are not active.", "Parameters.parameter")


def _until(ctx: Context, order: Item, asked: str | None) -> int:
    """Not longer than the caller's own right: what is passed on is less, never more."""
    key, now = f"org/{ctx.principal.organization}", milliseconds(ctx.now)
    own = [g["until"] for g in order.stored.grants if g["order"] == order.reference and g["key"] == key and g["until"] > now]
    mine = FOREVER if order.stored.owner == ctx.principal.organization else max(own, default=0)
    if not mine:
        raise Forbidden("The right to this order has ended.")
    facility = order.stored.owner
    days = agreements.between(ctx, facility, ctx.principal.organization).terms.retention_days
    wanted = span(asked)[1] if asked else now + days * 86_400_000
    if wanted <= now:
        raise BusinessRule("accessUntil is in the past.", "Parameters.parameter")
    return min(mine, wanted)


def _due(t0: Item, asked: str | None) -> str | None:
    """Not later than the deadline that the facility was given."""
    own = timing.end_of(t0.data)
    if asked and own and span(asked)[0] > span(own)[0]:
        raise BusinessRule("A reading that is passed on is due no later than here.", "Parameters.parameter")
    return asked or own


def _child(ctx: Context, t0: Item, target: str, due: str | None) -> Document:
    rows = [row for row in t0.data.get("input", ()) if not coding.codes(row.get("type"), coding.TASK_TYPE) & _OWN]
    ready = coding.business_status(t0.data) != states.AWAITING_IMAGES
    return {
        **{name: t0.data[name] for name in _COPIED if name in t0.data},
        "status": "requested",
        "businessStatus": work.business_status(states.READY_FOR_ASSIGNMENT if ready else states.AWAITING_IMAGES),
        "code": t0.data["code"],
        "partOf": [{"reference": t0.reference}],
        "authoredOn": work.timestamp(ctx.now),
        "lastModified": work.timestamp(ctx.now),
        "requester": {"reference": f"Organization/{ctx.principal.organization}"},
        "owner": {"reference": f"Organization/{target}"},
        **({"input": rows} if rows else {}),
        **({"restriction": {"period": {"end": due}}} if due else {}),
    }


def _proven(ctx: Context, above: list[Item], reason: Document) -> None:
    """On behalf of whom, up to the facility."""
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    document = audit.provenance(ctx, targets, "forward", {"reason": [reason]})
    for one in above:
        owner = {"reference": f"Organization/{work.organization(one.data['owner'])}"}
        document["agent"].append({"who": owner, "onBehalfOf": {"reference": f"Organization/{one.stored.owner}"}})
    audit.add(ctx, document)


FORWARD = Operation(
    code="forward",
    type="Task",
    levels=("instance",),
    title="Pass to another reading centre",
    affects_state=True,
    inputs=(
        Parameter("organization", "Reference", 1, documentation="the receiving centre", targets=("Organization",)),
        Parameter("reason", "CodeableConcept", 1),
        Parameter("due", "dateTime", documentation="no later than here"),
        Parameter("accessUntil", "dateTime", documentation="when its sight of the order ends; no later than one's own"),
        Parameter(
            "minimum", "boolean", documentation="least data: the order, its patient, its studies and what it names; always so"
        ),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the other centre's coordination Task"),),
    handler=operate,
    description="By a dispatcher of the organisation that was asked. 403 the facility does not allow it; 409 a circle, or being read; "
    "422 no agreement, another jurisdiction.",
)
