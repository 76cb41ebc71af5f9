"""A population of teleradiology patients, the same for the same seed: transaction Bundles, one a line (NDJSON).

    python bench/population.py --patients 1000 --seed 1 --out DIR     # or to standard output, without --out
    python bench/population.py --patients 1000 --check                # validates everything, writes nothing

Each patient comes from a random generator of their own, so patient 7 is the same person whatever the size of the
population, and any of them can be asked for alone (``Population.patient``). Entries are PUTs with ids made from the seed:
loading twice changes nothing. What a resource refers to comes before it, in its own Bundle or in the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta, timezone
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import people
from codes import (
    ACCESSIONS,
    CONCLUSIONS,
    DCM,
    HOURS,
    INSTANCES,
    LABS,
    LOINC,
    MODALITY,
    ORDERS,
    PRIORITIES,
    PROCEDURE_WEIGHTS,
    PROCEDURES,
    QUESTIONS,
    RADLEX,
    REASONS,
    RECORDS,
    SERIES,
    SIDES,
    SNOMED,
    SPECIALTIES,
    TERMS,
    UCUM,
    VITALS,
)

Resource = dict[str, Any]

MAX_ENTRIES = 500
TODAY = date(2026, 11, 24)  # the last day on which anything was ordered
DAYS = 3 * 365
ORGANIZATIONS, LOCATIONS, PRACTITIONERS = 12, 12, 50

_encode = msgspec.json.Encoder().encode


def concept(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}], "text": display}


def uuid(random: Random) -> str:
    """A version 4 UUID, in lower case."""
    text = f"{random.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) % 4]}{text[17:20]}-{text[20:]}"


def reference(resource: Resource, display: bool = False) -> Resource:
    told = {"reference": f"{resource['resourceType']}/{resource['id']}"}
    return told | {"display": resource["name"][0]["text"]} if display else told


class Population:
    """What one seed makes."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        random = Random(f"{seed}/shared")
        self.organizations = [self._organization(random, n) for n in range(ORGANIZATIONS)]
        self.locations = [self._location(random, n) for n in range(LOCATIONS)]
        self.practitioners = [self._practitioner(random, n) for n in range(PRACTITIONERS)]
        self.readers, self.referrers = self.practitioners[::3], [p for n, p in enumerate(self.practitioners) if n % 3]

    @property
    def shared(self) -> list[Resource]:
        """What the patients' resources refer to."""
        return [*self.organizations, *self.locations, *self.practitioners]

    def _organization(self, random: Random, number: int) -> Resource:
        place = people.address(random, people.POLAND) | {"use": "work"}
        kind = ("Szpital Wojewódzki", "Centrum Medyczne", "Przychodnia", "Szpital Miejski")[number % 4]
        return {
            "resourceType": "Organization", "id": uuid(random),
            "identifier": [{"system": "https://hospital.example/facility", "value": f"F{number:03}"}],
            "active": True, "type": [concept(f"{TERMS}/organization-type", "prov", "Healthcare Provider")],
            "name": f"{kind} {place['city']} {number}", "address": [place],
            "telecom": [{"system": "phone", "value": people.phone(random, people.POLAND), "use": "work"}],
        }  # fmt: skip

    def _location(self, random: Random, number: int) -> Resource:
        organization = self.organizations[number % len(self.organizations)]
        return {
            "resourceType": "Location", "id": uuid(random), "status": "active", "mode": "instance",
            "identifier": [{"system": "https://hospital.example/room", "value": f"R{number:03}"}],
            "name": f"{('CT', 'MR', 'X-ray', 'Ultrasound')[number % 4]} room {number}",
            "type": [concept(f"{TERMS}/v3-RoleCode", "RADDX", "Radiology diagnostics or therapeutics unit")],
            "address": organization["address"][0], "managingOrganization": reference(organization),
            "position": {"longitude": round(random.uniform(14.2, 24.1), 4), "latitude": round(random.uniform(49.1, 54.8), 4)},
        }  # fmt: skip

    def _practitioner(self, random: Random, number: int) -> Resource:
        woman, country = random.random() < 0.55, people.COUNTRIES[0 if number % 5 else 1]
        family, given = people.family(random, country, woman), people.given(random, country, woman)
        code, display = SPECIALTIES[0] if number % 3 == 0 else SPECIALTIES[1 + number % 3]
        return {
            "resourceType": "Practitioner", "id": uuid(random), "active": True,
            "identifier": [{"system": "urn:oid:2.16.840.1.113883.3.4424.1.6.2", "value": people.right_to_practise(random)}],
            "name": [{"use": "official", "family": family, "given": given, "prefix": ["dr"], "text": f"dr {given[0]} {family}"}],
            "gender": "female" if woman else "male",
            "qualification": [{"code": concept(SNOMED, code, display)}],
        }  # fmt: skip

    # ------------------------------------------------------------ one patient

    def patient(self, number: int) -> list[Resource]:
        """The patient and all that is theirs, about twenty resources, each after what it refers to."""
        random = Random(f"{self.seed}/{number}")
        patient = self._person(random, number)
        encounters = [self._encounter(random, patient) for _ in range(random.choice((1, 2, 2, 3)))]
        made = [patient, *encounters]
        for encounter in encounters:
            made += [self._observation(random, patient, encounter) for _ in range(random.choice((2, 3, 4, 5, 6, 7, 8)))]
        for turn in range(random.choice((0, 1, 2, 2, 3, 3))):
            made += self._imaging(random, patient, encounters[turn % len(encounters)], f"{number:07}{turn}")
        return made

    def _person(self, random: Random, number: int) -> Resource:
        [country] = random.choices(people.COUNTRIES, cum_weights=people.COUNTRY_WEIGHTS)
        woman = random.random() < 0.53
        age = int(random.triangular(0, 99, 62) * 365.25)
        born = TODAY - timedelta(days=DAYS + age)
        family, given = people.family(random, country, woman), people.given(random, country, woman)
        facility = random.choice(self.organizations)
        record = {
            "use": "usual", "type": concept(f"{TERMS}/v2-0203", "MR", "Medical record number"), "system": RECORDS,
            "value": f"M{number:08}", "assigner": {"reference": f"Organization/{facility['id']}"},
        }  # fmt: skip
        identifiers = [record]
        if random.random() < country.share:
            value = people.NUMBERS[country.system](random, (born.year, born.month, born.day), woman)
            kind = concept(f"{TERMS}/v2-0203", "NI", "National unique individual identifier")
            identifiers.append({"use": "official", "type": kind, "system": country.system, "value": value})
        names = [{"use": "official", "family": family, "given": given, "text": f"{' '.join(given)} {family}"}]
        if woman and random.random() < 0.1:
            names.append({"use": "maiden", "family": people.family(random, country, woman)})
        telecom = [{"system": "phone", "value": people.phone(random, country), "use": "mobile", "rank": 1}]
        if random.random() < 0.4:
            telecom.append({"system": "email", "value": f"p{number}@mail.example"})
        patient = {
            "resourceType": "Patient", "id": uuid(random), "identifier": identifiers, "active": True, "name": names,
            "telecom": telecom, "gender": "female" if woman else "male", "birthDate": born.isoformat(),
            "address": [people.address(random, country)],
            "communication": [{"language": {"coding": [{"system": "urn:ietf:bcp:47", "code": country.language}]}, "preferred": True}],
            "managingOrganization": reference(facility),
        }  # fmt: skip
        if random.random() < 0.02:
            patient["deceasedBoolean"] = True
        return patient

    def _encounter(self, random: Random, patient: Resource) -> Resource:
        start = _moment(random)
        [(code, display, hours)] = random.choices(
            (("AMB", "ambulatory", 1), ("EMER", "emergency", 9), ("IMP", "inpatient encounter", 120)), cum_weights=(60, 85, 100)
        )
        end = start + timedelta(minutes=random.randrange(20, 60 * hours + 1))
        doctor = random.choice(self.referrers)
        return {
            "resourceType": "Encounter", "id": uuid(random), "status": "finished",
            "class": {"system": f"{TERMS}/v3-ActCode", "code": code, "display": display},
            "subject": reference(patient, display=True), "participant": [{"individual": reference(doctor, display=True)}],
            "period": {"start": _text(start), "end": _text(end)},
            "reasonCode": [concept(SNOMED, *random.choice(REASONS))],
            "location": [{"location": reference(random.choice(self.locations))}],
            "serviceProvider": patient["managingOrganization"],
        }  # fmt: skip

    def _observation(self, random: Random, patient: Resource, encounter: Resource) -> Resource:
        start = datetime.fromisoformat(encounter["period"]["start"])
        when = _text(start + timedelta(minutes=random.randrange(90)))
        vital = random.random() < 0.45
        category = ("vital-signs", "Vital Signs") if vital else ("laboratory", "Laboratory")
        observation = {
            "resourceType": "Observation", "id": uuid(random), "status": "final" if random.random() < 0.95 else "amended",
            "category": [concept(f"{TERMS}/observation-category", *category)], "subject": reference(patient),
            "encounter": reference(encounter), "effectiveDateTime": when, "performer": [patient["managingOrganization"]],
        }  # fmt: skip
        if vital and random.random() < 0.35:
            return observation | _blood_pressure(random)
        code, display, unit, mean, deviation, digits, lowest = random.choice(VITALS if vital else LABS)
        observation["code"] = concept(LOINC, code, display)
        if random.random() < 0.01:
            return observation | {"dataAbsentReason": concept(f"{TERMS}/data-absent-reason", "error", "Error")}
        value = _measured(random, mean, deviation, digits, lowest)
        observation["valueQuantity"] = _quantity(value, unit)
        if not vital:
            low, high = (_measured(None, mean + side * deviation, 0, digits, lowest) for side in (-1.5, 1.5))
            observation["referenceRange"] = [{"low": _quantity(low, unit), "high": _quantity(high, unit)}]
            if not low <= value <= high:
                flag = ("H", "High") if value > high else ("L", "Low")
                observation["interpretation"] = [concept(f"{TERMS}/v3-ObservationInterpretation", *flag)]
        return observation

    # ------------------------------------------------------------ one reading

    def _imaging(self, random: Random, patient: Resource, encounter: Resource, number: str) -> Iterator[Resource]:
        """The order; mostly its study, and mostly the report on that."""
        [procedure] = random.choices(PROCEDURES, cum_weights=PROCEDURE_WEIGHTS)
        authored = _moment(random)
        recent = authored.date() > TODAY - timedelta(days=14)
        statuses = (40, 45, 48, 100) if recent else (1, 2, 6, 100)
        [status] = random.choices(("active", "on-hold", "revoked", "completed"), cum_weights=statuses)
        order = self._order(random, patient, encounter, number, procedure, authored, status)
        yield order
        if status != "completed" and (status != "active" or random.random() < 0.5):
            return
        hours = HOURS[order["priority"]]
        started = authored + timedelta(minutes=random.randrange(10, 60 * hours))
        study = self._study(random, order, number, procedure, started)
        yield study
        if status == "completed":
            measured = self._finding(random, order, started) if random.random() < 0.25 else None
            if measured:
                yield measured
            yield self._report(
                random, order, study, measured, started + timedelta(minutes=random.randrange(15, 60 * hours + 60))
            )

    def _order(
        self, random: Random, patient: Resource, encounter: Resource, number: str, procedure: Any, authored: datetime, status: str
    ) -> Resource:  # fmt: skip
        modality, loinc, snomed, site, *_ = procedure
        [priority] = random.choices(PRIORITIES[0], cum_weights=PRIORITIES[1])
        order = {
            "resourceType": "ServiceRequest", "id": uuid(random),
            "identifier": [
                {"type": concept(f"{TERMS}/v2-0203", "PLAC", "Placer Identifier"), "system": ORDERS, "value": f"O{number}"},
                {"type": concept(f"{TERMS}/v2-0203", "ACSN", "Accession ID"), "system": ACCESSIONS, "value": f"A{number}"},
            ],
            "status": status, "intent": "order", "category": [concept(SNOMED, "363679005", "Imaging")], "priority": priority,
            "code": {"coding": [_coding(LOINC, loinc), _coding(SNOMED, snomed)], "text": loinc[1]},
            "orderDetail": [concept(RADLEX, *MODALITY[modality][1:])],
            "subject": reference(patient, display=True), "encounter": reference(encounter), "authoredOn": _text(authored),
            "requester": reference(random.choice(self.referrers), display=True),
            "locationReference": [reference(random.choice(self.locations))],
            "reasonCode": [concept(SNOMED, *random.choice(REASONS)) | {"text": random.choice(QUESTIONS)}],
            "bodySite": [concept(SNOMED, *site)],
        }  # fmt: skip
        if random.random() < 0.3:
            order["note"] = [
                {
                    "text": "Allergic to iodinated contrast media."
                    if modality == "CT"
                    else "Please compare with earlier studies."
                }
            ]
        return order

    def _study(self, random: Random, order: Resource, number: str, procedure: Any, started: datetime) -> Resource:
        modality, loinc, _, site, least, most, _ = procedure
        side = _coding(SNOMED, random.choice(SIDES)) if site[1] in ("Knee", "Hand") else None
        series = []
        for position in range(random.randint(least, most)):
            row = {
                "uid": f"2.25.{random.getrandbits(127)}", "number": position + 1, "modality": _coding(DCM, (modality, MODALITY[modality][0])),
                "description": SERIES[modality][position % len(SERIES[modality])],
                "numberOfInstances": random.randint(*INSTANCES[modality]), "bodySite": _coding(SNOMED, site),
                "started": _text(started + timedelta(minutes=3 * position)),
            }  # fmt: skip
            series.append(row | {"laterality": side} if side else row)
        return {
            "resourceType": "ImagingStudy", "id": uuid(random),
            "identifier": [
                {"system": "urn:dicom:uid", "value": f"urn:oid:2.25.{random.getrandbits(127)}"},
                {"type": concept(f"{TERMS}/v2-0203", "ACSN", "Accession ID"), "system": ACCESSIONS, "value": f"A{number}"},
            ],
            "status": "available", "modality": [_coding(DCM, (modality, MODALITY[modality][0]))], "subject": order["subject"],
            "encounter": order["encounter"], "started": _text(started), "basedOn": [reference(order)], "referrer": order["requester"],
            "numberOfSeries": len(series), "numberOfInstances": sum(row["numberOfInstances"] for row in series),
            "procedureCode": [order["code"]], "location": order["locationReference"][0], "description": loinc[1], "series": series,
        }  # fmt: skip

    def _finding(self, random: Random, order: Resource, started: datetime) -> Resource:
        return {
            "resourceType": "Observation", "id": uuid(random), "status": "final", "basedOn": [reference(order)],
            "category": [concept(f"{TERMS}/observation-category", "imaging", "Imaging")],
            "code": concept(LOINC, "33728-7", "Size.maximum dimension in Tumor"), "subject": {"reference": order["subject"]["reference"]},
            "effectiveDateTime": _text(started), "valueQuantity": _quantity(_measured(random, 14, 8, 1, 2), "mm"),
        }  # fmt: skip

    def _report(
        self, random: Random, order: Resource, study: Resource, measured: Resource | None, issued: datetime
    ) -> Resource:  # fmt: skip
        [status] = random.choices(("final", "preliminary", "amended", "corrected"), cum_weights=(92, 95, 98, 100))
        reader, (conclusion, finding) = random.choice(self.readers), random.choice(CONCLUSIONS)
        report = {
            "resourceType": "DiagnosticReport", "id": uuid(random), "status": status, "basedOn": [reference(order)],
            "identifier": [{"system": "https://hospital.example/report", "value": order["identifier"][0]["value"].replace("O", "R")}],
            "category": [concept(f"{TERMS}/v2-0074", "RAD", "Radiology")], "code": order["code"], "subject": order["subject"],
            "encounter": order["encounter"], "effectiveDateTime": study["started"], "issued": _text(issued),
            "performer": [reference(reader, display=True)], "resultsInterpreter": [reference(reader, display=True)],
            "imagingStudy": [reference(study)], "conclusion": conclusion,
        }  # fmt: skip
        if measured:
            report["result"] = [reference(measured)]
        if finding:
            report["conclusionCode"] = [concept(SNOMED, *finding)]
        return report

    # ------------------------------------------------------------ Bundles

    def bundles(self, first: int, patients: int, most: int = MAX_ENTRIES) -> Iterator[list[Resource]]:
        """The resources of so many patients from number ``first`` on, in lots of at most so many; nobody is divided."""
        lot: list[Resource] = []
        for number in range(first, first + patients):
            person = self.patient(number)
            if len(lot) + len(person) > most:
                yield lot
                lot = []
            lot += person
        if lot:
            yield lot


