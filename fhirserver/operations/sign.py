"""DiagnosticReport/[id]/$sign: sign the final report, if it gives what the facility asked for.

Report, document, attempts, coordination Tasks and orders change in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import audit, closing, issuing, reporting, roster, work
from fhirserver.alerts import told_of
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Forbidden
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.reporting import Opened
from fhirserver.validation import Document
from fhirserver.versions import Write
from fhirserver.workflow.agreement import ALERT_CATEGORIES


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    caller = roster.require_reader(ctx)
    opened = reporting.opened(ctx, report, caller, "final")
    _not_a_trainee(ctx)
    for row in opened.answered:
        reporting.seen(ctx, row)
    if inputs["attest"] is not True:
        raise BusinessRule("A report is signed by attesting it.", "Parameters.parameter")
    alerts = told_of(ctx, report)
    _alerted(inputs.get("alertCategory", "none"), alerts)
    said = reporting.response(ctx, opened.draft, inputs.get("response"))
    reporting.fulfils(ctx, opened, said)
    reporting.agreed(ctx, opened, said)
    return _signed(ctx, opened, said, alerts, inputs.get("signature"))


def _not_a_trainee(ctx: Context) -> None:
    if ctx.principal.user is not None and "trainee" in ctx.principal.roles and "reader" not in ctx.principal.roles:
        raise Forbidden("A trainee's report is co-signed: publish it as preliminary, a specialist reads it finally.")


def _alerted(category: str, alerts: list[tuple[str, str]]) -> None:
    """An actionable finding is told before the report is signed, not by it."""
    if category == "none":
        return
    if category not in ALERT_CATEGORIES:
        raise BusinessRule(f"alertCategory is none or one of {', '.join(ALERT_CATEGORIES)}.", "Parameters.parameter")
    if category not in {known for known, _ in alerts}:
        raise BusinessRule("Tell the finding first, with $notify-critical; then sign.", "Parameters.parameter")


def _signed(
    ctx: Context, opened: Opened, said: Document, alerts: list[tuple[str, str]], signature: Document | None
) -> dict[str, Any]:  # fmt: skip
    answered = work.save(ctx, opened.draft, said, sealed=True)
    notes = [(issuing.COMMUNICATION, text) for _, text in alerts]
    final = issuing.told(ctx, opened.document, said, "final", notes)
    signed = work.save(ctx, opened.report, final)
    orders = [row.order for row in opened.answered]
    readers = reporting.recipients(ctx, [row.t0 for row in opened.answered])
    document, listed = issuing.document(ctx, final, said, orders, readers, notes)
    told = [signed, document, listed]
    for row in opened.answered:
        closing.attempt(ctx, row, answered.reference)
        told += closing.coordination(ctx, row, signed, document)
    delivered = closing.delivery(ctx, final, opened.facility, orders)
    closing.charges(ctx, opened, final, "final")
    closing.figures(ctx, opened, final, "final")
    _proven(ctx, opened, [*told, delivered], signature)
    return {"report": signed, "document": document}


def _proven(ctx: Context, opened: Opened, told: list[Write], signature: Document | None) -> None:
    """A Provenance of the signing for the facility, of what it sees; the centre's own covers all. Both name what was read."""
    studies = [one for row in opened.answered for one in work.inputs(row.attempt.data, "study")]
    extra: Document = {"entity": [{"role": "source", "what": one} for one in studies]} if studies else {}
    extra |= {"signature": [signature]} if signature else {}
    for writes, organization in (
        (list(ctx.changes.writes.values()), ctx.principal.organization),
        ([w for w in told if w.owner == opened.facility or any(g["key"] == f"org/{opened.facility}" for g in (*w.kept, *w.grants))], opened.facility),
    ):  # fmt: skip
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
        Parameter("alertCategory", "code", documentation=f"none | {' | '.join(ALERT_CATEGORIES)}"),
    ),
    outputs=(Parameter("report", "DiagnosticReport", 1), Parameter("document", "Bundle")),
    handler=operate,
    description="By the reader whose reading is in progress. 403; 409 not open, order or images changed, second reading; 412 stale; "
    "422 with each contract item that is not met.",
)
