"""Task/[id]/$request-information: ask the facility something. Its answer is a Communication in response, which goes on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fhirserver import agreements, attempts, contacts, roster, timing, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.task_status import waiting
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if not work.is_coordination(task.data):
        attempts.kind_of(task.data)
    _permitted(ctx, task)
    t0 = task if work.is_coordination(task.data) else work.coordination_of(ctx, task.data)
    order = work.order_of(ctx, t0.data)
    asked = _asked(ctx, task, order, inputs)
    if inputs.get("blocking"):
        _waits(ctx, task, asked.reference)
    return {"return": asked}


def _permitted(ctx: Context, task: Item) -> None:
    if not ctx.principal.acts_as("dispatcher") or ctx.principal.organization != _fulfiller(task):
        caller = roster.require_reader(ctx)
        if roster.practitioner_of(ctx, task.data.get("owner")) != caller:
            raise Forbidden("The facility is asked by the reader who has the reading, or by a dispatcher.")
    if task.status not in states.OPEN_TASK:
        raise Conflict(f"Nothing is asked about a reading that is {task.status}.")


def _fulfiller(task: Item) -> str | None:
    return work.organization(task.data["owner"]) if work.is_coordination(task.data) else task.stored.owner


def _asked(ctx: Context, task: Item, order: Item, inputs: Mapping[str, Any]) -> Write:
    centre, facility = ctx.principal.organization, order.stored.owner
    people = inputs["recipient"] or [contacts.ladder(ctx, order, centre)[0].document()]
    made = work.make(
        ctx,
        {
            "resourceType": "CommunicationRequest",
            "basedOn": [{"reference": order.reference}],
            "status": "active",
            "category": [coding.concept("urn:fhirserver:CodeSystem:communication-category", "information-request")],
            "priority": task.data.get("priority", "routine"),
            "subject": order.data["subject"],
            "about": [{"reference": task.reference}],
            "payload": [{"contentString": inputs["question"]}],
            "authoredOn": work.timestamp(ctx.now),
            "requester": {"reference": f"Organization/{centre}"},
            "recipient": [one for one in people if "reference" in one] or [{"reference": f"Organization/{facility}"}],
            "sender": {"reference": f"Organization/{centre}"},
            **({"occurrenceDateTime": inputs["due"]} if "due" in inputs else {}),
        },
        centre,
    )
    if facility != centre:
        made.grants.append(Grant(order.reference, f"org/{facility}").document())
    return made


def _waits(ctx: Context, task: Item, question: str) -> None:
    """The reading waits for this answer, and its clock with it where that was agreed."""
    named = work.with_input(task.data, "question", {"reference": question})
    if work.is_coordination(task.data):
        raise Conflict("A reading waits when somebody reads it; ask without blocking.")
    if task.status != "in-progress":
        raise Conflict(f"The reading is {task.status}; only one in progress waits for an answer.")
    waiting(ctx, task, task.data | {"status": "on-hold", "input": named, "lastModified": work.timestamp(ctx.now)})


def answers(ctx: Context, question: Item, owner: str) -> bool:
    """Whether a Communication of this organisation is the answer to the question."""
    asked = coding.codes(question.data["category"][0]) if question.data.get("category") else set()
    order = work.item(ctx, question.data.get("basedOn", [{}])[0].get("reference", ""))
    return "information-request" in asked and question.status == "active" and order is not None and order.stored.owner == owner


def answered(ctx: Context, question: Item, said: Write) -> None:
    """The question is closed, who asked reads the answer, and what waited for it goes on."""
    work.save(ctx, question, question.data | {"status": "completed"})
    order = question.data["basedOn"][0]["reference"]
    if question.stored.owner != said.owner:
        said.grants.append(Grant(order, f"org/{question.stored.owner}").document())
    attempt = work.item(ctx, question.data["about"][0]["reference"])
    if attempt is None or attempt.status != "on-hold" or not work.is_attempt(attempt.data):
        return
    if question.reference not in {one.get("reference") for one in work.inputs(attempt.data, "question")}:
        return
    t0 = work.coordination_of(ctx, attempt.data)
    until = ctx.now + timedelta(minutes=agreements.assigning(ctx, attempt.stored.owner).lease_minutes)
    leased = work.with_input(attempt.data, "lease-until", work.timestamp(until))
    going = attempt.data | {"status": "in-progress", "input": leased, "lastModified": work.timestamp(ctx.now)}
    work.save(ctx, attempt, timing.timed(going, until))
    attempts.stand(ctx, Item(t0.stored, attempts.resumed(ctx, t0)), attempts.standing(ctx, t0))


REQUEST_INFORMATION = Operation(
    code="request-information",
    type="Task",
    levels=("instance",),
    title="Ask the orderer something",
    affects_state=True,
    inputs=(
        Parameter("question", "string", 1),
        Parameter(
            "recipient",
            "Reference",
            max="*",
            documentation="else the requesting doctor, or the facility",
            targets=contacts.REACHABLE,
        ),
        Parameter("blocking", "boolean", documentation="the reading waits for the answer, and its clock where that is agreed"),
        Parameter("due", "dateTime"),
    ),
    outputs=(Parameter("return", "CommunicationRequest", 1),),
    handler=operate,
    description="By its reader or a dispatcher. A Communication based on it, by the facility, is the answer. 403; 409 closed.",
)
