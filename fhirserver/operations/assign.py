"""Task/[id]/$assign: give a reading to a reader, or to the best one. The decision is stored with its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import agreements, attempts, audit, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds
from fhirserver.roster import Desk
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, ranking, states
from fhirserver.workflow.ranking import Candidate, Decision

_TAKES = frozenset({"requested", "received", "accepted", "in-progress"})


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    t0 = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, t0.stored)
    assignable(ctx, t0)
    if inputs["mode"] not in ("manual", "auto"):
        raise Invalid("mode is manual or auto.", "Parameters.parameter")
    if inputs["mode"] == "manual" and "owner" not in inputs:
        raise Invalid("owner is required where mode is manual.", "Parameters.parameter")
    if inputs["mode"] == "manual" and work.organization(inputs.get("owner")) == ctx.principal.organization:
        return _pooled(ctx, t0, inputs)
    found = considered(ctx, t0)
    chosen = _named(ctx, t0, found, inputs) if inputs["mode"] == "manual" else best(found)
    return assigned(ctx, t0, found, chosen, inputs)


def considered(ctx: Context, t0: Item, desk: Desk | None = None) -> list[Candidate]:
    """All readers with a privilege at the facility, the best first."""
    policy = agreements.assigning(ctx, work.organization(t0.data["owner"]) or "")
    return ranking.candidates(
        attempts.asked(ctx, t0, states.READ), roster.readers(ctx, t0, desk), policy, milliseconds(ctx.now)
    )


def assigned(
    ctx: Context, t0: Item, found: list[Candidate], chosen: Candidate, inputs: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The act: former attempts end, the new one begins, and why is stored."""
    attempts.cleared(ctx, t0, force=inputs.get("force", False))
    offered = inputs.get("requireAcceptance", False)
    task = attempts.given(ctx, t0, chosen.reader, chosen.verdict, offered=offered)
    policy = agreements.assigning(ctx, work.organization(t0.data["owner"]) or "")
    decision = ranking.decided(
        inputs["mode"], chosen.reader.reference, milliseconds(ctx.now), policy, attempts.asked(ctx, t0, states.READ), found, inputs.get("overrideReason"),
    )  # fmt: skip
    return {"task": task, "decision": recorded(ctx, decision, inputs.get("reason"))}


def _pooled(ctx: Context, t0: Item, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """To the centre itself: back to the pool, for its readers to claim."""
    attempts.cleared(ctx, t0, force=inputs.get("force", False))
    task = attempts.pooled(ctx, t0)
    attempts.stand(ctx, t0, attempts.unassigned(t0))
    policy = agreements.assigning(ctx, ctx.principal.organization)
    decision = ranking.decided("pool", t0.data["owner"]["reference"], milliseconds(ctx.now), policy)
    return {"task": task, "decision": recorded(ctx, decision, inputs.get("reason"))}


def assignable(ctx: Context, t0: Item) -> None:
    """Errors: 403, 409, 422."""
    roster.require_role(ctx, "dispatcher")
    if not work.is_coordination(t0.data):
        raise BusinessRule("Assign the coordination Task; a new attempt is made of it.", "Task.code")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("A reading is assigned by the organisation that was asked for it.")
    if t0.status not in _TAKES:
        raise Conflict(f"A reading that is {t0.status} is not assigned.")
    if coding.business_status(t0.data) == states.AWAITING_IMAGES:
        raise BusinessRule("The images are not complete yet.", "Task.businessStatus")
    if coding.business_status(t0.data) == states.FORWARDED:
        raise Conflict("The reading was forwarded; it is assigned where it went.")


def _named(ctx: Context, t0: Item, found: list[Candidate], inputs: Mapping[str, Any]) -> Candidate:
    """The reader that the dispatcher names, if no hard rule forbids it, and no soft one without a reason."""
    practitioner = roster.practitioner_of(ctx, inputs.get("owner"))
    if practitioner is None:
        raise BusinessRule("owner is the PractitionerRole or Practitioner that is to read.", "Parameters.parameter")
    chosen = next((c for c in found if c.reader.reference == practitioner), None) or _elsewhere(ctx, t0, practitioner)
    if not chosen.verdict.eligible:
        raise roster.refusal(chosen.verdict.failed)
    if inputs.get("override") and not inputs.get("overrideReason"):
        raise BusinessRule("An override needs its reason: overrideReason.", "Parameters.parameter")
    if chosen.verdict.soft and not inputs.get("override"):
        refused = roster.refusal(chosen.verdict.soft)
        text = f"{refused.diagnostics} Override it with a reason."
        raise BusinessRule(text, "Parameters.parameter", refused.details)
    return chosen


def _elsewhere(ctx: Context, t0: Item, practitioner: str) -> Candidate:
    """A reader without any privilege at the facility: refused, in words."""
    reader, verdict = attempts.judged(ctx, t0, practitioner, states.READ)
    return Candidate(reader, verdict, {}, 0.0)


def best(found: list[Candidate]) -> Candidate:
    """Errors: 422 where nobody may, or only against a soft rule."""
    if found and found[0].verdict.eligible and not found[0].verdict.soft:
        return found[0]
    raise BusinessRule("No reader may read this now.", "Task", (coding.ELIGIBILITY, "no-candidate"))


def recorded(ctx: Context, decision: Decision, reason: Any) -> Write:
    """The Provenance of the assignment, with the decision record as its source."""
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    binary = {"resourceType": "Binary", "id": "decision", "contentType": "application/gzip", "data": decision.packed()}
    extra = {"contained": [binary], "entity": [{"role": "source", "what": {"reference": "#decision"}}]}
    return audit.add(ctx, audit.provenance(ctx, targets, "assign", extra | ({"reason": [reason]} if reason else {})))


ASSIGN = Operation(
    code="assign",
    type="Task",
    levels=("instance",),
    title="Assign or reassign",
    affects_state=True,
    inputs=(
        Parameter("mode", "code", 1, documentation="manual | auto"),
        Parameter(
            "owner",
            "Reference",
            documentation="PractitionerRole or Practitioner; the centre: to its pool. Required when manual",
            targets=("PractitionerRole", "Practitioner", "Organization"),
        ),
        Parameter("requireAcceptance", "boolean", documentation="offer it rather than assign it"),
        Parameter("reason", "CodeableConcept"),
        Parameter("force", "boolean", documentation="take over a reading in progress"),
        Parameter("override", "boolean", documentation="soft rules only"),
        Parameter("overrideReason", "string", documentation="required with override"),
    ),
    outputs=(
        Parameter("task", "Task", 1, documentation="the new attempt"),
        Parameter("decision", "Provenance", 1, documentation="candidates, failed rules, scores, policy"),
    ),
    handler=operate,
    description="By a dispatcher of the fulfilling organisation. 409 being read; 412 stale; 422 with an eligibility-reason.",
)
