"""DiagnosticReport/[id]/$sign: sign the final report, if it gives what the facility asked for.

Report, document, attempt, coordination Task and order change in one transaction.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver import audit, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.operations.dispatch import questionnaire
from fhirserver.validation import Document, instant
from fhirserver.versions import EVERYTHING, Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, contract, states

_SECTIONS = {"findings": "59776-5", "impression": "19005-8", "conclusion": "19005-8"}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    attempt, t0 = _reading(ctx, report)
    order = _seen(ctx, attempt)
    if inputs["attest"] is not True:
        raise BusinessRule("A report is signed by attesting it.", "Parameters.parameter")
    if inputs.get("alertCategory", "none") != "none":
        raise BusinessRule("An actionable finding is notified before the report is signed.", "Parameters.parameter")
    draft = _draft(ctx, attempt)
    response = _response(ctx, draft, inputs.get("response"))
    _fulfils(ctx, t0, attempt, response)
    return _signed(ctx, Reading(report, attempt, t0, order, draft), response, inputs.get("signature"))


def _reading(ctx: Context, report: Item) -> tuple[Item, Item]:
    """I3: a report is signed by the owner of the attempt that is in progress, who may read this finally at this moment (I2)."""
    caller = work.require_reader(ctx)
    if report.status not in ("registered", "preliminary"):
        raise Conflict(f"A report that is {report.status} is not signed.")
    if not report.data.get("basedOn"):
        raise Conflict("This report was not made by a reading here.")
    focus = ("focus", report.data["basedOn"][0]["reference"])
    found = [
        t
        for t in work.items(ctx, (report.stored.owner,), "Task", focus, ("code", f"{coding.TASK_TYPE}|read"))
        if _reports(t, report)
    ]
    attempt = next((t for t in found if t.status == "in-progress"), None)
    if attempt is None:
        raise Conflict("No reading of this report is in progress.")
    if work.practitioner_of(ctx, attempt.data.get("owner")) != caller:
        raise Forbidden("A report is signed by the reader who has the reading.")
    t0 = work.coordination_of(ctx, attempt.data)
    verdict = work.verdict(ctx, caller, t0, "final")
    if not verdict.eligible:
        raise Forbidden(f"You may not sign this: {', '.join(verdict.failed)}.", details=(coding.ELIGIBILITY, verdict.failed[0]))
    return attempt, t0


# What an order may change without the reader having to look again
_NOT_CLINICAL = frozenset({"status", "priority", "meta", "identifier", "text", "insurance"})


def _seen(ctx: Context, attempt: Item) -> Item:
    """The order, active and clinically as the reader saw it."""
    order = work.order_of(ctx, attempt.data)
    if order.status != "active":
        raise Conflict(f"The order is {order.status}; nothing is signed for it.")
    version = next(iter(work.inputs(attempt.data, "order-version")), "0")
    stored = ctx.store.vread("ServiceRequest", order.stored.id, int(version), EVERYTHING) if version.isdecimal() else None
    before = work.opened(ctx, stored).data if stored else {}
    if any(before.get(name) != order.data.get(name) for name in {*before, *order.data} - _NOT_CLINICAL):
        raise Conflict("The facility changed the order since the reading was started; look at it, and renew with $claim.")
    ctx.changes.guard(order.stored)
    return order


def _reports(task: Item, report: Item) -> bool:
    return work.is_attempt(task.data) and any(
        row.get("valueReference", {}).get("reference") == report.reference for row in task.data.get("output", ())
    )


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


def _fulfils(ctx: Context, t0: Item, attempt: Item, response: Document) -> None:
    canonical = next(iter(work.inputs(attempt.data, "template")), None)
    template = questionnaire(ctx, canonical, t0.stored.owner, attempt.stored.owner)
    wrong = contract.failures(template, response, next(iter(work.inputs(t0.data, "report-language")), None))
    if wrong:
        raise BusinessRule("The report does not give what the facility asked for.", issues=wrong)


@dataclass(frozen=True, slots=True)
class Reading:
    """All that a signature closes."""

    report: Item
    attempt: Item
    t0: Item
    order: Item
    draft: Item


def _signed(ctx: Context, reading: Reading, response: Document, signature: Document | None) -> dict[str, Any]:
    now, attempt, t0, order = work.timestamp(ctx.now), reading.attempt, reading.t0, reading.order
    work.save(ctx, reading.draft, response, sealed=True)
    final = _final(ctx, reading.report.data, response)
    signed = work.save(ctx, reading.report, final)
    document = _document(ctx, attempt, order, final, response)
    listed = _listed(ctx, attempt, final, document)
    for made in (document, listed):
        made.grants.append(Grant(order.reference, f"org/{t0.stored.owner}").document())
    document.sealed = listed.sealed = True
    period = attempt.data["executionPeriod"] | {"end": now}
    work.save(ctx, attempt, attempt.data | {"status": "completed", "executionPeriod": period, "lastModified": now})
    output = [*t0.data.get("output", ()), work.entry("report", {"reference": reading.report.reference})]
    done = {"status": "completed", "businessStatus": work.business(states.DELIVERED), "output": output, "lastModified": now}
    t0_done = work.save(ctx, t0, t0.data | done)
    completed = work.save(ctx, order, order.data | {"status": "completed"})
    _proven(ctx, t0, [signed, document, listed, t0_done, completed], signature)
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
        "section": [
            _section(link, heading, text, f"DiagnosticReport/{report['id']}")
            for link, heading, text in contract.lines(response)
        ],
    }
    practitioner = work.practitioner_of(ctx, attempt.data["owner"])
    references = [report["subject"]["reference"], order.reference, *(s["reference"] for s in report.get("imagingStudy", ()))]
    references += [a["reference"] for a in author] + ([practitioner] if practitioner else [])
    found = [found.data for reference in references if (found := work.item(ctx, reference))]
    bundle = {
        "resourceType": "Bundle",
        "identifier": report["identifier"][0],
        "type": "document",
        "timestamp": instant(ctx.now),
        "entry": [_entry(ctx, resource) for resource in (composition, report, *found)],
    }
    return work.make(ctx, bundle, attempt.stored.owner)


def _section(link: str, heading: str, text: str, report: str) -> Document:
    code = _SECTIONS.get(link)
    coded = {"code": {"coding": [{"system": coding.LOINC, "code": code}]}} if code else {}
    return {
        "title": heading,
        **coded,
        "entry": [{"reference": report}],
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


def _proven(ctx: Context, t0: Item, told: list[Write], signature: Document | None) -> None:
    """A Provenance of the signing for the facility, of what it sees; the centre's own covers all."""
    extra = {"signature": [signature]} if signature else {}
    for writes, organization in ((list(ctx.changes.writes.values()), ctx.principal.organization), (told, t0.stored.owner)):
        targets = [f"{w.reference}/_history/{w.version}" for w in writes if w.type != "Provenance"]
        audit.add(ctx, audit.provenance(ctx, targets, "sign", extra), [f"org/{organization}"])


SIGN = Operation(
    code="sign",
    type="DiagnosticReport",
    levels=("instance",),
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
