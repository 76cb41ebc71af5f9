"""Task/[id]/$candidates: who may read this, in what order, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fhirserver import agreements, attempts, roster, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Forbidden, Invalid
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds
from fhirserver.operations.parameters import Parts, Typed
from fhirserver.validation import instant
from fhirserver.workflow import coding, eligibility, ranking, states
from fhirserver.workflow.ranking import Candidate

_MOST = 1000


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    t0 = work.visible_item(ctx, "Task", inputs["id"])
    roster.require_role(ctx, "dispatcher")
    if not work.is_coordination(t0.data):
        raise BusinessRule("Candidates are of the coordination Task.", "Task.code")
    if work.organization(t0.data["owner"]) != ctx.principal.organization:
        raise Forbidden("Candidates are told to the organisation that was asked to read it.")
    if t0.status not in states.OPEN_TASK:
        raise BusinessRule(f"The reading is {t0.status}: nobody is asked any more.", "Task.status")
    most = inputs.get("max", _MOST)
    if not 1 <= most <= _MOST:
        raise Invalid(f"max is from 1 to {_MOST}.", "Parameters.parameter")
    if "asOf" in inputs:
        ctx = replace(ctx, now=timing.moment_of(inputs["asOf"]))
    policy = agreements.assigning(ctx, ctx.principal.organization)
    found = ranking.candidates(attempts.asked(ctx, t0, states.READ), roster.readers(ctx, t0), policy, milliseconds(ctx.now))
    rows = [_told(one) for one in found if one.verdict.eligible or inputs.get("includeIneligible", True)]
    return {"candidate": rows[:most], "policy": Typed("Canonical", policy.canonical)}


def _told(candidate: Candidate) -> Parts:
    reader, verdict = candidate.reader, candidate.verdict
    role = verdict.role or next((p.role for p in reader.privileges), None)
    shift = reader.shift
    return Parts(
        {
            "practitionerRole": Typed("Reference", {"reference": role}) if role else None,
            "practitioner": Typed("Reference", {"reference": reader.reference}),
            "eligible": verdict.eligible,
            "reason": reasons((*verdict.failed, *verdict.soft)),
            "score": Typed("Decimal", candidate.score),
            "load": Typed("Decimal", reader.load.now),
            "slot": Typed("Reference", {"reference": shift.slot}) if shift and shift.slot else None,
            "nextAvailable": _when(shift.next) if shift and shift.next and not shift.on else None,
            "expires": _when(verdict.expires) if verdict.expires is not None else None,
        }
    )


def reasons(codes: Iterable[str]) -> list[Typed]:
    """Each rule that failed, as a code with its words."""
    rows = ({"system": coding.ELIGIBILITY, "code": code, "display": eligibility.WORDS[code]} for code in codes)
    return [Typed("Coding", row) for row in rows]


def _when(milliseconds_: int) -> Typed:
    return Typed("DateTime", instant(timing.at(milliseconds_)))


CANDIDATES = Operation(
    code="candidates",
    type="Task",
    levels=("instance",),
    title="Who may read this, in what order, and why not the others",
    affects_state=False,
    inputs=(
        Parameter("asOf", "dateTime", documentation="judged as at this moment, with what is open now"),
        Parameter("max", "integer", documentation="how many are told, the best first"),
        Parameter("includeIneligible", "boolean", documentation="default true: with the reasons why not"),
    ),
    outputs=(
        Parameter(
            "candidate",
            "",
            max="*",
            parts=(
                Parameter("practitionerRole", "Reference"),
                Parameter("practitioner", "Reference", 1),
                Parameter("eligible", "boolean", 1),
                Parameter("reason", "Coding", max="*", documentation="eligibility-reason, hard rules before soft ones"),
                Parameter("score", "decimal", 1),
                Parameter("load", "decimal", 1, documentation="open readings"),
                Parameter("slot", "Reference", documentation="on duty by this Slot"),
                Parameter("nextAvailable", "dateTime"),
                Parameter("expires", "dateTime", documentation="when the licence or the privilege lapses"),
            ),
        ),
        Parameter("policy", "canonical", 1, documentation="the assignment policy and its version"),
    ),
    handler=operate,
    description="By a dispatcher of the owning organisation. Changes nothing. 403; 404; 422 the task is closed.",
)
