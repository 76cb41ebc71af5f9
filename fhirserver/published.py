"""The server's definitions as resources: SearchParameters and OperationDefinitions, computed from the declarations.

They are stored when somebody first asks for one, and again when the declarations have changed.
https://hl7.org/fhir/R4/searchparameter.html https://hl7.org/fhir/R4/operationdefinition.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from fhirserver import __date__, __version__
from fhirserver.definitions import Operation, Parameter, ResourceType, SearchParam
from fhirserver.messages import Context
from fhirserver.moments import milliseconds
from fhirserver.operations import OPERATIONS
from fhirserver.search import KINDS
from fhirserver.search.index import index
from fhirserver.search.parameters import parameters
from fhirserver.validation import Document, built, dumps
from fhirserver.versions import EVERYTHING, Changes, Write

TYPES = frozenset({"SearchParameter", "OperationDefinition"})
OWNER = "fhirserver"
_BATCH = 200
_CANONICAL = "http://hl7.org/fhir/SearchParameter/"
COMPARATORS = ("eq", "ne", "gt", "ge", "lt", "le", "sa", "eb", "ap")


def publish(ctx: Context) -> None:
    """Store what is not stored yet. Cheap where nothing changed."""
    documents = {(d["resourceType"], d["id"]): d for d in _documents(ctx)}
    stamp = hashlib.sha256(dumps(list(documents.values())).encode()).hexdigest()
    if ctx.store.published() == stamp:
        return
    rows = list(documents.values())
    for start in range(0, len(rows), _BATCH):
        changes = Changes()
        for document in rows[start : start + _BATCH]:
            _add(ctx, changes, document)
        if changes:
            ctx.store.commit(changes)
    ctx.store.set_published(stamp)


def _add(ctx: Context, changes: Changes, document: Document) -> None:
    type_, id_ = ctx.store.types[document["resourceType"]], document["id"]
    current = ctx.store.get(type_.name, id_, EVERYTHING)
    resource = built(document)
    if current is not None and current.owner != OWNER:
        return
    version = current.version if current else 0
    write = Write(type_.name, id_, version, milliseconds(ctx.now), "PUT", OWNER, type_.base_keys(OWNER, document),
                  resource.text(id_, version + 1, ctx.now), document, index(type_, document))  # fmt: skip
    if current is not None:
        write.generation = current.generation
    changes.add(write)


def _documents(ctx: Context) -> Iterator[Document]:
    found: dict[str, list[tuple[ResourceType, SearchParam]]] = {}
    for type_ in ctx.store.types.values():
        for param in parameters(type_).values():
            found.setdefault(param.url, []).append((type_, param))
    for url, rows in found.items():
        if url and not url.startswith(f"{ctx.base}/"):
            yield _search_parameter(url, rows)
    for operation in OPERATIONS:
        yield operation_definition(ctx.base, operation)


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
        document["component"] = [{"definition": url, "expression": c.expression} for c in param.components]
    return document


def operation_definition(base: str, operation: Operation) -> Document:
    """https://hl7.org/fhir/R4/operationdefinition.html"""
    every = operation.type == "Resource"
    document: Document = {
        "resourceType": "OperationDefinition",
        "id": operation.id,
        "url": f"{base}/OperationDefinition/{operation.id}",
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
    if operation.standard and not every:
        document["base"] = operation.standard
    rows = [_parameter(p, "in") for p in operation.inputs] + [_parameter(p, "out") for p in operation.outputs]
    return document | ({"parameter": rows} if rows else {})


def _parameter(param: Parameter, use: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": param.name, "use": use, "min": param.min, "max": param.max}
    if param.documentation:
        row["documentation"] = param.documentation
    return row | {"type": param.type}
