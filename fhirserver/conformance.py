"""docs/conformance.md, computed from the declarations: what is served, what is refused and why. ``make conformance``.

A test compares the file with this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fhirserver import bundle, r4
from fhirserver.countries import NUMBERS
from fhirserver.definitions import Operation, ResourceType, never
from fhirserver.dispatch import ROUTES
from fhirserver.interactions import search
from fhirserver.operations import OPERATIONS
from fhirserver.resources import RESOURCE_TYPES
from fhirserver.search import KINDS, chains, includes, query, terminology
from fhirserver.search.index import COMPARTMENTS
from fhirserver.search.parameters import LEFT_OUT, parameters
from fhirserver.validation import MAX_RESOURCE

_RANGED = ("number", "date", "quantity")
_PREFIXES = "eq ne gt ge lt le sa eb ap"
# Those of every type that are columns, not values.
_COLUMNS = ("_id", "_lastUpdated", "_list", "_has")
_HEAD = """# Conformance

FHIR R4 (4.0.1), JSON. This file is computed from what runs: `make conformance` writes it, a test compares. `/fhir/metadata` says
the same to programs, `/fhir/openapi.json` to tools. What is not here is refused with an OperationOutcome, never ignored;
`Prefer: handling=lenient` turns a refused search parameter into a warning in the answer."""
_ELSEWHERE = """## Where we read the standard in one of several ways

- Dates without a zone are UTC. `eq` is containment, as R4 says; `ap` is a tenth of the distance from now. An `instant` is a point.
- `1e2` is as imprecise as its last digit, [95, 105); numbers are compared as doubles, and come back as they were sent.
- `:not` and `:not-in` are about the resource: none of its values is that. `ne` on a quantity with a unit looks at that unit.
- Strings begin with what is asked, letters folded: case, accents, ł, ø, ß, İ. Tokens on plain strings fold case.
- A reference to what the writer cannot read is refused like one to nothing; a hidden resource is 404 like a missing one.
- Ids are global: a PUT creates under a UUID, or under an id that begins with the writer's organisation and `-`.
- AuditEvents and Provenance of a write are made of one line in its transaction when somebody reads those types, or within 15 s.
- `$meta-add` and `$meta-delete` make a new version, since every change of a record has its history.
- Pages are sealed cursors: what does not change is neither lost nor repeated; what changes meanwhile may move.
- Writes honour `If-Match`, `If-None-Match: *`, `If-None-Exist`, `Prefer: return=` and `X-Provenance`; reads `If-None-Match` and
  `If-Modified-Since`; HEAD is a GET without its body. A patch is a JSON Patch or a FHIRPath Patch (Parameters).
- A Binary is sent and given in its own content type, unless it is asked for as `application/fhir+json`.
- `$everything` pages by 100: the patient first, then the newest. Of other patients nothing comes along; a resource that alone
  refers to more than can come along comes without. `$match` wants a number, a contact, or a name with a birth date, and is
  certain only with a number that agrees.
- An active SearchParameter is of the installation's own organisation, has one of the kinds above but composite and special,
  names its types and, for references, its targets; its expression is one of the shapes that R4's own parameters have.
