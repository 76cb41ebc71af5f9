"""DiagnosticReport/[id]/$addend: add to a signed report. What was signed stays, and is told together with what was added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fhirserver import audit, revising, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Invalid
from fhirserver.interactions import check_if_match
from fhirserver.messages import Context, Request
from fhirserver.versions import Write
from fhirserver.work import Item
from fhirserver.workflow import narrative


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Write]:
    report = work.visible_item(ctx, "DiagnosticReport", inputs["id"])
    check_if_match(request, report.stored)
    found = revising.signed(ctx, report)
    by = revising.permitted(ctx, found)
    if ("text" in inputs) == ("response" in inputs):
        raise Invalid("An addendum is text, or a response.", "Parameters.parameter")
    text = inputs.get("text") or "\n".join(f"{heading}: {told}" for _, heading, told in narrative.lines(inputs["response"]))
    if not text.strip():
        raise Invalid("An addendum says something.", "Parameters.parameter")
    heading = f"Addendum, {work.timestamp(ctx.now)}"
    noted = Item(report.stored, revising.noted(report.data, heading, text))
    saved, *_ = revising.published(
        ctx,
        replace(found, report=noted),
        found.said.data,
        "appended",
        revising.addenda(noted.data),
        "An addendum was made.",
        by,
    )
    targets = [f"{w.reference}/_history/{w.version}" for w in ctx.changes.writes.values()]
    extra = {"reason": [inputs["reason"]]} | ({"signature": [inputs["signature"]]} if "signature" in inputs else {})
    audit.add(ctx, audit.provenance(ctx, targets, "addend", extra))
    return {"return": saved}


ADDEND = Operation(
    code="addend",
    type="DiagnosticReport",
    levels=("instance",),
    title="Add an addendum",
    affects_state=True,
    inputs=(
        Parameter("text", "markdown", documentation="or response"),
        Parameter("response", "QuestionnaireResponse"),
        Parameter("reason", "CodeableConcept", 1),
        Parameter("signature", "Signature"),
    ),
    outputs=(Parameter("return", "DiagnosticReport", 1, documentation="appended"),),
    handler=operate,
    description="By the signing reader or a deputy who may read it finally. All who have it are told. 403; 409 not signed; 412.",
)
