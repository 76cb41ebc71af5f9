"""/fhir/openapi.json: the same routes and operations for tools that read OpenAPI, computed from the declarations.

What a resource holds is the standard's to say (StructureDefinition), so bodies are told as resources of a type and no further.
https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from fhirserver import __version__
from fhirserver.definitions import Operation, Parameter
from fhirserver.search.index import COMPARTMENTS
from fhirserver.validation import dumps

Document = dict[str, Any]
# (method, path, interaction), as dispatch has them
Rows = tuple[tuple[str, str, str], ...]

MEDIA = "application/fhir+json"
_JSON_PATCH = "application/json-patch+json"
_FORM = "application/x-www-form-urlencoded"
_SEARCHES = ("search-type", "search-system", "search-compartment")
_ANSWERS = {"create": (200, 201), "update": (200, 201), "patch": (200,), "delete": (200, 204), "read": (200, 304)}
_CONDITIONS = {
    "read": ("If-None-Match", "If-Modified-Since"),
    "create": ("If-None-Exist", "Prefer"),
    "update": ("If-Match", "If-None-Match", "Prefer"),
    "patch": ("If-Match", "Prefer"),
    "delete": ("If-Match",),
    "bundle": ("Prefer",),
}
_CONTROLS = ("_count", "_sort", "_include", "_revinclude", "_total", "_cursor", "_lastUpdated", "_id")
_SHAPES = ("_summary", "_elements", "_pretty", "_format")


@lru_cache(maxsize=2)
def document(base: str, types: tuple[str, ...], routes: Rows, operations: tuple[Operation, ...]) -> str:
    paths: dict[str, Document] = {}
    for method, path, interaction in routes:
        if interaction != "operation" and interaction != "openapi":
            paths.setdefault(f"/{path}", {})[method.lower()] = _interaction(path, interaction, types, method)
    for operation in operations:
        for level in operation.levels:
            named = (operation.type,) if operation.type not in ("", "Resource") else types
            start = {"system": "", "type": "/{type}", "instance": "/{type}/{id}"}[level]
            key = f"{start}/${operation.code}" if len(named) > 1 else f"{start.replace('{type}', named[0])}/${operation.code}"
            for method in ("post",) if operation.affects_state else ("get", "post"):
                paths.setdefault(key, {})[method] = _operation(operation, key, named, method, level)
    return dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "fhirserver: FHIR R4 for teleradiology", "version": __version__},
            "servers": [{"url": base}],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                "schemas": {"OperationOutcome": _OUTCOME, "Resource": _resource(None), "Bundle": _resource("Bundle")},
            },
        }
    )


_OUTCOME: Document = {
    "type": "object",
    "required": ["resourceType", "issue"],
    "properties": {
        "resourceType": {"const": "OperationOutcome"},
        "issue": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["severity", "code", "diagnostics"],
                "properties": {
                    "severity": {"enum": ["fatal", "error", "warning", "information"]},
                    "code": {"type": "string", "pattern": "^[a-z-]+$"},
                    "diagnostics": {"type": "string", "minLength": 1},
                    "expression": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    },
}


def _resource(type_: str | None) -> Document:
    name = {"const": type_} if type_ else {"type": "string"}
    return {"type": "object", "required": ["resourceType"], "properties": {"resourceType": name}}


def _interaction(path: str, interaction: str, types: tuple[str, ...], method: str) -> Document:
    found: Document = {
        "operationId": re.sub(r"\W+", "-", f"{method.lower()}-{interaction}-{path}").strip("-"),
        "summary": interaction,
        "parameters": [*_in_path(path, types), *(_header(name) for name in _CONDITIONS.get(interaction, ()))],
        "responses": _responses(
            _ANSWERS.get(interaction, (200,)), "Bundle" if interaction in (*_SEARCHES, "bundle") else "Resource"
        ),
    }
    if interaction == "capabilities":
        found["security"] = []
    if interaction in _SEARCHES and method == "GET":
        found["parameters"] += [_query(name) for name in (*_CONTROLS, *_SHAPES)]
    elif interaction.startswith("history"):
        found["parameters"] += [_query(name) for name in ("_count", "_since", "_at", "_cursor")]
    elif interaction in ("read", "vread"):
        found["parameters"] += [_query(name) for name in _SHAPES]
    if body := _body(interaction, method):
        found["requestBody"] = {"required": interaction not in _SEARCHES, "content": body}
    return found


def _body(interaction: str, method: str) -> Document:
    if interaction in _SEARCHES and method == "POST":
        return {_FORM: {"schema": {"type": "object", "additionalProperties": {"type": "string"}}}}
    if interaction == "bundle":
        return {MEDIA: {"schema": {"$ref": "#/components/schemas/Bundle"}}}
    if interaction == "patch":
        steps = {"type": "array", "items": {"type": "object", "required": ["op", "path"]}}
        return {_JSON_PATCH: {"schema": steps}, MEDIA: {"schema": _resource("Parameters")}}
    return {MEDIA: {"schema": {"$ref": "#/components/schemas/Resource"}}} if interaction in ("create", "update") else {}


def _operation(operation: Operation, path: str, types: tuple[str, ...], method: str, level: str) -> Document:
    found: Document = {
        "operationId": f"{method}-{level}-{operation.type or 'system'}-{operation.code}",
        "summary": operation.title,
        "description": operation.description or operation.title,
        "parameters": _in_path(path[1:], types),
        "responses": _responses((200,), "Resource"),
    }
    plain = [p for p in operation.inputs if p.type[:1].islower() or p.type == "Reference"]
    if method == "get":
        found["parameters"] += [_query(p.name, p.documentation) for p in plain]
    else:
        found["requestBody"] = {"required": False, "content": {MEDIA: {"schema": _parameters(operation.inputs)}}}
    return found


def _parameters(inputs: Iterable[Parameter]) -> Document:
    names = [p.name for p in inputs]
    item: Document = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    rows: Document = {"type": "array", "items": item if names else False}
    return {
        "type": "object",
        "properties": {"resourceType": {"const": "Parameters"}, "parameter": rows},
        "required": ["resourceType"],
    }


def _in_path(path: str, types: tuple[str, ...]) -> list[Document]:
    kinds: dict[str, Document] = {
        "type": {"type": "string", "enum": list(types)},
        "compartment": {"type": "string", "enum": list(COMPARTMENTS)},
        "id": {"type": "string", "pattern": r"^[A-Za-z0-9\-.]{1,64}$"},
        "version": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    }
    return [{"name": n, "in": "path", "required": True, "schema": kinds[n]} for n in re.findall(r"{(\w+)}", path)]


def _query(name: str, text: str = "") -> Document:
    row = {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
    return row | ({"description": text} if text else {})


def _header(name: str) -> Document:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}


def _responses(statuses: tuple[int, ...], schema: str) -> Document:
    shown = {"description": "done", "content": {MEDIA: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
    failed = {
        "description": "told by issues",
        "content": {MEDIA: {"schema": {"$ref": "#/components/schemas/OperationOutcome"}}},
    }
    rows: Document = {str(status): {"description": "nothing to show"} if status in (204, 304) else shown for status in statuses}
    return rows | {"4XX": failed, "503": failed, "507": failed}
