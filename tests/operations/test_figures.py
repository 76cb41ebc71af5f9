"""Measure/$evaluate-measure and ChargeItem/$statement: what is measured against what is computed here, and what is billed.

https://hl7.org/fhir/R4/measure-operation-evaluate-measure.html https://hl7.org/fhir/R4/chargeitem.html
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import DCM, REASON, answered, out, parameters, reader_rows
from unchanged import unchanged

PERIOD = "periodStart=2026-11-01&periodEnd=2026-11-30"
AGREEMENT = {
    "calendar": {"timeZone": "Europe/Warsaw", "country": "PL"},
    "codes": {"TKG": {"modality": "CT", "region": "head"}, "TKB": {"modality": "CT", "region": "abdomen"}},
    "dutyPhone": "1",
}


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@dataclass
class Reading:
    """What the test knows of a reading from its own record."""

    facility: str
    reader: str
    priority: str
    modality: str
    order: dict[str, Any]
    t0: dict[str, Any]
    attempt: dict[str, Any]
    report: dict[str, Any]

    def minutes(self, since: str) -> float:
        clock = {
            "turnaround": next(row["valueDateTime"] for row in self.t0["input"] if row["type"]["coding"][0]["code"] == "clock-start"),
            "turnaround-dispatched": self.t0["authoredOn"],
            "turnaround-assigned": self.attempt["authoredOn"],
            "turnaround-started": self.attempt["executionPeriod"]["start"],
        }  # fmt: skip
        return (moment(self.report["issued"]) - moment(clock[since])) / timedelta(minutes=1)

    @property
    def met(self) -> bool:
        return moment(self.report["issued"]) <= moment(self.t0["restriction"]["period"]["end"])


def read(network, facility, reader, *, priority="routine", modality="CT", code=None, waits=(0, 0, 0)) -> Reading:
    """Ordered with its study, dispatched; assigned, started and signed after so many minutes each."""
    client = getattr(network, facility)
    who = client.post("Patient", json=patient()).json()
    more = {"code": {"coding": [{"code": code}]}} if code else {}
    asked = client.post(
        "ServiceRequest", json=order(f"Patient/{who['id']}", priority=priority, reasonCode=[{"text": "?"}], **more)
    ).json()
    study = {
        "resourceType": "ImagingStudy", "status": "available", "subject": asked["subject"], "modality": [{"system": DCM, "code": modality}],
        "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}],
    }  # fmt: skip
    assert client.post("ImagingStudy", json=study).status_code == 201
    t0 = replace(network, hospital=client).dispatch(asked)
    network.server.wait(minutes=waits[0])
    owner = {"reference": f"PractitionerRole/centre-{reader}-{facility}"}
    attempt = out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="manual", owner=owner)))["task"]
    network.server.wait(minutes=waits[1])
    person = network.reader(reader)
    assert person.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True, leaseMinutes=1440)).status_code == 200
    opened = out(person.post(f"Task/{attempt['id']}/$start-report"))
    network.server.wait(minutes=waits[2])
    body = parameters(attest=True, response=answered(opened["draft"], impression="i"))
    report = out(person.post(f"DiagnosticReport/{opened['report']['id']}/$sign", json=body))["report"]
    t0, attempt = network.get(f"Task/{t0['id']}"), network.get(f"Task/{attempt['id']}")
    return Reading(facility, owner["reference"], priority, modality, asked, t0, attempt, report)


@pytest.fixture(scope="module")
def readings(network):
    """Of two facilities, three readers, two modalities and four priorities; late ones among them."""
    for row in (*reader_rows("gina"), *reader_rows("gina", facility="office")[1:]):
        assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    library = {
        "resourceType": "Library", "status": "active", "type": {"text": "agreement"},
        "identifier": [{"system": "urn:fhirserver:agreement", "value": "hospital"}],
        "content": [{"contentType": "application/json", "data": base64.b64encode(json.dumps(AGREEMENT).encode()).decode()}],
    }  # fmt: skip
    assert network.hospital.post("Library", json=library).status_code == 201
    return [
        read(network, "hospital", "anna", priority="stat", code="TKG", waits=(3, 4, 11)),
        read(network, "hospital", "anna", priority="stat", code="TKG", waits=(30, 40, 50)),  # late
        read(network, "hospital", "bela", priority="stat", code="TKB", waits=(5, 5, 5)),
        read(network, "hospital", "bela", priority="urgent", modality="MR", waits=(60, 10, 15)),
        read(network, "hospital", "anna", priority="urgent", waits=(1, 1, 1)),
        read(network, "office", "gina", priority="routine", waits=(100, 20, 7)),
        read(network, "office", "gina", priority="urgent", modality="MR", waits=(2, 2, 25)),
    ]


def evaluated(client, query):
    reply = client.get(f"Measure/$evaluate-measure?{query}")
    assert reply.status_code == 200, reply.text
    assert reply.json()["resourceType"] == "MeasureReport"
    return reply.json().get("group", [])


def percentile(values, percent):
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


def grouped(readings, by):
    found = defaultdict(list)
    for one in readings:
        found[getattr(one, by)].append(one)
    return found


CLOCKS = ["turnaround", "turnaround-dispatched", "turnaround-assigned", "turnaround-started"]


@pytest.mark.parametrize("by", ["priority", "facility", "reader", "modality"])
@pytest.mark.parametrize("measure", CLOCKS)
def test_turnaround_at_p50_and_p90(network, readings, by, measure):
    """By the server's own clock, of all that the centre read."""
    groups = {g["code"]["text"]: g for g in evaluated(network.centre, f"{PERIOD}&measure={measure}&by={by}")}
    expected = grouped(readings, by)
    assert set(groups) == set(expected)
    for value, rows in expected.items():
        group, taken = groups[value], [one.minutes(measure) for one in rows]
        assert [p["count"] for p in group["population"]] == [len(rows)]
        told = {s["value"]["text"]: s["measureScore"]["value"] for s in group["stratifier"][0]["stratum"]}
        assert told == pytest.approx({f"p{p}": percentile(taken, p) for p in (50, 90)}, abs=0.1)
        assert group["measureScore"] == {
            "value": told["p50"],
            "unit": "min",
            "system": "http://unitsofmeasure.org",
            "code": "min",
        }


