"""What a parameter asks of the index: a flat part that an index serves, and an exact part for the second stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Filter = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Clause:
    """``weight``: the smaller, the more selective; the smallest leads the first stage, all others go to the second."""

    flat: Filter
    weight: int
    exact: Filter | None = None

    @property
    def second(self) -> Filter:
        return self.exact if self.exact is not None else self.flat

    @property
    def tags(self) -> list[str] | None:
        """Where that is all: the tags of which one is asked for."""
        asked = self.flat.get("t") if self.exact is None and len(self.flat) == 1 else None
        if isinstance(asked, str):
            return [asked]
        return asked["$in"] if isinstance(asked, dict) and set(asked) == {"$in"} else None

    @property
    def leads(self) -> bool:
        """Whether an index serves the flat part."""
        return self.weight < NEGATIVE


IDENTIFYING, REFERRING, TEXT, DATED, CODED, PRESENT, NEGATIVE = range(7)
# What no resource has
NOTHING = Clause({"t": {"$in": []}}, IDENTIFYING - 1)


def either(clauses: list[Clause]) -> Clause:
    """One of several: each alternative by its own index, and exactly in the second stage."""
    if len(clauses) == 1:
        return clauses[0]
    tags = [clause.tags for clause in clauses]
    if all(one is not None for one in tags):
        return Clause({"t": {"$in": [tag for some in tags for tag in some or ()]}}, max(clause.weight for clause in clauses))
    exact = {"$or": [clause.second for clause in clauses]}
    if all(clause.leads for clause in clauses):
        return Clause({"$or": [clause.flat for clause in clauses]}, max(clause.weight for clause in clauses), exact)
    return Clause(exact, NEGATIVE)


def prefixed(start: str) -> Filter:
    """Some tag begins so."""
    return {"$elemMatch": {"$gte": start, "$lt": f"{start}\uffff"}}


def joined(flat: Filter, arrays: str, scalars: frozenset[str] = frozenset()) -> Filter:
    """The flat part as a planner likes it: of a range on an array MongoDB uses one bound, unless one element is asked to lie
    between both. ``arrays`` are those of ``t``, ``d``, ``q`` of which this database understands that; ``scalars`` are dates
    of which a resource has one, so that the column to sort by says the same.

    https://www.mongodb.com/docs/manual/core/multikey-index-bounds/
    """
    return dict(_joined(name, condition, arrays, scalars) for name, condition in flat.items())


def _joined(name: str, condition: Any, arrays: str, scalars: frozenset[str]) -> tuple[str, Any]:
    if name == "$or":
        return name, [joined(one, arrays, scalars) for one in condition]
    ranged = isinstance(condition, dict) and len(condition) == 2 and all(sign in _BOUNDS for sign in condition)
    if ranged and name.startswith("d.") and name[2:-2] in scalars and name.endswith(".l"):
        return f"o.{name[2:-2]}", condition
    if not ranged or name[0] not in arrays:
        return name, condition
    if name == "t":
        return name, {"$elemMatch": condition}
    if name.startswith(("d.", "q.")):
        path, _, end = name.rpartition(".")
        return path, {"$elemMatch": {end: condition}}
    return name, condition


_BOUNDS = frozenset({"$gt", "$gte", "$lt", "$lte"})


def missing(code: str, kind: str, wanted: bool) -> Clause:
    """``:missing``: no value, or some value. https://hl7.org/fhir/R4/search.html#modifiers"""
    here: list[Filter]
    if kind in ("date", "number", "quantity", "special", "composite"):
        here = [{f"{'d' if kind == 'date' else 'q'}.{code}": {"$exists": True}}, {"t": f"{code}:present"}]
        return Clause({"$or" if not wanted else "$nor": here}, NEGATIVE)
    marks = [f"{code}{sign}" for sign in "=~:"]
    if wanted:
        return Clause({"$nor": [{"t": prefixed(mark)} for mark in marks]}, NEGATIVE)
    return either([Clause({"t": {"$gte": mark, "$lt": f"{mark}\uffff"}}, PRESENT, {"t": prefixed(mark)}) for mark in marks])
