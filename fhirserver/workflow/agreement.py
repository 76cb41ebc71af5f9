"""What a facility and who reads for it have agreed: deadlines, calendar, contacts, its own words, what may be passed on. Pure.

It is kept as the content (JSON) of a Library whose identifier names the facility; without one, these defaults hold. They are
product defaults, not norms: stat 60 minutes (30 where stroke or trauma is coded), asap 4 hours, urgent 24, routine 72.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from fhirserver.workflow.calendars import Calendar
from fhirserver.workflow.states import PRIORITY_RANKS

AGREEMENTS = "urn:fhirserver:agreement"  # the system of the Library's identifier; the value is the facility
CAP_MINUTES = 28 * 24 * 60  # nothing over four weeks
Priority = Literal["routine", "urgent", "asap", "stat"]
# The clocks: when it was ordered, released for reading, or the images were complete here.
Clock = Literal["ordered", "dispatched", "complete"]
Minutes = Annotated[int, msgspec.Meta(ge=1, le=CAP_MINUTES)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=1000)]


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``minutes`` to the final report, in ``working`` time or always; ``escalate`` at these percents of the time."""

    minutes: Minutes
    working: bool = False
    escalate: tuple[Percent, ...] = (80, 100)


class Contact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Whom an alert reaches at its step of the ladder; ``reference`` where the directory has them."""

    name: str
    phone: str | None = None
    reference: str | None = None


class LocalCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What one of the facility's own order codes means."""

    modality: str | None = None
    region: str | None = None
    specialty: str | None = None
    template: str | None = None
    priority: Priority | None = None


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """For orders that come without their own words."""

    priority: Priority | None = None
    category: str = "RemoteReporting"
    read_type: Literal["preliminary", "final"] = "final"
    language: str | None = None
    templates: tuple[str, ...] = ()


_TERMS = {
    "stat": Term(60, escalate=(50, 80, 100)),
    "asap": Term(4 * 60, escalate=(70, 100)),
    "urgent": Term(24 * 60),
    "routine": Term(72 * 60),
}
# Stroke, trauma: SNOMED CT and ICD-10
_HURRY = ("230690007", "417163006", "I63", "I64", "T14")
# Until somebody has to answer an actionable finding: ACR 1 to 3, RCR
_ALERTS = {
    "acr-1": 15,
    "acr-2": 120,
    "acr-3": 3 * 24 * 60,
    "rcr-critical": 15,
    "rcr-urgent": 120,
    "rcr-unexpected": 3 * 24 * 60,
    "rcr-cancer": 24 * 60,
}


class Agreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``hurry``: codes of a reason by which a stat reading is due in ``hurryMinutes``; ``pauses``: the clock stands while the
    facility owes information; ``completesOrder``: the order is completed for the facility when its report is signed;
    ``urgencies``: its own words for urgency; ``contacts``: the ladder after the requesting doctor (the ward, then the duty);
    ``subcontracting``: it may be forwarded, to organisations in ``countries`` (none: to any); ``imagesSentOn``: its images may be sent to archives and centres that the reading centre configured."""

    terms: Mapping[Priority, Term] = msgspec.field(default_factory=dict)
    clock: Clock = "complete"
    calendar: Calendar = Calendar()
    hurry: tuple[str, ...] = _HURRY
    hurry_minutes: Minutes = 30
    pauses: bool = True
    completes_order: bool = True
    auto_assign: bool = False
    urgencies: Mapping[str, Priority] = msgspec.field(default_factory=dict)
    codes: Mapping[str, LocalCode] = msgspec.field(default_factory=dict)
    defaults: Defaults = Defaults()
    contacts: tuple[Contact, ...] = ()
    duty_phone: str | None = None
    alerts: Mapping[str, Minutes] = msgspec.field(default_factory=dict)
    subcontracting: bool = False
    countries: tuple[str, ...] = ()
    jurisdiction: str | None = None
    retention_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 3650
    priors_shared: bool = False
    images_sent_on: bool = False

    def term(self, priority: str, reasons: frozenset[str] = frozenset()) -> Term:
        """``reasons``: the codes of what is asked, by which stroke and trauma are known."""
        found = self.terms.get(priority) or _TERMS[priority]  # type: ignore[call-overload]
        if priority == "stat" and any(code.startswith(self.hurry) for code in reasons):
            return Term(min(found.minutes, self.hurry_minutes), found.working, found.escalate)
        return found

    def alert_minutes(self, category: str) -> int:
        return self.alerts.get(category) or _ALERTS[category]

    def urgency(self, words: frozenset[str]) -> str | None:
        """The most urgent of the facility's words among these."""
        known = {word.casefold(): priority for word, priority in self.urgencies.items()}
        found = [known[word.casefold()] for word in words if word.casefold() in known]
        return min(found, key=lambda priority: PRIORITY_RANKS[priority], default=None)


ALERT_CATEGORIES = tuple(_ALERTS)
DEFAULT = Agreement()


def parsed(content: bytes) -> Agreement:
    """Errors: ValueError that names the place and what is wrong there."""
    try:
        return msgspec.json.decode(content, type=Agreement)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
