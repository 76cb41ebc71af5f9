"""Task/[id]/$assign: give a reading to a reader, or to the best one. The decision is stored with its candidates."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from fhirserver import audit, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid, LockError
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.dispatch import attempt
from fhirserver.validation import Document, dumps
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from fhirserver.workflow.ranking import Candidate, ranked, record

_TAKES = frozenset({"requested", "received", "accepted", "in-progress"})


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    t0 = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, t0.stored)
    _permitted(ctx, t0)
    if inputs["mode"] not in ("manual", "auto"):
        raise Invalid("mode is manual or auto.", "Parameters.parameter")
    if inputs["mode"] == "manual" and work.organization(inputs.get("owner")) == ctx.principal.organization:
        return _pooled(ctx, t0, inputs)
    candidates = [Candidate(p, work.verdict(ctx, p, t0), work.load(ctx, p, t0)) for p in work.readers(ctx, t0)]
    chosen = _named(ctx, t0, candidates, inputs) if inputs["mode"] == "manual" else _best(candidates)
    _clear(ctx, t0, force=inputs.get("force", False))
    task = _assigned(ctx, t0, chosen, requested=inputs.get("requireAcceptance", False))
    decision = record(candidates, chosen.reader, inputs["mode"], inputs.get("overrideReason"))
    return {"task": task, "decision": _stored(ctx, decision, inputs.get("reason"))}


def _pooled(ctx: Context, t0: Item, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """To the centre itself: back to the pool, for its readers to claim."""
    _clear(ctx, t0, force=inputs.get("force", False))
    task = attempt(ctx, t0, t0.data["owner"]["reference"], "requested")
    status = t0.status if t0.status == "in-progress" else "accepted"
    work.save(
        ctx,
        t0,
        t0.data
        | {
            "status": status,
            "businessStatus": work.business(states.READY_FOR_ASSIGNMENT),
            "lastModified": work.timestamp(ctx.now),
        },
    )
    decision = record([], t0.data["owner"]["reference"], "pool", None)
    return {"task": task, "decision": _stored(ctx, decision, inputs.get("reason"))}


def _permitted(ctx: Context, t0: Item) -> None:
    work.require_role(ctx, "dispatcher")
    if not work.is_coordination(t0.data):
        raise BusinessRule("Assign the coordination Task; a new attempt is made of it.", "Task.code")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("A reading is assigned by the organisation that was asked for it.")
    if t0.status not in _TAKES:
        raise Conflict(f"A reading that is {t0.status} is not assigned.")
    if coding.business_status(t0.data) == states.AWAITING_IMAGES:
        raise BusinessRule("The images are not complete yet.", "Task.businessStatus")


def _named(ctx: Context, t0: Item, candidates: list[Candidate], inputs: Mapping[str, Any]) -> Candidate:
    """The reader that the dispatcher names, if no hard rule forbids it, and no soft one without a reason."""
    owner = inputs.get("owner")
    practitioner = work.practitioner_of(ctx, owner)
    if practitioner is None:
        raise BusinessRule("owner is the PractitionerRole or Practitioner that is to read.", "Parameters.parameter")
    found = next((c for c in candidates if c.reader == practitioner), None) or Candidate(
        practitioner, work.verdict(ctx, practitioner, t0), 0
    )
    if not found.verdict.eligible:
        raise BusinessRule(
            f"This reader may not read this: {', '.join(found.verdict.failed)}.",
            "Parameters.parameter",
            (coding.ELIGIBILITY, found.verdict.failed[0]),
        )
    if found.verdict.soft and not (inputs.get("override") and inputs.get("overrideReason")):
        text = f"Against the rule {', '.join(found.verdict.soft)}; override it with a reason."
        raise BusinessRule(text, "Parameters.parameter", (coding.ELIGIBILITY, found.verdict.soft[0]))
    return found


def _best(candidates: list[Candidate]) -> Candidate:
    best = next((c for c in ranked(candidates) if c.verdict.eligible and not c.verdict.soft), None)
    if best is None:
        raise BusinessRule("No reader may read this.", "Task", (coding.ELIGIBILITY, "no-candidate"))
    return best


def _clear(ctx: Context, t0: Item, *, force: bool) -> None:
    """End the open attempts: before the start cancelled, after it failed, and then the report that was open is cancelled."""
    for old in work.open_attempts(ctx, t0):
        if old.status in ("in-progress", "on-hold") and not force:
            raise LockError("The reading is in progress; take it over with force.")
        end(ctx, old, "reassigned")


def end(ctx: Context, attempt: Item, reason: str, told: Document | None = None) -> Write:
    """An attempt that its owner no longer has; ``told``: the words that its end was sent in."""
    closed = told or attempt.data | {
        "status": states.released(attempt.status),
        "statusReason": coding.concept(coding.STATUS_REASON, reason),
        "lastModified": work.timestamp(ctx.now),
    }
    saved = work.save(ctx, attempt, closed)
    for row in attempt.data.get("output", ()):
        report = work.item(ctx, row.get("valueReference", {}).get("reference", ""))
        if report is not None and report.stored.type == "DiagnosticReport" and report.status == "registered":
            work.save(ctx, report, report.data | {"status": "cancelled"})
        elif report is not None and report.stored.type == "QuestionnaireResponse" and report.status == "in-progress":
            work.save(ctx, report, report.data | {"status": "stopped"})
    return saved


def _assigned(ctx: Context, t0: Item, chosen: Candidate, *, requested: bool) -> Write:
    assert chosen.verdict.role is not None
    task = attempt(ctx, t0, chosen.verdict.role, "requested" if requested else "accepted")
    business = states.AWAITING_ACCEPTANCE if requested else states.ASSIGNED
    status = t0.status if t0.status == "in-progress" else "accepted"
    work.save(
        ctx,
        t0,
        t0.data | {"status": status, "businessStatus": work.business(business), "lastModified": work.timestamp(ctx.now)},
    )
    return task


def _stored(ctx: Context, decision: dict[str, Any], reason: Any) -> Write:
    """The Provenance of the assignment, with the decision record as its source."""
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    binary = {
        "resourceType": "Binary",
        "id": "decision",
        "contentType": "application/json",
        "data": base64.b64encode(dumps(decision).encode()).decode(),
    }
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
        Parameter("owner", "Reference", documentation="PractitionerRole or Practitioner; required when manual"),
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
