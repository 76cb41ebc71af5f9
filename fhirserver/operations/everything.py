"""Patient/[id]/$everything: the patient's record, page by page, and what it refers to.

https://hl7.org/fhir/R4/patient-operation-everything.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhirserver import access, r4
from fhirserver.definitions import Operation, Parameter, ResourceType
from fhirserver.errors import Gone, Invalid, TooCostly
from fhirserver.interactions import answered, same_patient, understood
from fhirserver.messages import Context, Reply, Request
from fhirserver.search import includes
from fhirserver.search.clause import IDENTIFYING, NEGATIVE, Clause
from fhirserver.search.query import MAX_COUNT, Include, Query
from fhirserver.versions import Stored, Visible

_COUNT = 100
# When the care was: the first of these that a type has. What has none, or no value, belongs to every time.
_CARE_DATES = (
    "date", "started", "period", "authored", "authored-on", "authoredon", "effective", "sent", "onset-date", "issued",
    "recorded-date", "created", "whenhandedover",
)  # fmt: skip


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """A searchset: the patient, then the newest first. Errors: 404, 410; 422 for a type that R4 does not have."""
    patient = access.found(ctx, ctx.store.types["Patient"], inputs["id"], "r")
    if patient.deleted:
        raise Gone("This Patient was deleted.")
    count = inputs.get("_count", _COUNT)
    if not 1 <= count <= MAX_COUNT:
        raise Invalid(f"_count is from 1 to {MAX_COUNT}.", "Parameters.parameter")
    names = [name for value in inputs["_type"] for name in value.split(",")]
    if any(name not in ctx.store.types for name in names):
        raise Invalid("_type names a resource type that is not served here.", "Parameters.parameter")
    within = same_patient(ctx, [patient.reference])
    queries = [_query(ctx, ctx.store.types[name], within, inputs, count) for name in _types(ctx, names)]

    def allowed(name: str) -> Visible | None:
        """Of others' records nothing comes along: a Group names many people."""
        return (
            access.includable(ctx.principal, ctx.store.types[name])
            if name != "Patient" and (not names or name in names)
            else None
        )

    def also(shown: list[Stored]) -> list[Stored]:
        """What the rows refer to and is not of the record itself: that has its own place on a page."""
        found = _referred(ctx, shown, allowed)
        return [row for row in found if not any(one.startswith("Patient/") for one in row.compartments)]

    seen = access.includable(ctx.principal, ctx.store.types["Patient"]) if not names or "Patient" in names else None
    people = ctx.store.fetch("Patient", [one.partition("/")[2] for one in within], seen) if seen else []
    people.sort(key=lambda row: row.id != patient.id)
    return answered(ctx, Request("GET", request.path), request.path, queries, also, people)


def _referred(ctx: Context, shown: list[Stored], allowed: Callable[[str], Visible | None]) -> list[Stored]:
    """What the rows refer to; a row that alone refers to more than can come along comes without."""
    asked = Query(ctx.store.types["Patient"], includes=[Include("*", "*", None)])
    try:
        return includes.included(ctx, asked, shown, allowed)
    except TooCostly:
        found: dict[str, Stored] = {}
        for row in shown if len(shown) > 1 else ():
            found |= {one.reference: one for one in _referred(ctx, [row], allowed) if len(found) < includes.MAX_INCLUDED}
        return list(found.values())


def _types(ctx: Context, names: list[str]) -> list[str]:
    """The types of the compartment that have resources and that the caller may search."""
    inside = [name for name in ctx.store.kept() if name != "Patient" and r4.compartment_parameters("Patient", name)]
    asked = [name for name in inside if not names or name in names]
    return [name for name in asked if access.permitted(ctx.principal, ctx.store.types[name], "s")]


def _query(ctx: Context, type_: ResourceType, within: list[str], inputs: Mapping[str, Any], count: int) -> Query:
    asked = [("_count", str(count))] + [(name, str(inputs[name])) for name in ("_cursor",) if name in inputs]
    query = understood(ctx, type_, asked)
    for name in ("_since", "start", "end"):
        if name in inputs:
            query.used.append((name, inputs[name]))
    query.used += [("_type", value) for value in inputs["_type"]]
    query.clauses.append(Clause({"c": {"$in": within}}, IDENTIFYING))
    if "_since" in inputs:
        query.clauses += understood(ctx, type_, [("_lastUpdated", f"ge{inputs['_since']}")]).clauses
    when = next((code for code in _CARE_DATES if code in r4.search_parameters(type_.name)), None)
    for name, prefix in (("start", "ge"), ("end", "le")):
        if name in inputs and when:
            [dated] = understood(ctx, type_, [(when, f"{prefix}{inputs[name]}")]).clauses
            [undated] = understood(ctx, type_, [(f"{when}:missing", "true")]).clauses
            query.clauses.append(Clause({"$or": [dated.second, undated.second]}, NEGATIVE))
    return query


PATIENT_EVERYTHING = Operation(
    code="everything",
    type="Patient",
    levels=("instance",),
    title="The patient's record",
    affects_state=False,
    inputs=(
        Parameter("start", "date", documentation="of the care"),
        Parameter("end", "date", documentation="of the care"),
        Parameter("_since", "instant", documentation="changed since then; the patient comes always"),
        Parameter("_type", "string", max="*", documentation="types, with commas between or repeated"),
        Parameter("_count", "integer", documentation="resources of the record on a page, 1 to 1000, default 100"),
        Parameter("_cursor", "string", documentation="a page: of its next link"),
    ),
    outputs=(Parameter("return", "Bundle", 1),),
    handler=operate,
    description="The Patient compartment and what it refers to, the records merged with it included; page by page.",
    standard=True,
)
