"""Patients that were merged: a search by one of their records finds what belongs to each of them.

``Patient.link`` of type ``replaced-by`` (or ``replaces`` on the record that stays) says so, between records of one
organisation; taking the link away takes the merge back. https://hl7.org/fhir/R4/patient.html#links
"""

from __future__ import annotations

from fhirserver.access import visible
from fhirserver.messages import Context
from fhirserver.search.query import tagged
from fhirserver.search.reference import relative
from fhirserver.store import Store
from fhirserver.validation import Document, loads
from fhirserver.versions import Stored, Visible

_MERGES = ("replaced-by", "replaces")
ROUNDS, _MOST = 4, 100


def same(ctx: Context, references: list[str]) -> list[str]:
    """The references, and those to the other records of the same patients that this caller may see."""
    found = dict.fromkeys(references)
    edge = [reference for reference in references if reference.startswith("Patient/")]
    seen = visible(ctx.principal, ctx.store.types["Patient"], "rs")
    for _ in range(ROUNDS):
        if not edge or len(found) > _MOST:
            break
        both = pairs(ctx.store, seen, edge, ctx.base, _MOST)
        edge = [one for one in dict.fromkeys(one for pair in both for one in pair) if one not in found]
        found.update(dict.fromkeys(edge))
    return list(found)


def pairs(store: Store, seen: Visible, references: list[str], base: str, limit: int) -> list[tuple[str, str]]:
    """(record, other) that were merged, both of one owner, where these name others or at most ``limit`` others name these."""
    tags = [f"{code}={reference}" for code in _MERGES for reference in references]
    rows = store.search(tagged(store.types["Patient"], *tags), seen, limit) + store.fetch("Patient", _ids(references), seen)
    said = [(row.reference, other) for row in rows for other in _named(row, base)]
    owners = {row.reference: row.owner for row in rows}
    rest = [other for _, other in said if other not in owners]
    owners |= {row.reference: row.owner for row in store.fetch("Patient", _ids(rest), seen)}
    return [(one, other) for one, other in said if owners[one] == owners.get(other)]


def _ids(references: list[str]) -> list[str]:
    return [reference.partition("/")[2] for reference in references]


def _named(row: Stored, base: str) -> list[str]:
    """The records that this one was merged with, by its own links."""
    if '"link"' not in row.json:
        return []
    document: Document = relative(loads(row.json), base)
    links = [link for link in document.get("link", ()) if link.get("type") in _MERGES]
    return [link.get("other", {}).get("reference", "") for link in links]
