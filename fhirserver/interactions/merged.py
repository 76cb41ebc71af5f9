"""Patients that were merged: a search by one of their records finds what belongs to each of them.

``Patient.link`` of type ``replaced-by`` (or ``replaces`` on the record that stays) says so, between records of one
organisation; taking the link away takes the merge back. https://hl7.org/fhir/R4/patient.html#links
"""

from __future__ import annotations

from fhirserver.access import visible
from fhirserver.messages import Context
from fhirserver.search.query import tagged
from fhirserver.validation import Document, loads
from fhirserver.versions import Stored

_MERGES = ("replaced-by", "replaces")
_ROUNDS, _MOST = 4, 100


def same(ctx: Context, references: list[str]) -> list[str]:
    """The references, and those to the other records of the same patients that this caller may see."""
    found = dict.fromkeys(references)
    edge = [reference for reference in references if reference.startswith("Patient/")]
    for _ in range(_ROUNDS):
        if not edge or len(found) > _MOST:
            break
        edge = [one for one in _linked(ctx, edge) if one not in found]
        found.update(dict.fromkeys(edge))
    return list(found)


def _linked(ctx: Context, references: list[str]) -> list[str]:
    """Each other record that one of these names, or that names one of these, where both are of one owner."""
    type_, seen = ctx.store.types["Patient"], visible(ctx.principal, ctx.store.types["Patient"], "rs")
    tags = [f"{code}={reference}" for code in _MERGES for reference in references]
    naming = ctx.store.search(tagged(type_, *tags), seen, _MOST)
    these = ctx.store.fetch("Patient", [reference.partition("/")[2] for reference in references], seen)
    owners = {row.reference: row.owner for row in these}
    found = [row.reference for row in naming if row.owner in {owners.get(one) for one in named(row)}]
    candidates = {one: row.owner for row in these for one in named(row)}
    if candidates:
        rows = ctx.store.fetch("Patient", [one.partition("/")[2] for one in candidates], seen)
        found += [row.reference for row in rows if row.owner == candidates[row.reference]]
    return found


def named(row: Stored) -> list[str]:
    """The records that this one was merged with, by its own links."""
    if '"link"' not in row.json:
        return []
    document: Document = loads(row.json)
    links = [link for link in document.get("link", ()) if link.get("type") in _MERGES]
    return [link.get("other", {}).get("reference", "") for link in links]
