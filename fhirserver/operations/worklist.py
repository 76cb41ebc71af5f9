"""Task/$worklist: the readings that are this caller's concern, the most urgent first.

https://hl7.org/fhir/R4/bundle.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from fhirserver import access, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, Invalid, Unsupported
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import span
from fhirserver.search.date import LAST
from fhirserver.search.query import plain
from fhirserver.validation import Document, dumps, instant, loads
from fhirserver.versions import Stored
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_OPEN = "requested,received,accepted,in-progress,on-hold"
_MINIMAL = ("resourceType", "id", "meta", "identifier", "name", "birthDate", "gender")
_MOST = 1000
Pairs = list[tuple[str, str]]


def _mine(ctx: Context) -> Pairs | None:
    asked = plain(ctx.store.types["PractitionerRole"], ("practitioner", work.require_reader(ctx)))
    roles = [role.reference for role in ctx.store.search(asked, access.held(ctx.principal), _MOST)]
    return [("owner", ",".join(roles)), ("code", f"{coding.TASK_TYPE}|read")] if roles else None


def _pool(ctx: Context) -> Pairs | None:
    work.require_reader(ctx)
    return [("owner", f"Organization/{ctx.principal.organization}"), ("code", f"{coding.TASK_TYPE}|read")]


def _dispatch(ctx: Context) -> Pairs | None:
    work.require_role(ctx, "dispatcher")
    return [("owner", f"Organization/{ctx.principal.organization}"), ("code", f"{coding.TASK_TYPE}|coordinate")]


def _facility(ctx: Context) -> Pairs | None:
    return [("requester", f"Organization/{ctx.principal.organization}"), ("code", f"{coding.TASK_TYPE}|coordinate")]


def _team(ctx: Context) -> Pairs | None:
    return [("requester", f"Organization/{ctx.principal.organization}"), ("code", f"{coding.TASK_TYPE}|read")]


VIEWS: Mapping[str, Callable[[Context], Pairs | None]] = {
    "mine": _mine,
    "pool": _pool,
    "team": _team,
    "dispatch": _dispatch,
    "facility": _facility,
}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    view = inputs["view"]
    if view in ("peer-review", "critical"):
        raise Unsupported("This view is not served yet.", "Parameters.parameter")
    if view not in VIEWS:
        raise Invalid(f"view is one of {', '.join(VIEWS)}.", "Parameters.parameter")
    count = inputs.get("count", 50)
    if not 1 <= count <= 200:
        raise Invalid("count is from 1 to 200.", "Parameters.parameter")
    rows = sorted(_rows(ctx, view, inputs), key=_rank)
    after = _after(ctx, inputs.get("cursor"), view)
    page = [row for row in rows if after is None or _rank(row) > after]
    shown = page[:count]
    following = (
        ctx.seal({"f": f"worklist {view} {ctx.principal.name}", "after": list(_rank(shown[-1]))}) if len(page) > count else None
    )
    return _answer(ctx, shown, rows, _asked(inputs), following)


def _rows(ctx: Context, view: str, inputs: Mapping[str, Any]) -> Iterator[Item]:
    asked = VIEWS[view](ctx)
    if asked is None:
        return
    asked.append(("status", ",".join(inputs["status"]) or _OPEN))
    if inputs["priority"]:
        asked.append(("priority", ",".join(inputs["priority"])))
    query = plain(ctx.store.types["Task"], *asked, ("_sort", "priority,due"))
    facilities = {organization.get("reference") for organization in inputs["organization"]}
    before = span(inputs["dueBefore"])[0] if "dueBefore" in inputs else None
    for stored in ctx.store.search(query, access.visible(ctx.principal, ctx.store.types["Task"], "s"), _MOST):
        row = work.opened(ctx, stored)
        if not (work.is_coordination(row.data) or work.is_attempt(row.data)):
            continue
        if before is not None and _due(row) >= before:
            continue
        t0 = row if work.is_coordination(row.data) else work.coordination_of(ctx, row.data)
        if facilities and f"Organization/{t0.stored.owner}" not in facilities:
            continue
        if inputs["modality"] and not work.reading(ctx, t0).modalities & set(inputs["modality"]):
            continue
        if view == "pool" and not work.verdict(ctx, work.require_reader(ctx), t0).eligible:
            continue
        yield row


def _due(row: Item) -> int:
    end = row.data.get("restriction", {}).get("period", {}).get("end")
    return span(end)[0] if end else LAST


def _rank(row: Item) -> tuple[int, int, str]:
    """The more urgent first, then what is due first."""
    return states.PRIORITY_RANKS[row.data.get("priority", "routine")], _due(row), row.stored.id


def _after(ctx: Context, cursor: str | None, view: str) -> tuple[int, int, str] | None:
    if cursor is None:
        return None
    content = ctx.unseal(cursor)
    if content is None or content.get("f") != f"worklist {view} {ctx.principal.name}":
        raise BadRequest("This cursor is not valid for this worklist; begin again.", "Parameters.parameter")
    rank, due, id_ = content["after"]
    return rank, due, id_


def _asked(inputs: Mapping[str, Any]) -> Pairs:
    """The inputs as a query string has them, without the cursor."""
    pairs: Pairs = []
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        pairs += [(name, str(one["reference"] if isinstance(one, dict) else one)) for one in values if name != "cursor"]
    return pairs


def _answer(ctx: Context, rows: list[Item], everything: list[Item], asked: Pairs, following: str | None) -> Reply:
    entries = [
        _entry(ctx, row.stored, row.stored.json, "match", 1 - place / len(everything))
        for place, row in enumerate(rows, everything.index(rows[0]) if rows else 0)
    ]
    references = dict.fromkeys(reference for row in rows for reference in _included(ctx, row))
    included = [found for reference in references if (found := _seen(ctx, reference))]
    for stored in included:
        entries.append(_entry(ctx, stored, _minimal(stored) if stored.type == "Patient" else stored.json, "include"))
    links = [{"relation": "self", "url": f"{ctx.base}/Task/$worklist?{urlencode(asked)}"}]
    if following:
        links.append({"relation": "next", "url": f"{ctx.base}/Task/$worklist?{urlencode([*asked, ('cursor', following)])}"})
    head: Document = {
        "resourceType": "Bundle",
        "type": "searchset",
        "timestamp": instant(ctx.now),
        "total": len(everything),
        "link": links,
    }
    body = dumps(head)[:-1] + (f',"entry":[{",".join(entries)}]' if entries else "") + "}"
    shown = [*(row.stored for row in rows), *included]
    return Reply(200, body, touched=tuple(s.touched for s in shown))


def _included(ctx: Context, row: Item) -> Iterator[str]:
    yield row.data["focus"]["reference"]
    if patient := row.data["for"].get("reference"):
        yield patient
    yield from (study.reference for study in work.studies(ctx, work.order_of(ctx, row.data)))


def _seen(ctx: Context, reference: str) -> Stored | None:
    """What the caller may see of it: by access key and by scope."""
    type_, _, id_ = reference.partition("/")
    visible = access.includable(ctx.principal, ctx.store.types[type_])
    return next(iter(ctx.store.fetch(type_, [id_], visible)), None) if visible else None


def _minimal(patient: Stored) -> str:
    data = loads(patient.json)
    subsetted = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
    data["meta"] = data["meta"] | {"tag": [*data["meta"].get("tag", ()), subsetted]}
    return dumps({name: data[name] for name in _MINIMAL if name in data})


def _entry(ctx: Context, stored: Stored, json: str, mode: str, score: float | None = None) -> str:
    search: Document = {"mode": mode} | ({"score": round(score, 4)} if score is not None else {})
    return f'{{"fullUrl":"{ctx.base}/{stored.reference}","resource":{json},"search":{dumps(search)}}}'


WORKLIST = Operation(
    code="worklist",
    type="Task",
    levels=("type",),
    title="Role-aware, ranked worklist",
    affects_state=False,
    inputs=(
        Parameter("view", "code", 1, documentation="mine | pool | team | dispatch | facility"),
        Parameter("modality", "code", max="*"),
        Parameter("priority", "code", max="*"),
        Parameter("status", "code", max="*"),
        Parameter("organization", "Reference", max="*", documentation="ordering facilities"),
        Parameter("dueBefore", "dateTime"),
        Parameter("count", "integer", documentation="1 to 200, default 50"),
        Parameter("cursor", "string"),
    ),
    outputs=(Parameter("return", "Bundle", 1),),
    handler=operate,
    description="Rows are those that the caller may read; in the pool, those that they may take.",
)
