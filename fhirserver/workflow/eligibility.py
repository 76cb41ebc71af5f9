"""May this reader read this? Pure: hard rules that nobody overrides, and soft ones that a dispatcher may, with a reason.

Each rule is one row of RULES or SOFT_RULES: its code is stored with every decision, its words are told to people. What the
rules look at are plain facts, which a decision stores too: given the same facts they always say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from fhirserver.moments import span
from fhirserver.workflow import coding

Document = dict[str, Any]
_EVER = 2**53


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be read: for which facility, of which modalities, how, in which language, who asked for it, who read it
    before; ``exclusive``: the urgencies in which a reader serves one facility at a time. Times are milliseconds since 1970."""

    facility: str
    modalities: tuple[str, ...] = ()
    read_type: str = "final"
    language: str | None = None
    requesters: tuple[str, ...] = ()
    earlier_readers: tuple[str, ...] = ()
    jurisdiction: str | None = None
    priority: str = "routine"
    exclusive: tuple[str, ...] = ()
    specialty: tuple[str, ...] = ()
    due: int | None = None


class Licence(msgspec.Struct, frozen=True, omit_defaults=True):
    """A qualification; without a jurisdiction it counts everywhere."""

    low: int = 0
    high: int = _EVER
    jurisdiction: str | None = None


class Privilege(msgspec.Struct, frozen=True, omit_defaults=True):
    """A PractitionerRole: at one facility, for these kinds of read and modalities (none: all)."""

    role: str
    facility: str
    reads: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    specialties: tuple[str, ...] = ()
    low: int = 0
    high: int = _EVER
    active: bool = True


class Load(msgspec.Struct, frozen=True, omit_defaults=True):
    """Open readings now, those of them that are stat, what was finished within the day; ``covers``: urgency and facility
    (stat|hospital) of what is open."""

    now: int = 0
    stat: int = 0
    shift: int = 0
    covers: tuple[str, ...] = ()


