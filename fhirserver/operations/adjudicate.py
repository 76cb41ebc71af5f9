"""Task/[id]/$adjudicate: the quality lead decides; the author is told, the reviewer stays unnamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import quality, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.workflow import coding

DECISIONS, ACTIONS = ("uphold", "change", "dismiss"), ("addendum", "correct", "learning", "none")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    task = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, task.stored)
    if not work.is_a(task.data, "adjudicate"):
        raise BusinessRule("This Task is no adjudication.", "Task.code")
    if ctx.principal.user is None or not ctx.principal.acts_as("quality"):
        raise Forbidden("Reviews are adjudicated by a person in the role of quality.")
    if inputs["decision"] not in DECISIONS:
        raise Invalid(f"decision is one of {', '.join(DECISIONS)}.", "Parameters.parameter")
    if unknown := [one for one in inputs["action"] if one not in ACTIONS]:
        raise Invalid(f"action is one of {', '.join(ACTIONS)}, not {unknown[0][:20]}.", "Parameters.parameter")
    if task.status != "requested":
        raise Conflict(f"An adjudication that is {task.status} is not made again.")
    case = quality.case_of(ctx, task)
    report = quality.report_of(ctx, case)
    if quality.author(ctx, report) == f"Practitioner/{ctx.principal.practitioner}":
        raise Forbidden("Nobody decides about their own report.")
    final = _final(task, inputs)
    outputs = [work.entry("score", final), work.entry("category", inputs["decision"])]
    outputs += [work.entry("comment", text) for text in work.inputs(task.data, "comment")]
    done = quality.closed(ctx, task, outputs)
    quality.closed(ctx, case, outputs)
    quality.counted(ctx, report, final["code"])
    if inputs["decision"] != "dismiss":
        quality.feedback(ctx, report, outputs, [one for one in inputs["action"] if one != "none"])
    return {"return": done}


def _final(task: work.Item, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The reviewer's score; another where it is changed; none of it where it is dismissed."""
    given: dict[str, Any] = next(iter(work.inputs(task.data, "score")), {"system": coding.RADPEER, "code": "1"})
    if inputs["decision"] == "dismiss":
        return {"system": coding.RADPEER, "code": "1"}
    if inputs["decision"] == "uphold":
        return given
    code = inputs.get("score", {}).get("code")
    if code not in quality.RADPEER:
        raise BusinessRule(f"A change names the score: one of {', '.join(quality.RADPEER)}.", "Parameters.parameter")
    return {"system": coding.RADPEER, "code": code}


ADJUDICATE = Operation(
    code="adjudicate",
    type="Task",
    levels=("instance",),
    title="Decide on a review",
    affects_state=True,
    inputs=(
        Parameter("decision", "code", 1, documentation=" | ".join(DECISIONS)),
        Parameter("score", "Coding", documentation="required with change"),
        Parameter("action", "code", max="*", documentation=" | ".join(ACTIONS)),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By the quality lead, who is not the author. 403; 409 decided already; 422 a change without a score.",
)