def transaction(resources: Iterable[Resource]) -> bytes:
    """The Bundle that puts these, as JSON."""
    rows = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in resources]
    return _encode({"resourceType": "Bundle", "type": "transaction", "entry": rows})


def _coding(system: str, row: tuple[str, str]) -> Resource:
    return {"system": system, "code": row[0], "display": row[1]}


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def _measured(random: Random | None, mean: float, deviation: float, digits: int, lowest: float) -> float:
    value = round(max(lowest, random.gauss(mean, deviation) if random else mean), digits)
    return value if digits else int(value)


def _blood_pressure(random: Random) -> Resource:
    systolic = _measured(random, 132, 18, 0, 70)
    rows = (
        ("8480-6", "Systolic blood pressure", systolic),
        ("8462-4", "Diastolic blood pressure", int(systolic * random.uniform(0.5, 0.7))),
    )
    return {
        "code": concept(LOINC, "85354-9", "Blood pressure panel with all children optional"),
        "component": [{"code": concept(LOINC, code, display), "valueQuantity": _quantity(value, "mm[Hg]")} for code, display, value in rows],
    }  # fmt: skip


def _moment(random: Random) -> datetime:
    """A minute of the three years, mostly by day, in the zone of the facility."""
    day = TODAY - timedelta(days=random.randrange(DAYS))
    hour = min(23, max(0, int(random.gauss(13, 4.5))))
    zone = timezone(timedelta(hours=2 if 4 <= day.month <= 10 else 1))
    return datetime(day.year, day.month, day.day, hour, random.randrange(60), random.randrange(60), tzinfo=zone)


