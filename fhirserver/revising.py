"""A report after it was signed: who may change it, and how all who have the former version learn of it.

https://hl7.org/fhir/R4/valueset-diagnostic-report-status.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhirserver import alerts, attempts, closing, issuing, reconciling, reporting, roster, telling, work
from fhirserver.errors import Conflict, Forbidden
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import states


@dataclass(frozen=True, slots=True)
class Signed:
    """A published report, its orders with their coordination Tasks, and what was answered last."""

    report: Item
    orders: list[Item]
    tasks: list[Item]
    said: Item

    @property
    def facility(self) -> str:
        return work.facility_of(self.tasks[0])


def signed(ctx: Context, report: Item) -> Signed:
    """Errors: 409 for a report that is not published, or was not made here."""
    if report.status not in states.PUBLISHED:
        raise Conflict(f"A report that is {report.status} is not changed after the fact.")
    if not any(i.get("system") == work.REPORTS for i in report.data.get("identifier", ())):
        raise Conflict("This report was not made by a reading here.")
    orders = [order for reference in work.based_on(report.data) if (order := work.item(ctx, reference))]
    tasks = [task for order in orders if (task := _task(ctx, order, report))]
    said = [s for task in tasks for s in _responses(ctx, task, report)]
    if not tasks or not said:
        raise Conflict("The reading of this report cannot be found.")
    return Signed(report, orders, tasks, said[-1])


def _task(ctx: Context, order: Item, report: Item) -> Item | None:
    """The coordination Task of whoever read it: the last of the chain that has the report."""
    owners = (order.stored.owner, report.stored.owner, *(g["key"].removeprefix("org/") for g in report.stored.grants))
    rows = work.items(ctx, owners, "Task", ("focus", order.reference))
    mine = [
        row
        for row in rows
        if work.is_coordination(row.data)
        and work.organization(row.data.get("owner")) == report.stored.owner
        and any(one.reference == report.reference for one in work.outputs(ctx, row.data, "report"))
    ]
    return mine[-1] if mine else None


def _responses(ctx: Context, t0: Item, report: Item) -> list[Item]:
    """The answers of each version, in order."""
    kept = work.outputs(ctx, t0.data, "response")
    if kept:
        return kept
    done = [a for a in work.attempts(ctx, t0, states.READ) if a.status == "completed"]
    rows = [r for a in done if any(o.reference == report.reference for o in work.outputs(ctx, a.data, "report")) for r in work.outputs(ctx, a.data, "response")]  # fmt: skip
    return sorted(rows, key=lambda row: row.data["authored"])


def permitted(ctx: Context, found: Signed) -> Document:
    """The signing reader, or a deputy: who may read it finally now; as what they sign. Errors: 403."""
    caller = roster.require_reader(ctx, trainee=False)
    if found.report.stored.owner != ctx.principal.organization:
        raise Forbidden("A report is changed by the organisation that made it.")
    signer: Document = found.report.data.get("resultsInterpreter", [{}])[0]
    if roster.practitioner_of(ctx, signer) == caller:
        return signer
    _, verdict = attempts.judged(ctx, found.tasks[0], caller, states.READ, "final")
    if not verdict.eligible or verdict.role is None:
        raise roster.not_eligible(verdict.failed)
    return {"reference": verdict.role}


def published(
    ctx: Context, found: Signed, said: Document, status: str, notes: Iterable[tuple[str, str]], text: str, by: Document
) -> tuple[Write, Write, Write]:  # fmt: skip
    """(report, document, what all who had the former version are told): a new version, the former document superseded. A deputy
    is named beside who signed it first; the findings that were told stay in it."""
    notes = [*((issuing.COMMUNICATION, text) for _, text in alerts.told_of(ctx, found.report)), *notes]
    readers_ = found.report.data.get("resultsInterpreter", [])
    named = found.report.data | {"resultsInterpreter": readers_ if by in readers_ else [*readers_, by]}
    again = issuing.told(ctx, named, said, status, notes)
    report = work.save(ctx, found.report, again)
    readers = reporting.recipients(ctx, found.tasks)
    document, _ = issuing.document(ctx, again, said, found.orders, readers, notes, by)
    told = inform(ctx, found, text)
    for task in found.tasks:
        for one in work.above(ctx, task):
            work.change(ctx, work.item(ctx, one.reference) or one, states.CHANGED)
    closing.delivery(ctx, again, found.facility, found.orders)
    return report, document, told


def withdraw(ctx: Context, report: Item) -> Write:
    """A report that is out, final or preliminary, is entered in error: all who have it are told and have to acknowledge it."""
    found = _preliminary(ctx, report) if report.status == "preliminary" else signed(ctx, report)
    gone = work.save(ctx, report, report.data | {"status": "entered-in-error"})
    for listed in issuing.former(ctx, report.data, found.orders):
        work.save(ctx, listed, listed.data | {"status": "entered-in-error"}, sealed=True)
    inform(ctx, found, "The report was withdrawn: do not act on it.", "report-withdrawn")
    closing.delivery(ctx, gone.data or {}, found.facility, found.orders)
    for task in found.tasks:
        for one in work.above(ctx, task):
            if one.status in states.OPEN_TASK:
                attempts.stop(ctx, one, "withdrawn", states.WITHDRAWN)
            else:
                work.change(ctx, one, states.WITHDRAWN)
    return gone


def _preliminary(ctx: Context, report: Item) -> Signed:
    """One that is out, whose final reading has not been signed."""
    if not work.made_here(report.data):
        raise Conflict("This report was not made by a reading here.")
    orders = [order for reference in work.based_on(report.data) if (order := work.item(ctx, reference))]
    tasks = [work.chain(ctx, t0)[-1] for order in orders if (t0 := work.coordination(ctx, order))]
    if not tasks:
        raise Conflict("The reading of this report cannot be found.")
    said = [one for t in tasks for one in work.outputs(ctx, t.data, "preliminary-response")]
    return Signed(report, orders, tasks, said[-1] if said else report)


def unfounded(ctx: Context, facility: str, study_id: str, now: Document | None = None) -> None:
    """The study is another patient's: the reports that rest on it are withdrawn, those that were imported with it. ``now``: whose it is,
    whose reports stay."""
    for report in reconciling.reports(ctx, facility, study_id):
        if now is not None and report.data.get("subject", {}).get("reference") == now.get("reference"):
            continue
        if work.made_here(report.data):
            withdraw(ctx, report)
        else:
            work.save(ctx, report, report.data | {"status": "entered-in-error"})


def inform(ctx: Context, found: Signed, text: str, category: str = "report-changed") -> Write:
    """Every organisation that has the report."""
    readers = reporting.recipients(ctx, found.tasks)
    about = [found.report.reference, *(order.reference for order in found.orders)]
    recipients = [{"reference": f"Organization/{reader}"} for reader in readers]
    return telling.tell(
        ctx, category, text, recipients, about, found.report.stored.owner, readers, subject=found.report.data["subject"]
    )


def kept(ctx: Context, found: Signed, said: Document) -> Write:
    """The answers of the new version, sealed like those before."""
    document = {name: value for name, value in found.said.data.items() if name not in ("id", "meta", "identifier")} | said
    made = work.make(ctx, document, found.report.stored.owner)
    made.sealed = True
    for task in found.tasks:
        outputs = [*task.data.get("output", ()), work.entry("response", {"reference": made.reference})]
        work.save(ctx, task, task.data | {"output": outputs})
    return made


def addenda(report: Document) -> list[tuple[str, str]]:
    """The notes that the report has beside its answers already, each under its heading."""
    rows = (e for e in report.get("extension", ()) if e["url"] == ADDENDUM)
    return [(e["extension"][0]["valueString"], e["extension"][1]["valueString"]) for e in rows]


def noted(report: Document, heading: str, text: str) -> Document:
    parts = [{"url": "heading", "valueString": heading}, {"url": "text", "valueString": text}]
    return report | {"extension": [*report.get("extension", ()), {"url": ADDENDUM, "extension": parts}]}


ADDENDUM = "urn:fhirserver:StructureDefinition:report-addendum"
