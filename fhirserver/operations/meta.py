"""$meta, $meta-add, $meta-delete: the profiles, tags and security labels of a resource, or all that are in use.

A change of them is a new version here, since every write of a record has its history.
https://hl7.org/fhir/R4/resource-operation-meta.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhirserver import access
from fhirserver.definitions import Operation, Parameter, ResourceType
from fhirserver.errors import Gone, TooCostly
from fhirserver.interactions import check_if_match, patched
from fhirserver.messages import Context, Reply, Request
from fhirserver.operations.plain_writes import way_to
from fhirserver.search.clause import either, missing
from fhirserver.search.query import plain
from fhirserver.validation import Document, dumps, loads
from fhirserver.versions import Stored

_MOST = 1000
_CODED = ("security", "tag")
_KINDS = {"_profile": "uri", "_security": "token", "_tag": "token"}


def of_instance(ctx: Context, inputs: Mapping[str, Any]) -> Reply:
    stored = _existing(ctx, inputs["type"], inputs["id"], "r")
    return _answer(loads(stored.json)["meta"], (stored,))


def of_many(ctx: Context, inputs: Mapping[str, Any]) -> Reply:
    """Each label once, of a type or of all. Error: 400 beyond 1,000 labelled resources of a type."""
    types = (
        [inputs["type"]]
        if inputs["type"]
        else [type_ for n in ctx.store.kept() if access.permitted(ctx.principal, type_ := ctx.store.types[n], "s")]
    )
    rows = [row for type_ in types for row in _labelled(ctx, type_)]
    metas = [loads(row.json).get("meta", {}) for row in rows]
    labels = {name: _distinct(name, (label for meta in metas for label in meta.get(name, ()))) for name in ("profile", *_CODED)}
    return _answer({name: found for name, found in labels.items() if found}, rows)


def _labelled(ctx: Context, type_: ResourceType) -> list[Stored]:
    query = plain(type_)
    query.clauses.append(either([missing(code, kind, False) for code, kind in _KINDS.items()]))
    rows = ctx.store.search(query, access.visible(ctx.principal, type_, "s"), _MOST + 1)
    if len(rows) > _MOST:
        raise TooCostly(f"More than {_MOST} {type_.name} resources have labels; search by _tag, _security or _profile.")
    return rows


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    return of_instance(ctx, inputs) if "id" in inputs else of_many(ctx, inputs)


def add(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """What is there already stays as it is."""
    given: Document = inputs["meta"]
    return _changed(ctx, request, inputs, lambda name, labels: _distinct(name, [*labels, *given.get(name, ())]))


def delete(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    """What is not there needs no deleting."""
    given: Document = inputs["meta"]

    def without(name: str, labels: list[Any]) -> list[Any]:
        gone = {_identity(name, label) for label in given.get(name, ())}
        return [label for label in labels if _identity(name, label) not in gone]

    return _changed(ctx, request, inputs, without)


def _changed(ctx: Context, request: Request, inputs: Mapping[str, Any], change: Any) -> Reply:
    type_, id_ = inputs["type"], inputs["id"]
    stored = _existing(ctx, type_, id_, "u")
    check_if_match(request, stored)
    before = loads(stored.json)
    meta = dict(before["meta"])
    for name in ("profile", *_CODED):
        if labels := change(name, meta.pop(name, [])):
            meta[name] = labels
    patched(ctx, request, type_, stored, before | {"meta": meta}, way_to("update", type_))
    saved = ctx.changes.writes.get((type_.name, id_))
    if not access.readable(ctx, type_, id_):
        return _answer({}, (stored,))  # what was there is told to who may read it
    return _answer(loads(saved.json if saved else stored.json)["meta"], (stored,))


def _existing(ctx: Context, type_: ResourceType, id_: str, letter: str) -> Stored:
    stored = access.found(ctx, type_, id_, letter)
    if stored.deleted:
        raise Gone(f"This {type_.name} was deleted.")
    return stored


def _identity(name: str, label: Any) -> Any:
    return (label.get("system"), label.get("code")) if name in _CODED else label


def _distinct(name: str, labels: Iterable[Any]) -> list[Any]:
    found: dict[Any, Any] = {}
    for label in filter(None, labels):
        found.setdefault(_identity(name, label), label)
    return list(found.values())


def _answer(meta: Document, rows: Iterable[Stored]) -> Reply:
    told = [{"name": "return", "valueMeta": meta}] if meta else []
    body = {"resourceType": "Parameters"} | ({"parameter": told} if told else {})
    return Reply(200, dumps(body), touched=tuple(row.touched for row in rows))


_GIVEN = (Parameter("meta", "Meta", 1),)
_RESULT = (Parameter("return", "Meta", 1),)
META = Operation(
    code="meta",
    type="Resource",
    levels=("system", "type", "instance"),
    title="Profiles, tags and security labels",
    affects_state=False,
    inputs=(),
    outputs=_RESULT,
    handler=operate,
    description="Of a resource; or those in use, of a type or of all.",
    standard=True,
)
META_ADD = Operation(
    code="meta-add",
    type="Resource",
    levels=("instance",),
    title="Add profiles, tags and security labels",
    affects_state=True,
    inputs=_GIVEN,
    outputs=_RESULT,
    handler=add,
    description="Makes a new version, where something is new.",
    standard=True,
)
META_DELETE = Operation(
    code="meta-delete",
    type="Resource",
    levels=("instance",),
    title="Delete profiles, tags and security labels",
    affects_state=True,
    inputs=_GIVEN,
    outputs=_RESULT,
    handler=delete,
    description="Makes a new version, where something was there.",
    standard=True,
)
