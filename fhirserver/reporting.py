"""A report that is being written: whose it is, what it answers, by which template, and what stands in the way of issuing it.

One report may answer several orders: all their readings are the same reader's, and are closed together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhirserver import agreements, attempts, roster, work
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Issue
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.versions import EVERYTHING
from fhirserver.work import Item
from fhirserver.workflow import coding, contract, states

# What an order may change without the reader having to look again
_NOT_CLINICAL = frozenset({"status", "priority", "meta", "identifier", "text", "insurance"})


@dataclass(frozen=True, slots=True)
class Answered:
    """One order that the report answers: its attempt in progress, its coordination Task, and the order."""

    attempt: Item
    t0: Item
    order: Item


@dataclass(frozen=True, slots=True)
class Opened:
    """A report and all that a signature closes."""

    report: Item
    answered: tuple[Answered, ...]
    draft: Item

    @property
    def attempt(self) -> Item:
        return self.answered[0].attempt

    @property
    def t0(self) -> Item:
        return self.answered[0].t0

    @property
    def facility(self) -> str:
        return work.facility_of(self.t0)

    @property
    def document(self) -> Document:
        """The report as its present reader's: what was preliminary may have been another's."""
        return self.report.data | {"resultsInterpreter": [self.attempt.data["owner"]]}


def opened(ctx: Context, report: Item, caller: str, read_type: str) -> Opened:
    """I3: a report is issued by the owner of the attempt that is in progress, who may do this read at this moment (I2).

    Errors: 409 where none is in progress, 403 where it is another's or the caller may not.
    """
    if report.status not in ("registered", "preliminary"):
        raise Conflict(f"A report that is {report.status} is not issued again; addend or correct it.")
    if not report.data.get("basedOn"):
        raise Conflict("This report was not made by a reading here.")
    rows = [_answered(ctx, report, reference, caller) for reference in work.based_on(report.data)]
    for row in rows:
        _, verdict = attempts.judged(ctx, row.t0, caller, states.READ, read_type)
        if not verdict.eligible:
            raise roster.not_eligible(verdict.failed)
    drafts = work.outputs(ctx, rows[0].attempt.data, "draft")
    if not drafts:
        raise Conflict("The report has no draft; open it with $start-report.")
    return Opened(report, tuple(rows), drafts[-1])


def _answered(ctx: Context, report: Item, order: str, caller: str) -> Answered:
    found = [
        t
        for t in work.items(ctx, (report.stored.owner,), "Task", ("focus", order), ("code", f"{coding.TASK_TYPE}|read"))
        if t.status == "in-progress" and any(one.reference == report.reference for one in work.outputs(ctx, t.data, "report"))
    ]
    if not found:
        raise Conflict("No reading of this report is in progress.")
    if roster.practitioner_of(ctx, found[0].data.get("owner")) != caller:
        raise Forbidden("A report is issued by the reader who has the reading.")
    return Answered(found[0], work.coordination_of(ctx, found[0].data), work.order_of(ctx, found[0].data))


# ---------------------------------------------------------------- what the reader saw


def looked_at(ctx: Context, task: Document, order: Item) -> list[Document]:
    """Task.input with the version of the order and of each study, as the reader has them before them now."""
    rows = work.with_input(task, "order-version", str(order.stored.version))
    seen = ({"reference": f"{s.reference}/_history/{s.stored.version}"} for s in work.answering(ctx, order))
    return work.with_input({"input": rows}, "study", *seen)


def seen(ctx: Context, row: Answered) -> None:
    """Errors: 409 where the order is not active, was changed clinically, or images arrived since the reader looked."""
    order = row.order
    if order.status != "active":
        raise Conflict(f"The order is {order.status}; nothing is signed for it.")
    version = next(iter(work.inputs(row.attempt.data, "order-version")), "0")
    stored = ctx.store.vread("ServiceRequest", order.stored.id, int(version), EVERYTHING) if version.isdecimal() else None
    before = work.opened(ctx, stored).data if stored else {}
    if clinical_change(before, order.data):
        raise Conflict("The facility changed the order since the reading was started; look at it, and renew with $claim.")
    then = {one["reference"] for one in work.inputs(row.attempt.data, "study")}
    studies = work.answering(ctx, order)
    if {f"{s.reference}/_history/{s.stored.version}" for s in studies} != then:
        raise Conflict("Images arrived since the reading was started; look at them, and renew with $claim.")
    for read in (order, *studies):  # nor in the moment in which it is signed
        ctx.changes.guard(read.stored)


def clinical_change(before: Document, after: Document) -> set[str]:
    """The elements of an order by which a reader has to look again."""
    return {name for name in {*before, *after} - _NOT_CLINICAL if before.get(name) != after.get(name)}


# ---------------------------------------------------------------- the report contract


def questionnaire(ctx: Context, canonical: str | None, facility: str, fulfiller: str) -> Document:
    """A template by its canonical URL: the facility's own before the fulfiller's. Errors: 422 where there is none."""
    if canonical is None:
        return contract.FREE_TEXT
    url, _, version = canonical.partition("|")
    rows = work.items(ctx, (facility, fulfiller, ctx.home), "Questionnaire", ("url", url))
    found = [row for row in rows if version in ("", row.data.get("version"))]
    if not found:
        raise BusinessRule("The template that the facility asked for cannot be found.", "Task.input")
    return min(found, key=lambda row: row.stored.owner != facility).data


def template(ctx: Context, attempt: Item, t0: Item) -> Document:
    canonical = next(iter(work.inputs(attempt.data, "template")), None)
    return questionnaire(ctx, canonical, work.facility_of(t0), attempt.stored.owner)


def response(ctx: Context, draft: Item, sent: Document | None, *, status: str = "completed") -> Document:
    """The saved draft, or what is sent in its place: the answers are the caller's, the rest is the draft's."""
    answers = draft.data if sent is None else sent
    kept = {name: value for name, value in draft.data.items() if name not in ("item", "language")}
    taken = {name: answers[name] for name in ("item", "language") if name in answers}
    return kept | taken | {"status": status, "authored": work.timestamp(ctx.now)}


def fulfils(ctx: Context, report: Opened, said: Document) -> None:
    """Errors: 422 with each item of the contract that is not met, by its FHIRPath."""
    wanted = template(ctx, report.attempt, report.t0)
    language = next(iter(work.inputs(report.t0.data, "report-language")), None)
    wrong = contract.failures(wanted, said, language, priors=any(has_priors(ctx, row.order) for row in report.answered))
    if wrong:
        raise BusinessRule("The report does not give what the facility asked for.", issues=wrong)


def has_priors(ctx: Context, order: Item) -> bool:
    """What the facility gave to compare with, or has of the same modality from before."""
    named = (reference.get("reference", "").split("/")[0] for reference in order.data.get("supportingInfo", ()))
    if any(type_ in ("ImagingStudy", "DiagnosticReport") for type_ in named):
        return True
    here = work.answering(ctx, order)
    mine, wanted = {study.reference for study in here}, work.modalities(here)
    patient = order.data["subject"]["reference"]
    others = work.items(ctx, (order.stored.owner,), "ImagingStudy", ("subject", patient))
    return any(s.reference not in mine and work.modalities([s]) & wanted and s.status == "available" for s in others)


# ---------------------------------------------------------------- second readings


def agreed(ctx: Context, report: Opened, said: Document) -> None:
    """Nothing is signed while a second reading is open, nor against it: its coded answers are the report's, or the arbiter's
    are. Errors: 409."""
    for row in report.answered:
        others = [a for a in work.attempts(ctx, row.t0) if attempts.kind_of(a.data) != states.READ]
        if any(other.status in states.OPEN_TASK for other in others):
            raise Conflict("A second reading is open; the report is signed when it is done.")
        done = [other for other in others if other.status == "completed"]
        arbitrated = [other for other in done if attempts.kind_of(other.data) == states.ARBITRATION]
        for other in arbitrated[-1:] or done:
            _compared(ctx, row, other, said)


def _compared(ctx: Context, row: Answered, other: Item, said: Document) -> None:
    wanted = template(ctx, row.attempt, row.t0)
    arbiter = attempts.kind_of(other.data) == states.ARBITRATION
    for given in work.outputs(ctx, other.data, "response"):
        if differing := contract.disagreements(wanted, said, given.data):
            whose = "the arbiter's" if arbiter else "the second reader's"
            text = f"Answers differ from {whose}: {', '.join(differing)}."
            more = "" if arbiter else " Agree, or ask for arbitration with $request-second-read."
            issues = [
                Issue("conflict", text + more, f"QuestionnaireResponse.item.where(linkId='{link}')") for link in differing
            ]
            raise Conflict(text + more, issues=issues)


def completes(ctx: Context, t0: Item) -> bool:
    """Whether the order is completed for the facility (I6)."""
    facility = work.facility_of(t0)
    return agreements.between(ctx, facility, work.organization(work.above(ctx, t0)[-1].data["owner"])).terms.completes_order


def recipients(ctx: Context, rows: Iterable[Item]) -> list[str]:
    """Who gets the report of these coordination Tasks: each facility, and the centres between."""
    found = [one.stored.owner for t0 in rows for one in work.above(ctx, t0)]
    return list(dict.fromkeys([*found, *(work.facility_of(t0) for t0 in rows)]))
