"""An order, its coordination Task and its attempts: read together, written together.

The order belongs to the facility, the coordination Task (T0) to the facility and shared with who fulfils it, each attempt
to the fulfiller. Everything is planned into ``ctx.changes``; the caller's dispatch commits it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver import access
from fhirserver.errors import BusinessRule, Conflict, NotFound
from fhirserver.interactions import put
from fhirserver.messages import Context
from fhirserver.moments import span
from fhirserver.search.query import Query, plain, tagged
from fhirserver.search.reference import local, relative
from fhirserver.validation import Document, built, kept, rebuilt
from fhirserver.versions import EVERYTHING, Stored, Write, owned_by
from fhirserver.workflow import coding, states

REPORTS = "urn:fhirserver:report"
_MOST = 1000
_NOT_IMAGES = frozenset({"SR", "KO", "PR", "DOC", "SEG", "RWV", "REG"})
# What Task.input holds, and as what
INPUTS = {
    "report-template": "valueCanonical",
    "report-language": "valueCode",
    "read-type": "valueCode",
    "lease-until": "valueDateTime",
    "template": "valueCanonical",
    "order-version": "valueString",
    # What is to be read, so that nobody has to look it up again; one of each, modalities apart.
    "facility": "valueReference",
    "modality": "valueCode",
    "region": "valueCode",
    "specialty": "valueCode",
    "requesting-doctor": "valueReference",
    "reader": "valueReference",  # the person whose attempt it is: the owner is the role in which they read
    "hurry": "valueBoolean",
    # The clock: by which agreement, since when it runs, since when it stands, which level of the ladder was told.
    "sla-policy": "valueCanonical",
    "clock-start": "valueDateTime",
    "paused-since": "valueDateTime",
    "escalated": "valueInteger",
    "auto-assigned": "valueBoolean",
    "blind": "valueBoolean",
    "blocking": "valueBoolean",
    "comment": "valueString",
    "score": "valueCoding",
    "category": "valueCode",
    "step": "valueInteger",
    "named": "valueReference",
    "learning-point": "valueBoolean",
    "draft": "valueReference",
    "study": "valueReference",
    "patient-number": "valueString",
    "birth-date": "valueDate",
    "endpoint": "valueReference",
    "question": "valueReference",
    "draft-text": "valueString",
}


@dataclass(frozen=True, slots=True)
class Item:
    """A stored resource and its content."""

    stored: Stored
    data: Document

    @property
    def reference(self) -> str:
        return self.stored.reference

    @property
    def status(self) -> str:
        return str(self.data["status"])


def opened(ctx: Context, stored: Stored) -> Item:
    return Item(stored, content(stored.json, ctx.base))


def content(text: str, base: str) -> Document:
    """What a kept resource says, its references to this server as ``Type/id``, as most have them already."""
    data: Document = kept(text)
    return relative(data, base) if base in text or "\\" in text else data


def visible_item(ctx: Context, type_: str, id_: str) -> Item:
    """As the caller sees it. Errors: 404."""
    stored = access.found(ctx, ctx.store.types[type_], id_, "rsu")
    if stored.deleted:
        raise NotFound(f"No {type_} has this id.")
    return opened(ctx, stored)


def seen(ctx: Context, type_: str, id_: str) -> Item | None:
    """What a PUT is about, as the caller sees it; None where it would create."""
    try:
        return visible_item(ctx, type_, id_)
    except NotFound:
        return None


def item(ctx: Context, reference: str) -> Item | None:
    """For the server itself, whatever the caller may see; what this request changed included."""
    target = local(reference, ctx.base)
    if target is None or target[0] not in ctx.store.types:
        return None
    pending = ctx.changes.writes.get(target)
    if pending is not None and pending.data is not None:
        return Item(access.found(ctx, ctx.store.types[target[0]], target[1], "rsu"), pending.data)
    stored = ctx.store.get(*target, EVERYTHING)
    return opened(ctx, stored) if stored is not None and not stored.deleted else None


def items(ctx: Context, owners: Iterable[str | None], type_: str, *pairs: tuple[str, str]) -> list[Item]:
    """For the server itself: what these organisations own and what matches, as this request leaves it."""
    return _found(ctx, owners, plain(ctx.store.types[type_], *pairs))


def identified(ctx: Context, owner: str, type_: str, *values: str) -> list[Item]:
    """The organisation's own with one of these identifier values, whatever the system."""
    rows = _found(ctx, (owner,), tagged(ctx.store.types[type_], *(f"identifier={value}" for value in values)))
    return [row for row in rows if any(i.get("value") in values for i in row.data.get("identifier", ()))]


def _found(ctx: Context, owners: Iterable[str | None], query: Query) -> list[Item]:
    rows = ctx.store.search(query, owned_by(*owners), _MOST)
    found = (item(ctx, row.reference) if (row.type, row.id) in ctx.changes.writes else opened(ctx, row) for row in rows)
    return [one for one in found if one is not None]


