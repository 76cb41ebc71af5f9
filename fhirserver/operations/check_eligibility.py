"""Practitioner/[id]/$check-eligibility: may this reader read this, and until when?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import agreements, attempts, roster, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, BusinessRule
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.operations.candidates import reasons
from fhirserver.operations.parameters import Typed
from fhirserver.validation import instant
from fhirserver.workflow import states
from fhirserver.workflow.eligibility import Reading, judge


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    person = work.visible_item(ctx, "Practitioner", inputs["id"])
    roster.require_role(ctx, "dispatcher", "administrator")
    now = span(inputs["asOf"])[0] if "asOf" in inputs else milliseconds(ctx.now)
    named = [name for name in ("organization", "modality", "readType") if name in inputs]
    if ("task" in inputs) == bool(named):
        raise BadRequest("Give either task, or organization with modality and readType.", "Parameters.parameter")
    if "task" in inputs:
        reading, found = _of_a_task(ctx, person.reference, inputs["task"])
    else:
        facility = work.organization(inputs.get("organization"))
        if facility is None:
            raise BadRequest("organization is the ordering facility: Organization/id.", "Parameters.parameter")
        codes = (inputs["modality"]["code"],) if inputs.get("modality", {}).get("code") else ()
        centre = ctx.principal.organization
        agreed = agreements.between(ctx, facility, centre).terms
        reading = Reading(facility, codes, inputs.get("readType", "final"), jurisdiction=agreed.jurisdiction)
        found = roster.known(ctx, person.reference, centre, facility)
    if found is None:
        return {"eligible": False, "reason": reasons(["no-such-reader"])}
    verdict = judge(reading, found, now)
    expires = Typed("DateTime", instant(timing.at(verdict.expires))) if verdict.expires is not None else None
    return {
        "eligible": verdict.eligible,
        "reason": reasons((*verdict.failed, *verdict.soft)),
        **({"expires": expires} if expires else {}),
    }


def _of_a_task(ctx: Context, practitioner: str, reference: Mapping[str, Any]) -> Any:
    task = work.item(ctx, reference.get("reference", ""))
    if task is None or task.stored.type != "Task":
        raise BusinessRule("task is a Task of a reading.", "Parameters.parameter")
    t0 = task if work.is_coordination(task.data) else work.coordination_of(ctx, task.data)
    kind = states.READ if work.is_coordination(task.data) else attempts.kind_of(task.data)
    return attempts.asked(ctx, t0, kind), roster.reader(ctx, practitioner, t0)


CHECK_ELIGIBILITY = Operation(
    code="check-eligibility",
    type="Practitioner",
    levels=("instance",),
    title="May this reader read this?",
    affects_state=False,
    inputs=(
        Parameter("task", "Reference", documentation="or the three that follow", targets=("Task",)),
        Parameter("organization", "Reference", documentation="the ordering facility", targets=("Organization",)),
        Parameter("modality", "Coding"),
        Parameter("readType", "code", documentation="preliminary | final; default final"),
        Parameter("asOf", "dateTime"),
    ),
    outputs=(
        Parameter("eligible", "boolean", 1),
        Parameter("reason", "Coding", max="*", documentation="eligibility-reason"),
        Parameter("expires", "dateTime", documentation="the first of licence and privilege to lapse"),
    ),
    handler=operate,
    description="By a dispatcher or an administrator. Changes nothing. 400 neither a task nor a facility; 404.",
)
