"""Measure/$evaluate-measure: turnaround, deadlines kept, answers to findings, discrepancies; computed in the database.

https://hl7.org/fhir/R4/measure-operation-evaluate-measure.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import roster
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BusinessRule, Invalid, Unsupported
from fhirserver.messages import Context, Request
from fhirserver.moments import span
from fhirserver.validation import Document, instant

MEASURES = "urn:fhirserver:measure"
GROUPS = ("priority", "facility", "reader", "modality", "category")
# code -> (kind of row, clock or None for a share)
_KNOWN: Mapping[str, tuple[str, str | None]] = {
    "turnaround": ("final", "complete"),
    "turnaround-dispatched": ("final", "dispatched"),
    "turnaround-assigned": ("final", "assigned"),
    "turnaround-started": ("final", "started"),
    "preliminary": ("preliminary", "complete"),
    "deadlines-kept": ("final", None),
    "acknowledgement": ("alert", "acknowledged"),
    "receipt": ("receipt", "received"),
    "discrepancies": ("discrepancy", None),
}
_PERCENTILES = (50, 90)


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    roster.require_role(ctx, "dispatcher", "quality", "administrator", "clerk", "referrer")
    name = inputs.get("measure", "turnaround").removeprefix(f"{MEASURES}:")
    if name not in _KNOWN:
        raise BusinessRule(f"measure is one of {', '.join(_KNOWN)}.", "Parameters.parameter")
    if "subject" in inputs or inputs.get("reportType", "population") not in ("population", "summary"):
        raise Unsupported("Figures are of all readings of a period; reportType is population.", "Parameters.parameter")
    by = inputs.get("by", "priority")
    if by not in GROUPS:
        raise Invalid(f"by is one of {', '.join(GROUPS)}.", "Parameters.parameter")
    low, high = span(inputs["periodStart"])[0], span(inputs["periodEnd"])[1]
    if low >= high:
        raise BusinessRule("The period ends before it begins.", "Parameters.parameter")
    kind, clock = _KNOWN[name]
    me = ctx.principal.organization
    if by == "reader" and not _ours(ctx):
        raise BusinessRule(
            "Figures by reader are the reading centre's own, for who dispatches or keeps its quality.", "Parameters.parameter"
        )
    if "practitioner" in inputs:
        raise Unsupported("Narrow by reader with by=reader.", "Parameters.parameter")
    rows = ctx.store.registers.measured(me, kind, by, clock, _PERCENTILES, (low, high))
    finals = ctx.store.registers.measured(me, "final", by, None, (), (low, high)) if name == "discrepancies" else []
    return {"return": _report(ctx, inputs, name, rows, {row["_id"]: row["n"] for row in finals}, clock)}


def _ours(ctx: Context) -> bool:
    return ctx.principal.acts_as("dispatcher") or ctx.principal.acts_as("quality")


def _report(
    ctx: Context, inputs: Mapping[str, Any], name: str, rows: list[Document], finals: Mapping[Any, int], clock: str | None
) -> Document:  # fmt: skip
    """https://hl7.org/fhir/R4/measurereport.html: a group for each value; minutes for times, a share for the others."""
    return {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": f"{MEASURES}:{name}",
        "date": instant(ctx.now),
        "reporter": {"reference": f"Organization/{ctx.principal.organization}"},
        "period": {"start": inputs["periodStart"], "end": inputs["periodEnd"]},
        **({"group": [_group(row, name, finals, clock) for row in rows]} if rows else {}),
    }


def _group(row: Document, name: str, finals: Mapping[Any, int], clock: str | None) -> Document:
    value = row["_id"] or "unknown"
    population = [{"code": _code("denominator"), "count": row["n"]}]
    if clock is None:
        kept = row["met"] if name == "deadlines-kept" else row["n"]
        whole = row["n"] if name == "deadlines-kept" else finals.get(row["_id"], 0)
        population = [{"code": _code("denominator"), "count": whole}, {"code": _code("numerator"), "count": kept}]
        score = {"value": round(kept / whole, 4)} if whole else None
        return {"code": {"text": value}, "population": population, **({"measureScore": score} if score else {})}
    minutes = {percent: round(row[f"p{percent}"] / 60_000, 1) for percent in _PERCENTILES}
    stratum = [
        {"value": {"text": f"p{percent}"}, "measureScore": _minutes(minutes[percent])} for percent in _PERCENTILES
    ]  # fmt: skip
    return {
        "code": {"text": value},
        "population": population,
        "measureScore": _minutes(minutes[50]),
        "stratifier": [{"code": [{"text": "percentile"}], "stratum": stratum}],
    }


def _minutes(value: float) -> Document:
    return {"value": value, "unit": "min", "system": "http://unitsofmeasure.org", "code": "min"}


def _code(code: str) -> Document:
    return {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/measure-population", "code": code}]}


EVALUATE_MEASURE = Operation(
    code="evaluate-measure",
    type="Measure",
    levels=("type",),
    title="Evaluate a measure",
    affects_state=False,
    inputs=(
        Parameter("periodStart", "date", 1),
        Parameter("periodEnd", "date", 1),
        Parameter("measure", "string", documentation=f"{' | '.join(_KNOWN)}; default turnaround"),
        Parameter("reportType", "code", documentation="population"),
        Parameter("subject", "string", documentation="not served"),
        Parameter("practitioner", "string", documentation="not served: by=reader"),
        Parameter(
            "by",
            "code",
            documentation=f"{' | '.join(GROUPS)}; default priority; category: of a finding, or how severe a discrepancy is",
        ),
    ),
    outputs=(Parameter("return", "MeasureReport", 1),),
    handler=operate,
    description="Of what the caller's organisation asked for or read. Times are minutes at p50 and p90, others a share.",
)
