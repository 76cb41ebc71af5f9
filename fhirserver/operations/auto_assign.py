"""Task/$auto-assign: assign what waits, by the policy; each reading in a transaction of its own, or none of them (dryRun)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fhirserver import access, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, Conflict, FHIRError, Invalid
from fhirserver.messages import Alone, Context, Request
from fhirserver.operations.assign import assignable, assigned, best, considered
from fhirserver.operations.parameters import Parts, Typed
from fhirserver.roster import Desk
from fhirserver.search.queue import Queue
from fhirserver.versions import Changes
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_MOST, _DEFAULT = 500, 100
_WAITING = (states.READY_FOR_ASSIGNMENT, states.PRELIMINARY)


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    roster.require_role(ctx, "dispatcher")
    most = inputs.get("max", _DEFAULT)
    if not 1 <= most <= _MOST:
        raise Invalid(f"max is from 1 to {_MOST}.", "Parameters.parameter")
    if ctx.alone is None:
        raise BadRequest("Each reading is assigned in a transaction of its own: this does not stand in one.")
    desk = roster.Desk()
    return {"result": [_one(ctx, ctx.alone, t0, desk, dry=inputs.get("dryRun", False)) for t0 in _waiting(ctx, inputs, most)]}


def _waiting(ctx: Context, inputs: Mapping[str, Any], most: int) -> Iterator[Item]:
    """The most urgent first: what was accepted, has its images and is nobody's."""
    queue = Queue(
        ctx.store.types["Task"],
        f"dispatch|Organization/{ctx.principal.organization}",
        tuple(
            frozenset(tags)
            for tags in (
                [f"business-status={coding.BUSINESS_STATUS}|{status}" for status in _WAITING],
                [f"~facility={one['reference']}" for one in inputs["organization"] if "reference" in one],
                [f"~modality={one.get('code')}" for one in inputs["modality"]],
                [f"priority={one}" for one in inputs["priority"]],
            )
            if tags
        ),
    )
    for stored in ctx.store.search(queue, access.visible(ctx.principal, queue.type, "u"), most):
        yield work.opened(ctx, stored)


def _one(ctx: Context, alone: Alone, t0: Item, desk: Desk, *, dry: bool) -> Parts:
    """Planned anew on what the former ones left, and committed; what cannot be assigned says why, and holds up nothing."""

    def plan(fresh: Context) -> Any:
        current = work.item(fresh, t0.reference) or t0
        assignable(fresh, current)
        if coding.business_status(current.data) not in _WAITING:
            raise Conflict("Somebody else has dealt with it meanwhile.")
        found = considered(fresh, current, desk)
        chosen = best(found)
        assigned(fresh, current, found, chosen, {"mode": "auto"})
        return chosen

    try:
        chosen = plan(replace(ctx, changes=Changes())) if dry else alone(plan)
    except FHIRError as error:
        return Parts({"task": _reference(t0), "outcome": Typed("Code", "refused"), "issue": error.outcome()})
    if not dry:
        desk.gave(chosen.reader.reference, t0.data.get("priority", "routine"), work.facility_of(t0))
    return Parts(
        {
            "task": _reference(t0),
            "owner": Typed("Reference", {"reference": chosen.verdict.role}),
            "score": Typed("Decimal", chosen.score),
            "outcome": Typed("Code", "simulated" if dry else "assigned"),
        }
    )


def _reference(t0: Item) -> Typed:
    return Typed("Reference", {"reference": t0.reference})


AUTO_ASSIGN = Operation(
    code="auto-assign",
    type="Task",
    levels=("type",),
    title="Assign what waits, by policy",
    affects_state=True,
    inputs=(
        Parameter(
            "organization", "Reference", max="*", documentation="ordering facilities; none: all", targets=("Organization",)
        ),
        Parameter("modality", "Coding", max="*"),
        Parameter("priority", "code", max="*"),
        Parameter("max", "integer", documentation=f"how many at most, from 1 to {_MOST}; default {_DEFAULT}"),
        Parameter("dryRun", "boolean", documentation="tell what would be done, and do nothing"),
    ),
    outputs=(
        Parameter(
            "result",
            "",
            max="*",
            parts=(
                Parameter("task", "Reference", 1, documentation="the coordination Task"),
                Parameter("owner", "Reference", documentation="the PractitionerRole that has it now"),
                Parameter("score", "decimal"),
                Parameter("outcome", "code", 1, documentation="assigned | simulated | refused"),
                Parameter("issue", "OperationOutcome", documentation="why it was refused"),
            ),
        ),
    ),
    handler=operate,
    description="By a dispatcher. Each reading is assigned by itself: what is refused is told in its result, with HTTP 200. 403; 422.",
)
