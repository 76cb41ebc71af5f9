"""What a signature closes and sets going: attempts, coordination Tasks up to the facility's, orders; delivery, charge, figures.

Everything is planned into one transaction with the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fhirserver import agreements, reporting, timing, work
from fhirserver.messages import Context
from fhirserver.moments import milliseconds, span
from fhirserver.reporting import Answered, Opened
from fhirserver.validation import Document
from fhirserver.versions import Grant, Write
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from fhirserver.workflow.calendars import Calendar

CHARGE = "urn:fhirserver:CodeSystem:charge"
CHARGE_DETAIL = "urn:fhirserver:StructureDefinition:charge-detail"


def attempt(ctx: Context, row: Answered, response: str | None = None) -> Write:
    """The reader's part is done."""
    period = row.attempt.data.get("executionPeriod", {}) | {"end": work.timestamp(ctx.now)}
    outputs = row.attempt.data.get("output", [])
    if response:
        outputs = [*outputs, work.entry("response", {"reference": response})]
    done = row.attempt.data | {
        "status": "completed",
        "executionPeriod": period,
        "lastModified": work.timestamp(ctx.now),
        **({"output": outputs} if outputs else {}),
    }
    return work.save(ctx, row.attempt, timing.timed(done, None))


def coordination(ctx: Context, row: Answered, report: Write, document: Write) -> list[Write]:
    """The reading and all that it is part of: completed, with the report (I5); the facility's order too, where agreed (I6)."""
    found = []
    for t0 in work.above(ctx, row.t0):
        outputs = [*t0.data.get("output", ()), work.entry("report", {"reference": report.reference})]
        outputs.append(work.entry("document", {"reference": document.reference}))
        done = t0.data | {
            "status": "completed",
            "businessStatus": work.business_status(states.DELIVERED),
            "output": outputs,
            "lastModified": work.timestamp(ctx.now),
        }
        found.append(work.save(ctx, t0, timing.timed(done, None)))
    if reporting.completes(ctx, row.t0):
        found.append(work.save(ctx, row.order, row.order.data | {"status": "completed"}))
    return found


def delivery(ctx: Context, report: Document, facility: str, orders: list[Item]) -> Write:
    """A Task for the facility to confirm that it has the report."""
    centre = work.organization(report["performer"][0]) or ctx.principal.organization
    made = work.make(
        ctx,
        {
            "resourceType": "Task",
            "status": "requested",
            "intent": "order",
            "priority": "routine",
            "code": coding.concept(coding.TASK_TYPE, "deliver"),
            "focus": {"reference": f"DiagnosticReport/{report['id']}"},
            "basedOn": [{"reference": order.reference} for order in orders],
            "for": report["subject"],
            "authoredOn": work.timestamp(ctx.now),
            "lastModified": work.timestamp(ctx.now),
            "requester": {"reference": f"Organization/{centre}"},
            "owner": {"reference": f"Organization/{facility}"},
        },
        centre,
    )
    made.grants += [Grant(order.reference, f"org/{facility}").document() for order in orders if facility != centre]
    return made


# ---------------------------------------------------------------- money


def charges(ctx: Context, opened: Opened, report: Document, kind: str) -> list[Write]:
    """A ChargeItem for the read, from each organisation that was asked to the one that asked. Addenda and corrections are
    free. https://hl7.org/fhir/R4/chargeitem.html"""
    row = opened.answered[0]
    found = []
    for t0 in work.above(ctx, row.t0):
        performing = work.organization(t0.data["owner"]) or ""
        regions = work.inputs(t0.data, "region")
        details: list[tuple[str, Document]] = [
            ("modality", {"valueCode": code}) for code in work.inputs(row.t0.data, "modality")
        ]
        details.append(("priority", {"valueCode": row.order.data.get("priority", "routine")}))
        details.append(("timeBand", {"valueCode": _band(ctx, t0)}))
        document = {
            "resourceType": "ChargeItem",
            "extension": [{"url": CHARGE_DETAIL, "extension": [{"url": name} | value for name, value in details]}],
            "status": "billable",
            "code": coding.concept(CHARGE, f"read-{kind}"),
            "subject": report["subject"],
            "occurrenceDateTime": _locally(ctx, t0),
            "performer": [{"actor": report["resultsInterpreter"][0]}],
            "performingOrganization": {"reference": f"Organization/{performing}"},
            "requestingOrganization": {"reference": f"Organization/{t0.stored.owner}"},
            "quantity": {"value": max(1, len(regions))},
            "service": [{"reference": f"DiagnosticReport/{report['id']}"}],
            "supportingInformation": [{"reference": one.order.reference} for one in opened.answered],
            "enteredDate": work.timestamp(ctx.now),
        }
        if regions:
            document["bodysite"] = [{"coding": [{"code": code}]} for code in regions]
        made = work.make(ctx, document, performing)
        made.grants += [
            Grant(one.order.reference, f"org/{t0.stored.owner}").document()
            for one in opened.answered
            if t0.stored.owner != performing
        ]
        found.append(made)
    return found


def _calendar(ctx: Context, t0: Item) -> Calendar:
    return agreements.between(ctx, work.facility_of(t0), work.organization(t0.data["owner"])).terms.calendar


def _locally(ctx: Context, t0: Item) -> str:
    """Now on the wall clock of the agreement, by which the months of a bill are told."""
    return work.timestamp(_calendar(ctx, t0).local(ctx.now))


def _band(ctx: Context, t0: Item) -> str:
    """day, night, weekend or holiday, by the facility's own clock and calendar."""
    return _calendar(ctx, t0).band(ctx.now)


# ---------------------------------------------------------------- figures


def figure(ctx: Context, kind: str, report: Document, facility: str, **members: Any) -> None:
    """One row of what is measured later, written with what it is about."""
    ctx.changes.figures.append(
        {
            "kind": kind,
            "ts": milliseconds(ctx.now),
            "report": report["id"],
            "centre": work.organization(report["performer"][0]),
            "facility": facility,
            "reader": report.get("resultsInterpreter", [{}])[0].get("reference"),
            **members,
        }
    )


def figures(ctx: Context, opened: Opened, report: Document, kind: str) -> None:
    """How long each part took, in milliseconds of the server's own clock (I8)."""
    now = milliseconds(ctx.now)
    for row in opened.answered:
        top = work.above(ctx, row.t0)[-1]
        end = timing.end_of(top.data)
        begun = next(iter(work.inputs(top.data, "clock-start")), None)
        start = row.attempt.data.get("executionPeriod", {}).get("start")
        since = {
            "complete": span(begun)[0] if begun else span(top.data["authoredOn"])[0],
            "dispatched": span(top.data["authoredOn"])[0],
            "assigned": span(row.attempt.data["authoredOn"])[0],
            "started": span(start)[0] if start else now,
        }
        figure(
            ctx,
            kind,
            report,
            work.facility_of(row.t0),
            modality=next(iter(work.inputs(row.t0.data, "modality")), None),
            priority=row.order.data.get("priority", "routine"),
            met=end is None or now <= span(end)[0],
            took={name: max(0, now - moment) for name, moment in since.items()},
        )


def told_to(rows: Iterable[Answered]) -> list[Item]:
    """The coordination Tasks, for who gets the report."""
    return [row.t0 for row in rows]