def save(ctx: Context, subject: Item, data: Document, *, sealed: bool = False) -> Write:
    """The next version of a resource; what did not change stays as it was written."""
    resource = rebuilt(subject.stored.json, subject.data, data)
    write = put(ctx, ctx.store.types[subject.stored.type], resource, subject.stored.id, subject.stored, "PUT")
    write.sealed = write.sealed or sealed
    return write


def make(ctx: Context, data: Document, owner: str, base: list[str] | None = None) -> Write:
    """A new resource owned by an organisation."""
    return put(ctx, ctx.store.types[data["resourceType"]], built(data), ctx.new_id(), None, "POST", owner, base)


def written(ctx: Context, write: Write) -> Item:
    """What this request has just planned."""
    assert write.data is not None
    return Item(access.found(ctx, ctx.store.types[write.type], write.id, "rsu"), write.data)


def timestamp(when: datetime) -> str:
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


# ---------------------------------------------------------------- the order and its Tasks


def coordination(ctx: Context, order: Item) -> Item | None:
    """The order's open coordination Task, also where this request is about to make it."""
    pending = [w for w in ctx.changes.writes.values() if w.type == "Task" and w.data and is_coordination(w.data)]
    for write in pending:
        if write.data and write.data["focus"]["reference"] == order.reference and write.data["status"] in states.OPEN_TASK:
            return written(ctx, write)
    found = items(ctx, (order.stored.owner,), "Task", ("focus", order.reference), ("code", f"{coding.TASK_TYPE}|coordinate"))
    return next((task for task in found if is_coordination(task.data) and task.status in states.OPEN_TASK), None)


def root(ctx: Context, order: Item) -> Item | None:
    """The facility's coordination Task of the order, a closed one too: the latest."""
    found = items(ctx, (order.stored.owner,), "Task", ("focus", order.reference), ("code", f"{coding.TASK_TYPE}|coordinate"))
    mine = [task for task in found if is_coordination(task.data)]
    return max(mine, key=lambda task: (task.status in states.OPEN_TASK, task.data["authoredOn"]), default=None)


def coordination_of(ctx: Context, attempt: Document) -> Item:
    """T0 of an attempt. Errors: 422 where the Task is no attempt."""
    parent = item(ctx, attempt["partOf"][0]["reference"]) if attempt.get("partOf") else None
    if parent is None or not is_attempt(attempt):
        raise BusinessRule("This Task is not a reading; give the attempt, not the coordination Task.", "Task.partOf")
    return parent


def parts(ctx: Context, t0: Item) -> list[Item]:
    """What the fulfiller made of it: attempts, and the coordination Task by which it was passed on."""
    rows = items(ctx, (organization(t0.data.get("owner")),), "Task", ("part-of", t0.reference))
    planned = [w for w in ctx.changes.writes.values() if w.type == "Task" and w.expected == 0 and w.data]
    mine = [w for w in planned if w.data and any(p.get("reference") == t0.reference for p in w.data.get("partOf", ()))]
    known = {row.reference for row in rows}
    return [*rows, *(written(ctx, w) for w in mine if w.reference not in known)]


def attempts(ctx: Context, t0: Item, kind: str | None = None) -> list[Item]:
    return [t for t in parts(ctx, t0) if (is_a(t.data, kind) if kind else is_attempt(t.data))]


def open_attempts(ctx: Context, t0: Item, kind: str | None = None) -> list[Item]:
    return [attempt for attempt in attempts(ctx, t0, kind) if attempt.status in states.OPEN_TASK]


def passed_on(ctx: Context, t0: Item) -> Item | None:
    """The open coordination Task by which it was forwarded."""
    return next((t for t in parts(ctx, t0) if is_coordination(t.data) and t.status in states.OPEN_TASK), None)


def chain(ctx: Context, t0: Item) -> list[Item]:
    """The coordination Task, and those by which it was passed on, one after the other."""
    found = [t0]
    while (following := passed_on(ctx, found[-1])) is not None:
        found.append(following)
    return found


def above(ctx: Context, t0: Item) -> list[Item]:
    """The coordination Task and those that it is part of; the facility's own is the last."""
    found = [t0]
    while found[-1].data.get("partOf") and (parent := item(ctx, found[-1].data["partOf"][0]["reference"])):
        found.append(parent)
    return found


def is_coordination(task: Document) -> bool:
    return "coordinate" in coding.codes(task.get("code"), coding.TASK_TYPE)


def is_attempt(task: Document) -> bool:
    return bool(coding.codes(task.get("code"), coding.TASK_TYPE) & states.ATTEMPTS)


def is_a(task: Document, kind: str) -> bool:
    """Whether it is a Task of this kind of ours."""
    return kind in coding.codes(task.get("code"), coding.TASK_TYPE)


def facility_of(t0: Item) -> str:
    """The ordering facility, also of a coordination Task that a centre passed on."""
    named = next(iter(inputs(t0.data, "facility")), None)
    return organization(named) or t0.stored.owner


