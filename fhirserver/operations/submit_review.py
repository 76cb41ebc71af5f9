"""Task/[id]/$submit-review: score a report. What is likely to matter goes to arbitration before anybody is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import quality, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.workflow import coding

SCALES = ("radpeer", "rcr", "local")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    review = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, review.stored)
    if not work.is_a(review.data, "peer-review"):
        raise BusinessRule("This Task is no peer review.", "Task.code")
    caller = roster.require_reader(ctx)
    case = quality.case_of(ctx, review)
    report = quality.report_of(ctx, case)
    if roster.practitioner_of(ctx, review.data["owner"]) != caller:
        raise Forbidden("A review is submitted by its reviewer.")
    if quality.author(ctx, report) == caller:
        raise Forbidden("Nobody reviews their own report.")
    if review.status != "requested":
        raise Conflict(f"A review that is {review.status} is not submitted again.")
    score = _score(inputs)
    outputs = [work.entry("score", score)]
    outputs += [work.entry("category", one["code"]) for one in inputs["category"] if "code" in one]
    outputs += [work.entry("comment", inputs["comment"])] if inputs.get("comment") else []
    outputs += [work.entry("learning-point", True)] if inputs.get("learningPoint") else []
    done = quality.closed(ctx, review, outputs)
    if inputs["scale"] == "radpeer" and score["code"] in quality.ARBITRATED:
        _to_arbitration(ctx, case.reference, report.stored.owner, outputs)
    else:
        _ended(ctx, case, report, outputs, score["code"])
    return {"return": done}


def _score(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Errors: 422 for a score that the scale does not have, or one that says nothing of why."""
    scale, score = inputs["scale"], inputs["score"]
    if scale not in SCALES:
        raise Invalid(f"scale is one of {', '.join(SCALES)}.", "Parameters.parameter")
    code = score.get("code")
    known = {"radpeer": quality.RADPEER, "rcr": quality.RCR}.get(scale)
    if not code or (known and code not in known):
        told = f"one of {', '.join(known)}" if known else "a code"
        raise BusinessRule(f"score is {told}.", "Parameters.parameter")
    if scale == "radpeer" and code != "1" and not inputs.get("comment"):
        raise BusinessRule("A score other than 1 says why: comment.", "Parameters.parameter")
    return {
        "system": coding.RADPEER if scale == "radpeer" else score.get("system", f"urn:fhirserver:CodeSystem:{scale}"),
        "code": code,
    }


def _to_arbitration(ctx: Context, case: str, organization: str, outputs: list[dict[str, Any]]) -> None:
    quality.made(
        ctx,
        "adjudicate",
        {"reference": f"Organization/{organization}"},
        quality.office(organization),
        organization,
        partOf=[{"reference": case}],
        input=outputs,
    )


def _ended(ctx: Context, case: work.Item, report: work.Item, outputs: list[dict[str, Any]], score: str) -> None:
    """The author learns of it, and not from whom."""
    quality.closed(ctx, case, outputs)
    quality.feedback(ctx, report, outputs)
    quality.counted(ctx, report, score)


SUBMIT_REVIEW = Operation(
    code="submit-review",
    type="Task",
    levels=("instance",),
    title="Score a report",
    affects_state=True,
    inputs=(
        Parameter("scale", "code", 1, documentation=" | ".join(SCALES)),
        Parameter("score", "Coding", 1, documentation=f"radpeer: {', '.join(quality.RADPEER)}"),
        Parameter("category", "Coding", max="*", documentation="perceptual, interpretive, communication, procedural …"),
        Parameter("comment", "markdown", documentation="required for a score other than 1"),
        Parameter("learningPoint", "boolean"),
    ),
    outputs=(Parameter("return", "Task", 1),),
    handler=operate,
    description="By its reviewer, who is not the author. RADPEER 2b, 3a, 3b go to adjudication first. 403; 409; 422.",
)
