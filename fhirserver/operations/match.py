"""Patient/$match: who of those that are here is this person? Each with a score and a grade; nothing is linked or merged.

https://hl7.org/fhir/R4/patient-operation-match.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver import access
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Invalid
from fhirserver.interactions import understood
from fhirserver.messages import Context, Reply, Request
from fhirserver.search.query import escaped_token
from fhirserver.search.string import fold
from fhirserver.search.values import escaped
from fhirserver.validation import Document, dumps, instant, loads
from fhirserver.versions import Stored
from fhirserver.workflow.resemblance import CERTAIN, POSSIBLE, grade, resemblance

_GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"
_MOST, _COUNT, _MAX_COUNT, _MOST_WAYS = 200, 10, 100, 30
Pairs = list[tuple[str, str]]


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """A searchset, the best first. Error: 422 for a Patient by whom nobody can be looked for."""
    asked: Document = inputs["resource"]
    ways = list(_ways(asked))
    if not ways:
        raise Invalid("Give an identifier, or a telecom, or a name with a birth date.", "Patient")
    if len(ways) > _MOST_WAYS:
        raise Invalid("Give fewer identifiers, contacts and names.", "Patient")
    count = inputs.get("count", _COUNT)
    if not 1 <= count <= _MAX_COUNT:
        raise Invalid(f"count is from 1 to {_MAX_COUNT}.", "Parameters.parameter")
    found: dict[str, Stored] = {}
    for way in ways:
        query = understood(ctx, ctx.store.types["Patient"], way)
        found |= {
            row.id: row
            for row in ctx.store.search(query, access.visible(ctx.principal, ctx.store.types["Patient"], "s"), _MOST)
        }
    scored = [(resemblance(asked, loads(row.json)), row) for row in found.values()]
    least = CERTAIN if inputs.get("onlyCertainMatches") else POSSIBLE
    rows = sorted(((score, row) for score, row in scored if score >= least), key=lambda pair: (-pair[0], pair[1].id))
    if inputs.get("onlyCertainMatches"):
        there = {row.reference for _, row in rows}
        rows = [pair for pair in rows if not there & set(_replaced_by(pair[1]))]  # a merged record is its successor
        rows = rows if len(rows) == 1 else []  # two that are certain make neither of them so
    return _answer(ctx, rows[:count])


def _replaced_by(row: Stored) -> list[str]:
    links = loads(row.json).get("link", ())
    return [link["other"].get("reference", "") for link in links if link.get("type") == "replaced-by"]


def _ways(patient: Document) -> Iterator[Pairs]:
    """Searches that an index serves: by each number, by each contact, by name and birth date."""
    for identifier in patient.get("identifier", ()):
        if "value" in identifier:
            yield [("identifier", escaped_token((identifier.get("system", ""), identifier["value"])))]
    for contact in patient.get("telecom", ()):
        if contact.get("system") in ("phone", "email") and "value" in contact:
            yield [("telecom", escaped(contact["value"]))]
    born = patient.get("birthDate")
    for name in patient.get("name", ()):
        for text in (name.get("family"), *name.get("given", ())[:1]):
            if born and text and fold(text).strip():
                yield [("birthdate", born), ("name", escaped(text))]


def _answer(ctx: Context, rows: list[tuple[float, Stored]]) -> Reply:
    entries = ",".join(
        f'{{"fullUrl":"{ctx.base}/{row.reference}","resource":{row.json},"search":{dumps(_search(score))}}}'
        for score, row in rows
    )
    head = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(ctx.now), "total": len(rows)}
    body = dumps(head)[:-1] + (f',"entry":[{entries}]' if entries else "") + "}"
    return Reply(200, body, touched=tuple(row.touched for _, row in rows))


def _search(score: float) -> Document:
    return {"extension": [{"url": _GRADE, "valueCode": grade(score)}], "mode": "match", "score": round(score, 3)}


PATIENT_MATCH = Operation(
    code="match",
    type="Patient",
    levels=("type",),
    title="Find a patient by what is known of them",
    affects_state=False,
    inputs=(
        Parameter("resource", "Patient", 1),
        Parameter("onlyCertainMatches", "boolean", documentation="one that is certain, or none"),
        Parameter("count", "integer", documentation="1 to 100, default 10"),
    ),
    outputs=(Parameter("return", "Bundle", 1),),
    handler=operate,
    description="Scores by numbers, name, birth date, gender, contacts and address; says certain, probable or possible.",
    standard=True,
)
