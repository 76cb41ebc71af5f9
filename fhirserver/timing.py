"""The clock of a reading on its coordination Task: when it is due, when it is told to be late, when it stands.

The deadline is ``Task.restriction.period.end``; ``timer`` is when the server is to look at the Task next.
"""

from __future__ import annotations

from datetime import datetime, timezone

from fhirserver import agreements, work
from fhirserver.messages import Context
from fhirserver.moments import milliseconds, span
from fhirserver.validation import Document, instant
from fhirserver.work import Item
from fhirserver.workflow import coding, deadlines, states
from fhirserver.workflow.agreement import Agreement, Term


def timed(task: Document, when: datetime | None) -> Document:
    """The Task with its timer set; None: without one."""
    others = [e for e in task.get("extension", ()) if e["url"] != coding.TIMER]
    rows = others + ([{"url": coding.TIMER, "valueInstant": instant(when)}] if when else [])
    without = {name: value for name, value in task.items() if name != "extension"}
    return without | ({"extension": rows} if rows else {})


def rings(task: Document) -> datetime | None:
    found = next((e["valueInstant"] for e in task.get("extension", ()) if e["url"] == coding.TIMER), None)
    return moment(found) if found else None


def at(milliseconds_: int) -> datetime:
    return datetime.fromtimestamp(milliseconds_ / 1000, timezone.utc)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def end_of(task: Document) -> str | None:
    end = task.get("restriction", {}).get("period", {}).get("end")
    return str(end) if end else None


def started(ctx: Context, task: Document, facility: str, fulfiller: str, start: datetime, asked: str | None = None) -> Document:
    """The coordination Task with its clock running since ``start``; ``asked``: the deadline that the facility named."""
    agreed = agreements.between(ctx, facility, fulfiller)
    term = _term(agreed.terms, task)
    end = asked or work.timestamp(deadlines.due(agreed.terms, term, start))
    inputs = work.with_input(task, "clock-start", work.timestamp(start))
    if agreed.canonical:
        inputs = work.with_input({"input": inputs}, "sla-policy", agreed.canonical)
    due = task | {"input": inputs, "restriction": task.get("restriction", {}) | {"period": {"end": end}}}
    if agreed.terms.auto_assign and coding.business_status(task) == states.READY_FOR_ASSIGNMENT:
        return timed(due, ctx.now)  # the server assigns it as soon as it looks
    return _armed(ctx, due, agreed.terms, term)


def urgent(ctx: Context, t0: Item, priority: str, asked: str | None = None) -> Document:
    """With another urgency. More urgent: the new time from now, never later than before; less: from the start of the clock."""
    task = t0.data | {"priority": priority}
    start, before = _start(task), end_of(task)
    if start is None:  # the images are awaited; a deadline that was named stays
        return task | ({"restriction": task.get("restriction", {}) | {"period": {"end": asked}}} if asked else {})
    agreed = agreements.between(ctx, work.facility_of(t0), work.organization(task.get("owner"))).terms
    term = _term(agreed, task)
    if asked:
        end = asked
    elif states.PRIORITY_RANKS[priority] < states.PRIORITY_RANKS[t0.data.get("priority", "routine")]:
        sooner = deadlines.due(agreed, term, ctx.now)
        end = work.timestamp(sooner) if before is None or milliseconds(sooner) < span(before)[0] else before
    else:
        end = work.timestamp(deadlines.due(agreed, term, start))
    return _armed(ctx, task | {"restriction": task.get("restriction", {}) | {"period": {"end": end}}}, agreed, term)


def paused(ctx: Context, task: Document) -> Document:
    """The facility owes information: the clock stands, where it was agreed so."""
    if _start(task) is None or work.inputs(task, "paused-since"):
        return task
    return timed(task | {"input": work.with_input(task, "paused-since", instant(ctx.now))}, None)


def resumed(ctx: Context, t0: Item, task: Document) -> Document:
    """It runs again, and the deadline is later by the time that it stood."""
    since = next(iter(work.inputs(task, "paused-since")), None)
    if since is None:
        return task
    agreed = agreements.between(ctx, work.facility_of(t0), work.organization(task.get("owner"))).terms
    term, end = _term(agreed, task), end_of(task)
    later = work.timestamp(deadlines.resumed(agreed, term, moment_of(end), moment(since), ctx.now)) if end else None
    again = task | {"input": work.with_input(task, "paused-since")}
    if later:
        again |= {"restriction": task.get("restriction", {}) | {"period": {"end": later}}}
    return _armed(ctx, again, agreed, term)


def pauses(ctx: Context, t0: Item) -> bool:
    return agreements.between(ctx, work.facility_of(t0), work.organization(t0.data.get("owner"))).terms.pauses


def moment_of(text: str) -> datetime:
    """The start of what a dateTime means: a deadline of a day is over when the day begins."""
    return at(span(text)[0])


def level(task: Document) -> int:
    """Of the ladder: the last that was told."""
    return int(next(iter(work.inputs(task, "escalated")), 0))


def _start(task: Document) -> datetime | None:
    text = next(iter(work.inputs(task, "clock-start")), None)
    return moment(text) if text else None


def _term(agreed: Agreement, task: Document) -> Term:
    reasons = frozenset(agreed.hurry[:1]) if True in work.inputs(task, "hurry") else frozenset()
    return agreed.term(task.get("priority", "routine"), reasons)


def _armed(ctx: Context, task: Document, agreed: Agreement, term: Term) -> Document:
    """With the timer at the next level of the ladder that is not told yet."""
    start, end = _start(task), end_of(task)
    if start is None or end is None:
        return timed(task, None)
    moments = deadlines.steps(agreed.calendar, term, start, moment_of(end))
    done = level(task)
    return timed(task, max(moments[done], ctx.now) if done < len(moments) else None)


def rearmed(ctx: Context, t0: Item, task: Document) -> Document:
    """After a level was told."""
    agreed = agreements.between(ctx, work.facility_of(t0), work.organization(task.get("owner"))).terms
    return _armed(ctx, task, agreed, _term(agreed, task))
