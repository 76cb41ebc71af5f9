"""Patient/[id]/$break-glass: in an emergency, see a record that the patient has restricted; with a reason, for a while, and reviewed.

https://hl7.org/fhir/R4/security.html#break-the-glass
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from fhirserver import access, audit, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Forbidden, Gone, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.resources.consent import SIGNAL
from fhirserver.workflow import coding

_MINUTES, _MOST = 60, 240
_SHORTEST = 10
EMERGENCY_TREATMENT = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "BTG",
    "display": "break the glass",
}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The review's Task. What access lists hide stays hidden: an emergency overrides the patient's restriction alone."""
    principal = ctx.principal
    if (
        principal.user is None
        or principal.practitioner is None
        or not principal.roles & {"reader", "trainee", "referrer", "dispatcher"}
    ):
        raise Forbidden("The glass is broken by a person who treats or reads: a token for a user with a Practitioner.")
    opened = replace(ctx, principal=replace(principal, withheld=frozenset()))
    patient = access.found(opened, ctx.store.types["Patient"], inputs["id"], "r")
    if patient.deleted:
        raise Gone("This Patient was deleted.")
    check_if_match(request, patient)
    if patient.reference not in principal.withheld:
        raise Conflict("This record is not restricted for you: there is no glass to break.")
    reason, minutes = inputs["reason"].strip(), inputs.get("minutes", _MINUTES)
    if len(reason) < _SHORTEST:
        raise Invalid(f"Say why, in {_SHORTEST} characters at least: the quality office reads it.", "Parameters.parameter")
    if not 1 <= minutes <= _MOST:
        raise Invalid(f"minutes is from 1 to {_MOST}.", "Parameters.parameter")
    until = ctx.now + timedelta(minutes=minutes)
    who = f"Practitioner/{principal.practitioner}"
    task = {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": coding.concept(coding.TASK_TYPE, coding.EMERGENCY),
        "description": "Review of an emergency access to a restricted record",
        "for": {"reference": patient.reference},
        "authoredOn": work.timestamp(ctx.now),
        "requester": {"reference": who},
        "owner": {"reference": f"Organization/{patient.owner}"},
        "reasonCode": {"coding": [EMERGENCY_TREATMENT], "text": reason},
        "restriction": {"period": {"start": work.timestamp(ctx.now), "end": work.timestamp(until)}},
    }
    # The reviewers, here and at the patient's facility; who broke the glass sees it too.
    readers = [
        f"role/{role}@org/{org}" for org in (principal.organization, patient.owner) for role in ("quality", "administrator")
    ]
    mine = f"practitioner/{principal.practitioner}@org/{principal.organization}"
    made = work.make(opened, task, patient.owner, list(dict.fromkeys([*readers, mine])))
    target = f"{made.reference}/_history/{made.version}"
    reasons = {"reason": [{"coding": [EMERGENCY_TREATMENT], "text": reason}]}
    audit.add(ctx, audit.provenance(ctx, [target], "break-glass", reasons), [*readers, mine])
    ctx.changes.signals.add(SIGNAL)
    ctx.changes.touched.append(patient.touched)  # the facility's log tells of the emergency, the review is for the few
    return {"return": made}


BREAK_GLASS = Operation(
    code="break-glass",
    type="Patient",
    levels=("instance",),
    title="Emergency access to a restricted record",
    affects_state=True,
    inputs=(
        Parameter("reason", "string", 1, documentation="why, for the review"),
        Parameter("minutes", "integer", documentation=f"1 to {_MOST}, default {_MINUTES}"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="the review"),),
    handler=operate,
    description="By a person who treats or reads. 403; 404 hidden by access lists; 409 the record is not restricted for them.",
    own_reach=True,
)
