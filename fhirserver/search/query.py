"""Query string -> Query: what is asked, as clauses for the index, and how the answer is to look.

https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fhirserver import r4
from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.errors import BadRequest, Issue, Unsupported
from fhirserver.primitives import is_id
from fhirserver.search import KINDS, chains, composite, date, special, terminology
from fhirserver.search.clause import IDENTIFYING, NEGATIVE, Clause, Filter, either, joined, missing
from fhirserver.search.index import HELD, held_code
from fhirserver.search.lookup import NO_LOOKUP, Lookup
from fhirserver.search.parameters import LEFT_OUT, code_of, of_strings, parameter, searchable, single_dates, systems
from fhirserver.search.parameters import values as parameter_values
from fhirserver.search.values import divided, escaped, split
from fhirserver.shape import Shape
from fhirserver.validation import loads
from fhirserver.versions import Stored

Pairs = Iterable[tuple[str, str]]

DEFAULT_COUNT, MAX_COUNT = 20, 1000
# Parameters of the request as such: they belong to the HTTP edge
GENERAL = ("_format", "_pretty")


@dataclass(frozen=True, slots=True)
class Include:
    """_include or _revinclude: ``source:parameter[:target]``; ``*`` is every parameter; ``iterate``: of what is included too."""

    source: str
    code: str
    target: str | None
    iterate: bool = False


@dataclass(slots=True)
class Query:
    """A search, understood. ``used`` are the parameters that took part, for a truthful self link.

    ``sort`` are columns; where ``by`` names other parameters, rows are sorted by those in memory.
    """

    type: ResourceType
    clauses: list[Clause] = field(default_factory=list)
    sort: list[tuple[str, int]] = field(default_factory=list)
    by: list[tuple[str, int]] = field(default_factory=list)
    count: int = DEFAULT_COUNT
    cursor: str | None = None
    includes: list[Include] = field(default_factory=list)
    revincludes: list[Include] = field(default_factory=list)
    accurate_total: bool = False
    only_count: bool = False
    used: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[Issue] = field(default_factory=list)

    @property
    def leading(self) -> Clause | None:
        """The most selective clause that an index serves."""
        return min((clause for clause in self.clauses if clause.leads), key=lambda clause: clause.weight, default=None)

    def stages(self, arrays: str = "") -> tuple[Filter, list[Filter]]:
        """A flat first stage led by the most selective clause, and the rest for a second stage; ``arrays``: see ``joined``."""
        lead = self.leading
        if lead is None:
            return {}, [clause.second for clause in self.clauses]
        rest = [clause.second for clause in self.clauses if clause is not lead]
        return joined(lead.flat, arrays, single_dates(self.type)), ([lead.exact, *rest] if lead.exact else rest)

    @property
    def scans(self) -> bool:
        """Whether it asks for something, and no index serves any of it."""
        return bool(self.clauses) and self.leading is None


def parse(type_: ResourceType, pairs: Pairs, lenient: bool = False, lookup: Lookup = NO_LOOKUP) -> Query:
    """Errors: 400 for a parameter that is unknown or not served (a warning when lenient), or a value that is not one."""
    query = Query(type_)
    for name, value in pairs:
        try:
            if not (_control(query, name, value) or _search(query, name, value, lookup)):
                raise _unknown(type_, name)
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
    return parse(type_, pairs)


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


def _unknown(type_: ResourceType, name: str) -> Unsupported:
    told = chains.shown(name)
    if reason := LEFT_OUT.get(name) or type_.left_out.get(name):
        return Unsupported(f"{told} is not served: {reason}.", told)
    return Unsupported(f"{type_.name} has no search parameter of this name here: {told}.", told)


# ---------------------------------------------------------------- how the answer is to look


def _control(query: Query, name: str, value: str) -> bool:
    """The parameters that shape the answer rather than choose from it."""
    stem, _, modifier = name.partition(":")
    match stem:
        case "_count":
            query.count = min(whole_number(value, "_count"), MAX_COUNT)
            query.only_count = query.only_count or query.count == 0
        case "_sort":
            _sort(query, value)
        case "_include" | "_revinclude":
            if modifier not in ("", "iterate", "recurse"):
                raise Unsupported(f"{stem} has the modifier :iterate.", stem)
            (query.includes if stem == "_include" else query.revincludes).append(_include(query, stem, value, bool(modifier)))
        case "_total":
            if value not in ("none", "estimate", "accurate"):
                raise BadRequest("_total is none, estimate or accurate.", "_total")
            query.accurate_total = value != "none"
        case "_summary" | "_elements":
            Shape.of([(stem, value)])
            query.only_count = query.only_count or (stem, value) == ("_summary", "count")
        case "_cursor":
            query.cursor = value
        case _:
            return name in GENERAL
    return not modifier or stem in ("_include", "_revinclude")


def _sort(query: Query, value: str) -> None:
    """By columns where every key has one; else by values in memory, as far as that goes."""
    keys = [(key[1:], -1) if key.startswith("-") else (key, 1) for key in value.split(",")]
    served = searchable(query.type)
    codes = [(code_of(query.type, name), direction) for name, direction in keys]
    for code, _ in codes:
        if code not in ("_id", "_lastUpdated") and (code not in served or served[code].kind == "composite"):
            raise Unsupported(f"{query.type.name} cannot be sorted by {chains.shown(code)}.", "_sort")
    columns = {"_id": "_id", "_lastUpdated": "ts"} | {code: f"o.{code}" for code in query.type.sorts}
    if all(code in columns for code, _ in codes):
        query.sort = [(columns[code], direction) for code, direction in codes]
    else:
        query.by = codes


def _include(query: Query, name: str, value: str, iterate: bool) -> Include:
    if value == "*":
        return Include(query.type.name if name == "_include" else "*", "*", None, iterate)
    parts = value.split(":")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise BadRequest("An include is Type:parameter or Type:parameter:TargetType.", name)
    return Include(parts[0], parts[1], parts[2] if len(parts) == 3 else None, iterate)


# ---------------------------------------------------------------- what is asked for


def _search(query: Query, name: str, value: str, lookup: Lookup) -> bool:
    type_ = query.type
    match name:
        case "_id":
            ids = split(value, ",")
            if not all(is_id(one) for one in ids):
                raise BadRequest("_id is a logical id.", "_id")
            query.clauses.append(Clause({"_id": {"$in": ids}}, IDENTIFYING - 1))
        case "_lastUpdated":
            query.clauses.append(either([date.updated(one) for one in split(value, ",")]))
        case "_list":
            query.clauses.append(chains.listed(type_, value, lookup))
        case _ if name.startswith("_has:"):
            query.clauses.append(chains.reverse(type_, name, value, lookup))
        case _ if "." in name:
            clause = chains.forward(type_, name, value, lookup, held)
            if clause is None:
                return False
            query.clauses.append(clause)
        case _:
            stem, _, modifier = name.partition(":")
            param = parameter(type_, stem)
            if param is None:
                return False
            query.clauses.append(clause_of(type_, param, modifier, value, lookup))
    return True


def clause_of(type_: ResourceType, param: SearchParam, modifier: str, value: str, lookup: Lookup) -> Clause:
    """One parameter with its modifier and value."""
    code, kind = param.code, KINDS[param.kind]
    if modifier == "missing":
        if value not in ("true", "false"):
            raise BadRequest(f"{code}:missing is true or false.", code)
        return missing(code, param.kind, value == "true")
    if modifier and modifier not in kind.MODIFIERS and not (param.kind == "reference" and r4.is_resource(modifier)):
        raise Unsupported(f"The modifier of {code} is not served: {chains.shown(modifier)}.", code)
    values = divided(value, ",")
    match param.kind:
        case "composite":
            return composite.where(code, param.components, values)
        case "special":
            return special.where(code, values, lambda rough: _positions(type_, param, lookup.meeting(type_, rough)))
        case "reference":
            return _referring(param, modifier, values, lookup)
        case "token":
            return _coded(type_, param, modifier, values, lookup)
        case _:
            clause: Clause = kind.where(code, modifier or None, values, False)
            return clause


def _positions(type_: ResourceType, param: SearchParam, rows: list[Stored]) -> list[tuple[str, Any]]:
    return [(row.id, value) for row in rows for _, value in parameter_values(type_, param, loads(row.json))]


def held(param: SearchParam, target: ResourceType, name: str, value: str) -> Clause | None:
    """A chain's last link, asked of contained resources: "a chained condition will be evaluated inside contained resources".

    https://hl7.org/fhir/R4/search.html#contained
    """
    stem, _, modifier = name.partition(":")
    inner = parameter(target, stem)
    if (
        "." in name
        or inner is None
        or inner.kind not in HELD
        or modifier in ("not", "in", "not-in", "above", "below", "missing")
    ):
        return None
    return clause_of(target, replace(inner, code=held_code(param.code, target.name, inner.code)), modifier, value, NO_LOOKUP)


def _referring(param: SearchParam, modifier: str, values: list[str], lookup: Lookup) -> Clause:
    def widen(references: list[str]) -> list[str]:
        if modifier in ("above", "below"):
            return chains.hierarchy(param, modifier, references, lookup)
        return lookup.same(references)

    where: Any = KINDS["reference"].where
    clause: Clause = where(param.code, modifier or None, values, False, param.targets or (), widen)
    return clause


def _coded(type_: ResourceType, param: SearchParam, modifier: str, values: list[str], lookup: Lookup) -> Clause:
    where: Any = KINDS["token"].where
    negative = modifier in ("not", "not-in")
    if modifier in ("in", "not-in"):
        codes = [code for value in values for code in terminology.of_value_set(param.code, value, lookup)]
    elif modifier in ("above", "below"):
        codes = [code for value in values for code in terminology.related(param.code, modifier, value, lookup)]
    else:
        clause: Clause = where(
            param.code, modifier or None, values, param.code == "identifier", systems(type_, param), of_strings(type_, param)
        )
        return clause
    if not codes:
        return Clause({"t": {"$nin": []}}, NEGATIVE) if negative else Clause({"t": {"$in": []}}, IDENTIFYING)
    found: Clause = where(param.code, "not" if negative else None, [escaped_token(one) for one in codes], False)
    return found


def escaped_token(code: tuple[str, str]) -> str:
    """(system, code) as a token's value."""
    return f"{escaped(code[0])}|{escaped(code[1])}" if code[0] else escaped(code[1])
