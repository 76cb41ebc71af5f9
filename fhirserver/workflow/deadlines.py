"""When a reading is due, and when its being late is told. Pure.

Clocks are the server's own moments (I8): when the order was released, when its images were complete here.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fhirserver.workflow.agreement import CAP_MINUTES, Agreement, Term
from fhirserver.workflow.calendars import Calendar


def due(agreement: Agreement, term: Term, start: datetime) -> datetime:
    """Never later than four weeks."""
    within, cap = timedelta(minutes=term.minutes), start + timedelta(minutes=CAP_MINUTES)
    return min(cap, agreement.calendar.advanced(start, within) if term.working else start + within)


def steps(calendar: Calendar, term: Term, start: datetime, end: datetime) -> list[datetime]:
    """The moments at which the levels of the ladder are reached, 1 first, for whatever deadline there is."""
    return [_share(calendar, term, start, end, percent) for percent in sorted(term.escalate)]


def _share(calendar: Calendar, term: Term, start: datetime, end: datetime, percent: int) -> datetime:
    if end <= start:
        return end
    whole = calendar.elapsed(start, end) if term.working else timedelta()
    if not whole or percent > 100:
        return start + (end - start) * percent / 100
    return calendar.advanced(start, whole * percent / 100)


def resumed(agreement: Agreement, term: Term, end: datetime, paused: datetime, now: datetime) -> datetime:
    """The deadline after a pause: later by the time that the clock stood."""
    if not term.working:
        return end + (now - paused)
    return agreement.calendar.advanced(max(end, paused), agreement.calendar.elapsed(paused, now)) if now > paused else end
