"""Task/$worklist: the readings that are this caller's concern, the most urgent first.

https://hl7.org/fhir/R4/bundle.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from fhirserver import access, agreements, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import BadRequest, Invalid
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import milliseconds, span
from fhirserver.search.date import LAST
from fhirserver.search.query import plain, tagged
from fhirserver.search.queue import Queue
from fhirserver.validation import Document, dumps, instant, kept
from fhirserver.versions import Stored
from fhirserver.work import Item
from fhirserver.workflow import states
from fhirserver.workflow.eligibility import Reader, judge

_MINIMAL = ("resourceType", "id", "meta", "identifier", "name", "birthDate", "gender")
_MOST, _LOOKED_AT = 200, 5  # rows of a page; pages that are looked at for one
Pairs = list[tuple[str, str]]


def _mine(ctx: Context) -> tuple[str, ...]:
    return tuple(f"mine|{owner}" for owner in _owners(ctx, roster.require_reader(ctx)))


def _owners(ctx: Context, me: str) -> list[str]:
    """What a person owns Tasks as: each of their roles, and themselves."""
    asked = plain(ctx.store.types["PractitionerRole"], ("practitioner", me))
    return [*(role.reference for role in ctx.store.search(asked, access.held(ctx.principal), 1000)), me]


def _pool(ctx: Context) -> tuple[str, ...]:
    roster.require_reader(ctx)
    return (f"pool|Organization/{ctx.principal.organization}",)


def _dispatch(ctx: Context) -> tuple[str, ...]:
    roster.require_role(ctx, "dispatcher")
    return (f"dispatch|Organization/{ctx.principal.organization}",)


def _facility(ctx: Context) -> tuple[str, ...]:
    return (f"facility|Organization/{ctx.principal.organization}",)


def _team(ctx: Context) -> tuple[str, ...]:
    return (f"team|Organization/{ctx.principal.organization}",)


def _critical(ctx: Context) -> tuple[str, ...]:
    return (f"critical|Organization/{ctx.principal.organization}",)


def _peer_review(ctx: Context) -> tuple[str, ...]:
    """A reviewer's own, and what the quality office decides."""
    mine = _owners(ctx, f"Practitioner/{ctx.principal.practitioner}") if ctx.principal.practitioner else []
    return tuple(f"peer-review|{owner}" for owner in (*mine, f"Organization/{ctx.principal.organization}"))


VIEWS: Mapping[str, Callable[[Context], tuple[str, ...]]] = {
    "mine": _mine,
    "pool": _pool,
    "team": _team,
    "dispatch": _dispatch,
    "facility": _facility,
    "peer-review": _peer_review,
    "critical": _critical,
}


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    view = inputs["view"]
    if view not in VIEWS:
        raise Invalid(f"view is one of {', '.join(VIEWS)}.", "Parameters.parameter")
    count = inputs.get("count", 50)
    if not 1 <= count <= _MOST:
        raise Invalid(f"count is from 1 to {_MOST}.", "Parameters.parameter")
    asked = _queue(ctx, view, inputs)
    after = _after(ctx, inputs.get("cursor"), view)
    rows, more = _page(ctx, asked, view, after, count)
    place = {"f": f"worklist {view} {ctx.principal.name}", "after": list(rows[-1].stored.order)} if more and rows else None
    return _answer(ctx, rows, _asked(inputs), ctx.seal(place) if place else None)


def _queue(ctx: Context, view: str, inputs: Mapping[str, Any]) -> Queue:
    task = ctx.store.types["Task"]
    sets = (
        [f"status={status}" for status in inputs["status"]],
        [f"priority={priority}" for priority in inputs["priority"]],
        [f"~modality={code}" for code in inputs["modality"]],
        [f"~region={code}" for code in inputs["bodyRegion"]],
        [f"~facility={one.get('reference')}" for one in inputs["organization"]],
    )
    before = {"o.due": {"$lt": span(inputs["dueBefore"])[0]}} if "dueBefore" in inputs else None
    return Queue(task, VIEWS[view](ctx), tuple(frozenset(tags) for tags in sets if tags), before)


def _page(ctx: Context, asked: Queue, view: str, after: tuple[Any, ...] | None, count: int) -> tuple[list[Item], bool]:
    """As many rows as asked for of those that are the caller's concern, and whether there may be more."""
    shown: list[Item] = []
    visible = access.visible(ctx.principal, asked.type, "s")
    judge = _judge(ctx) if view == "pool" else None
    for _ in range(_LOOKED_AT):
        found = ctx.store.search(asked, visible, count + 1, after)
        for row in (rows := [work.opened(ctx, stored) for stored in found]):
            if judge is None or judge(row, rows):
                shown.append(row)
                if len(shown) > count:
                    return shown[:count], True
        if len(found) <= count:
            return shown, False
        after = found[-1].order
    return shown, True