class Shift(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the roster says: on duty until, or absent; ``next``: when the reader is on duty again."""

    on: bool = False
    absent: bool = False
    slot: str | None = None
    until: int | None = None
    next: int | None = None


class Reader(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Practitioner with the privileges that count for this reading; ``shift`` is None where no roster is kept."""

    reference: str
    active: bool = True
    licences: tuple[Licence, ...] = ()
    privileges: tuple[Privilege, ...] = ()
    languages: tuple[str, ...] = ()
    shift: Shift | None = None
    load: Load = Load()
    prior: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """``failed``: hard rules; ``soft``: overridable ones; ``role``: the privilege by which the reader reads; ``expires``: when
    it lapses."""

    failed: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    role: str | None = None
    expires: int | None = None

    @property
    def eligible(self) -> bool:
        return not self.failed


# ---------------------------------------------------------------- resources -> facts


def bounds(period: Document | None) -> tuple[int, int]:
    """A Period as milliseconds, as wide as it is imprecise; a day counts until it ends in UTC."""
    period = period or {}
    low = span(period["start"])[0] if "start" in period else 0
    return low, span(period["end"])[1] if "end" in period else _EVER


def within(period: Document | None, now: datetime) -> bool:
    """Whether a Period contains the moment."""
    low, high = bounds(period)
    return low <= now.timestamp() * 1000 < high


def licences(practitioner: Document) -> tuple[Licence, ...]:
    return tuple(
        Licence(*bounds(row.get("period")), _jurisdiction(row)) for row in practitioner.get("qualification", ())
    )  # fmt: skip


def _jurisdiction(qualification: Document) -> str | None:
    found = (e.get("valueCode") for e in qualification.get("extension", ()) if e["url"] == coding.JURISDICTION)
    return next(found, None)


def languages(practitioner: Document) -> tuple[str, ...]:
    spoken = set().union(*(coding.codes(c) for c in practitioner.get("communication", ())), frozenset())
    return tuple(sorted({code.split("-")[0] for code in spoken}))


def privilege(reference: str, role: Document) -> Privilege:
    low, high = bounds(role.get("period"))
    specialties = role.get("specialty", ())
    return Privilege(
        reference,
        role.get("organization", {}).get("reference", "").removeprefix("Organization/"),
        tuple(sorted(set().union(*(coding.codes(c) for c in role.get("code", ())), frozenset()))),
        tuple(sorted(set().union(*(coding.codes(s, coding.DCM) for s in specialties), frozenset()))),
        tuple(sorted({c for s in specialties for c in coding.codes(s) - coding.codes(s, coding.DCM)})),
        low,
        high,
        role.get("active", True),
    )


# ---------------------------------------------------------------- the rules


class _Question:
    """What the rules look at, once: privileges at the facility whatever else they say (``here``), those in force (``current``),
    those of this kind of read (``fitting``) and of all the modalities (``covering``); licences in force."""

    __slots__ = ("covering", "current", "fitting", "here", "licences", "reader", "reading")

    def __init__(self, reading: Reading, reader: Reader, now: int) -> None:
        self.reading, self.reader = reading, reader
        self.here = [p for p in reader.privileges if p.active and p.facility == reading.facility]
        self.current = [p for p in self.here if p.low <= now < p.high]
        self.fitting = [p for p in self.current if reading.read_type in p.reads]
        self.covering = [p for p in self.fitting if not p.modalities or set(reading.modalities) <= set(p.modalities)]
        self.licences = [one for one in reader.licences if one.low <= now < one.high]


def _licensed(q: _Question) -> bool:
    return q.reader.active and bool(q.licences)


def _jurisdictional(q: _Question) -> bool:
    where = q.reading.jurisdiction
    return where is None or not q.licences or any(one.jurisdiction in (None, where) for one in q.licences)


def _privileged(q: _Question) -> bool:
    return bool(q.here)


def _unexpired(q: _Question) -> bool:
    return not q.here or bool(q.current)


def _for_the_read(q: _Question) -> bool:
    return not q.current or bool(q.fitting)


def _for_modality(q: _Question) -> bool:
    return not q.fitting or bool(q.covering)


def _no_conflict(q: _Question) -> bool:
    return q.reader.reference not in q.reading.requesters


def _first_reader(q: _Question) -> bool:
    return q.reader.reference not in q.reading.earlier_readers


def _exclusive(q: _Question) -> bool:
    """No simultaneous service for more than one facility in such an urgency."""
    if q.reading.priority not in q.reading.exclusive:
        return True
    rows = (cover.split("|") for cover in q.reader.load.covers)
    return all(facility == q.reading.facility for priority, facility in rows if priority in q.reading.exclusive)


def _present(q: _Question) -> bool:
    return q.reader.shift is None or not q.reader.shift.absent


def _on_shift(q: _Question) -> bool:
    return q.reader.shift is None or q.reader.shift.absent or q.reader.shift.on


def _speaks(q: _Question) -> bool:
    wanted = q.reading.language
    return wanted is None or not q.reader.languages or wanted.split("-")[0] in q.reader.languages


Rule = Callable[[_Question], bool]
# code, what a person is told, the rule
RULES: tuple[tuple[str, str, Rule], ...] = (
    ("no-valid-licence", "has no valid licence", _licensed),
    ("no-licence-in-jurisdiction", "has no licence for the facility's country", _jurisdictional),
    ("no-privilege", "has no privilege at this facility", _privileged),
    ("privilege-expired", "has a privilege at this facility that is not in force now", _unexpired),
    ("no-read-type-privilege", "may not do this kind of read at this facility", _for_the_read),
    ("no-modality-privilege", "has no privilege for this modality", _for_modality),
    ("conflict-of-interest", "ordered it", _no_conflict),
    ("earlier-reader", "has read it already", _first_reader),
    ("exclusive-cover", "covers another facility for patients of this urgency now", _exclusive),
)
SOFT_RULES: tuple[tuple[str, str, Rule], ...] = (
    ("absent", "is absent", _present),
    ("off-shift", "is not on shift", _on_shift),
    ("language", "does not write in the language that was asked for", _speaks),
)
WORDS = {code: words for code, words, _ in (*RULES, *SOFT_RULES)} | {"no-such-reader": "is no reader known here"}


def judge(reading: Reading, reader: Reader, now: int) -> Verdict:
    """The verdict with every rule that failed, and the privilege that counts: of those that fit, the one that lasts longest."""
    question = _Question(reading, reader, now)
    failed = tuple(code for code, _, rule in RULES if not rule(question))
    soft = tuple(code for code, _, rule in SOFT_RULES if not rule(question))
    fitting = max(question.covering, key=lambda p: (p.high, p.role), default=None)
    lapses = min(max(one.high for one in question.licences), fitting.high) if fitting and question.licences else _EVER
    return Verdict(failed, soft, fitting.role if fitting else None, None if lapses == _EVER else lapses)


def words(codes: tuple[str, ...]) -> str:
    return "; ".join(WORDS[code] for code in codes)
