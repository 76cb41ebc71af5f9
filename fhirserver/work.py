"""An order, its coordination Task and its attempts: read together, written together.

The order belongs to the facility, the coordination Task (T0) to the facility and shared with who fulfils it, each attempt
to the fulfiller. Everything is planned into ``ctx.changes``; the caller's dispatch commits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver import access
from fhirserver.errors import BusinessRule, Conflict, Forbidden, NotFound
from fhirserver.interactions import put
from fhirserver.messages import Context
from fhirserver.search.query import Query, plain, tagged
from fhirserver.search.reference import local, relative
from fhirserver.validation import Document, built, loads, rebuilt
from fhirserver.versions import EVERYTHING, Stored, Write, owned_by
from fhirserver.workflow import coding, states
from fhirserver.workflow.eligibility import Reader, Reading, Verdict, judge

REPORTS = "urn:fhirserver:report"
_MOST = 1000
# What Task.input holds, and as what
INPUTS = {
    "report-template": "valueCanonical",
    "report-language": "valueCode",
    "read-type": "valueCode",
    "lease-until": "valueDateTime",
    "template": "valueCanonical",
    "order-version": "valueString",
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
    return Item(stored, relative(loads(stored.json), ctx.base))


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


def items(ctx: Context, owners: tuple[str | None, ...], type_: str, *pairs: tuple[str, str]) -> list[Item]:
    """For the server itself: what these organisations own and what matches, as this request leaves it."""
    return _found(ctx, owners, plain(ctx.store.types[type_], *pairs))


def identified(ctx: Context, owner: str, type_: str, *values: str) -> list[Item]:
    """The organisation's own with one of these identifier values, whatever the system."""
    rows = _found(ctx, (owner,), tagged(ctx.store.types[type_], *(f"identifier={value}" for value in values)))
    return [row for row in rows if any(i.get("value") in values for i in row.data.get("identifier", ()))]


def _found(ctx: Context, owners: tuple[str | None, ...], query: Query) -> list[Item]:
    rows = ctx.store.search(query, owned_by(*owners), _MOST)
    return [changed for row in rows if (changed := item(ctx, row.reference))]


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


def coordination_of(ctx: Context, attempt: Document) -> Item:
    """T0 of an attempt. Errors: 422 where the Task is no attempt."""
    parent = item(ctx, attempt["partOf"][0]["reference"]) if attempt.get("partOf") else None
    if parent is None or not is_attempt(attempt):
        raise BusinessRule("This Task is not a reading; give the attempt, not the coordination Task.", "Task.partOf")
    return parent


def attempts(ctx: Context, t0: Item) -> list[Item]:
    fulfiller = organization(t0.data.get("owner"))
    return [t for t in items(ctx, (fulfiller,), "Task", ("part-of", t0.reference)) if is_attempt(t.data)]


def open_attempts(ctx: Context, t0: Item) -> list[Item]:
    return [attempt for attempt in attempts(ctx, t0) if attempt.status in states.OPEN_TASK]


def is_coordination(task: Document) -> bool:
    return "coordinate" in coding.codes(task.get("code"), coding.TASK_TYPE)


def is_attempt(task: Document) -> bool:
    return "read" in coding.codes(task.get("code"), coding.TASK_TYPE)


def inputs(task: Document, kind: str) -> list[Any]:
    """The values of Task.input of one kind, those of the type that the kind has."""
    name = INPUTS[kind]
    return [
        row[name] for row in task.get("input", ()) if name in row and kind in coding.codes(row.get("type"), coding.TASK_TYPE)
    ]


def entry(kind: str, value: Any) -> Document:
    """A Task.input or .output."""
    return {"type": coding.concept(coding.TASK_TYPE, kind), INPUTS.get(kind, "valueReference"): value}


def with_input(task: Document, kind: str, value: Any) -> list[Document]:
    """Task.input with this as the only one of its kind."""
    others = [row for row in task.get("input", ()) if kind not in coding.codes(row.get("type"), coding.TASK_TYPE)]
    return [*others, entry(kind, value)]


def organization(reference: Document | None) -> str | None:
    """The id of the Organization that is referred to."""
    text = (reference or {}).get("reference", "")
    return text.removeprefix("Organization/") if text.startswith("Organization/") else None


def business(status: str) -> Document:
    return coding.concept(coding.BUSINESS_STATUS, status)