def _judge(ctx: Context) -> Callable[[Item, list[Item]], bool]:
    """Whether the caller may take it: the caller's facts are looked up once for all facilities of a page (``rows``)."""
    me, centre, now = roster.require_reader(ctx), ctx.principal.organization, milliseconds(ctx.now)
    policy = agreements.assigning(ctx, centre)
    known: dict[str, tuple[Reader | None, str | None]] = {}

    def look(rows: list[Item]) -> None:
        new = sorted({work.facility_of(row) for row in rows} - set(known))
        found = roster.known_at(ctx, me, centre, new)
        for facility in new:
            known[facility] = found.get(facility), agreements.between(ctx, facility, centre).terms.jurisdiction

    def may(row: Item, rows: list[Item]) -> bool:
        if work.facility_of(row) not in known:
            look(rows)
        reader, jurisdiction = known[work.facility_of(row)]
        if reader is None:
            return False
        asked = roster.of_attempt(ctx, row, jurisdiction, policy)
        return judge(asked, reader, now).eligible

    return may


def _due(row: Item) -> int:
    end = row.data.get("restriction", {}).get("period", {}).get("end")
    return span(end)[0] if end else LAST


_HORIZON = 72 * 3_600_000


def _score(ctx: Context, row: Item) -> float:
    """Between 0 and 1, in the order of the list: by urgency, and within one by the time that is left."""
    rank = states.PRIORITY_RANKS.get(row.data.get("priority", "routine"), 3)
    left = min(max(_due(row) - milliseconds(ctx.now), 0), _HORIZON) / _HORIZON
    return 1 - (rank + left) / 4


def _after(ctx: Context, cursor: str | None, view: str) -> tuple[Any, ...] | None:
    if cursor is None:
        return None
    content = ctx.unseal(cursor)
    if content is None or content.get("f") != f"worklist {view} {ctx.principal.name}":
        raise BadRequest("This cursor is not valid for this worklist; begin again.", "Parameters.parameter")
    return tuple(content["after"])


def _asked(inputs: Mapping[str, Any]) -> Pairs:
    """The inputs as a query string has them, without the cursor."""
    pairs: Pairs = []
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        pairs += [(name, str(one["reference"] if isinstance(one, dict) else one)) for one in values if name != "cursor"]
    return pairs


def _answer(ctx: Context, rows: list[Item], asked: Pairs, following: str | None) -> Reply:
    entries = [_entry(ctx, row.stored, row.stored.json, "match", _score(ctx, row)) for row in rows]
    included = _included(ctx, rows)
    for stored in included:
        entries.append(_entry(ctx, stored, _minimal(stored) if stored.type == "Patient" else stored.json, "include"))
    links = [{"relation": "self", "url": f"{ctx.base}/Task/$worklist?{urlencode(asked)}"}]
    if following:
        links.append({"relation": "next", "url": f"{ctx.base}/Task/$worklist?{urlencode([*asked, ('cursor', following)])}"})
    whole = following is None and not any(name == "cursor" for name, _ in asked)
    head: Document = {
        "resourceType": "Bundle",
        "type": "searchset",
        "timestamp": instant(ctx.now),
        **({"total": len(rows)} if whole else {}),
        "link": links,
    }
    body = dumps(head)[:-1] + (f',"entry":[{",".join(entries)}]' if entries else "") + "}"
    return Reply(200, body, touched=tuple(s.touched for s in (*(row.stored for row in rows), *included)))


def _included(ctx: Context, rows: list[Item]) -> list[Stored]:
    """Orders, patients and studies of a page, those that the caller may see: one query a type."""
    wanted: dict[str, list[str]] = {"ServiceRequest": [], "Patient": [], "CommunicationRequest": []}
    for row in rows:
        for element in ("focus", "for"):
            type_, _, id_ = row.data.get(element, {}).get("reference", "").partition("/")
            if type_ in wanted:
                wanted[type_].append(id_)
    found = []
    for type_, ids in wanted.items():
        if visible := access.includable(ctx.principal, ctx.store.types[type_]):
            found += ctx.store.fetch(type_, ids, visible)
    study, orders = ctx.store.types["ImagingStudy"], [f"ServiceRequest/{id_}" for id_ in wanted["ServiceRequest"]]
    if orders and (visible := access.includable(ctx.principal, study)):
        asked = tagged(study, *(f"basedon={order}" for order in orders))
        named = [one["reference"] for s in found if s.type == "ServiceRequest" for one in _named(s)]
        beside = ctx.store.fetch("ImagingStudy", [one.removeprefix("ImagingStudy/") for one in named], visible)
        found += list({s.id: s for s in (*ctx.store.search(asked, visible, 1000), *beside)}.values())
    return found


def _named(order: Stored) -> list[Document]:
    """The earlier studies that an order names beside."""
    rows = kept(order.json).get("supportingInfo", ()) if '"supportingInfo"' in order.json else ()
    return [row for row in rows if row.get("reference", "").startswith("ImagingStudy/")]


def _minimal(patient: Stored) -> str:
    data = kept(patient.json)
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
        Parameter("view", "code", 1, documentation=" | ".join(VIEWS)),
        Parameter("modality", "code", max="*"),
        Parameter("bodyRegion", "code", max="*"),
        Parameter("priority", "code", max="*"),
        Parameter("status", "code", max="*"),
        Parameter("organization", "Reference", max="*", documentation="ordering facilities", targets=("Organization",)),
        Parameter("dueBefore", "dateTime"),
        Parameter("count", "integer", documentation="1 to 200, default 50"),
        Parameter("cursor", "string"),
    ),
    outputs=(Parameter("return", "Bundle", 1),),
    handler=operate,
    description="Rows are those that the caller may read; in the pool, those that they may take.",
)
