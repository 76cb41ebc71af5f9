"""Task/[id]/$submit-second-read: the second reader's answers, or the arbiter's. Where they differ, arbitration is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import attempts, closing, reporting, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.parameters import Typed
from fhirserver.operations.request_second_read import second
from fhirserver.reporting import Answered
from fhirserver.validation import Document
from fhirserver.work import Item
from fhirserver.workflow import coding, contract, states


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    kind = attempts.kind_of(attempt.data)
    if kind == states.READ:
        raise BusinessRule("The first reading is closed by signing its report.", "Task.code")
    caller = roster.require_owner(ctx, attempt, "A second reading is submitted")
    if attempt.status != "in-progress":
        raise Conflict(f"The reading is {attempt.status}; start it with $claim.")
    t0 = work.coordination_of(ctx, attempt.data)
    _, verdict = attempts.judged(ctx, t0, caller, states.READ, "final")
    if not verdict.eligible:
        raise roster.not_eligible(verdict.failed)
    row = Answered(attempt, t0, work.order_of(ctx, attempt.data))
    reporting.seen(ctx, row)
    drafts = work.outputs(ctx, attempt.data, "draft")
    if not drafts:
        raise Conflict("The reading has no draft; open it with $start-report.")
    said = reporting.response(ctx, drafts[-1], inputs.get("response"))
    wanted = reporting.template(ctx, attempt, t0)
    if wrong := contract.failures(wanted, said, next(iter(work.inputs(t0.data, "report-language")), None)):
        raise BusinessRule("The reading does not give what the facility asked for.", issues=wrong)
    answered = work.save(ctx, drafts[-1], said, sealed=True)
    done = closing.attempt(ctx, row, answered.reference)
    differing = _differing(ctx, t0, wanted, said) if kind == states.SECOND_READ else []
    if differing or (kind == states.SECOND_READ and inputs.get("agreement") is False):
        if not work.open_attempts(ctx, t0, states.ARBITRATION):
            second(ctx, t0, states.ARBITRATION, {"blind": False})
    elif coding.business_status(t0.data) == states.AWAITING_SECOND_READ and not _awaited(ctx, t0):
        attempts.stand(ctx, t0, attempts.standing(ctx, t0))
    return {"task": done, "differing": [Typed("String", link) for link in differing]}


def _awaited(ctx: Context, t0: Item) -> bool:
    """Whether another second reading, or an arbitration, is open still."""
    return any(work.open_attempts(ctx, t0, kind) for kind in (states.SECOND_READ, states.ARBITRATION))


def _differing(ctx: Context, t0: Item, wanted: Document, said: Document) -> list[str]:
    """Coded answers that differ from what the first reader has given already: in the preliminary report."""
    first = work.outputs(ctx, t0.data, "preliminary-response")
    return contract.disagreements(wanted, first[-1].data, said) if first else []


SUBMIT_SECOND_READ = Operation(
    code="submit-second-read",
    type="Task",
    levels=("instance",),
    title="Submit a second reading",
    affects_state=True,
    inputs=(
        Parameter("response", "QuestionnaireResponse", documentation="the answers; else the saved draft's"),
        Parameter("agreement", "boolean", documentation="false: the first reading is disagreed with; arbitration is asked for"),
    ),
    outputs=(
        Parameter("task", "Task", 1, documentation="completed"),
        Parameter(
            "differing", "string", max="*", documentation="the items whose coded answers differ from the preliminary report's"
        ),
    ),
    handler=operate,
    description="By the second reader or the arbiter. 403; 409 not in progress; 422 with each contract item that is not met.",
)
