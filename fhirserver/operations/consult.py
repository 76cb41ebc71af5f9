"""Task/[id]/$consult: ask a colleague during a reading. They see the order and its images until they have answered."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fhirserver import attempts, quality, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.operations.task_status import waiting
from fhirserver.sharing import share
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, narrative

_SIGHT = timedelta(days=7)  # of a consultant elsewhere, where no deadline is named


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    attempts.kind_of(attempt.data)
    caller = roster.require_owner(ctx, attempt, "A colleague is asked")
    if attempt.status != "in-progress":
        raise Conflict(f"The reading is {attempt.status}; start it with $claim.")
    if inputs.get("mode", "async") not in ("async", "live"):
        raise Invalid("mode is async or live.", "Parameters.parameter")
    if "due" in inputs and span(inputs["due"])[0] <= milliseconds(ctx.now):
        raise BusinessRule("due is in the past.", "Parameters.parameter")
    people = [_person(ctx, one, caller, number) for number, one in enumerate(inputs["recipient"])]
    tasks = [_asked(ctx, attempt, person, inputs) for person in people]
    if inputs.get("blocking"):
        waiting(ctx, attempt, attempt.data | {"status": "on-hold", "lastModified": work.timestamp(ctx.now)})
    return {"task": tasks}


def _person(ctx: Context, reference: Document, caller: str, number: int) -> tuple[str, str, str]:
    """(Practitioner, what their Task is owned as, their organisation). Errors: 422."""
    where = f"Parameters.parameter.where(name='recipient')[{number}]"
    practitioner = roster.practitioner_of(ctx, reference)
    person = work.item(ctx, practitioner) if practitioner else None
    if person is None or practitioner is None:
        raise BusinessRule("recipient is a PractitionerRole or Practitioner.", where)
    if practitioner == caller:
        raise BusinessRule("A colleague is somebody else.", where)
    return practitioner, reference["reference"], person.stored.owner


def _asked(ctx: Context, attempt: Item, person: tuple[str, str, str], inputs: Mapping[str, Any]) -> Write:
    practitioner, owner, organization = person
    order = work.order_of(ctx, attempt.data)
    rows = [work.entry("blocking", inputs.get("blocking", False))]
    if inputs.get("shareDraft"):
        rows += [work.entry("draft-text", text) for text in draft_text(ctx, attempt)]
    until = milliseconds(ctx.now + _SIGHT) if "due" not in inputs else span(inputs["due"])[1] + 86_400_000
    made = work.make(
        ctx,
        {
            "resourceType": "Task",
            "groupIdentifier": attempt.data["groupIdentifier"],
            "partOf": [{"reference": attempt.reference}],
            "status": "requested",
            "intent": "order",
            "priority": attempt.data.get("priority", "routine"),
            "code": coding.concept(coding.TASK_TYPE, "consult"),
            "description": inputs["question"],
            "focus": attempt.data["focus"],
            "basedOn": attempt.data.get("basedOn", []),
            "for": attempt.data["for"],
            "authoredOn": work.timestamp(ctx.now),
            "lastModified": work.timestamp(ctx.now),
            "requester": attempt.data["owner"],
            "owner": {"reference": owner},
            "input": rows,
            **({"restriction": {"period": {"end": inputs["due"]}}} if "due" in inputs else {}),
        },
        attempt.stored.owner,
    )
    if organization != attempt.stored.owner:  # one person elsewhere sees it, for as long as they are asked
        key = quality.personal(organization, practitioner)
        made.grants.append(Grant(made.reference, key, until).document())
        share(ctx, order, key, until, made.reference)
    return made


def draft_text(ctx: Context, attempt: Item) -> list[str]:
    """The draft as it is now, in lines."""
    drafts = [one for one in work.outputs(ctx, attempt.data, "draft") if any(narrative.lines(one.data))]
    return ["\n".join(f"{heading}: {told}" for _, heading, told in narrative.lines(drafts[-1].data))] if drafts else []


CONSULT = Operation(
    code="consult",
    type="Task",
    levels=("instance",),
    title="Ask a colleague during a reading",
    affects_state=True,
    inputs=(
        Parameter("question", "string", 1),
        Parameter(
            "recipient",
            "Reference",
            1,
            "*",
            documentation="PractitionerRole or Practitioner",
            targets=("PractitionerRole", "Practitioner"),
        ),
        Parameter("mode", "code", documentation="async | live"),
        Parameter("shareDraft", "boolean", documentation="with the text of the draft as it is now"),
        Parameter("blocking", "boolean", documentation="the reading waits for the answer"),
        Parameter("due", "dateTime"),
    ),
    outputs=(Parameter("task", "Task", 1, "*", documentation="one for each who is asked"),),
    handler=operate,
    description="By the reader whose reading is in progress. 403; 409 not in progress; 422 nobody to ask.",
)
