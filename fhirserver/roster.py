"""Who is asked and who may read: roles of callers, and the facts about readers that the rules of assignment look at.

Of many readers the facts come in a few queries: privileges, people, what they have open, who is on duty.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache

from msgspec import structs

from fhirserver import agreements, work
from fhirserver.errors import BusinessRule, Forbidden
from fhirserver.messages import Context
from fhirserver.moments import milliseconds, span
from fhirserver.search.query import plain
from fhirserver.validation import Document, kept
from fhirserver.versions import Stored, owned_by
from fhirserver.work import Item
from fhirserver.workflow import coding, eligibility, states
from fhirserver.workflow.eligibility import Load, Privilege, Reader, Reading, Shift, Verdict, judge
from fhirserver.workflow.policy import Policy

_MOST, _SLOTS = 2000, 5000
_DAY = 86_400_000
_REMEMBERED = 0.9  # seconds


# ---------------------------------------------------------------- callers


def require_role(ctx: Context, *roles: str) -> None:
    """Errors: 403 for a user in none of these roles; a system client acts for its organisation."""
    if not any(ctx.principal.acts_as(role) for role in roles):
        raise Forbidden(f"This is done in the role of {' or '.join(roles)}.")


def require_reader(ctx: Context, *, trainee: bool = True) -> str:
    """The caller's Practitioner reference. Errors: 403 for who is no person that reads."""
    roles = ("reader", "trainee") if trainee else ("reader",)
    if ctx.principal.practitioner is None or not any(ctx.principal.acts_as(role) for role in roles):
        raise Forbidden("Readings are done by readers: a token for a user with the role reader and a Practitioner.")
    return f"Practitioner/{ctx.principal.practitioner}"


def require_owner(ctx: Context, task: Item, doing: str) -> str:
    """The caller, who is the reader whose Task it is. Errors: 403."""
    caller = require_reader(ctx)
    if practitioner_of(ctx, task.data.get("owner")) != caller:
        raise Forbidden(f"{doing} by the reader who has the reading.")
    return caller


def practitioner_of(ctx: Context, owner: Document | None) -> str | None:
    """The Practitioner behind a Task's owner."""
    text = str((owner or {}).get("reference", ""))
    if text.startswith("Practitioner/"):
        return text
    role = work.item(ctx, text) if text.startswith("PractitionerRole/") else None
    found = role.data.get("practitioner", {}).get("reference") if role else None
    return str(found) if found else None


# ---------------------------------------------------------------- what is to be read


def reading(
    ctx: Context, t0: Item, kind: str = states.READ, read_type: str | None = None, policy: Policy | None = None
) -> Reading:
    """What the rules of eligibility ask about, from what the coordination Task says; ``kind`` of attempt."""
    fulfiller = work.organization(t0.data.get("owner")) or ""
    agreed = agreements.between(ctx, work.facility_of(t0), fulfiller).terms
    earlier = () if kind == states.READ else tuple(sorted(_earlier(ctx, t0)))
    return _reading(t0, agreed.jurisdiction, policy or agreements.assigning(ctx, fulfiller), read_type, earlier)


def of_attempt(ctx: Context, attempt: Item, jurisdiction: str | None, policy: Policy) -> Reading:
    """The same from what an attempt says, where many are judged."""
    if not work.is_a(attempt.data, states.READ):
        earlier = tuple(sorted(_earlier(ctx, work.coordination_of(ctx, attempt.data))))
        return _reading(attempt, jurisdiction, policy, None, earlier)
    return _reading(attempt, jurisdiction, policy, None, ())


# What a double reading and a second opinion take of their readers
_READS_AS = {"double": "final", "second-opinion": "final"}


