"""Task/[id]/$start-report: open a report. It is registered and empty; the draft is its author's alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import reporting, roster, work
from fhirserver.attempts import kind_of
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.resources.questionnaire_response import DRAFTS
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, contract, states

MODES = ("structured", "free")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    attempt = work.visible_item(ctx, "Task", inputs["id"])
    check_if_match(request, attempt.stored)
    caller = _mine(ctx, attempt)
    if inputs.get("mode", "structured") not in MODES:
        raise Invalid(f"mode is {' or '.join(MODES)}.", "Parameters.parameter")
    if opened := _opened(ctx, attempt):
        return opened
    t0 = work.coordination_of(ctx, attempt.data)
    together = [(attempt, t0), *_together(ctx, attempt, inputs["also"])]
    template = _template(ctx, t0, inputs.get("template"), free=inputs.get("mode") == "free")
    report = _report(ctx, together) if kind_of(attempt.data) == states.READ else None
    draft = _draft(ctx, attempt, t0, template, caller, report)
    for task, _ in together:
        _kept(ctx, task, {"report": report, "draft": draft if task is attempt else None}, template[0])
    return {"report": report, "draft": draft} if report else {"draft": draft}


def _mine(ctx: Context, attempt: Item) -> str:
    """Errors: 403 for who has not the reading, 409 where it is not in progress, 422 where it is none."""
    kind_of(attempt.data)
    caller = roster.require_owner(ctx, attempt, "A report is opened")
    if attempt.status != "in-progress":
        raise Conflict(f"The reading is {attempt.status}; start it with $claim.")
    return caller


def _opened(ctx: Context, attempt: Item) -> dict[str, Any] | None:
    """Called again, it gives the same report and draft."""
    drafts = [draft for draft in work.outputs(ctx, attempt.data, "draft") if draft.status == "in-progress"]
    reports = work.outputs(ctx, attempt.data, "report")
    if not drafts:
        return None
    return ({"report": reports[-1].stored} if reports else {}) | {"draft": drafts[-1].stored}


def _together(ctx: Context, attempt: Item, named: list[Document]) -> list[tuple[Item, Item]]:
    """Other orders that the same report answers: of the same patient and facility, read by the same reader."""
    found = []
    for number, reference in enumerate(named):
        other = work.item(ctx, reference.get("reference", ""))
        where = f"Parameters.parameter.where(name='also')[{number}]"
        if other is None or other.stored.type != "Task" or not work.is_a(other.data, states.READ):
            raise BusinessRule("also names other readings of yours.", where)
        _mine(ctx, other)
        if other.data["for"] != attempt.data["for"] or work.inputs(other.data, "facility") != work.inputs(
            attempt.data, "facility"
        ):
            raise BusinessRule("One report is about one patient, for one facility.", where)
        if work.outputs(ctx, other.data, "report"):
            raise Conflict("The other reading has a report of its own already.")
        found.append((other, work.coordination_of(ctx, other.data)))
    return found


def _template(
    ctx: Context, t0: Item, wanted: str | None, *, free: bool
) -> tuple[str | None, Document]:  # fmt: skip
    """The Questionnaire to answer: one that the facility allows, its first by default, free text where it names none."""
    allowed = work.inputs(t0.data, "report-template")
    if wanted and wanted not in allowed:
        raise BusinessRule("The template is not one that the facility allows for this order.", "Parameters.parameter")
    if free and allowed:
        raise BusinessRule("The facility asked for a report by its template.", "Parameters.parameter")
    canonical = wanted or next(iter(allowed), None)
    found = reporting.questionnaire(ctx, canonical, work.facility_of(t0), work.organization(t0.data["owner"]) or "")
    return canonical, found if canonical else contract.FREE_TEXT


def _report(ctx: Context, together: list[tuple[Item, Item]]) -> Write | Any:
    """A new one; or the preliminary one that is to be read finally, which names who said it until somebody else has."""
    orders = [work.order_of(ctx, attempt.data) for attempt, _ in together]
    attempt = together[0][0]
    asked = (("based-on", orders[0].reference), ("status", "registered,preliminary"))
    for report in work.items(ctx, (attempt.stored.owner,), "DiagnosticReport", *asked):
        if not any(i.get("system") == work.REPORTS for i in report.data.get("identifier", ())):
            continue
        if report.status == "preliminary" and not _held(ctx, report):
            return report.stored
        raise Conflict("A report is open under another attempt.")
    studies = list({s.reference: s for order in orders for s in work.answering(ctx, order)}.values())
    document = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": work.REPORTS, "value": ctx.new_id()}],
        "basedOn": [{"reference": order.reference} for order in orders],
        "status": "registered",
        "category": [{"coding": [coding.RADIOLOGY]}],
        "code": orders[0].data.get("code") or {"coding": [coding.DIAGNOSTIC_IMAGING_REPORT]},
        "subject": orders[0].data["subject"],
        "performer": [{"reference": f"Organization/{attempt.stored.owner}"}],
        "resultsInterpreter": [attempt.data["owner"]],
        **({"imagingStudy": [{"reference": study.reference} for study in studies]} if studies else {}),
        **({"effectiveDateTime": studies[0].data["started"]} if studies and "started" in studies[0].data else {}),
    }
    made = work.make(ctx, document, attempt.stored.owner)
    readers = reporting.recipients(ctx, (t0 for _, t0 in together))
    made.grants += [Grant(o.reference, f"org/{r}").document() for o in orders for r in readers if r != attempt.stored.owner]
    return made


def _held(ctx: Context, report: Item) -> bool:
    """Whether an open attempt has the report."""
    rows = work.items(ctx, (report.stored.owner,), "Task", ("focus", work.based_on(report.data)[0]))
    return any(
        row.status in states.OPEN_TASK
        and any(one.reference == report.reference for one in work.outputs(ctx, row.data, "report"))
        for row in rows
    )


def _draft(
    ctx: Context, attempt: Item, t0: Item, template: tuple[str | None, Document], caller: str, report: Any
) -> Write:  # fmt: skip
    canonical, questions = template
    document = {
        "resourceType": "QuestionnaireResponse",
        "identifier": {"system": DRAFTS, "value": report.id if report else attempt.stored.id},
        "basedOn": [{"reference": attempt.data["focus"]["reference"]}],
        **({"questionnaire": canonical} if canonical else {}),
        "status": "in-progress",
        "subject": attempt.data["for"],
        "authored": work.timestamp(ctx.now),
        "author": {"reference": caller},
        "item": _before(ctx, attempt, t0, canonical) or _items(questions.get("item", [])),
    }
    return work.make(ctx, document, attempt.stored.owner)


def _before(ctx: Context, attempt: Item, t0: Item, canonical: str | None) -> list[Document] | None:
    """What was handed over with the reading, or said in the preliminary report."""
    if kind_of(attempt.data) != states.READ:
        return None
    handed = [work.item(ctx, one["reference"]) for one in work.inputs(attempt.data, "draft")]
    handed += work.outputs(ctx, t0.data, "preliminary-response")
    found = [one.data["item"] for one in handed if one and one.data.get("questionnaire") == canonical and "item" in one.data]
    return found[0] if found else None


def _items(questions: list[Document]) -> list[Document]:
    """The template's questions, to be answered."""
    rows = []
    for question in questions:
        row = {"linkId": question["linkId"]} | ({"text": question["text"]} if "text" in question else {})
        if question.get("item"):
            row["item"] = _items(question["item"])
        rows.append(row)
    return rows


def _kept(ctx: Context, task: Item, made: Mapping[str, Any], canonical: str | None) -> None:
    outputs = [work.entry(kind, {"reference": one.reference}) for kind, one in made.items() if one is not None]
    opened = task.data | {"output": [*task.data.get("output", ()), *outputs]}
    if canonical:  # the contract is the attempt's, not the draft's: the reader writes that
        opened["input"] = work.with_input(task.data, "template", canonical)
    work.save(ctx, task, opened)


START_REPORT = Operation(
    code="start-report",
    type="Task",
    levels=("instance",),
    title="Open a report",
    affects_state=True,
    inputs=(
        Parameter("template", "canonical", documentation="one that the facility allows"),
        Parameter("mode", "code", documentation="structured | free; free where the facility names no template"),
        Parameter(
            "also", "Reference", max="*", documentation="further readings of yours that this report answers", targets=("Task",)
        ),
    ),
    outputs=(
        Parameter("report", "DiagnosticReport", documentation="none for a second reading: its answers are compared"),
        Parameter("draft", "QuestionnaireResponse", 1),
    ),
    handler=operate,
    description="By the reader whose reading is in progress. 403; 409 another report is open; 422 the template is not allowed.",
)
