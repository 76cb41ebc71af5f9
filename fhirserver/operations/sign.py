"""DiagnosticReport/[id]/$sign: sign the final report, if it gives what the facility asked for.

Report, document, attempt, coordination Task and order change in one transaction.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from fhirserver import audit
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations import work
from fhirserver.operations.start_report import questionnaire
from fhirserver.operations.work import Item
from fhirserver.validation import Document, instant
from fhirserver.versions import Grant, Write
from fhirserver.workflow import coding, contract, states

_SECTIONS = {"findings": "59776-5", "impression": "19005-8", "conclusion": "19005-8"}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    attempt, t0 = _reading(ctx, report)
    if inputs["attest"] is not True:
        raise BusinessRule("A report is signed by attesting it.", "Parameters.parameter")
    if inputs.get("alertCategory", "none") != "none":
        raise BusinessRule("An actionable finding is notified before the report is signed.", "Parameters.parameter")
    draft = _draft(ctx, attempt)
    response = _response(ctx, draft, inputs.get("response"))
    _fulfils(ctx, t0, draft, response)
    return _signed(ctx, report, attempt, t0, draft, response, inputs.get("signature"))


def _reading(ctx: Context, report: Item) -> tuple[Item, Item]:
    """I3: a report is signed by the owner of the attempt that is in progress, who may read this at this moment (I2)."""
    caller = work.require_reader(ctx)
    if report.status not in ("registered", "preliminary"):
        raise Conflict(f"A report that is {report.status} is not signed.")
    if not report.data.get("basedOn"):
        raise Conflict("This report was not made by a reading here.")
    found = [
        t
        for t in work.items(ctx, "Task", ("focus", report.data["basedOn"][0]["reference"]), ("code", "read"))
        if _reports(t, report)
    ]
    attempt = next((t for t in found if t.status == "in-progress"), None)
    if attempt is None:
        raise Conflict("No reading of this report is in progress.")
    if work.practitioner_of(ctx, attempt.data.get("owner")) != caller:
        raise Forbidden("A report is signed by the reader who has the reading.")
    t0 = work.coordination_of(ctx, attempt.data)
    verdict = work.verdict(ctx, caller, t0)
    if not verdict.eligible:
        raise Forbidden(f"You may not read this: {', '.join(verdict.failed)}.", details=(coding.ELIGIBILITY, verdict.failed[0]))
    return attempt, t0


def _reports(task: Item, report: Item) -> bool:
    return any(row.get("valueReference", {}).get("reference") == report.reference for row in task.data.get("output", ()))


def _draft(ctx: Context, attempt: Item) -> Item:
    for row in attempt.data["output"]:
        draft = work.item(ctx, row.get("valueReference", {}).get("reference", ""))
        if draft is not None and draft.stored.type == "QuestionnaireResponse":
            return draft
    raise Conflict("The report has no draft.")


def _response(ctx: Context, draft: Item, sent: Document | None) -> Document:
    """The saved draft, or what is sent in its place: the answers are the caller's, the rest is the draft's."""
    answers = draft.data if sent is None else sent
    kept = {name: value for name, value in draft.data.items() if name not in ("item", "language")}
    taken = {name: answers[name] for name in ("item", "language") if name in answers}
    return kept | taken | {"status": "completed", "authored": work.timestamp(ctx.now)}


def _fulfils(ctx: Context, t0: Item, draft: Item, response: Document) -> None:
    template = questionnaire(ctx, draft.data.get("questionnaire"), t0.stored.owner)
    wrong = contract.failures(template, response, next(iter(work.inputs(t0.data, "report-language")), None))
    if wrong:
        raise BusinessRule("The report does not give what the facility asked for.", issues=wrong)


def _signed(
    ctx: Context, report: Item, attempt: Item, t0: Item, draft: Item, response: Document, signature: Document | None
) -> dict[str, Any]:
    now = work.timestamp(ctx.now)
    order = work.item(ctx, attempt.data["focus"]["reference"])
    assert order is not None
    work.save(ctx, draft, response)
    final = _final(ctx, report.data, response)
    signed = work.save(ctx, report, final)
    grant = Grant(order.reference, f"org/{t0.stored.owner}").document()
    signed.grants.append(grant)
    document = _document(ctx, attempt, order, final, response)
    document.grants.append(grant)
    listed = _listed(ctx, attempt, final, document)
    listed.grants.append(grant)
    period = attempt.data["executionPeriod"] | {"end": now}
    work.save(ctx, attempt, attempt.data | {"status": "completed", "executionPeriod": period, "lastModified": now})
    output = [*t0.data.get("output", ()), work.entry("report", "valueReference", {"reference": report.reference})]
    work.save(
        ctx,
        t0,
        t0.data
        | {"status": "completed", "businessStatus": work.business(states.DELIVERED), "output": output, "lastModified": now},
    )
    if order.status == "active":
        work.save(ctx, order, order.data | {"status": "completed"})
    _proven(ctx, t0, signature)
    return {"report": signed, "document": document}


def _final(ctx: Context, report: Document, response: Document) -> Document:
    narrative = contract.narrative(response)
    html = f'<!DOCTYPE html><html lang="{response.get("language", "en")[:2]}"><head><meta charset="utf-8"/><title>Report</title></head><body>{narrative}</body></html>'
    form = {
        "contentType": "text/html",
        "data": base64.b64encode(html.encode()).decode(),
        "title": "Report",
        "creation": work.timestamp(ctx.now),
    }
    return report | {
        "status": "final",
        "issued": instant(ctx.now),
        "text": {"status": "generated", "div": narrative},
        "conclusion": contract.conclusion(response),
        "presentedForm": [form],
    }


def _document(ctx: Context, attempt: Item, order: Item, report: Document, response: Document) -> Write:
    """https://hl7.org/fhir/R4/documents.html: the report as it was signed, frozen."""
    author = [attempt.data["owner"], {"reference": f"Organization/{attempt.stored.owner}"}]
    composition = {
        "resourceType": "Composition",
        "id": ctx.new_id(),
        "identifier": report["identifier"][0],
        "status": "final",
        "type": {"coding": [coding.DIAGNOSTIC_IMAGING_REPORT]},
        "subject": report["subject"],
        "date": work.timestamp(ctx.now),
        "author": author,
        "title": "Imaging report",
        "attester": [{"mode": "legal", "time": work.timestamp(ctx.now), "party": attempt.data["owner"]}],
        "section": [_section(link, heading, text) for link, heading, text in contract.lines(response)],
    }
    references = [report["subject"]["reference"], order.reference, *(s["reference"] for s in report.get("imagingStudy", ()))]
    found = [found.data for reference in references if (found := work.item(ctx, reference))]
    bundle = {
        "resourceType": "Bundle",
        "identifier": report["identifier"][0],
        "type": "document",
        "timestamp": instant(ctx.now),
        "entry": [_entry(ctx, resource) for resource in (composition, report, *found)],
    }
    return work.make(ctx, bundle, attempt.stored.owner)


