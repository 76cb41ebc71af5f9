"""DiagnosticReport/$sample-for-review: draw reports for peer review, each for a reviewer who did not write it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fhirserver import quality, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Forbidden, Invalid
from fhirserver.messages import Context, Request
from fhirserver.moments import milliseconds
from fhirserver.operations.parameters import Parts, Typed
from fhirserver.work import Item
from fhirserver.workflow import coding, eligibility, states
from fhirserver.workflow.eligibility import Reading, judge

STRATEGIES = ("random", "stratified", "targeted", "new-reader", "risk")
_MOST, _LOOKED_AT, _NEW = 200, 1000, 90 * 86_400_000


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> dict[str, Any]:
    if not ctx.principal.acts_as("quality") or ctx.principal.user is None:
        raise Forbidden("Reviews are drawn by a person in the role of quality.")
    if inputs["strategy"] not in STRATEGIES:
        raise Invalid(f"strategy is one of {', '.join(STRATEGIES)}.", "Parameters.parameter")
    if inputs["strategy"] == "targeted" and not inputs["reader"]:
        raise Invalid("A targeted sample names its readers.", "Parameters.parameter")
    if ("rate" in inputs) == ("count" in inputs):
        raise Invalid("Give either rate, a share, or count.", "Parameters.parameter")
    if "rate" in inputs and not 0 < inputs["rate"] <= 1:
        raise Invalid("rate is a share: above 0, and 1 at most.", "Parameters.parameter")
    if "count" in inputs and not 1 <= inputs["count"] <= _MOST:
        raise Invalid(f"count is from 1 to {_MOST}.", "Parameters.parameter")
    pool = _pool(ctx, inputs)
    number = inputs["count"] if "count" in inputs else max(1, round(len(pool) * float(inputs["rate"]))) if pool else 0
    chosen = _drawn(pool, inputs, min(number, _MOST))
    pairs = _paired(ctx, chosen, inputs)
    if inputs.get("dryRun"):
        rows = [Parts({"report": Typed("Reference", {"reference": r.reference}), "reviewer": Typed("Reference", {"reference": role})}) for r, (_, role) in pairs]  # fmt: skip
        return {"simulated": rows}
    return {"task": [quality.drawn(ctx, r, reviewer, blind=inputs.get("blind", True)) for r, reviewer in pairs]}


def _pool(ctx: Context, inputs: Mapping[str, Any]) -> list[Item]:
    """The published reports of the period, of these readers and modalities, that no review is open of."""
    period = inputs["period"]
    asked = [("status", ",".join(sorted(states.PUBLISHED)))]
    asked += [("issued", f"{prefix}{period[end]}") for prefix, end in (("ge", "start"), ("le", "end")) if end in period]
    if inputs["reader"]:
        roles = [one.get("reference", "") for one in inputs["reader"]]
        asked.append(("results-interpreter", ",".join(roles)))
    centre = ctx.principal.organization
    found = [r for r in work.items(ctx, (centre,), "DiagnosticReport", *asked) if _ours(r)]
    cases = work.items(ctx, (centre,), "Task", ("code", f"{coding.TASK_TYPE}|review-case"))
    reviewed = {case.data.get("focus", {}).get("reference") for case in cases}
    wanted = {one.get("code") for one in inputs["modality"]}
    rows = [r for r in found if r.reference not in reviewed]
    if wanted:
        rows = [r for r in rows if wanted & _modalities(ctx, r)]
    if inputs["strategy"] == "new-reader":
        rows = [r for r in rows if _is_new(ctx, r)]
    if inputs["strategy"] == "risk":
        rows = [r for r in rows if _at_risk(ctx, r)]
    return sorted(rows, key=lambda r: r.stored.id)[:_LOOKED_AT]


def _ours(report: Item) -> bool:
    return any(i.get("system") == work.REPORTS for i in report.data.get("identifier", ()))


def _modalities(ctx: Context, report: Item) -> set[str]:
    studies = [work.item(ctx, one.get("reference", "")) for one in report.data.get("imagingStudy", ())]
    return work.modalities(one for one in studies if one)


def _is_new(ctx: Context, report: Item) -> bool:
    """Whose privilege is younger than three months."""
    role = work.item(ctx, report.data.get("resultsInterpreter", [{}])[0].get("reference", ""))
    low, _ = eligibility.bounds(role.data.get("period")) if role else (0, 0)
    return low > milliseconds(ctx.now) - _NEW


def _at_risk(ctx: Context, report: Item) -> bool:
    """Changed after it was signed, or other than the preliminary one was."""
    if report.status != "final":
        return True
    rows = ctx.store.registers.figures_of(report.stored.id)
    return any(row["kind"] in ("preliminary", "discrepancy") for row in rows)


def _drawn(pool: list[Item], inputs: Mapping[str, Any], number: int) -> list[Item]:
    """The same draw for the same seed and pool."""
    seed = inputs.get("seed") or hashlib.sha256("|".join(r.stored.id for r in pool).encode()).hexdigest()
    chance = random.Random(seed)  # noqa: S311 - a draw that can be repeated
    if inputs["strategy"] != "stratified":
        return chance.sample(pool, min(number, len(pool)))
    by_reader: dict[str, list[Item]] = {}
    for report in chance.sample(pool, len(pool)):
        by_reader.setdefault(report.data.get("resultsInterpreter", [{}])[0].get("reference", ""), []).append(report)
    found: list[Item] = []
    while len(found) < number and any(by_reader.values()):
        for rows in by_reader.values():
            if rows and len(found) < number:
                found.append(rows.pop())
    return found


def _paired(ctx: Context, reports: list[Item], inputs: Mapping[str, Any]) -> list[tuple[Item, tuple[str, str]]]:
    """Each with a reviewer who may read such a study finally, is not its author, and has the fewest reviews."""
    centre, now = ctx.principal.organization, milliseconds(ctx.now)
    loads = _waiting(ctx, centre)
    found = []
    for report in reports:
        facility = _facility(ctx, report)
        modalities = tuple(sorted(_modalities(ctx, report)))
        author = quality.author(ctx, report)
        candidates = []
        for reader in roster.all_at(ctx, centre, facility):
            verdict = judge(Reading(facility, modalities), reader, now)
            if verdict.eligible and reader.reference != author and verdict.role:
                candidates.append((loads.get(reader.reference, 0), reader.reference, verdict.role))
        if candidates:
            _, person, role = min(candidates)
            loads[person] = loads.get(person, 0) + 1
            found.append((report, (person, role)))
    return found


def _waiting(ctx: Context, centre: str) -> dict[str, int]:
    """How many reviews wait for each reviewer already."""
    rows = work.items(ctx, (centre,), "Task", ("code", f"{coding.TASK_TYPE}|peer-review"), ("status", "requested"))
    loads: dict[str, int] = {}
    for role, number in Counter(row.data["owner"]["reference"] for row in rows).items():
        if person := roster.practitioner_of(ctx, {"reference": role}):
            loads[person] = loads.get(person, 0) + number
    return loads


def _facility(ctx: Context, report: Item) -> str:
    order = work.item(ctx, work.based_on(report.data)[0]) if report.data.get("basedOn") else None
    return order.stored.owner if order else report.stored.owner


SAMPLE_FOR_REVIEW = Operation(
    code="sample-for-review",
    type="DiagnosticReport",
    levels=("type",),
    title="Draw a peer-review sample",
    affects_state=True,
    inputs=(
        Parameter("period", "Period", 1, documentation="of when they were issued"),
        Parameter("strategy", "code", 1, documentation=" | ".join(STRATEGIES)),
        Parameter("rate", "decimal", documentation="a share; or count"),
        Parameter("count", "integer", documentation=f"1 to {_MOST}"),
        Parameter("modality", "Coding", max="*"),
        Parameter(
            "reader",
            "Reference",
            max="*",
            documentation="PractitionerRole; required where targeted",
            targets=("PractitionerRole",),
        ),
        Parameter("blind", "boolean", documentation="default true: the reviewer has the text without names and numbers"),
        Parameter("seed", "string", documentation="makes the draw repeatable"),
        Parameter("dryRun", "boolean", documentation="tell what would be drawn, and draw nothing"),
    ),
    outputs=(
        Parameter("task", "Task", max="*", documentation="peer-review"),
        Parameter("simulated", "", max="*", parts=(Parameter("report", "Reference", 1), Parameter("reviewer", "Reference", 1))),
    ),
    handler=operate,
    description="By the quality lead, of final reports. A report without an eligible reviewer is left out. 403; 422.",
)
