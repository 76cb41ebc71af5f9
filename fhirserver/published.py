"""The server's definitions as resources: SearchParameters and OperationDefinitions, computed from the declarations.

They are stored when somebody first asks for one, and again when the declarations have changed.
https://hl7.org/fhir/R4/searchparameter.html https://hl7.org/fhir/R4/operationdefinition.html
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from typing import Any

from auth.principal import Principal
from fhirserver import __date__, __version__, audit
from fhirserver.definitions import Operation, Parameter, ResourceType, SearchParam
from fhirserver.errors import Conflict
from fhirserver.interactions import put
from fhirserver.messages import Context
from fhirserver.operations import OPERATIONS
from fhirserver.search import KINDS
from fhirserver.search.parameters import parameters
from fhirserver.validation import Document, built, dumps
from fhirserver.versions import EVERYTHING, Changes

TYPES = frozenset({"SearchParameter", "OperationDefinition"})
OWNER = "fhirserver"
_BATCH = 200
_CANONICAL = "http://hl7.org/fhir/SearchParameter/"
COMPARATORS = ("eq", "ne", "gt", "ge", "lt", "le", "sa", "eb", "ap")


def publish(ctx: Context) -> None:
    """Store what is not stored yet, or is not what it was; another process may do the same at the same time."""
    documents, stamp = _documents(ctx.base, tuple(ctx.store.types.values()))
    if ctx.store.registers.published() == stamp:
        return
    server = replace(ctx, principal=Principal(OWNER, OWNER))
    for start in range(0, len(documents), _BATCH):
        batch = replace(server, changes=Changes())
        for type_ in TYPES:
            _add(batch, type_, [d for d in documents[start : start + _BATCH] if d["resourceType"] == type_])
        audit.record(batch, "batch")
        try:
            ctx.store.commit(batch.changes)
        except Conflict:
            return  # it is being stored: who asks next sees whether it all was
    ctx.store.registers.set_published(stamp)


def _add(ctx: Context, name: str, documents: list[Document]) -> None:
    type_ = ctx.store.types[name]
    stored = {row.id: row for row in ctx.store.fetch(name, [d["id"] for d in documents], EVERYTHING)}
    for document in documents:
        current, resource = stored.get(document["id"]), built(document)
        if current is None or current.owner == OWNER:
            put(ctx, type_, resource, document["id"], current, "PUT")


@lru_cache(maxsize=2)
def _documents(base: str, types: tuple[ResourceType, ...]) -> tuple[list[Document], str]:
    """All of them, and a stamp by which to know them."""
    found: dict[str, list[tuple[ResourceType, SearchParam]]] = {}
    for type_ in types:
        for param in (p for p in parameters(type_).values() if p not in type_.custom):  # those are resources already
            found.setdefault(param.url, []).append((type_, param))
    documents = [_search_parameter(url, rows) for url, rows in found.items() if url]
    documents += [operation_definition(base, operation) for operation in OPERATIONS]
    return documents, hashlib.sha256(dumps(documents).encode()).hexdigest()


def _search_parameter(url: str, rows: list[tuple[ResourceType, SearchParam]]) -> Document:
    param = rows[0][1]
    id_ = url.removeprefix(_CANONICAL).rpartition(":")[2]
    expressions = dict.fromkeys(branch for _, p in rows for branch in p.expression.split(" | "))
    document: Document = {
        "resourceType": "SearchParameter",
        "id": id_,
        "url": url,
        "version": "4.0.1" if url.startswith(_CANONICAL) else __version__,
        "name": param.code,
        "status": "active",
        "description": f"The parameter {param.code} as this server serves it.",
        "code": param.code,
        "base": sorted({type_.name for type_, _ in rows}),
        "type": param.kind,
        "expression": " | ".join(expressions),
    }
    if targets := sorted({target for _, p in rows for target in p.targets or ()}):
        document["target"] = targets
    if param.kind in ("number", "date", "quantity"):
        document["comparator"] = list(COMPARATORS)
    names = [{"of-type": "ofType", "identifier": "identifier"}.get(m, m) for m in KINDS[param.kind].MODIFIERS]
    document["modifier"] = ["missing", *names, *(["type"] if param.kind == "reference" else [])]
    if param.components:
        document["component"] = [{"definition": c.url, "expression": c.expression} for c in param.components]
    return document


def operation_definition(base: str, operation: Operation) -> Document:
    """https://hl7.org/fhir/R4/operationdefinition.html"""
    document: Document = {
        "resourceType": "OperationDefinition",
        "id": operation.id,
        "url": operation.url(base),
        "version": __version__,
        "name": operation.id.replace("-", "_"),
        "title": operation.title,
        "status": "active",
        "kind": "operation",
        "date": __date__,
        "description": operation.description or operation.title,
        "affectsState": operation.affects_state,
        "code": operation.code,
        "system": "system" in operation.levels,
        "type": "type" in operation.levels,
        "instance": "instance" in operation.levels,
    }
    if operation.type:
        document["resource"] = [operation.type]
    rows = [_parameter(p, "in") for p in operation.inputs] + [_parameter(p, "out") for p in operation.outputs]
    return document | ({"parameter": rows} if rows else {})


def _parameter(param: Parameter, use: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": param.name, "use": use, "min": param.min, "max": param.max}
    if param.documentation:
        row["documentation"] = param.documentation
    if param.parts:
        return row | {"part": [_parameter(part, use) for part in param.parts]}
    profiles = [f"http://hl7.org/fhir/StructureDefinition/{target}" for target in param.targets]
    return row | {"type": param.type} | ({"targetProfile": profiles} if profiles else {})