def _reading(
    item: Item, jurisdiction: str | None, policy: Policy, read_type: str | None, earlier: tuple[str, ...]
) -> Reading:  # fmt: skip
    task = item.data
    end = task.get("restriction", {}).get("period", {}).get("end")
    asked = read_type or next(iter(work.inputs(task, "read-type")), "final")
    return Reading(
        facility=work.facility_of(item),
        modalities=tuple(sorted(work.inputs(task, "modality"))),
        read_type=_READS_AS.get(asked, asked),
        language=next(iter(work.inputs(task, "report-language")), None),
        requesters=tuple(one["reference"] for one in work.inputs(task, "requesting-doctor") if "reference" in one),
        earlier_readers=earlier,
        jurisdiction=jurisdiction,
        priority=task.get("priority", "routine"),
        exclusive=tuple(sorted(policy.exclusive(jurisdiction))),
        specialty=tuple(sorted(work.inputs(task, "specialty"))),
        due=span(end)[0] if end else None,
    )


def _earlier(ctx: Context, t0: Item) -> set[str]:
    """Who has or had one of its readings, and did not give it back."""
    held = [t for t in work.attempts(ctx, t0) if t.status in ("accepted", "in-progress", "on-hold", "completed")]
    return {person for attempt in held if (person := practitioner_of(ctx, attempt.data.get("owner")))}


# ---------------------------------------------------------------- readers


def trusted(t0: Item) -> tuple[str, ...]:
    """Whose word on privileges counts: the fulfiller's and the facility's."""
    return tuple(dict.fromkeys(one for one in (work.organization(t0.data.get("owner")), work.facility_of(t0)) if one))


def reader(ctx: Context, practitioner: str, t0: Item) -> Reader | None:
    """One reader's facts, those that rules ask about and not those that rank; None for who is not known here."""
    owners = trusted(t0)
    roles = _roles(ctx, owners, ("practitioner", practitioner))
    return next(iter(_facts(ctx, owners, {practitioner: roles}, ranked=False)), None)


def known(ctx: Context, practitioner: str, centre: str, facility: str) -> Reader | None:
    """A reader's facts where no reading is asked about."""
    return known_at(ctx, practitioner, centre, (facility,)).get(facility)


def known_at(ctx: Context, practitioner: str, centre: str, facilities: Iterable[str]) -> dict[str, Reader]:
    """The same for some facilities, in a few queries for all: what each of them and the centre say of the reader."""
    wanted = list(dict.fromkeys(facilities))
    owners = tuple(dict.fromkeys((centre, *wanted)))
    roles = _roles(ctx, owners, ("practitioner", practitioner))
    found = next(iter(_facts(ctx, owners, {practitioner: roles}, ranked=False)), None)
    if found is None:
        return {}
    [person] = ctx.store.fetch("Practitioner", [practitioner.removeprefix("Practitioner/")], owned_by(*owners))
    at = {}
    for facility in wanted:
        if person.owner in (centre, facility):
            mine = {row.reference for row in roles if row.owner in (centre, facility)}
            at[facility] = structs.replace(found, privileges=tuple(p for p in found.privileges if p.role in mine))
    return at


def all_at(ctx: Context, centre: str, facility: str) -> list[Reader]:
    """The same where no reading is asked about."""
    found: dict[str, list[Stored]] = {}
    for row in _roles(ctx, (centre, facility), ("organization", f"Organization/{facility}")):
        if person := _person_of(row.json, ctx.base):
            found.setdefault(person, []).append(row)
    return _facts(ctx, (centre, facility), found)


def readers(ctx: Context, t0: Item, desk: Desk | None = None) -> list[Reader]:
    """All with a privilege at the facility, lapsed ones too."""
    owners, facility = trusted(t0), work.facility_of(t0)
    rows = desk.at(owners) if desk else None
    if rows is None:
        found: dict[str, list[Stored]] = {}
        for row in _roles(ctx, owners, ("organization", f"Organization/{facility}")):
            if person := _person_of(row.json, ctx.base):
                found.setdefault(person, []).append(row)
        rows = _facts(ctx, owners, found)
        if desk:
            desk.keep(owners, rows)
    prior = _prior(ctx, t0)
    if not prior:
        return rows
    return [structs.replace(r, prior=True) if any(p.role in prior for p in r.privileges) else r for r in rows]


