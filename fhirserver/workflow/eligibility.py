"""May this reader read this? Pure: hard rules that nobody overrides, and soft ones that a dispatcher may, with a reason.

Each rule is one row of RULES: its code is told to people and stored with every decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhirserver.workflow import coding

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is to be read: for which facility, of which modalities, how, in which language, who asked for it."""

    facility: str
    modalities: frozenset[str]
    read_type: str = "final"
    language: str | None = None
    requesters: frozenset[str] = frozenset()
    earlier_readers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reader:
    """A Practitioner and their PractitionerRoles, each with its reference, those that count for this reading alone."""

    reference: str
    practitioner: Document
    roles: tuple[tuple[str, Document], ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``failed``: hard rules; ``soft``: overridable ones; ``role``: the privilege by which the reader reads."""

    failed: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    role: str | None = None
    expires: str | None = None

    @property
    def eligible(self) -> bool:
        return not self.failed


@dataclass(frozen=True, slots=True)
class _Question:
    reading: Reading
    reader: Reader
    now: datetime
    privileges: tuple[tuple[str, Document], ...] = field(default=())


def within(period: Document | None, now: datetime) -> bool:
    """Whether a Period contains the moment; a day counts until it ends in UTC."""
    if not period:
        return True
    return _moment(period.get("start"), now, end=False) <= now <= _moment(period.get("end"), now, end=True)


def _moment(text: str | None, now: datetime, *, end: bool) -> datetime:
    if text is None:
        return now
    if len(text) > 10:
        return datetime.fromisoformat(text.replace("Z", "+00:00").replace(":60", ":59", 1))  # a leap second
    padded = text + ("-12-31" if end else "-01-01")[len(text) - 4 :] if len(text) < 10 else text
    if end and len(text) == 7:
        padded = text + "-28"  # a month is at least so long
    clock = "T23:59:59.999+00:00" if end else "T00:00:00+00:00"
    return datetime.fromisoformat(padded + clock)


def _licensed(q: _Question) -> bool:
    active = q.reader.practitioner.get("active", True)
    return active and any(
        within(qualification.get("period"), q.now) for qualification in q.reader.practitioner.get("qualification", ())
    )


def _privileged(q: _Question) -> bool:
    return bool(q.privileges)


def _for_modality(q: _Question) -> bool:
    return any(_covers(role, q.reading.modalities) for _, role in q.privileges)


def _covers(role: Document, modalities: frozenset[str]) -> bool:
    """A role without modalities is for all of them."""
    named = set().union(*(coding.codes(s, coding.DCM) for s in role.get("specialty", ()))) if role.get("specialty") else set()
    return not named or modalities <= named


def _no_conflict(q: _Question) -> bool:
    return q.reader.reference not in q.reading.requesters


def _first_reader(q: _Question) -> bool:
    return q.reader.reference not in q.reading.earlier_readers


def _speaks(q: _Question) -> bool:
    spoken = [coding.codes(c) for c in q.reader.practitioner.get("communication", ())]
    return (
        q.reading.language is None
        or not spoken
        or any(q.reading.language.split("-")[0] in {c.split("-")[0] for c in codes} for codes in spoken)
    )


RULES: tuple[tuple[str, Callable[[_Question], bool]], ...] = (
    ("no-valid-licence", _licensed),
    ("no-privilege", _privileged),
    ("no-modality-privilege", _for_modality),
    ("conflict-of-interest", _no_conflict),
    ("earlier-reader", _first_reader),
)
SOFT_RULES: tuple[tuple[str, Callable[[_Question], bool]], ...] = (("language", _speaks),)


def judge(reading: Reading, reader: Reader, now: datetime) -> Verdict:
    """The verdict with every rule that failed, and the privilege that counts."""
    privileges = tuple(
        (reference, role)
        for reference, role in reader.roles
        if role.get("active", True)
        and role.get("organization", {}).get("reference") == f"Organization/{reading.facility}"
        and any(reading.read_type in coding.codes(code) for code in role.get("code", ()))
        and within(role.get("period"), now)
    )
    question = _Question(reading, reader, now, privileges)
    failed = tuple(code for code, rule in RULES if not rule(question))
    if "no-privilege" in failed:
        failed = tuple(code for code in failed if code != "no-modality-privilege")
    soft = tuple(code for code, rule in SOFT_RULES if not rule(question))
    fitting = [(ref, role) for ref, role in privileges if _covers(role, reading.modalities)]
    role = fitting[0] if fitting else None
    return Verdict(failed, soft, role[0] if role else None, role[1].get("period", {}).get("end") if role else None)
