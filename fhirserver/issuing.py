"""What is published of a report, and frozen: its text, the document Bundle with its hash, and the DocumentReference.

A later version replaces the former document, which stays as it was signed.
https://hl7.org/fhir/R4/documents.html
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Iterator
from typing import Any

from fhirserver import roster, work
from fhirserver.messages import Context
from fhirserver.validation import Document, instant
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, narrative

_SECTIONS = {
    "clinical-information": "11329-0",
    "technique": "55111-9",
    "comparison": "18834-2",
    "findings": "59776-5",
    "impression": "19005-8",
    "conclusion": "19005-8",
    "recommendation": "18783-1",
    "communication": "73568-8",
}


def told(ctx: Context, report: Document, said: Document, status: str, notes: Iterable[tuple[str, str]] = ()) -> Document:
    """The report with its text: ``notes`` are (heading, text) beside the answers, such as addenda."""
    blocks = "".join(f"<h3>{html.escape(heading)}</h3><p>{_lines(text)}</p>" for heading, text in notes)
    div = narrative.narrative(said).removesuffix("</div>") + blocks + "</div>"
    language = said.get("language", "en")[:2]
    page = (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"/><title>Report</title></head>'
        f"<body>{div}</body></html>"
    )
    data = page.encode()
    form = {
        "contentType": "text/html",
        "data": base64.b64encode(data).decode(),
        "size": len(data),
        "hash": base64.b64encode(hashlib.sha1(data).digest()).decode(),  # noqa: S324 - Attachment.hash is SHA-1
        "title": "Report",
        "creation": work.timestamp(ctx.now),
    }
    concluded = narrative.conclusion(said)
    return report | {
        "status": status,
        "issued": instant(ctx.now),
        "text": {"status": "generated", "div": div},
        **({"conclusion": concluded} if concluded else {}),
        "presentedForm": [form],
    }


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br/>")


def document(
    ctx: Context, report: Document, said: Document, orders: Iterable[Item], readers: Iterable[str], notes: Iterable[tuple[str, str]] = (), by: Document | None = None
) -> tuple[Write, Write]:  # fmt: skip
    """(document Bundle, DocumentReference) of this version, sealed; the former one is superseded. ``readers``: organisations;
    ``by``: who signs it, where that is not who interpreted it first."""
    orders = list(orders)
    number, former = _former(ctx, report, orders)
    owner = work.organization(report["performer"][0]) or ctx.principal.organization
    bundle = work.make(ctx, _bundle(ctx, report, said, orders, notes, number, by), owner)
    listed = work.make(ctx, _listed(ctx, report, bundle, number, former), owner)
    if former is not None:
        work.save(ctx, former, former.data | {"status": "superseded"}, sealed=True)
    for made in (bundle, listed):
        made.sealed = True
        made.grants += [
            Grant(order.reference, f"org/{reader}").document() for order in orders for reader in readers if reader != owner
        ]
    return bundle, listed


def former(ctx: Context, report: Document, orders: list[Item]) -> list[Item]:
    """The DocumentReferences of the report, the newest last."""
    owner = work.organization(report["performer"][0])
    found = work.items(ctx, (owner,), "DocumentReference", ("related", orders[0].reference)) if orders else []
    mine = [
        one for one in found if any(i.get("value") == report["identifier"][0]["value"] for i in one.data.get("identifier", ()))
    ]
    return sorted(mine, key=lambda one: one.data["date"])


def _former(ctx: Context, report: Document, orders: list[Item]) -> tuple[int, Item | None]:
    found = former(ctx, report, orders)
    return len(found) + 1, found[-1] if found else None


def _versioned(report: Document, number: int) -> Document:
    """The document's own identifier: the report's, and which version it is."""
    identifier: Document = report["identifier"][0]
    return identifier | {"value": f"{identifier['value']}.{number}"}


def _bundle(
    ctx: Context, report: Document, said: Document, orders: list[Item], notes: Iterable[tuple[str, str]], number: int, by: Document | None
) -> Document:  # fmt: skip
    author = [*report.get("resultsInterpreter", ()), *report["performer"]]
    signed = {"time": work.timestamp(ctx.now), "party": by or author[0]}
    composition = {
        "resourceType": "Composition",
        "id": ctx.new_id(),
        "identifier": report["identifier"][0],
        "status": {"appended": "amended", "corrected": "amended"}.get(report["status"], report["status"]),
        "type": {"coding": [coding.DIAGNOSTIC_IMAGING_REPORT]},
        "subject": report["subject"],
        "date": work.timestamp(ctx.now),
        "author": author,
        "title": "Imaging report",
        "attester": [{"mode": "legal"} | signed, {"mode": "professional"} | signed],
        "custodian": report["performer"][0],
        "section": [_section(link, heading, text, report) for link, heading, text in _told(said, notes)],
    }
    people = [roster.practitioner_of(ctx, one) for one in author]
    references = [report["subject"]["reference"], *(order.reference for order in orders)]
    references += [s["reference"] for s in report.get("imagingStudy", ())]
    references += [a["reference"] for a in author] + [person for person in people if person]
    found = [one.data for reference in dict.fromkeys(references) if (one := work.item(ctx, reference))]
    return {
        "resourceType": "Bundle",
        "identifier": _versioned(report, number),
        "type": "document",
        "timestamp": instant(ctx.now),
        "entry": [_entry(ctx, resource) for resource in (composition, report, *found)],
    }


def _told(said: Document, notes: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    yield from narrative.lines(said)
    for heading, text in notes:
        yield "communication" if heading == COMMUNICATION else "addendum", heading, text


COMMUNICATION = "Communication of results"


def _section(link: str, heading: str, text: str, report: Document) -> Document:
    code = _SECTIONS.get(link)
    coded = {"code": {"coding": [{"system": coding.LOINC, "code": code}]}} if code else {}
    div = f'<div xmlns="http://www.w3.org/1999/xhtml"><h3>{html.escape(heading)}</h3><p>{_lines(text)}</p></div>'
    entry = [{"reference": f"DiagnosticReport/{report['id']}"}]
    return {"title": heading, **coded, "entry": entry, "text": {"status": "generated", "div": div}}


def _entry(ctx: Context, resource: Document) -> Document:
    """Without meta: it tells of the server's copy, not of the document's."""
    url = f"{ctx.base}/{resource['resourceType']}/{resource['id']}"
    return {"fullUrl": url, "resource": {name: value for name, value in resource.items() if name != "meta"}}


def _listed(ctx: Context, report: Document, bundle: Write, number: int, replaces: Item | None) -> Document:
    """The DocumentReference by which exchanges find the document; with the hash of what was frozen."""
    data = bundle.json.encode()
    attachment: Document = {
        "contentType": "application/fhir+json",
        "url": bundle.reference,
        "size": len(data),
        "hash": base64.b64encode(hashlib.sha1(data).digest()).decode(),  # noqa: S324 - Attachment.hash is SHA-1
        "creation": work.timestamp(ctx.now),
    }
    related: dict[str, Any] = (
        {"relatesTo": [{"code": "replaces", "target": {"reference": replaces.reference}}]} if replaces else {}
    )
    return {
        "resourceType": "DocumentReference",
        "masterIdentifier": _versioned(report, number),
        "identifier": [report["identifier"][0]],
        "status": "current",
        "docStatus": "final" if number == 1 else "amended",
        "type": {"coding": [{"system": coding.LOINC, "code": "85430-7"}]},
        "category": [{"coding": [{"system": coding.LOINC, "code": "85430-7"}]}],
        "subject": report["subject"],
        "date": instant(ctx.now),
        "author": report.get("resultsInterpreter", []),
        "custodian": report["performer"][0],
        **related,
        "content": [{"attachment": attachment}],
        "context": {"related": report["basedOn"]},
    }
