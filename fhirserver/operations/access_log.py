"""Patient/[id]/$access-log: who saw or changed a patient's record, when, what of it, and from where.

EHDS Regulation (EU) 2025/327, Articles 8 to 10 and Annex II 3.2 to 3.4: https://eur-lex.europa.eu/eli/reg/2025/327
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver import access, trail
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Forbidden, Gone, Invalid
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.clause import IDENTIFYING, Clause
from fhirserver.search.query import parse
from fhirserver.validation import Document, dumps, loads
from fhirserver.versions import Stored

_COUNT, _MOST = 100, 1000
_READERS = ("clerk", "referrer", "quality", "administrator")


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """Parameters with one ``access`` for each, newest first; of the facility whose patient it is, or of the patient's own app."""
    patient = access.found(ctx, ctx.store.types["Patient"], inputs["id"], "r")
    if patient.deleted:
        raise Gone("This Patient was deleted.")
    own = patient.owner == ctx.principal.organization and any(ctx.principal.acts_as(role) for role in _READERS)
    if not own:
        raise Forbidden("The log of accesses is told by the facility whose patient it is.")
    count = inputs.get("_count", _COUNT)
    if not 1 <= count <= _MOST:
        raise Invalid(f"_count is from 1 to {_MOST}.", "Parameters.parameter")
    trail.materialise(ctx.store)
    rows = _events(ctx, patient, inputs, count)
    names = _organizations(ctx, rows)
    parts = [{"name": "access", "part": list(_parts(event, patient, names))} for event in rows]
    body = {"resourceType": "Parameters"} | ({"parameter": parts} if parts else {})
    return Reply(200, dumps(body), touched=(patient.touched,))


def _events(ctx: Context, patient: Stored, inputs: Mapping[str, Any], count: int) -> list[Document]:
    type_ = ctx.store.types["AuditEvent"]
    asked = [("date", f"{prefix}{inputs[name]}") for name, prefix in (("start", "ge"), ("end", "le")) if name in inputs]
    query = parse(type_, [*asked, ("_sort", "-date")])
    query.clauses.append(Clause({"c": patient.reference}, IDENTIFYING))
    return [loads(row.json) for row in ctx.store.search(query, access.held(ctx.principal), count)]


def _organizations(ctx: Context, events: list[Document]) -> dict[str, str]:
    """The names of the organisations that acted."""
    ids = [reference.partition("/")[2] for event in events if (reference := _organization(event))]
    found = ctx.store.fetch("Organization", ids, access.held(ctx.principal))
    return {row.reference: loads(row.json).get("name", row.id) for row in found}


def _organization(event: Document) -> str:
    reference: str = event.get("source", {}).get("observer", {}).get("reference", "")
    return reference


def _parts(event: Document, patient: Stored, names: Mapping[str, str]) -> Iterator[Document]:
    agent = event["agent"][0]["who"]
    yield {"name": "when", "valueInstant": event["recorded"]}
    if organization := _organization(event):
        yield {
            "name": "organization",
            "valueReference": {"reference": organization, "display": names.get(organization, organization)},
        }
    if "reference" in agent:
        yield {"name": "person", "valueReference": {"reference": agent["reference"], "display": agent.get("display", "")}}
    else:
        yield {"name": "system", "valueString": agent.get("display", "")}
    codes = [coding["code"] for coding in event.get("subtype", ())]
    yield {"name": "what", "valueCode": codes[-1] if codes else event["action"]}
    kinds = {e["what"]["reference"].partition("/")[0] for e in event.get("entity", ()) if "reference" in e.get("what", {})}
    for kind in sorted(kinds - {"Patient"}) or sorted(kinds):  # each event names the patient whose record it is
        yield {"name": "category", "valueCode": kind}
    if event.get("outcome", "0") != "0":
        yield {"name": "refused", "valueBoolean": True}
    if event.get("purposeOfEvent"):
        yield {"name": "emergency", "valueBoolean": True}


ACCESS_LOG = Operation(
    code="access-log",
    type="Patient",
    levels=("instance",),
    title="Who saw the record",
    affects_state=False,
    inputs=(
        Parameter("start", "date"),
        Parameter("end", "date"),
        Parameter("_count", "integer", documentation=f"1 to {_MOST}, default {_COUNT}"),
    ),
    outputs=(
        Parameter(
            "access", "BackboneElement", max="*", documentation="when, organization, person or system, what, category, …"
        ),
    ),
    handler=operate,
    description="Newest first, by the facility whose patient it is. 403.",
)