def answering(ctx: Context, order: Item) -> list[Item]:
    """The facility's studies that answer the order: what is to be read."""
    found = items(ctx, (order.stored.owner,), "ImagingStudy", ("basedon", order.reference))
    return [study for study in found if _counts(study) and order.reference in based_on(study.data)]


def based_on(document: Document) -> list[str]:
    return [reference["reference"] for reference in document.get("basedOn", ()) if "reference" in reference]


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


def reschedule(ctx: Context, t0: Item, end: str | None, **changed: Any) -> list[Write]:
    """The coordination Task and its open attempts, with one deadline and the same changes."""
    due = {"restriction": t0.data.get("restriction", {}) | {"period": {"end": end}}} if end else {}
    members = changed | due | {"lastModified": timestamp(ctx.now)}
    own = {name: value for name, value in members.items() if name != "businessStatus"}
    return [save(ctx, t0, t0.data | members), *(save(ctx, task, task.data | own) for task in open_attempts(ctx, t0))]


# ---------------------------------------------------------------- people


def require_role(ctx: Context, *roles: str) -> None:
    """Errors: 403 for a user in none of these roles; a system client acts for its organisation."""
    if not any(ctx.principal.acts_as(role) for role in roles):
        raise Forbidden(f"This is done in the role of {' or '.join(roles)}.")


def require_reader(ctx: Context) -> str:
    """The caller's Practitioner reference. Errors: 403 for who is no person that reads."""
    if ctx.principal.practitioner is None or not ctx.principal.acts_as("reader"):
        raise Forbidden("Readings are done by readers: a token for a user with the role reader and a Practitioner.")
    return f"Practitioner/{ctx.principal.practitioner}"


def practitioner_of(ctx: Context, owner: Document | None) -> str | None:
    """The Practitioner behind a Task's owner."""
    text = str((owner or {}).get("reference", ""))
    if text.startswith("Practitioner/"):
        return text
    role = item(ctx, text) if text.startswith("PractitionerRole/") else None
    found = role.data.get("practitioner", {}).get("reference") if role else None
    return str(found) if found else None


def reading(ctx: Context, t0: Item, read_type: str | None = None) -> Reading:
    """What the eligibility rules ask about."""
    order = order_of(ctx, t0.data)
    requester = practitioner_of(ctx, order.data.get("requester"))
    modalities = {m["code"] for study in answering(ctx, order) for m in study.data.get("modality", ()) if "code" in m}
    return Reading(
        facility=t0.stored.owner,
        modalities=frozenset(modalities),
        read_type=read_type or next(iter(inputs(t0.data, "read-type")), "final"),
        language=next(iter(inputs(t0.data, "report-language")), None),
        requesters=frozenset({requester} if requester else ()),
    )


def _trusted(t0: Item) -> tuple[str | None, ...]:
    """Whose word on privileges counts: the fulfiller's and the facility's."""
    return organization(t0.data.get("owner")), t0.stored.owner


def reader(ctx: Context, practitioner: str, t0: Item) -> Reader | None:
    """A Practitioner with the privileges that count."""
    person = item(ctx, practitioner)
    if person is None or person.stored.owner not in _trusted(t0):
        return None
    roles = items(ctx, _trusted(t0), "PractitionerRole", ("practitioner", practitioner))
    return Reader(practitioner, person.data, tuple((r.reference, r.data) for r in roles))


def verdict(ctx: Context, practitioner: str, t0: Item, read_type: str | None = None) -> Verdict:
    found = reader(ctx, practitioner, t0)
    return judge(reading(ctx, t0, read_type), found, ctx.now) if found else Verdict(("no-such-reader",))


def readers(ctx: Context, t0: Item) -> Iterator[str]:
    """The Practitioners with any privilege at the facility."""
    rows = items(ctx, _trusted(t0), "PractitionerRole", ("organization", f"Organization/{t0.stored.owner}"))
    yield from dict.fromkeys(r.data["practitioner"]["reference"] for r in rows if "reference" in r.data.get("practitioner", {}))


def load(ctx: Context, practitioner: str, t0: Item) -> int:
    """How many readings the reader has open at the fulfiller."""
    roles = [role.reference for role in items(ctx, _trusted(t0), "PractitionerRole", ("practitioner", practitioner))]
    if not roles:
        return 0
    mine = items(ctx, _trusted(t0)[:1], "Task", ("owner", ",".join(roles)), ("status", ",".join(sorted(states.OPEN_TASK))))
    return len(mine)
