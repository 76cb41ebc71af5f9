"""The searches that the ladder asks, each with a way to draw its values from what was loaded, and to tell a right answer."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from typing import Any

from codes import ACCESSIONS, LOINC, RECORDS, UCUM
from population import Population, Resource

Holds = Callable[[Resource], bool]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``holds`` of each match; ``expected``: references that are among the entries."""

    path: str
    holds: Holds
    expected: tuple[str, ...] = ()
    sorted_by: Callable[[list[Resource]], bool] | None = None


class Values:
    """Draws from the population's first so many patients."""

    def __init__(self, random: Random, population: Population, loaded: int) -> None:
        self.random, self.population, self.loaded = random, population, loaded

    def found(self, type_: str, where: Holds = lambda _: True) -> tuple[list[Resource], Resource]:
        """All that is a random patient's, and one resource of theirs."""
        while True:
            rows = self.population.patient(self.random.randrange(self.loaded))
            fitting = [row for row in rows if row["resourceType"] == type_ and where(row)]
            if fitting:
                return rows, self.random.choice(fitting)

    def one(self, type_: str, where: Holds = lambda _: True) -> Resource:
        return self.found(type_, where)[1]


def _reference(resource: Resource) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def fold(text: str) -> str:
    """Without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold()).replace("ł", "l").replace("ı", "i")
    return "".join(c for c in plain if not unicodedata.combining(c))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _named(part: str, begins: bool) -> Holds:
    wanted = fold(part)
    return lambda row: any(
        fold(text).startswith(wanted) if begins else wanted in fold(text) for text in _strings(row.get("name", []))
    )


def _codes(value: Any) -> set[str]:
    return {coding["code"] for concept in value for coding in concept.get("coding", [concept])}


def _day(text: str) -> date:
    """In UTC, as the server takes a date without a zone."""
    return datetime.fromisoformat(text).astimezone(timezone.utc).date() if "T" in text else date.fromisoformat(text)


def _window(param: str, member: str, days: int, value: str) -> tuple[str, Holds]:
    """So many whole days with this one in the middle."""
    first = _day(value) - timedelta(days=days // 2)
    last = first + timedelta(days=days)

    def holds(row: Resource) -> bool:
        start, end = (row[member]["start"], row[member]["end"]) if isinstance(row[member], dict) else (row[member], row[member])
        return _day(start) < last and _day(end) >= first

    return f"{param}=ge{first}&{param}=lt{last}", holds


def _dated(type_: str, param: str, member: str, days: int) -> Callable[[Values], tuple[str, Holds, Resource]]:
    def draw(values: Values) -> tuple[str, Holds, Resource]:
        row = values.one(type_, lambda r: member in r)
        asked, holds = _window(param, member, days, row[member]["start"] if isinstance(row[member], dict) else row[member])
        return asked, holds, row

    return draw


def _subject(row: Resource) -> str:
    return str(row["subject"]["reference"])


# ---------------------------------------------------------------- Patient


def patient_name(v: Values) -> Ask:
    part = v.one("Patient")["name"][0]["family"][:5]
    return Ask(f"Patient?name={part}", _named(part, begins=True))


def patient_family_birthdate(v: Values) -> Ask:
    who = v.one("Patient")
    family, born = who["name"][0]["family"], who["birthDate"]
    return Ask(f"Patient?family={family}&birthdate={born}", lambda r: r["birthDate"] == born, (_reference(who),))


def patient_identifier(v: Values) -> Ask:
    who = v.one("Patient")
    asked = v.random.choice(who["identifier"])
    holds: Holds = lambda r: asked["value"] in [i["value"] for i in r["identifier"]]  # noqa: E731
    return Ask(f"Patient?identifier={asked['system']}|{asked['value']}", holds, (_reference(who),))


def patient_birthdate(v: Values) -> Ask:
    asked, holds, _ = _dated("Patient", "birthdate", "birthDate", 30)(v)
    return Ask(f"Patient?{asked}", holds)


def patient_city(v: Values) -> Ask:
    city = v.one("Patient")["address"][0]["city"]
    return Ask(f"Patient?address-city={city}", lambda r: fold(r["address"][0]["city"]).startswith(fold(city)))


def patient_contains(v: Values) -> Ask:
    who = v.one("Patient")
    part = who["name"][0]["family"][1:5]
    return Ask(f"Patient?name:contains={part}&birthdate={who['birthDate']}", _named(part, begins=False), (_reference(who),))


def patient_has_order(v: Values) -> Ask:
    order = v.one("ServiceRequest")
    accession = order["identifier"][1]["value"]
    path = f"Patient?_has:ServiceRequest:patient:identifier={ACCESSIONS}|{accession}"
    return Ask(path, lambda r: _reference(r) == _subject(order), (_subject(order),))


def patient_has_study(v: Values) -> Ask:
    rows, study = v.found("ImagingStudy")
    born, modality = rows[0]["birthDate"], study["modality"][0]["code"]
    path = f"Patient?birthdate={born[:7]}&_has:ImagingStudy:patient:modality={modality}"
    return Ask(path, lambda r: r["birthDate"][:7] == born[:7], (_subject(study),))


def patient_revinclude(v: Values) -> Ask:
    rows, report = v.found("DiagnosticReport")
    record = rows[0]["identifier"][0]["value"]
    path = f"Patient?identifier={RECORDS}|{record}&_revinclude=ServiceRequest:subject&_revinclude=DiagnosticReport:subject"
    return Ask(path, lambda r: _reference(r) == _subject(report), (_subject(report), _reference(report)))


# ---------------------------------------------------------------- Observation


def _measured(v: Values) -> tuple[str, str, float]:
    """A LOINC code, its unit, and a value below some that there are."""
    row = v.one("Observation", lambda r: r.get("valueQuantity", {}).get("value", 0) > 1)
    quantity = row["valueQuantity"]
    return row["code"]["coding"][0]["code"], quantity["code"], round(quantity["value"] * 0.95, 2)


def _above(code: str, least: float) -> Holds:
    return lambda r: code in _codes([r["code"]]) and r["valueQuantity"]["value"] >= least


def observation_code(v: Values) -> Ask:
    code = v.one("Observation")["code"]["coding"][0]["code"]
    return Ask(f"Observation?code={LOINC}|{code}", lambda r: code in _codes([r["code"]]))


def observation_composite(v: Values) -> Ask:
    code, unit, least = _measured(v)
    return Ask(f"Observation?code-value-quantity={LOINC}|{code}$gt{least}|{UCUM}|{unit}", _above(code, least))


def observation_quantity(v: Values) -> Ask:
    code, unit, least = _measured(v)
    return Ask(f"Observation?code={LOINC}|{code}&value-quantity=gt{least}|{UCUM}|{unit}", _above(code, least))


def observation_patient_code(v: Values) -> Ask:
    row = v.one("Observation")
    code, subject = row["code"]["coding"][0]["code"], _subject(row)
    holds: Holds = lambda r: _subject(r) == subject and code in _codes([r["code"]])  # noqa: E731
    return Ask(f"Observation?patient={subject}&code={LOINC}|{code}", holds, (_reference(row),))


def observation_date(v: Values) -> Ask:
    asked, holds, _ = _dated("Observation", "date", "effectiveDateTime", 1)(v)
    return Ask(f"Observation?{asked}", holds)


def observation_date_code(v: Values) -> Ask:
    asked, holds, row = _dated("Observation", "date", "effectiveDateTime", 7)(v)
    code = row["code"]["coding"][0]["code"]
    return Ask(f"Observation?{asked}&code={LOINC}|{code}", lambda r: holds(r) and code in _codes([r["code"]]))


# ---------------------------------------------------------------- orders, studies, reports, encounters


def order_status_priority(v: Values) -> Ask:
    row = v.one("ServiceRequest", lambda r: r["status"] in ("active", "on-hold"))
    status, priority = row["status"], row["priority"]
    path = f"ServiceRequest?status={status}&priority={priority}"
    return Ask(path, lambda r: (r["status"], r["priority"]) == (status, priority))


def _by_authored(rows: list[Resource]) -> bool:
    return all(_day(former["authoredOn"]) >= _day(later["authoredOn"]) for former, later in pairwise(rows))


def order_authored(v: Values) -> Ask:
    asked, holds, _ = _dated("ServiceRequest", "authored", "authoredOn", 30)(v)
    return Ask(f"ServiceRequest?{asked}&_sort=-authored", holds, sorted_by=_by_authored)


def order_identifier(v: Values) -> Ask:
    row = v.one("ServiceRequest")
    return Ask(f"ServiceRequest?identifier={row['identifier'][1]['value']}", lambda r: r["id"] == row["id"], (_reference(row),))


def order_include(v: Values) -> Ask:
    row = v.one("ServiceRequest")
    path = f"ServiceRequest?identifier={ACCESSIONS}|{row['identifier'][1]['value']}"
    path += "&_include=ServiceRequest:subject&_include=ServiceRequest:requester"
    return Ask(path, lambda r: r["id"] == row["id"], (_reference(row), _subject(row), row["requester"]["reference"]))


def study_started(v: Values) -> Ask:
    asked, holds, _ = _dated("ImagingStudy", "started", "started", 1)(v)
    return Ask(f"ImagingStudy?{asked}", holds)


def study_modality_patient(v: Values) -> Ask:
    row = v.one("ImagingStudy")
    subject, modality = _subject(row), row["modality"][0]["code"]
    holds: Holds = lambda r: _subject(r) == subject and modality in _codes(r["modality"])  # noqa: E731
    return Ask(f"ImagingStudy?modality={modality}&patient={subject}", holds, (_reference(row),))


def study_modality_started(v: Values) -> Ask:
    asked, holds, row = _dated("ImagingStudy", "started", "started", 7)(v)
    modality = row["modality"][0]["code"]
    return Ask(f"ImagingStudy?modality={modality}&{asked}", lambda r: holds(r) and modality in _codes(r["modality"]))


def report_patient(v: Values) -> Ask:
    row = v.one("DiagnosticReport")
    return Ask(f"DiagnosticReport?patient={_subject(row)}", lambda r: _subject(r) == _subject(row), (_reference(row),))


def report_chained(v: Values) -> Ask:
    rows, report = v.found("DiagnosticReport")
    order = next(r for r in rows if _reference(r) == report["basedOn"][0]["reference"])
    path = f"DiagnosticReport?based-on:ServiceRequest.identifier={ACCESSIONS}|{order['identifier'][1]['value']}"
    return Ask(path, lambda r: r["id"] == report["id"], (_reference(report),))


def encounter_date(v: Values) -> Ask:
    asked, holds, _ = _dated("Encounter", "date", "period", 1)(v)
    return Ask(f"Encounter?{asked}", holds)


SEARCHES: tuple[tuple[str, Callable[[Values], Ask]], ...] = (
    ("Patient name", patient_name),
    ("Patient family, birthdate", patient_family_birthdate),
    ("Patient identifier", patient_identifier),
    ("Patient birthdate, a month", patient_birthdate),
    ("Patient address-city", patient_city),
    ("Patient name:contains, birthdate", patient_contains),
    ("Patient _has an order by identifier", patient_has_order),
    ("Patient birthdate, _has a study by modality", patient_has_study),
    ("Patient identifier, _revinclude two types", patient_revinclude),
    ("Observation code", observation_code),
    ("Observation code-value-quantity", observation_composite),
    ("Observation code, value-quantity", observation_quantity),
    ("Observation patient, code", observation_patient_code),
    ("Observation date, a day", observation_date),
    ("Observation date, a week, and code", observation_date_code),
    ("ServiceRequest status, priority", order_status_priority),
    ("ServiceRequest authored, a month, sorted", order_authored),
    ("ServiceRequest identifier", order_identifier),
    ("ServiceRequest identifier, _include two", order_include),
    ("ImagingStudy started, a day", study_started),
    ("ImagingStudy modality, patient", study_modality_patient),
    ("ImagingStudy modality, started, a week", study_modality_started),
    ("DiagnosticReport patient", report_patient),
    ("DiagnosticReport based-on.identifier", report_chained),
    ("Encounter date, a day", encounter_date),
)