def _text(when: datetime) -> str:
    return when.isoformat()


# ---------------------------------------------------------------- the command


def check(population: Population, patients: int) -> None:
    """Every resource is valid by the server's own rules, is there once, and refers to what came before it."""
    from fhirserver.validation import built, loads, references

    there: set[str] = set()
    kinds: Counter[str] = Counter()
    for number, lot in enumerate([population.shared, *([row] for n in range(patients) for row in population.patient(n))]):
        for resource in lot:
            text = _encode(resource)
            built(loads(text))
            name = f"{resource['resourceType']}/{resource['id']}"
            assert name not in there, f"{name} is there twice"
            there.add(name)
            kinds[resource["resourceType"]] += 1
            missing = [target for _, target in references(resource, "") if target not in there]
            assert not missing, f"{name} refers to {missing} ({number})"
            for identifier in resource.get("identifier", ()):
                if identifier["system"] == people.PESEL:
                    digits = identifier["value"]
                    assert digits[10] == people.pesel_check(digits), digits
                    assert int(digits[9]) % 2 == (resource["gender"] == "male"), digits
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    print(
        f"{sum(kinds.values())} resources are valid: {told}; {(sum(kinds.values()) - len(population.shared)) / patients:.1f} a patient"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--entries", type=int, default=MAX_ENTRIES, help="in a Bundle, at most")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/population.ndjson; without it: standard output")
    parser.add_argument("--check", action="store_true", help="validate everything, write nothing")
    options = parser.parse_args()
    population = Population(options.seed)
    if options.check:
        check(population, options.patients)
        return
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    begun, count = time.perf_counter(), 0
    with open(options.out / "population.ndjson", "wb") if options.out else sys.stdout.buffer as file:
        for lot in chain([population.shared], population.bundles(0, options.patients, options.entries)):
            file.write(transaction(lot) + b"\n")
            count += len(lot)
    taken = time.perf_counter() - begun
    print(f"{count} resources in {taken:.1f} s, {count / taken:.0f}/s", file=sys.stderr)


if __name__ == "__main__":
    main()