@pytest.mark.parametrize("by", ["priority", "facility", "reader"])
def test_deadlines_kept(network, readings, by):
    groups = {g["code"]["text"]: g for g in evaluated(network.centre, f"{PERIOD}&measure=deadlines-kept&by={by}")}
    for value, rows in grouped(readings, by).items():
        kept = [one.met for one in rows]
        assert [p["count"] for p in groups[value]["population"]] == [len(kept), sum(kept)]
        assert groups[value]["measureScore"]["value"] == pytest.approx(sum(kept) / len(kept), abs=1e-4)
    assert any(not one.met for one in readings)


def test_the_time_to_an_answer(network, readings):
    """Also of who answered on the telephone at once."""
    anna = network.reader("anna")
    took = {"acr-1": [0.0], "acr-2": [17.0]}
    for category, minutes in (("acr-1", 0), ("acr-2", 17)):
        asked = parameters(category=category, finding={"text": "x"})
        if not minutes:
            to = {"reference": "Practitioner/centre-dora"}
            asked = parameters(category=category, finding={"text": "x"}, method="phone", communicatedTo=to, readBack=True)
        reply = anna.post(f"DiagnosticReport/{readings[0].report['id']}/$notify-critical", json=asked)
        ack = next(row["resource"] for row in reply.json()["parameter"] if row["name"] == "ack")
        network.server.wait(minutes=minutes)
        if minutes:
            by = parameters(by={"reference": "Organization/hospital"})
            assert network.hospital.post(f"Task/{ack['id']}/$acknowledge", json=by).status_code == 200
    for client in (network.centre, network.hospital):
        groups = {g["code"]["text"]: g for g in evaluated(client, f"{PERIOD}&measure=acknowledgement&by=category")}
        told = {category: [g["measureScore"]["value"]] for category, g in groups.items()}
        assert told == {category: pytest.approx(minutes, abs=0.1) for category, minutes in took.items()}
    assert evaluated(network.office, f"{PERIOD}&measure=acknowledgement&by=category") == []


def test_the_rate_of_discrepancies(network, readings):
    body = parameters(source="pathology", severity="major")
    body["parameter"].append({"name": "description", "valueMarkdown": "x"})
    report = readings[0].report["id"]
    assert network.hospital.post(f"DiagnosticReport/{report}/$report-discrepancy", json=body).status_code == 200
    for by, value in (("facility", "hospital"), ("priority", "stat"), ("reader", readings[0].reader), ("modality", "CT")):
        [group] = evaluated(network.centre, f"{PERIOD}&measure=discrepancies&by={by}")
        whole = sum(getattr(one, by) == value for one in readings)
        assert (group["code"]["text"], [p["count"] for p in group["population"]]) == (value, [whole, 1])
        assert group["measureScore"]["value"] == pytest.approx(1 / whole, abs=1e-4)


