"""DiagnosticReport/[id]/$notify-critical: tell an actionable finding, and keep telling it until a person answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import alerts, contacts, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Conflict, Forbidden, Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds, span
from fhirserver.operations.acknowledge import measured
from fhirserver.work import Item
from fhirserver.workflow import coding
from fhirserver.workflow.agreement import ALERT_CATEGORIES


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    _permitted(ctx, report)
    category, method = inputs["category"], inputs.get("method")
    _checked(ctx, inputs, category, method)
    if category in {known for known, _ in _open(ctx, report)}:
        raise Conflict("A finding of this category is told already, and not answered yet.")
    order = work.item(ctx, work.based_on(report.data)[0])
    if order is None:
        raise Conflict("The order of this report was deleted.")
    named = [*([inputs["communicatedTo"]] if "communicatedTo" in inputs else []), *inputs["recipient"]]
    found_at = inputs.get("identifiedAt") or work.timestamp(ctx.now)
    asked, task, said = alerts.raised(ctx, report, order, category, inputs["finding"], found_at, named, method)
    if "communicatedTo" in inputs and inputs.get("readBack") and method in alerts.VERBAL:
        at = inputs.get("communicatedAt") or work.timestamp(ctx.now)
        task, said = alerts.answered(
            ctx, work.written(ctx, task), inputs["communicatedTo"], at, read_back=True, plan=None, method=method
        )
        asked = ctx.changes.writes["CommunicationRequest", asked.id]
        measured(ctx, task.data or {})
    return {"request": asked, "communication": said, "ack": task}


def _permitted(ctx: Context, report: Item) -> None:
    roster.require_role(ctx, "reader", "trainee", "dispatcher")
    if report.stored.owner != ctx.principal.organization:
        raise Forbidden("A finding is told by the organisation whose report it is.")
    if report.status in ("cancelled", "entered-in-error") or not work.made_here(report.data):
        raise Conflict("Findings are told of a report that was made by a reading here and stands.")


def _checked(ctx: Context, inputs: Mapping[str, Any], category: str, method: str | None) -> None:
    if category not in ALERT_CATEGORIES:
        raise Invalid(f"category is one of {', '.join(ALERT_CATEGORIES)}.", "Parameters.parameter")
    if method is not None and method not in alerts.METHODS:
        raise Invalid(f"method is one of {', '.join(alerts.METHODS)}.", "Parameters.parameter")
    finding = inputs["finding"]
    if not finding.get("text") and not any(c.get("code") for c in finding.get("coding", ())):
        raise Invalid("finding says what was found, in words or as a code.", "Parameters.parameter")
    if category in alerts.AT_ONCE and method is not None and method not in alerts.VERBAL:
        raise BusinessRule(f"{category} is told in person or by telephone, not by a message alone.", "Parameters.parameter")
    for name in ("identifiedAt", "communicatedAt"):
        if name in inputs and span(inputs[name])[0] > milliseconds(ctx.now) + 60_000:
            raise BusinessRule(f"{name} is in the future.", "Parameters.parameter")


def _open(ctx: Context, report: Item) -> list[tuple[str, str]]:
    group = ("group-identifier", f"{work.REPORTS}|{report.stored.id}")
    rows = work.items(ctx, (report.stored.owner,), "CommunicationRequest", group)
    active = [row for row in rows if row.status == "active"]
    return [(next(iter(coding.codes(row.data["category"][0], coding.ALERT))), row.reference) for row in active]


NOTIFY_CRITICAL = Operation(
    code="notify-critical",
    type="DiagnosticReport",
    levels=("instance",),
    title="Notify an actionable finding",
    affects_state=True,
    inputs=(
        Parameter("category", "code", 1, documentation=" | ".join(ALERT_CATEGORIES)),
        Parameter("finding", "CodeableConcept", 1),
        Parameter("identifiedAt", "dateTime", documentation="default: now"),
        Parameter(
            "recipient",
            "Reference",
            max="*",
            documentation="who is told first; else the requesting doctor",
            targets=(*contacts.REACHABLE, "Location"),
        ),
        Parameter("method", "code", documentation=" | ".join(alerts.METHODS)),
        Parameter("communicatedTo", "Reference", documentation="who was told already", targets=contacts.REACHABLE),
        Parameter("communicatedAt", "dateTime"),
        Parameter("readBack", "boolean", documentation="they repeated it: with a telephone or in person, that is the answer"),
    ),
    outputs=(
        Parameter("request", "CommunicationRequest", 1),
        Parameter("communication", "Communication", 1, documentation="the first telling"),
        Parameter("ack", "Task", 1, documentation="the answer that is owed, with its deadline"),
    ),
    handler=operate,
    description="By a reader or a dispatcher of the organisation whose report it is. 403; 409 it stands no more, or is told already; "
    "422 acr-1 and rcr-critical by a message alone.",
)
