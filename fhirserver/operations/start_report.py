"""Task/[id]/$start-report: open a report. It is registered and empty; the draft is its author's alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.dispatch import questionnaire
from fhirserver.resources.questionnaire_response import DRAFTS
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    caller = work.require_reader(ctx)
    t0 = work.coordination_of(ctx, attempt.data)
    if work.practitioner_of(ctx, attempt.data.get("owner")) != caller:
        raise Forbidden("A report is opened by the reader who has the reading.")
    if attempt.status != "in-progress":
        raise Conflict(f"The reading is {attempt.status}; start it with $claim.")
    if opened := _opened(ctx, attempt):
        return opened
    _alone(ctx, t0, attempt)
    template = _template(ctx, t0, inputs.get("template"))
    report = _report(ctx, t0, attempt)
    draft = _draft(ctx, attempt, template, caller, report)
    outputs = [work.entry(kind, {"reference": made.reference}) for kind, made in (("report", report), ("draft", draft))]
    opened = attempt.data | {"output": [*attempt.data.get("output", ()), *outputs]}
    if template[0]:  # the contract is the attempt's, not the draft's: the reader writes that
        opened["input"] = work.with_input(attempt.data, "template", template[0])
    work.save(ctx, attempt, opened)
    return {"report": report, "draft": draft}


def _opened(ctx: Context, attempt: Item) -> dict[str, Any] | None:
    """Called again, it gives the same report."""
    found = [
        work.item(ctx, row["valueReference"]["reference"]) for row in attempt.data.get("output", ()) if "valueReference" in row
    ]
    kinds = {one.stored.type: one.stored for one in found if one}
    if "DiagnosticReport" in kinds and "QuestionnaireResponse" in kinds:
        return {"report": kinds["DiagnosticReport"], "draft": kinds["QuestionnaireResponse"]}
    return None


def _alone(ctx: Context, t0: Item, attempt: Item) -> None:
    mine = (attempt.stored.owner,)
    asked = (("based-on", t0.data["focus"]["reference"]), ("status", "registered,preliminary"))
    for report in work.items(ctx, mine, "DiagnosticReport", *asked):
        if any(i.get("system") == work.REPORTS for i in report.data.get("identifier", ())):
            raise Conflict("A report is open under another attempt.")


def _template(ctx: Context, t0: Item, wanted: str | None) -> tuple[str | None, Document]:
    """The Questionnaire to answer: one that the facility allows, its first by default, free text where it names none."""
    allowed = work.inputs(t0.data, "report-template")
    if wanted and wanted not in allowed:
        raise BusinessRule("The template is not one that the facility allows for this order.", "Parameters.parameter")
    canonical = wanted or next(iter(allowed), None)
    return canonical, questionnaire(ctx, canonical, t0.stored.owner, work.organization(t0.data["owner"]) or "")


def _report(ctx: Context, t0: Item, attempt: Item) -> Write:
    order = work.order_of(ctx, attempt.data)
    studies = work.answering(ctx, order)
    centre = attempt.stored.owner
    document = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": work.REPORTS, "value": ctx.new_id()}],
        "basedOn": [{"reference": order.reference}],
        "status": "registered",
        "category": [{"coding": [coding.RADIOLOGY]}],
        "code": order.data.get("code") or {"coding": [coding.DIAGNOSTIC_IMAGING_REPORT]},
        "subject": order.data["subject"],
        "performer": [{"reference": f"Organization/{centre}"}],
        "resultsInterpreter": [attempt.data["owner"]],
        **({"imagingStudy": [{"reference": study.reference} for study in studies]} if studies else {}),
        **({"effectiveDateTime": studies[0].data["started"]} if studies and "started" in studies[0].data else {}),
    }
    report = work.make(ctx, document, centre)
    report.grants.append(Grant(order.reference, f"org/{t0.stored.owner}").document())
    return report


def _draft(ctx: Context, attempt: Item, template: tuple[str | None, Document], caller: str, report: Write) -> Write:
    canonical, questions = template
    document = {
        "resourceType": "QuestionnaireResponse",
        "identifier": {"system": DRAFTS, "value": report.id},
        "basedOn": [{"reference": attempt.data["focus"]["reference"]}],
        **({"questionnaire": canonical} if canonical else {}),
        "status": "in-progress",
        "subject": attempt.data["for"],
        "authored": work.timestamp(ctx.now),
        "author": {"reference": caller},
        "item": _items(questions.get("item", [])),
    }
    return work.make(ctx, document, attempt.stored.owner)


def _items(questions: list[Document]) -> list[Document]:
    """The template's questions, to be answered."""
    rows = []
    for question in questions:
        row = {"linkId": question["linkId"]} | ({"text": question["text"]} if "text" in question else {})
        if question.get("item"):
            row["item"] = _items(question["item"])
        rows.append(row)
    return rows


START_REPORT = Operation(
    code="start-report",
    type="Task",
    levels=("instance",),
    title="Open a report",
    affects_state=True,
    inputs=(Parameter("template", "canonical", documentation="one that the facility allows"),),
    outputs=(Parameter("report", "DiagnosticReport", 1), Parameter("draft", "QuestionnaireResponse", 1)),
    handler=operate,
    description="By the reader whose reading is in progress. 403; 409 another report is open; 422 the template is not allowed.",
)
