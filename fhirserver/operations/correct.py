"""DiagnosticReport/[id]/$correct: correct what was wrong in a signed report, or amend it with what is new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import alerts, audit, quality, reporting, revising, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.revising import Signed
from fhirserver.validation import Document
from fhirserver.workflow import contract, narrative

KINDS, SIGNIFICANCES = ("corrected", "amended"), ("none", "minor", "significant")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    for name, known in (("kind", KINDS), ("significance", SIGNIFICANCES)):
        if inputs[name] not in known:
            raise Invalid(f"{name} is one of {', '.join(known)}.", "Parameters.parameter")
    found = revising.signed(ctx, report)
    by = revising.permitted(ctx, found)
    author = {"reference": f"Practitioner/{ctx.principal.practitioner}"}
    said = reporting.response(ctx, found.said, inputs["response"]) | {"author": author}
    _fulfils(ctx, found, said)
    rows = narrative.differences(found.said.data, said)
    if not rows:
        raise BusinessRule("The response says what the report says already.", "Parameters.parameter")
    revising.kept(ctx, found, said)
    text = "Corrected: it was wrong." if inputs["kind"] == "corrected" else "Amended: there is new information."
    saved, *_ = revising.published(ctx, found, said, inputs["kind"], revising.addenda(report.data), text, by)
    if inputs["significance"] == "significant":
        _significant(ctx, found, inputs)
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    before = {"role": "revision", "what": {"reference": f"{report.reference}/_history/{report.stored.version}"}}
    audit.add(ctx, audit.provenance(ctx, targets, "correct", {"reason": [inputs["reason"]], "entity": [before]}))
    return {"report": saved, "diff": _diff(rows)}


def _fulfils(ctx: Context, found: Signed, said: Document) -> None:
    canonical = found.said.data.get("questionnaire")
    template = reporting.questionnaire(ctx, canonical, found.facility, found.report.stored.owner)
    language = next(iter(work.inputs(found.tasks[0].data, "report-language")), None)
    if wrong := contract.failures(template, said, language, priors=any(reporting.has_priors(ctx, o) for o in found.orders)):
        raise BusinessRule("The report does not give what the facility asked for.", issues=wrong)


def _significant(ctx: Context, found: Signed, inputs: Mapping[str, Any]) -> None:
    """Somebody has acted on what was wrong, or will: a person at the facility answers, and quality looks at it."""
    finding = {"text": "A report was changed significantly: read it again."}
    alerts.raised(ctx, found.report, found.orders[0], "rcr-urgent", finding, work.timestamp(ctx.now), [], None)
    text = inputs["reason"].get("text") or "A significant correction."
    quality.discrepancy(ctx, found.report, "correction", text, "major", [])


def _diff(rows: list[tuple[str, str, str, str]]) -> Document:
    """What changed, section by section."""
    return {
        "resourceType": "Parameters",
        "parameter": [
            {
                "name": "section",
                "part": [
                    {"name": name, "valueString": value}
                    for name, value in (("linkId", link), ("heading", heading), ("before", before), ("after", after))
                    if value
                ],
            }
            for link, heading, before, after in rows
        ],
    }


CORRECT = Operation(
    code="correct",
    type="DiagnosticReport",
    levels=("instance",),
    title="Correct or amend",
    affects_state=True,
    inputs=(
        Parameter("kind", "code", 1, documentation="corrected (it was wrong) | amended (there is new information)"),
        Parameter("response", "QuestionnaireResponse", 1, documentation="all the answers, as they are to be"),
        Parameter("reason", "CodeableConcept", 1),
        Parameter(
            "significance", "code", 1, documentation="none | minor | significant: a person at the facility has to answer"
        ),
    ),
    outputs=(
        Parameter("report", "DiagnosticReport", 1),
        Parameter("diff", "Parameters", 1, documentation="what changed, section by section"),
    ),
    handler=operate,
    description="By the signing reader or a deputy. 403; 409 not signed; 412; 422 the contract is not met, or nothing changed.",
)
