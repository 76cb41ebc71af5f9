"""/metadata, computed from the declarations: what it promises is what runs.

https://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fhir.resources.R4B.capabilitystatement import CapabilityStatement

from auth.discovery import oauth_uris
from fhirserver import __date__, __version__
from fhirserver.definitions import Operation, ResourceType, never
from fhirserver.messages import Context
from fhirserver.operations import OPERATIONS
from fhirserver.search.index import COMPARTMENTS
from fhirserver.search.parameters import searchable

_READS = ("read", "vread", "history-instance", "history-type", "search-type")
_WRITES = ("create", "update", "patch")
_COMPARTMENT = "http://hl7.org/fhir/CompartmentDefinition/"
COMMON = (
    ("_id", "token"),
    ("_lastUpdated", "date"),
    ("_profile", "uri"),
    ("_security", "token"),
    ("_source", "uri"),
    ("_tag", "token"),
    ("_list", "string"),
    ("_has", "string"),
    ("_type", "token"),
)


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
        "patchFormat": ["application/json-patch+json", "application/fhir+json"],
        "rest": [
            {
                "mode": "server",
                "security": _security(base),
                "resource": [_resource(base, type_, _pointing(types)) for type_ in types],
                "interaction": [{"code": code} for code in ("transaction", "batch", "search-system", "history-system")],
                "searchParam": [{"name": name, "type": kind} for name, kind in COMMON],
                "operation": [_operation(base, o) for o in OPERATIONS if "system" in o.levels],
                "compartment": [_COMPARTMENT + name[0].lower() + name[1:] for name in COMPARTMENTS],
            }
        ],
    }
    rest: dict[str, Any] = document["rest"][0]  # type: ignore[index]
    if not rest["operation"]:
        del rest["operation"]
    return str(CapabilityStatement(**document).model_dump_json(exclude_none=True))


def _security(base: str) -> dict[str, Any]:
    root = base.removesuffix("/fhir")
    uris = {
        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
        "extension": oauth_uris(root),
    }
    service = {"system": "http://terminology.hl7.org/CodeSystem/restful-security-service", "code": "SMART-on-FHIR"}
    return {"extension": [uris], "service": [{"coding": [service]}]}


@lru_cache(maxsize=4)
def _pointing(types: tuple[ResourceType, ...]) -> dict[str, list[str]]:
    """Type -> the ``Type:parameter`` that can point to it."""
    found: dict[str, list[str]] = {}
    for type_ in types:
        for param in searchable(type_).values():
            if param.kind == "reference":
                for target in param.targets or ():
                    found.setdefault(target, []).append(f"{type_.name}:{param.code}")
    return found


def _resource(base: str, type_: ResourceType, pointing: dict[str, list[str]]) -> dict[str, Any]:
    writes = () if type_.insert_only else _WRITES if type_.deletable is never else (*_WRITES, "delete")
    served = searchable(type_).values()
    row: dict[str, Any] = {
        "type": type_.name,
        "interaction": [{"code": code} for code in (*_READS, *writes)],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": bool(writes),
        "conditionalCreate": bool(writes),
        "conditionalRead": "full-support",
        "conditionalUpdate": bool(writes),
        "conditionalDelete": "single" if "delete" in writes else "not-supported",
        "referencePolicy": ["literal", "logical", "local", "enforced"],
        "searchInclude": ["*", *(f"{type_.name}:{p.code}" for p in served if p.kind == "reference")],
        "searchRevInclude": pointing.get(type_.name, []),
        "searchParam": [{"name": p.code, "type": p.kind, **({"definition": p.url} if p.url else {})} for p in served],
        "operation": [_operation(base, o) for o in OPERATIONS if o.concerns(type_.name) and set(o.levels) - {"system"}],
    }
    return {key: value for key, value in row.items() if value != []}


def _operation(base: str, operation: Operation) -> dict[str, str]:
    return {
        "name": operation.code,
        "definition": operation.url(base),
        "documentation": operation.description or operation.title,
    }