class Desk:
    """Within one batch of assignments: the facts of each facility's readers, for less than a second, with what the batch itself
    has given since."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[float, list[Reader]]] = {}

    def at(self, owners: tuple[str, ...]) -> list[Reader] | None:
        until, rows = self._known.get(owners, (0.0, None))
        return rows if until > time.monotonic() else None

    def keep(self, owners: tuple[str, ...], rows: list[Reader]) -> None:
        self._known[owners] = time.monotonic() + _REMEMBERED, rows

    def gave(self, reader: str, priority: str, facility: str) -> None:
        for _, rows in self._known.values():
            for number, row in enumerate(rows):
                if row.reference == reader:
                    load = row.load
                    more = Load(
                        load.now + 1,
                        load.stat + (priority == "stat"),
                        load.shift,
                        tuple(sorted({*load.covers, f"{priority}|{facility}"})),
                    )
                    rows[number] = structs.replace(row, load=more)


def verdict(
    ctx: Context, practitioner: str, t0: Item, kind: str = states.READ, read_type: str | None = None
) -> Verdict:  # fmt: skip
    """Of one reader, now."""
    found = reader(ctx, practitioner, t0)
    asked = reading(ctx, t0, kind, read_type)
    return judge(asked, found, milliseconds(ctx.now)) if found else Verdict(("no-such-reader",))


def refusal(codes: Iterable[str], whose: str = "This reader") -> BusinessRule:
    """422 with each reason, in words and as a code."""
    failed = tuple(codes)
    return BusinessRule(
        f"{whose} may not read this: {eligibility.words(failed)}.", "Parameters.parameter", (coding.ELIGIBILITY, failed[0])
    )


def not_eligible(codes: Iterable[str]) -> Forbidden:
    """403, told to the reader themselves."""
    failed = tuple(codes)
    return Forbidden(f"You may not read this: {eligibility.words(failed)}.", details=(coding.ELIGIBILITY, failed[0]))


def _roles(ctx: Context, owners: tuple[str, ...], pair: tuple[str, str]) -> list[Stored]:
    rows = ctx.store.search(plain(ctx.store.types["PractitionerRole"], pair), owned_by(*owners), _MOST)
    return sorted(rows, key=lambda row: row.id)


@lru_cache(20_000)
def _person_of(text: str, base: str) -> str | None:
    found = work.content(text, base).get("practitioner", {}).get("reference")
    return str(found) if found else None


@lru_cache(20_000)
def _privilege(reference: str, text: str, base: str) -> Privilege:
    return eligibility.privilege(reference, work.content(text, base))


@lru_cache(20_000)
def _person(reference: str, text: str) -> Reader:
    data = kept(text)
    return Reader(reference, data.get("active", True), eligibility.licences(data), (), eligibility.languages(data))


def _facts(ctx: Context, owners: tuple[str, ...], found: dict[str, list[Stored]], *, ranked: bool = True) -> list[Reader]:
    """``found`` are Practitioners and their roles; in a few queries for all of them. ``ranked``: with what they did today."""
    people = ctx.store.fetch("Practitioner", [p.removeprefix("Practitioner/") for p in found], owned_by(*owners))
    loads = _loads(ctx, [person.reference for person in people], ranked=ranked)
    shifts = _shifts(ctx, owners[0])
    made = []
    for person in people:
        rows, facts = found[person.reference], _person(person.reference, person.json)
        privileges = tuple(_privilege(row.reference, row.json, ctx.base) for row in rows)
        made.append(
            Reader(
                facts.reference,
                facts.active,
                facts.licences,
                privileges,
                facts.languages,
                _shift(shifts, [*(p.role for p in privileges), person.reference]),
                loads.get(person.reference, _IDLE),
            )
        )
    return made


# ---------------------------------------------------------------- what they have open

_IDLE = Load()


def _loads(ctx: Context, people: list[str], *, ranked: bool) -> dict[str, Load]:
    """What each person has open, for whichever facility; and how many they finished within the day."""
    if not people:
        return {}
    open_: dict[str, list[tuple[str, str, int]]] = {}
    for tag, number in ctx.store.tally("Task", (f"~load={one}" for one in people), "~load.of=").items():
        person, priority, facility = tag.removeprefix("~load.of=").split("|")
        open_.setdefault(person, []).append((priority, facility.removeprefix("Organization/"), number))
    today = {"ts": {"$gte": milliseconds(ctx.now) - _DAY}}
    done = ctx.store.tally("Task", (f"~done={one}" for one in people), "~done=", today) if ranked else {}
    return {
        one: _load(open_.get(one, []), done.get(f"~done={one}", 0))
        for one in {*open_, *(d.removeprefix("~done=") for d in done)}
    }


def _load(rows: list[tuple[str, str, int]], done: int) -> Load:
    return Load(
        sum(number for *_, number in rows),
        sum(number for priority, _, number in rows if priority == "stat"),
        done,
        tuple(sorted({f"{priority}|{facility}" for priority, facility, _ in rows})),
    )


def _prior(ctx: Context, t0: Item) -> set[str]:
    """The PractitionerRoles that interpreted earlier examinations of the patient, for the fulfiller."""
    patient = t0.data.get("for", {}).get("reference")
    if not patient:
        return set()
    asked = plain(ctx.store.types["DiagnosticReport"], ("subject", patient))
    rows = ctx.store.search(asked, owned_by(work.organization(t0.data.get("owner"))), 50)
    return {one.get("reference", "") for row in rows for one in kept(row.json).get("resultsInterpreter", ())}


# ---------------------------------------------------------------- who is on duty


def _shifts(ctx: Context, fulfiller: str) -> dict[str, Shift] | None:
    """By Schedule.actor; None where the centre keeps no roster. A Slot that is busy-unavailable is an absence."""
    schedules = ctx.store.search(plain(ctx.store.types["Schedule"]), owned_by(fulfiller), _MOST)
    if not schedules:
        return None
    actors = {row.reference: [a["reference"] for a in kept(row.json).get("actor", ()) if "reference" in a] for row in schedules}
    now = milliseconds(ctx.now)
    asked = plain(ctx.store.types["Slot"], ("start", f"ge{_day(ctx, -2)}"), ("start", f"lt{_day(ctx, 14)}"))
    found: dict[str, Shift] = {}
    for row in ctx.store.search(asked, owned_by(fulfiller), _SLOTS):
        slot = kept(row.json)
        for actor in actors.get(slot["schedule"].get("reference", ""), ()):
            found[actor] = _with(found.get(actor, Shift()), row.reference, slot, now)
    return found


def _day(ctx: Context, days: int) -> str:
    return (ctx.now + timedelta(days=days)).date().isoformat()


def _with(shift: Shift, reference: str, slot: Document, now: int) -> Shift:
    """What one Slot adds: https://hl7.org/fhir/R4/slot.html"""
    low, high = span(slot["start"])[0], span(slot["end"])[0]
    on_duty = slot["status"] in ("free", "busy", "busy-tentative")
    if low <= now < high:
        if on_duty:
            return Shift(True, shift.absent, reference, max(high, shift.until or 0), shift.next)
        return Shift(shift.on, slot["status"] == "busy-unavailable" or shift.absent, shift.slot, shift.until, shift.next)
    if on_duty and low > now:
        return Shift(shift.on, shift.absent, shift.slot, shift.until, min(low, shift.next or low))
    return shift


def _shift(shifts: dict[str, Shift] | None, actors: list[str]) -> Shift | None:
    """Of a person whose Schedules may be of their roles or of themselves."""
    if shifts is None:
        return None
    mine = [shifts[actor] for actor in actors if actor in shifts]
    on = next((one for one in mine if one.on), Shift())
    following = [one.next for one in mine if one.next]
    return Shift(on.on, any(one.absent for one in mine), on.slot, on.until, min(following) if following else None)
