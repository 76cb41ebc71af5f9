"""Task/[id]/$answer-consult: give the opinion. What was opened for it closes again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fhirserver import agreements, audit, roster, telling, timing, work
from fhirserver.attempts import resumed, stand
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds
from fhirserver.sharing import withdraw
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if not work.is_a(task.data, "consult"):
        raise BusinessRule("This Task is no consultation.", "Task.code")
    caller = f"Practitioner/{ctx.principal.practitioner}"
    if ctx.principal.practitioner is None or roster.practitioner_of(ctx, task.data["owner"]) != caller:
        raise Forbidden("An opinion is given by who was asked for it.")
    if task.status != "requested":
        raise Conflict(f"A consultation that is {task.status} is not answered again.")
    attempt = work.item(ctx, task.data["partOf"][0]["reference"])
    said = telling.tell(
        ctx,
        "consultation",
        inputs["opinion"],
        [attempt.data["owner"]] if attempt else [],
        [task.data["focus"]["reference"], task.reference],
        task.stored.owner,
        subject=task.data["for"],
        sender={"reference": caller},
    )
    done = work.save(
        ctx,
        task,
        task.data
        | {
            "status": "completed",
            "output": [work.entry("communication", {"reference": said.reference})],
            "executionPeriod": {"start": task.data["authoredOn"], "end": work.timestamp(ctx.now)},
            "lastModified": work.timestamp(ctx.now),
        },
    )
    for key in sorted({grant["key"] for grant in task.stored.grants}):
        withdraw(ctx, task.reference, key)
        ctx.changes.share("Task", task.stored.id, Grant(task.reference, key, milliseconds(ctx.now)), None)
    if attempt is not None:
        _back(ctx, attempt, task)
        if inputs.get("attribution"):
            _named(ctx, attempt, caller)
    return {"return": done}


def _back(ctx: Context, attempt: Item, task: Item) -> None:
    """A reading that waited for this answer goes on, with a lease that its reader renews."""
    if attempt.status != "on-hold" or True not in work.inputs(task.data, "blocking"):
        return
    t0 = work.coordination_of(ctx, attempt.data)
    until = ctx.now + timedelta(minutes=agreements.assigning(ctx, attempt.stored.owner).lease_minutes)
    leased = work.with_input(attempt.data, "lease-until", work.timestamp(until))
    going = attempt.data | {"status": "in-progress", "input": leased, "lastModified": work.timestamp(ctx.now)}
    work.save(ctx, attempt, timing.timed(going, until))
    stand(ctx, Item(t0.stored, resumed(ctx, t0)), states.READING)


def _named(ctx: Context, attempt: Item, caller: str) -> None:
    """Who is named in the report: an agent of its Provenance."""
    for report in work.outputs(ctx, attempt.data, "report"):
        agent = {"type": {"text": "consultant"}, "who": {"reference": caller}}
        proof = audit.provenance(ctx, [f"{report.reference}/_history/{report.stored.version}"], "consult")
        readers = dict.fromkeys(
            (report.stored.owner, work.order_of(ctx, attempt.data).stored.owner)
        )  # and not the consultant's
        audit.add(ctx, proof | {"agent": [*proof["agent"], agent]}, [f"org/{reader}" for reader in readers])


ANSWER_CONSULT = Operation(
    code="answer-consult",
    type="Task",
    levels=("instance",),
    title="Give the opinion",
    affects_state=True,
    inputs=(
        Parameter("opinion", "markdown", 1),
        Parameter("attribution", "boolean", documentation="name me in the report's Provenance"),
    ),
    outputs=(Parameter("return", "Task", 1, documentation="completed, with the Communication as its output"),),
    handler=operate,
    description="By who was asked. 403; 409 answered already.",
)
