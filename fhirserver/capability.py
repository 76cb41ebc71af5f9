"""/metadata, computed from the declarations: what it promises is what runs.

https://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fhir.resources.R4B.capabilitystatement import CapabilityStatement

from fhirserver import __date__, __version__
from fhirserver.definitions import Operation, ResourceType, never
from fhirserver.messages import Context
from fhirserver.operations import OPERATIONS
from fhirserver.search.query import parameters

_READS = ("read", "vread", "history-instance", "search-type")
_WRITES = ("create", "update")


def statement(ctx: Context) -> str:
    return _statement(ctx.base, tuple(ctx.store.types.values()))


@lru_cache(maxsize=4)
def _statement(base: str, types: tuple[ResourceType, ...]) -> str:
    document = {
        "status": "active",
        "date": __date__,
        "kind": "instance",
        "software": {"name": "fhirserver", "version": __version__},
        "implementation": {"description": "FHIR R4 server for teleradiology", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(base),
                "resource": [_resource(type_, types) for type_ in types],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
                "searchParam": [
                    {"name": "_id", "type": "token"},
                    {"name": "_lastUpdated", "type": "date"},
                ],
            }
        ],
    }
    return str(CapabilityStatement(**document).model_dump_json(exclude_none=True))


def _security(base: str) -> dict[str, Any]:
    root = base.removesuffix("/fhir")
    uris = {
        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
        "extension": [{"url": "token", "valueUri": f"{root}/auth/token"}],
    }
    service = {"system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR"}
    return {"extension": [uris], "service": [{"coding": [service]}]}


def _resource(type_: ResourceType, types: tuple[ResourceType, ...]) -> dict[str, Any]:
    writes = () if type_.insert_only else _WRITES if type_.deletable is never else (*_WRITES, "delete")
    row: dict[str, Any] = {
        "type": type_.name,
        "interaction": [{"code": code} for code in (*_READS, *writes)],
        "versioning": "versioned",
        "readHistory": True,
        "updateCreate": bool(writes),
        "conditionalCreate": False,
        "searchInclude": [f"{type_.name}:{p.code}" for p in parameters(type_).values() if p.kind == "reference"],
        "searchParam": [
            {"name": p.code, "type": p.kind, **({"definition": p.url} if p.url else {})} for p in parameters(type_).values()
        ],
    }
    row["searchRevInclude"] = [
        f"{t.name}:{p.code}" for t in types for p in parameters(t).values() if type_.name in (p.targets or ())
    ]
    operations = [_operation(operation) for operation in OPERATIONS if operation.type == type_.name]
    if operations:
        row["operation"] = operations
    return {key: value for key, value in row.items() if value != []}


def _operation(operation: Operation) -> dict[str, str]:
    return {
        "name": operation.code,
        "definition": f"urn:fhirserver:OperationDefinition:{operation.id}",
        "documentation": operation.description or operation.title,
    }