def _section(link: str, heading: str, text: str) -> Document:
    code = _SECTIONS.get(link)
    coded = {"code": {"coding": [{"system": coding.LOINC, "code": code}]}} if code else {}
    return {
        "title": heading,
        **coded,
        "text": {
            "status": "generated",
            "div": contract.narrative({"item": [{"linkId": link, "text": heading, "answer": [{"valueString": text}]}]}),
        },
    }


def _entry(ctx: Context, resource: Document) -> Document:
    """Without meta: it tells of the server's copy, not of the document's."""
    url = f"{ctx.base}/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "resource": {name: value for name, value in resource.items() if name != "meta"}}


def _listed(ctx: Context, attempt: Item, report: Document, document: Write) -> Write:
    """The DocumentReference by which exchanges find the document."""
    return work.make(
        ctx,
        {
            "resourceType": "DocumentReference",
            "masterIdentifier": report["identifier"][0],
            "status": "current",
            "docStatus": "final",
            "type": {"coding": [{"system": coding.LOINC, "code": "85430-7"}]},
            "category": [{"coding": [{"system": coding.LOINC, "code": "85430-7"}]}],
            "subject": report["subject"],
            "date": instant(ctx.now),
            "author": [attempt.data["owner"]],
            "custodian": {"reference": f"Organization/{attempt.stored.owner}"},
            "content": [{"attachment": {"contentType": "application/fhir+json", "url": document.reference}}],
            "context": {"related": report["basedOn"]},
        },
        attempt.stored.owner,
    )


def _proven(ctx: Context, t0: Item, signature: Document | None) -> None:
    """The Provenance of the signing, which the facility reads too."""
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    extra = {"signature": [signature]} if signature else {}
    audit.add(
        ctx, audit.provenance(ctx, targets, "sign", extra), [f"org/{ctx.principal.organization}", f"org/{t0.stored.owner}"]
    )


SIGN = Operation(
    code="sign",
    type="DiagnosticReport",
    level="instance",
    title="Sign the final report",
    affects_state=True,
    inputs=(
        Parameter("response", "QuestionnaireResponse", documentation="the answers; else the saved draft's"),
        Parameter("attest", "boolean", 1, documentation="must be true"),
        Parameter("signature", "Signature"),
        Parameter("alertCategory", "code", documentation="none"),
    ),
    outputs=(Parameter("report", "DiagnosticReport", 1), Parameter("document", "Bundle")),
    handler=operate,
    description="By the reader whose reading is in progress. 403; 409 not open; 412 stale; 422 with each contract item that is not met.",
)
