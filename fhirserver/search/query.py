"""Query string -> Query; resource -> index entries. Both read the same parameters, so they cannot disagree.

https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fhirserver import r4
from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import BadRequest, Issue, Unsupported
from fhirserver.primitives import is_id
from fhirserver.search import KINDS, date, string
from fhirserver.search.clause import IDENTIFYING, NEGATIVE, REFERRING, Clause, Filter
from fhirserver.search.paths import compiled
from fhirserver.store import Index

Pairs = Iterable[tuple[str, str]]
# Resolves a chain: (target type, pairs) -> logical ids that this caller may see
Chain = Callable[[str, list[tuple[str, str]]], list[str]]

SCHEMA = 1
DEFAULT_COUNT, MAX_COUNT = 20, 1000
_CANONICAL = "http://hl7.org/fhir/SearchParameter/"
_LAST_TEXT = "\uffff"
_COMMON = ("_profile", "_security", "_source", "_tag")


@cache
def parameters(type_: ResourceType) -> dict[str, SearchParam]:
    """Those of the type's parameters that this server serves: the standard's that compile, and our own."""
    rows = r4.search_parameters("Resource") | r4.search_parameters("DomainResource") | r4.search_parameters(type_.name)
    standard = {
        code: SearchParam(code, kind, expression, tuple(targets or ()) or None, _CANONICAL + id_)
        for code, (kind, expression, targets, id_) in rows.items()
        if kind in KINDS and code not in type_.left_out and (not code.startswith("_") or code in _COMMON)
    }
    own = {parameter.code: parameter for parameter in type_.search}
    return {code: p for code, p in (standard | own).items() if compiled(type_.name, p.expression)}


@cache
def _spellings(type_: ResourceType) -> dict[str, str]:
    own = {alias: p.code for p in type_.search for alias in p.aliases}
    return {code: code for code in parameters(type_)} | own | dict(type_.aliases)


def parameter(type_: ResourceType, name: str) -> SearchParam | None:
    return parameters(type_).get(_spellings(type_).get(name, ""))


def values(type_: ResourceType, code: str, data: dict[str, Any]) -> list[tuple[str, Any]]:
    """(FHIR type, value) of everything that a parameter points at."""
    accessor = compiled(type_.name, parameters(type_)[code].expression)
    assert accessor is not None
    return accessor(data)


def index(type_: ResourceType, data: dict[str, Any], base: str = "") -> dict[str, Any]:
    """A resource's index entries: tags ``t``, date ranges ``d``, sort scalars ``o``, compartments ``c``, unique keys ``u``.

    A reference that begins with this server's ``base`` is indexed as a relative one.
    """
    tags: dict[str, None] = {}
    dates: dict[str, list[dict[str, int]]] = {}
    for code, param in parameters(type_).items():
        found = values(type_, code, data)
        if not found:
            continue
        if param.kind == "date":
            spans = [span for fhir_type, value in found for span in date.entries(code, fhir_type, value)]
            if spans:
                dates[code] = [{"l": low, "h": high} for low, high in spans]
        else:
            kind = KINDS[param.kind]
            tags.update(dict.fromkeys(tag for fhir_type, value in found for tag in kind.entries(code, fhir_type, value)))
    scalars = {code: _scalar(type_, code, data, dates) for code in type_.sorts}
    if base:
        tags = dict.fromkeys(tag.replace(f"={base}/", "=", 1) for tag in tags)
    return {
        "t": list(tags),
        "d": dates,
        "o": scalars,
        "c": _compartments(type_, data),
        "u": type_.unique(data),
        "schema": SCHEMA,
    }


def _scalar(type_: ResourceType, code: str, data: dict[str, Any], dates: dict[str, list[dict[str, int]]]) -> int | str:
    """The value to sort by; what is missing sorts as the greatest."""
    param = parameters(type_)[code]
    if param.kind == "date":
        return min((span["l"] for span in dates.get(code, ())), default=date.LAST)
    found = values(type_, code, data)
    if code in type_.ranks:
        ranks = type_.ranks[code]
        return min((ranks.get(value, len(ranks)) for _, value in found), default=len(ranks))
    return min((string.fold(text) for fhir_type, value in found for text in string.texts(fhir_type, value)), default=_LAST_TEXT)


def _compartments(type_: ResourceType, data: dict[str, Any]) -> list[str]:
    served = parameters(type_)
    codes = [code for code in r4.compartment_parameters("Patient", type_.name) if code in served]
    found = {value.get("reference") for code in codes for kind, value in values(type_, code, data) if kind == "Reference"}
    return sorted(reference for reference in found if reference and reference.startswith("Patient/"))


def indexes(type_: ResourceType) -> list[Index]:
    """One for all tags, one for "mine, newest first", two a date, one a sort offered, one for the unique keys."""
    dates = [p.code for p in parameters(type_).values() if p.kind == "date"]
    return [
        Index((("t", 1), ("ts", -1), ("_id", 1))),
        Index((("acl", 1), ("ts", -1))),
        Index((("ts", -1),)),
        Index((("u", 1),), unique=True),
        *(Index(((f"d.{code}.{end}", 1),)) for code in dates for end in "lh"),
        *(Index(((f"o.{code}", 1),)) for code in type_.sorts),
    ]


# ---------------------------------------------------------------- asking


@dataclass(frozen=True, slots=True)
class Include:
    """_include or _revinclude: ``source:parameter[:target]``."""

    source: str
    code: str
    target: str | None


@dataclass(slots=True)
class Query:
    """A search, understood. ``used`` are the parameters that took part, for a truthful self link."""

    type: ResourceType
    clauses: list[Clause] = field(default_factory=list)
    sort: list[tuple[str, int]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    cursor: str | None = None
    includes: list[Include] = field(default_factory=list)
    revincludes: list[Include] = field(default_factory=list)
    accurate_total: bool = False
    only_count: bool = False
    used: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)

    def stages(self) -> tuple[Filter, list[Filter]]:
        """A flat first stage led by the most selective clause, and the rest for a second stage."""
        ordered = sorted(self.clauses, key=lambda clause: clause.weight)
        if not ordered or any(key.startswith("$") for key in ordered[0].flat) or "$nin" in str(ordered[0].flat):
            return {}, [clause.second for clause in ordered]
        lead = ordered[0]
        rest = [clause.second for clause in ordered[1:]]
        return lead.flat, ([lead.exact, *rest] if lead.exact else rest)


def parse(type_: ResourceType, pairs: Pairs, lenient: bool, chain: Chain) -> Query:
    """Errors: 400 for a parameter that is unknown or not served (a warning when lenient), or a value that is not one."""
    query = Query(type_)
    for name, value in pairs:
        try:
            known = _control(query, name, value) or _search(query, name, value, chain)
            if not known:
                raise Unsupported(f"{type_.name} has no search parameter of this name here: {_plain(name)}.", _plain(name))
            query.used.append((name, value))
        except Unsupported as error:
            if not lenient:
                raise
            query.warnings.append(Issue("not-supported", error.diagnostics, error.expression, "warning"))
    if not query.sort:
        query.sort = [("ts", -1)]
    if query.sort[-1][0] != "_id":
        query.sort.append(("_id", 1))
    return query


def plain(type_: ResourceType, *pairs: tuple[str, str]) -> Query:
    """A query of the server's own, without chains."""
    return parse(type_, pairs, False, lambda *_: [])


