"""What the server does by itself when a Task's timer rings: leases that end, shifts that end, levels of the ladder, alerts.

The timer is in the Task: whichever process finds it plans the act on the Task as it is then, and of two that do one wins, so
each act is done once, also after a crash between two of them.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta

from fhirserver import agreements, alerts, attempts, escalation, roster, telling, timing, work
from fhirserver.dispatch import retried
from fhirserver.errors import BusinessRule, FHIRError, Unavailable
from fhirserver.messages import Context, Reply
from fhirserver.operations import assign
from fhirserver.search.query import plain
from fhirserver.store import Store
from fhirserver.validation import instant, loads
from fhirserver.versions import EVERYTHING, Stored
from fhirserver.work import Item
from fhirserver.workflow import coding, eligibility, states

log = logging.getLogger("fhirserver.timers")
_AT_ONCE = 200


class Timers:
    """``new_context`` acts for an organisation."""

    def __init__(self, store: Store, new_context: Callable[[str], Context], clock: Callable[[], datetime]) -> None:
        self._store, self._new_context, self._clock = store, new_context, clock

    def ring(self) -> int:
        """Do what is due; how many acts were done."""
        now = instant(self._clock())
        query = plain(self._store.types["Task"], ("timer", f"le{now}"), ("status", ",".join(sorted(states.OPEN_TASK))))
        done = 0
        for stored in self._store.search(query, EVERYTHING, _AT_ONCE):
            done += self._tried(f"Task/{stored.id}", _acting(stored))
        return done

    def _tried(self, reference: str, owner: str) -> bool:
        """One Task that fails does not hold up the others."""
        acted: list[str] = []

        def plan(ctx: Context) -> Reply:
            acted[:] = [act(ctx, reference)]
            return Reply(200)

        try:
            retried(self._new_context(owner), "operation", "timer", plan)
        except Unavailable:
            raise
        except Exception as error:
            where = "" if isinstance(error, FHIRError) else "\n" + "".join(traceback.format_tb(error.__traceback__))
            log.error("The timer of a Task of %s failed: %s%s", owner, type(error).__name__, where)
            return False
        return bool(acted and acted[0])


def _acting(stored: Stored) -> str:
    """For whom the server acts: who was asked to read, whose word the decision is; of other Tasks who owns them."""
    task = loads(stored.json)
    asked = work.organization(task.get("owner")) if work.is_coordination(task) else None
    return asked or stored.owner


def act(ctx: Context, reference: str) -> str:
    """What follows from the timer of one Task, planned; what it was, in a word: empty where it has not rung after all."""
    task = work.item(ctx, reference)
    rings = timing.rings(task.data) if task else None
    if task is None or rings is None or rings > ctx.now or task.status not in states.OPEN_TASK:
        return ""
    if work.is_a(task.data, "acknowledge"):
        alerts.stepped(ctx, task)
        return "alert"
    if work.is_coordination(task.data):
        if _waits_for_assignment(ctx, task):
            return _assigned(ctx, task)
        escalation.told(ctx, task, timing.level(task.data) + 1)
        return "escalate"
    if not work.is_attempt(task.data):
        work.save(ctx, task, timing.timed(task.data, None))
        return "cleared"
    return _attempt(ctx, task)


def _attempt(ctx: Context, attempt: Item) -> str:
    """A lease that nobody renewed; or a shift that is over, with the reading unread."""
    if attempt.status == "in-progress":
        attempts.given_back(ctx, attempt, "lease-expired", keep_draft=True)
        return "lease-expired"
    person = roster.practitioner_of(ctx, attempt.data.get("owner"))
    t0 = work.coordination_of(ctx, attempt.data)
    reader = roster.reader(ctx, person, t0) if person else None
    until = attempts.shift_end(reader) if reader else None
    if until is not None and until > ctx.now:  # the shift goes on
        work.save(ctx, attempt, timing.timed(attempt.data, until))
        return "extended"
    attempts.given_back(ctx, attempt, "shift-ended")
    return "shift-ended"


# ---------------------------------------------------------------- assignment by agreement


def _waits_for_assignment(ctx: Context, t0: Item) -> bool:
    """Where the agreement leaves assignment to the policy, once, as soon as the images are there."""
    if t0.status not in ("requested", "received", "accepted") or work.inputs(t0.data, "auto-assigned"):
        return False
    terms = agreements.between(ctx, work.facility_of(t0), work.organization(t0.data.get("owner"))).terms
    ready = coding.business_status(t0.data) == states.READY_FOR_ASSIGNMENT
    return terms.auto_assign and ready and not work.open_attempts(ctx, t0)


def _assigned(ctx: Context, t0: Item) -> str:
    """To the best reader; where there is none now, to the pool, for the dispatcher to see."""
    tried = t0.data | {"status": "accepted", "input": work.with_input(t0.data, "auto-assigned", True)}
    work.save(ctx, t0, timing.rearmed(ctx, t0, tried | {"lastModified": work.timestamp(ctx.now)}))
    now = work.item(ctx, t0.reference) or t0
    found = assign.considered(ctx, now)
    try:
        chosen = assign.best(found)
    except BusinessRule:
        attempts.opened(ctx, now)
        return "pooled"
    assign.assigned(ctx, now, found, chosen, {"mode": "auto"})
    return "assigned"


# ---------------------------------------------------------------- privileges about to lapse

_LAPSING = "privilege-lapsing"


def granting(store: Store) -> list[str]:
    """The organisations that gave privileges with an end."""
    asked = plain(store.types["PractitionerRole"], ("date:missing", "false"))
    return sorted({stored.owner for stored in store.search(asked, EVERYTHING, 10_000)})


def announce_lapsing(ctx: Context, days: int) -> int:
    """Privileges that end within so many days are told of once: to the reader, the centre and the facility."""
    low, high = ctx.now.date(), ctx.now.date() + timedelta(days=days)
    asked = plain(ctx.store.types["PractitionerRole"], ("date", f"ge{low}"))
    told = 0
    for stored in ctx.store.search(asked, EVERYTHING, 2000):
        role = work.opened(ctx, stored)
        end = role.data.get("period", {}).get("end")
        if end is None or stored.owner != ctx.principal.organization or not str(low) <= end[:10] <= str(high):
            continue
        if not eligibility.within(role.data.get("period"), ctx.now) or _known(ctx, role, end):
            continue
        facility = work.organization(role.data.get("organization")) or stored.owner
        people = [one for one in (role.data.get("practitioner"), {"reference": f"Organization/{facility}"}) if one]
        identifier = [{"system": f"urn:fhirserver:{_LAPSING}", "value": f"{stored.id}|{end}"}]
        text = f"A privilege ends on {end[:10]}; it is renewed by its administrator."
        telling.tell(ctx, _LAPSING, text, people, [role.reference], stored.owner, [facility], identifier=identifier)
        told += 1
    return told


def _known(ctx: Context, role: Item, end: str) -> bool:
    wanted = ("identifier", f"urn:fhirserver:{_LAPSING}|{role.stored.id}\\|{end}")
    return bool(work.items(ctx, (role.stored.owner,), "Communication", wanted))