def test_figures_are_of_what_was_asked_for_or_read_here(network, readings):
    for facility in ("hospital", "office"):
        groups = evaluated(getattr(network, facility), f"{PERIOD}&by=facility")
        assert [g["code"]["text"] for g in groups] == [facility]
        assert groups[0]["population"][0]["count"] == sum(one.facility == facility for one in readings)
    assert evaluated(network.as_("exchange"), f"{PERIOD}&by=facility") == []
    assert evaluated(network.centre, "periodStart=2026-10-01&periodEnd=2026-10-31") == []
    # how each reader does is for who dispatches them, and keeps their quality: not for the facility
    for role in ("dispatcher", "quality"):
        assert len(evaluated(network.person("centre", role, "x"), f"{PERIOD}&by=reader")) == 3
    for client in (network.hospital, network.person("hospital", "dispatcher"), network.person("hospital", "quality")):
        assert evaluated(client, f"{PERIOD}&by=reader") == []


@pytest.mark.parametrize(
    ("who", "query", "status", "code"),
    [
        (lambda n: n.reader("anna"), PERIOD, 403, "forbidden"),
        (lambda n: n.person("hospital", "clerk"), f"{PERIOD}&by=reader", 422, "business-rule"),
        (lambda n: n.centre, f"{PERIOD}&measure=beauty", 422, "business-rule"),
        (lambda n: n.centre, f"{PERIOD}&by=hair", 422, "invalid"),
        (lambda n: n.centre, f"{PERIOD}&subject=Patient/1", 400, "not-supported"),
        (lambda n: n.centre, f"{PERIOD}&practitioner=x", 400, "not-supported"),
        (lambda n: n.centre, f"{PERIOD}&reportType=individual", 400, "not-supported"),
        (lambda n: n.centre, "periodStart=2026-11-30&periodEnd=2026-11-01", 422, "business-rule"),
        (lambda n: n.centre, "periodStart=2026-11-30", 422, "required"),
    ],
)
def test_what_is_not_measured(network, who, query, status, code):
    assert_outcome(who(network).get(f"Measure/$evaluate-measure?{query}"), status, code)


# ---------------------------------------------------------------- money


def charges(client, report):
    return [e["resource"] for e in client.get(f"ChargeItem?service=DiagnosticReport/{report['id']}").json().get("entry", [])]


def details(charge):
    found = defaultdict(list)
    for one in charge["extension"][0]["extension"]:
        found[one["url"]].append(one["valueCode"])
    return dict(found)


def statement(client, month, **more):
    reply = client.get("ChargeItem/$statement?" + "&".join(f"{k}={v}" for k, v in {"month": month, **more}.items()))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(reply.text, newline="")))


def test_a_read_is_charged_once_by_what_was_ordered(network, readings):
    one = readings[0]
    [charge] = charges(network.hospital, one.report)
    assert charges(network.centre, one.report) == [charge]
    assert charges(network.office, one.report) == []
    assert (charge["status"], charge["quantity"]["value"]) == ("billable", 1)
    assert details(charge) == {"modality": ["CT"], "priority": ["stat"], "timeBand": ["day"]}
    assert [row["coding"][0]["code"] for row in charge["bodysite"]] == ["head"]
    assert charge["performer"] == [{"actor": {"reference": one.reader}}]
    assert charge["performingOrganization"] == {"reference": "Organization/centre"}
    assert charge["requestingOrganization"] == {"reference": "Organization/hospital"}


def test_a_priority_that_the_centre_raised_is_not_charged_and_addenda_are_free(network, readings):
    client = network.hospital
    who = client.post("Patient", json=patient()).json()
    asked = client.post(
        "ServiceRequest", json=order(f"Patient/{who['id']}", priority="routine", reasonCode=[{"text": "?"}])
    ).json()
    network.images(asked | {"identifier": [{"value": "A-none"}]}, complete=False)
    study = {"resourceType": "ImagingStudy", "status": "available", "subject": asked["subject"], "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}]}  # fmt: skip
    assert client.post("ImagingStudy", json=study).status_code == 201
    attempt = network.assigned(network.dispatch(asked))
    raised = parameters(priority="stat", scope="task", reason=REASON)
    assert network.centre.post(f"ServiceRequest/{asked['id']}/$prioritize", json=raised).status_code == 200
    anna = network.reader("anna")
    anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    report = opened["report"]
    said = answered(opened["draft"], impression="i")
    assert anna.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(attest=True, response=said)).status_code == 200
    [charge] = charges(client, report)
    assert details(charge)["priority"] == ["routine"]
    addendum = parameters(reason=REASON)
    addendum["parameter"].append({"name": "text", "valueMarkdown": "x"})
    assert anna.post(f"DiagnosticReport/{report['id']}/$addend", json=addendum).status_code == 200
    changed = parameters(
        kind="corrected", significance="minor", reason=REASON, response=answered(opened["draft"], impression="j")
    )
    assert anna.post(f"DiagnosticReport/{report['id']}/$correct", json=changed).status_code == 200
    assert charges(client, report) == [charge]