- 503 with `Retry-After` while the database is away, 507 while the disk is nearly full: nothing was changed.
- How the reading itself differs from its specification: [ADR 4](adr/0004-what-differs-from-the-specification.md)."""


def text() -> str:
    parts = [
        _HEAD,
        "## Interactions\n\n" + _table(("method", "path", "interaction"), _routes()),
        "## Operations\n\n" + _table(("operation", "on", "at", "what it does"), map(_operation, OPERATIONS)),
        "## Search\n\n" + _search(),
        "## Limits\n\n" + _table(("what", "how much", "beyond"), _limits()),
        "## Resource types\n\n" + _types(),
        "## Numbers of countries\n\n"
        + _table(("system", "what", "form"), ((f"`{n.system}`", n.name, n.form) for n in NUMBERS.values())),
        _ELSEWHERE,
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _routes() -> Iterator[tuple[str, str, str]]:
    for route in ROUTES:
        yield route.method, f"`/{route.path}`", route.interaction


def _operation(operation: Operation) -> tuple[str, str, str, str]:
    on = "every type" if operation.type == "Resource" else operation.type
    told = operation.title + (f". {operation.description}" if operation.description else "")
    return f"`${operation.code}`", on, ", ".join(operation.levels), told


def _search() -> str:
    kinds = [
        (
            kind,
            " ".join(f"`:{m}`" for m in ("missing", *module.MODIFIERS, *(["[type]"] if kind == "reference" else []))),
            _prefixes(kind),
        )
        for kind, module in KINDS.items()
    ]
    common = [code for code in parameters(RESOURCE_TYPES["Basic"]) if code.startswith("_")]
    everywhere = ", ".join(f"`{name}`" for name in sorted([*_COLUMNS, *common]))
    refused = [(f"`{name}`", "every type", reason) for name, reason in LEFT_OUT.items()]
    refused += [
        (f"`{code}`", type_.name, type_.left_out.get(code, "")) for type_ in RESOURCE_TYPES.values() for code in _missing(type_)
    ]
    return "\n\n".join(
        [
            _table(("kind", "modifiers", "prefixes"), kinds),
            f"Of every type: {everywhere}; each parameter of R4's own definitions for its type, and those that an administrator adds.",
            "With `_sort` (several, any parameter), `_count`, `_total`, `_summary`, `_elements`, `_include` and `_revinclude` (`:iterate`, `*`), "
            "chains of several levels, `_has` nested, comma lists, composites as tuples, identifiers through references.",
            f"Over several types (`GET /fhir?_type=…`, a compartment's `*`): by what they share. Compartments: {', '.join(COMPARTMENTS)}.",
            "Refused:",
            _table(("parameter", "of", "why"), refused),
        ]
    )


def _prefixes(kind: str) -> str:
    return f"`{_PREFIXES}`" if kind in _RANGED else "of its parts" if kind == "composite" else ""


def _missing(type_: ResourceType) -> list[str]:
    """What R4 defines for the type and is not served, but for those that are refused of every type."""
    return sorted(set(r4.search_parameters(type_.name)) - set(parameters(type_)) - set(LEFT_OUT) - set(_COLUMNS))


def _limits() -> Iterator[tuple[str, str, str]]:
    yield "one resource", f"{MAX_RESOURCE // 1024**2} MiB (of a Binary sent as it is: three quarters of that)", "413 `too-long`"
    yield "entries of a batch or transaction", f"{bundle.MAX_ENTRIES:,}", "413 `too-long`"
    yield "rows on a page", f"{query.MAX_COUNT:,} (default {query.DEFAULT_COUNT})", "as many as that"
    yield "resources to look through where no index serves a filter", f"{search.MAX_SCANNED:,}", "400 `too-costly`"
    yield "resources that a chain passes through", f"{search.MAX_CHAIN:,}", "400 `too-costly`"
    yield "lookups of one request's chains", f"{search.MAX_LOOKUPS:,}", "400 `too-costly`"
    yield "levels of a chain or of `_has`", f"{chains.MAX_DEPTH}", "400 `too-costly`"
    yield "rows to sort by what has no column", f"{search.MAX_SORTED:,}", "400 `too-costly`"
    yield "resources that come along with a page", f"{includes.MAX_INCLUDED:,}", "400 `too-costly`"
    yield "codes of a value set in `:in`", f"{terminology.MAX_CODES:,}", "400 `too-costly`"


def _types() -> str:
    special = [type_ for type_ in RESOURCE_TYPES.values() if _notes(type_) or type_.sorts]
    rows = ((type_.name, ", ".join(f"`{code}`" for code in type_.sorts), "; ".join(_notes(type_))) for type_ in special)
    others = ", ".join(name for name, type_ in RESOURCE_TYPES.items() if type_ not in special)
    told = f"All {len(RESOURCE_TYPES)}. These have sorts by a column (others sort up to {search.MAX_SORTED:,} rows) or rules of their own:"
    return f"{told}\n\n{_table(('type', 'sorted by a column', 'what is its own'), rows)}\n\nThe others: {others}."


def _notes(type_: ResourceType) -> list[str]:
    notes = [f"own parameter `{param.code}` ({param.kind})" for param in type_.search]
    if type_.insert_only:
        notes.append("written by the server alone")
    elif type_.deletable is never:
        notes.append("not deleted")
    if type_.writers:
        notes.append(f"people write it as {' or '.join(type_.writers)}")
    if type_.referrers:
        notes.append(f"not deleted while {', '.join(dict.fromkeys(name for name, _ in type_.referrers))} refer to it")
    return notes


if __name__ == "__main__":
    print(text(), end="")