def tagged(type_: ResourceType, *tags: str) -> Query:
    """A query of the server's own for these tags as they are: nothing in them is syntax."""
    query = plain(type_)
    query.clauses.append(Clause({"t": {"$in": list(tags)}}, IDENTIFYING))
    return query


def whole_number(text: str, name: str) -> int:
    """Errors: 400."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadRequest(f"{name} is a whole number.", name)
    return int(text)


def _plain(name: str) -> str:
    return (
        name if len(name) <= 64 and name.replace("-", "").replace("_", "").replace(":", "").replace(".", "").isalnum() else "?"
    )


def _control(query: Query, name: str, value: str) -> bool:
    """The parameters that shape the answer rather than choose from it."""
    match name:
        case "_count":
            query.count = min(whole_number(value, "_count"), MAX_COUNT)
            query.only_count = query.only_count or query.count == 0
        case "_sort":
            query.sort = [_sort(query.type, key) for key in value.split(",")]
        case "_include" | "_revinclude":
            (query.includes if name == "_include" else query.revincludes).append(_include(value))
        case "_total":
            if value not in ("none", "estimate", "accurate"):
                raise BadRequest("_total is none, estimate or accurate.", "_total")
            query.accurate_total = value != "none"
        case "_summary":
            if value not in ("count", "false"):
                raise Unsupported("_summary is served as count or false.", "_summary")
            query.only_count = value == "count"
        case "_format" | "_pretty":
            pass
        case "_cursor":
            query.cursor = value
        case _:
            return False
    return True


def _sort(type_: ResourceType, key: str) -> tuple[str, int]:
    direction, name = (-1, key[1:]) if key.startswith("-") else (1, key)
    if name in ("_lastUpdated", "_id"):
        return ("ts" if name == "_lastUpdated" else "_id"), direction
    code = _spellings(type_).get(name, name)
    if code not in type_.sorts:
        offered = ", ".join(("_id", "_lastUpdated", *type_.sorts))
        raise Unsupported(f"{type_.name} can be sorted by {offered}.", "_sort")
    return f"o.{code}", direction


def _include(value: str) -> Include:
    parts = value.split(":")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise BadRequest("An include is Type:parameter or Type:parameter:TargetType.", "_include")
    return Include(parts[0], parts[1], parts[2] if len(parts) == 3 else None)


def _search(query: Query, name: str, value: str, chain: Chain) -> bool:
    if name == "_id":
        ids = value.split(",")
        if not all(is_id(one) for one in ids):
            raise BadRequest("_id is a logical id.", "_id")
        query.clauses.append(Clause({"_id": {"$in": ids}}, IDENTIFYING - 1))
        return True
    if name == "_lastUpdated":
        clauses = [_last_updated(one) for one in value.split(",")]
        either = Clause({"$or": [clause.flat for clause in clauses]}, NEGATIVE)
        query.clauses.append(clauses[0] if len(clauses) == 1 else either)
        return True
    if "." in name:
        return _chained(query, name, value, chain)
    stem, _, modifier = name.partition(":")
    param = parameter(query.type, stem)
    if param is None:
        return False
    kind = KINDS[param.kind]
    if modifier and modifier not in kind.MODIFIERS and not (param.kind == "reference" and r4.is_resource(modifier)):
        raise Unsupported(f"The modifier of {stem} is not served: {_plain(modifier)}.", stem)
    extra = {"targets": param.targets} if param.kind == "reference" else {}
    lead = param.code == "identifier"
    query.clauses.append(kind.where(param.code, modifier or None, _alternatives(value), lead, **extra))
    return True


def _alternatives(value: str) -> list[str]:
    """``a,b`` is either; ``\\,`` ``\\|`` ``\\$`` ``\\\\`` are the characters themselves."""
    parts, escaped = [""], False
    for character in value:
        if escaped:
            parts[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _last_updated(value: str) -> Clause:
    prefix, low, high = date.bounds("_lastUpdated", value)
    compared: dict[str, Filter] = {
        "eq": {"$gte": low, "$lt": high},
        "gt": {"$gte": high},
        "sa": {"$gte": high},
        "ge": {"$gte": low},
        "lt": {"$lt": low},
        "eb": {"$lt": low},
        "le": {"$lt": high},
    }
    if prefix not in compared:
        raise Unsupported("_lastUpdated has no prefix ne or ap here.", "_lastUpdated")
    return Clause({"ts": compared[prefix]}, REFERRING + 1)


def _chained(query: Query, name: str, value: str, chain: Chain) -> bool:
    """``based-on:ServiceRequest.identifier=…``: one level. https://hl7.org/fhir/R4/search.html#chaining"""
    stem, _, rest = name.partition(".")
    stem, _, named = stem.partition(":")
    param = parameter(query.type, stem)
    if param is None or param.kind != "reference":
        return False
    if "." in rest:
        raise Unsupported("A chain has one level here.", stem)
    targets = [named] if named else list(param.targets or ())
    if len(targets) > 1 and stem in ("patient", "subject") and "Patient" in targets:
        targets = ["Patient"]
    if len(targets) != 1:
        raise BadRequest(f"{stem} can point to several types: name one, {stem}:Type.parameter.", stem)
    [target] = targets
    ids = chain(target, [(rest, value)])
    query.clauses.append(Clause({"t": {"$in": [f"{param.code}={target}/{id_}" for id_ in ids]}}, IDENTIFYING + 1))
    return True
