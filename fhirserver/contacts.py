"""Whom an alert reaches at a facility, and where: the requesting doctor, then the ward, then the facility's duty.

https://hl7.org/fhir/R4/datatypes.html#ContactPoint
"""

from __future__ import annotations

from dataclasses import dataclass

from fhirserver import agreements, work
from fhirserver.messages import Context
from fhirserver.validation import Document
from fhirserver.work import Item

# Who may be told, or asked: of what a Communication.recipient may be those that people stand behind
REACHABLE = ("Practitioner", "PractitionerRole", "Organization", "CareTeam", "HealthcareService", "RelatedPerson")
# To whom a Communication, and to whom a Task, may be addressed
_TOLD = frozenset(
    {
        "CareTeam",
        "Device",
        "HealthcareService",
        "Group",
        "Organization",
        "Patient",
        "Practitioner",
        "PractitionerRole",
        "RelatedPerson",
    }
)
OF_TASKS = _TOLD - {"CareTeam", "Device", "HealthcareService"}


@dataclass(frozen=True, slots=True)
class Recipient:
    """Of an alert: who, by reference or by name, and the number at which they answer."""

    reference: str | None
    name: str
    phone: str | None

    def document(self, kinds: frozenset[str] = _TOLD) -> Document:
        """By reference where what is told may refer to such; a ward, which is a Location, by its name and number."""
        shown = f"{self.name}, {self.phone}" if self.phone else self.name
        named = self.reference if self.reference and self.reference.split("/")[0] in kinds else None
        return ({"reference": named} if named else {}) | {"display": shown}


def ladder(ctx: Context, order: Item, fulfiller: str) -> list[Recipient]:
    """From the first to be told to the last; the facility as such is always on it."""
    facility = order.stored.owner
    terms = agreements.between(ctx, facility, fulfiller).terms
    found = [one for one in (_requester(ctx, order), *_wards(ctx, order)) if one]
    found += [Recipient(contact.reference, contact.name, contact.phone) for contact in terms.contacts]
    house = work.item(ctx, f"Organization/{facility}")
    name = house.data.get("name", facility) if house else facility
    number = terms.duty_phone or (_phone(house.data) if house else None)
    found.append(Recipient(f"Organization/{facility}", name, number))
    return list({(one.reference, one.name): one for one in found}.values())


def phones(ctx: Context, order: Item) -> list[str]:
    """The numbers that the facility's own records give."""
    house = work.item(ctx, f"Organization/{order.stored.owner}")
    found = [_requester(ctx, order), *_wards(ctx, order)]
    numbers = [one.phone for one in found if one] + ([_phone(house.data)] if house else [])
    return [number for number in numbers if number]


def _requester(ctx: Context, order: Item) -> Recipient | None:
    reference = order.data.get("requester", {})
    text = reference.get("reference", "")
    if text.startswith("#"):
        inside = next((c for c in order.data.get("contained", ()) if c.get("id") == text[1:]), None)
        return Recipient(None, _name(inside), _phone(inside)) if inside else None
    found = work.item(ctx, text) if text.split("/")[0] in ("Practitioner", "PractitionerRole") else None
    if found is None:
        return None
    person = found
    if found.stored.type == "PractitionerRole":
        person = work.item(ctx, found.data.get("practitioner", {}).get("reference", "")) or found
    return Recipient(found.reference, reference.get("display") or _name(person.data), _phone(found.data) or _phone(person.data))


def _wards(ctx: Context, order: Item) -> list[Recipient]:
    """The ward: where the order says that the patient lies."""
    rows = [work.item(ctx, one.get("reference", "")) for one in order.data.get("locationReference", ())]
    return [Recipient(one.reference, _name(one.data), _phone(one.data)) for one in rows if one]


def _phone(document: Document) -> str | None:
    rows = [one for one in document.get("telecom", ()) if one.get("system") in ("phone", "pager", "sms") and one.get("value")]
    return str(min(rows, key=lambda one: one.get("rank", 99))["value"]) if rows else None


def _name(document: Document) -> str:
    name = document.get("name")
    if isinstance(name, str):
        return name
    first = (name or [{}])[0]
    return (
        first.get("text")
        or " ".join([*first.get("prefix", ()), *first.get("given", ()), first.get("family", "")]).strip()
        or "?"
    )