def test_a_month_begins_and_ends_by_the_wall_clock_of_the_agreement(network, readings):
    """Half an hour before midnight in UTC is the next month in Warsaw; at the office, which agreed nothing, it is not."""
    moments = {
        datetime(2026, 11, 28, 11, 0, tzinfo=timezone.utc): ("2026-11", "weekend"),
        datetime(2026, 11, 30, 22, 30, tzinfo=timezone.utc): ("2026-11", "night"),
        datetime(2026, 11, 30, 23, 15, tzinfo=timezone.utc): ("2026-12", "night"),
        datetime(2026, 12, 25, 11, 0, tzinfo=timezone.utc): ("2026-12", "holiday"),
    }
    found = {}
    for when in moments:
        network.server.time = when
        found[when] = read(network, "hospital", "bela")
        if when.hour == 23:
            office = read(network, "office", "gina")
    for when, (month, band) in moments.items():
        report = f"DiagnosticReport/{found[when].report['id']}"
        for asked in ("2026-11", "2026-12"):
            lines = [row for row in statement(network.hospital, asked) if row["report"] == report]
            assert [row["time band"] for row in lines] == ([band] if asked == month else [])
            assert all(row["date"].startswith(month) for row in lines)
    there = [row["report"] for row in statement(network.office, "2026-11")]
    assert f"DiagnosticReport/{office.report['id']}" in there


def test_a_statement_has_a_line_for_each_read_of_a_facility_or_a_reader(network, readings):
    reports = {f"DiagnosticReport/{one.report['id']}": one for one in readings}

    def lines(client, **more):
        return [reports[row["report"]] for row in statement(client, "2026-11", **more) if row["report"] in reports]

    assert len(lines(network.centre)) == len(readings)
    assert {one.facility for one in lines(network.hospital)} == {"hospital"}
    assert {one.facility for one in lines(network.centre, organization="Organization/office")} == {"office"}
    assert {one.reader for one in lines(network.centre, reader=readings[2].reader)} == {readings[2].reader}
    assert statement(network.as_("exchange"), "2026-11") == []
    [row] = [r for r in statement(network.hospital, "2026-11") if r["report"] == f"DiagnosticReport/{readings[2].report['id']}"]
    assert {name: row[name] for name in ("performing", "requesting", "reader", "kind", "modality", "regions", "priority", "time band", "status")} == {
        "performing": "centre", "requesting": "hospital", "reader": readings[2].reader, "kind": "read-final", "modality": "CT",
        "regions": "1", "priority": "stat", "time band": "day", "status": "billable",
    }  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula(network, readings, start):
    """A charge that was written by hand, of which any element is missing, or begins what a spreadsheet would compute."""
    extension = [{"url": "modality", "valueCode": f"{start}cmd|' /C calc'!A0".strip()}, {"url": "priority"}]
    charge = {
        "resourceType": "ChargeItem", "status": "billable", "subject": readings[0].order["subject"], "occurrenceDateTime": "2026-09-05",
        "code": {"coding": [{"system": "urn:fhirserver:CodeSystem:charge", "code": f"{start}1+1".strip()}]},
    }  # fmt: skip
    assert network.hospital.post("ChargeItem", json=charge).status_code == 201
    with_details = charge | {
        "extension": [{"url": "urn:fhirserver:StructureDefinition:charge-detail", "extension": extension[:1]}]
    }
    assert network.hospital.post("ChargeItem", json=with_details).status_code == 201
    other = {name: value for name, value in charge.items() if name != "occurrenceDateTime"} | {"code": {"text": "parking"}}
    assert network.hospital.post("ChargeItem", json=other).status_code == 201
    cells = [cell for row in statement(network.hospital, "2026-09") for cell in row.values()]
    assert cells
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]


@pytest.mark.parametrize("month", ["2026-13", "2026", "2026-11-01", "november", "2026-1", "0000-01"])
def test_a_month_is_a_month(network, month):
    with unchanged(network.server):
        assert_outcome(network.centre.get(f"ChargeItem/$statement?month={month}"), 422, "invalid")
    assert_outcome(network.centre.get("ChargeItem/$statement"), 422, "required")
    assert_outcome(network.reader("anna").get(f"ChargeItem/$statement?month={month}"), 403, "forbidden")