def inputs(task: Document, kind: str) -> list[Any]:
    """The values of Task.input of one kind, those of the type that the kind has."""
    name = INPUTS[kind]
    return [
        row[name] for row in task.get("input", ()) if name in row and kind in coding.codes(row.get("type"), coding.TASK_TYPE)
    ]


def entry(kind: str, value: Any) -> Document:
    """A Task.input or .output."""
    return {"type": coding.concept(coding.TASK_TYPE, kind), INPUTS.get(kind, "valueReference"): value}


def with_input(task: Document, kind: str, *values: Any) -> list[Document]:
    """Task.input with these as the only ones of their kind."""
    others = [row for row in task.get("input", ()) if kind not in coding.codes(row.get("type"), coding.TASK_TYPE)]
    return [*others, *(entry(kind, value) for value in values)]


def outputs(ctx: Context, task: Document, kind: str) -> list[Item]:
    """The resources of Task.output of one kind that exist."""
    rows = [row for row in task.get("output", ()) if kind in coding.codes(row.get("type"), coding.TASK_TYPE)]
    found = (item(ctx, row.get("valueReference", {}).get("reference", "")) for row in rows)
    return [one for one in found if one is not None]


def has_output(task: Document, kind: str) -> bool:
    return any(kind in coding.codes(row.get("type"), coding.TASK_TYPE) for row in task.get("output", ()))


def made_here(report: Document) -> bool:
    """Whether it was made by a reading in the network, and not imported as it is."""
    return any(identifier.get("system") == REPORTS for identifier in report.get("identifier", ()))


def organization(reference: Document | None) -> str | None:
    """The id of the Organization that is referred to."""
    text = (reference or {}).get("reference", "")
    return text.removeprefix("Organization/") if text.startswith("Organization/") else None


def business_status(status: str) -> Document:
    return coding.concept(coding.BUSINESS_STATUS, status)


def answering(ctx: Context, order: Item) -> list[Item]:
    """The facility's studies that answer the order: what is to be read."""
    found = items(ctx, (order.stored.owner,), "ImagingStudy", ("basedon", order.reference))
    return [study for study in found if _counts(study) and order.reference in based_on(study.data)]


def based_on(document: Document) -> list[str]:
    return [reference["reference"] for reference in document.get("basedOn", ()) if "reference" in reference]


def modalities(found: Iterable[Item]) -> set[str]:
    """The modalities of studies; what is beside the images (SR, KO, PR) needs no privilege."""
    return {m["code"] for study in found for m in study.data.get("modality", ()) if "code" in m} - _NOT_IMAGES


def _counts(study: Item) -> bool:
    return study.status not in ("cancelled", "entered-in-error")


def studies(ctx: Context, order: Item) -> list[Item]:
    """Those that answer it, and those that it names beside: earlier ones to compare with."""
    found = {study.reference: study for study in answering(ctx, order)}
    for reference in order.data.get("supportingInfo", ()):
        text = reference.get("reference", "")
        if text.startswith("ImagingStudy/") and (named := item(ctx, text)) and _counts(named):
            found.setdefault(text, named)
    return list(found.values())


def order_of(ctx: Context, task: Document) -> Item:
    """The order that a network Task is about."""
    order = item(ctx, task["focus"]["reference"])
    if order is None:
        raise Conflict("The order of this reading was deleted.")
    return order


# What the work on an order shares: the coordination Task's word is its attempts' too.
_SHARED = ("priority", "restriction")


def numbers(order: Document) -> list[str]:
    """What an order is known by."""
    return [identifier["value"] for identifier in order.get("identifier", ()) if "value" in identifier]


def change(ctx: Context, task: Item, business: str | None = None, **members: Any) -> Write:
    """A Task with these members, modified now."""
    told = {"businessStatus": business_status(business)} if business else {}
    return save(ctx, task, task.data | told | members | {"lastModified": timestamp(ctx.now)})


def _end(task: Document) -> int | None:
    """The deadline, in milliseconds."""
    end = task.get("restriction", {}).get("period", {}).get("end")
    return span(end)[0] if end else None


def follow(ctx: Context, t0: Item, document: Document) -> list[Write]:
    """The coordination Task as it is to be, and what is open below it with what they share, passed on or not; where it was
    passed on with an earlier deadline, that stays."""
    shared = {name: document[name] for name in _SHARED if name in document}
    document = document | {"lastModified": timestamp(ctx.now)}
    below = [part for part in parts(ctx, t0) if part.status in states.OPEN_TASK]
    found = [save(ctx, t0, document)]
    for part in below:
        rows = with_input(part.data, "modality", *inputs(document, "modality"))
        told = part.data | shared | ({"input": rows} if rows else {})
        if is_coordination(part.data):
            own = _end(part.data)
            if own is not None and own != _end(t0.data) and own < (_end(document) or own):
                told["restriction"] = part.data["restriction"]
            found += follow(ctx, part, told)
        elif is_attempt(part.data):
            found.append(save(ctx, part, told | {"lastModified": timestamp(ctx.now)}))
    return found
