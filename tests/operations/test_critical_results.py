"""$notify-critical and $acknowledge: told to a person, one after the other, until a person answers.

https://hl7.org/fhir/R4/communicationrequest.html
"""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, answered, parameters
from unchanged import unchanged

from fhirserver.workflow import states

# category -> minutes until somebody has to answer: ACR 1 minutes, 2 hours, 3 days; RCR
MINUTES = {
    "acr-1": 15, "acr-2": 120, "acr-3": 4320, "rcr-critical": 15, "rcr-urgent": 120, "rcr-unexpected": 4320, "rcr-cancer": 1440,
}  # fmt: skip
HOSPITAL = {"reference": "Organization/hospital"}


def rows(client, query):
    return [entry["resource"] for entry in client.get(query).json().get("entry", [])]


def notify(client, report, headers=None, **inputs):
    known = {"category": "acr-2", "finding": {"text": "Pneumothorax"}}
    body = parameters(**(known | {k: v for k, v in inputs.items() if not k.endswith("At")}))
    body["parameter"] += [{"name": k, "valueDateTime": v} for k, v in inputs.items() if k.endswith("At")]
    return client.post(f"DiagnosticReport/{report['id']}/$notify-critical", json=body, headers=headers or {})


def told(reply):
    assert reply.status_code == 200, reply.text
    return {row["name"]: row["resource"] for row in reply.json()["parameter"]}


def acknowledge(client, ack, headers=None, at=None, **inputs):
    body = parameters(**({"by": HOSPITAL} | inputs))
    if at:
        body["parameter"].append({"name": "at", "valueDateTime": at})
    return client.post(f"Task/{ack['id']}/$acknowledge", json=body, headers=headers or {})


def business(task):
    return task["businessStatus"]["coding"][0]["code"]


def moment(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def flag_of(network, ack):
    [output] = [o for o in ack["output"] if o["type"]["coding"][0]["code"] == "flag"]
    return network.hospital.get(output["valueReference"]["reference"]).json()


def rung(network, **wait):
    """The timers, some time later."""
    network.server.wait(**wait)
    return network.server.installation.timers.ring()


def recipients(network, request):
    """Who was told, telling by telling."""
    found = rows(network.hospital, f"Communication?based-on=CommunicationRequest/{request['id']}&_count=100")
    found.sort(key=lambda one: int(one["meta"]["lastUpdated"].translate({ord(c): None for c in "-:.TZ"})))
    return [[one.get("reference") or one["display"] for one in said.get("recipient", ())] for said in found]


@pytest.fixture(scope="module")
def report(network):
    """One in reading: of what is refused."""
    return network.reporting()[3]


@pytest.fixture(scope="module")
def ward(network):
    """A doctor and a ward with telephones; the orders of those name them."""
    doctor = {
        "resourceType": "Practitioner", "id": "hospital-doc", "name": [{"family": "Doc"}], "telecom": [{"system": "phone", "value": "1"}],
    }  # fmt: skip
    place = {"resourceType": "Location", "id": "hospital-w3", "name": "Ward 3", "telecom": [{"system": "phone", "value": "2"}]}
    for row in (doctor, place):
        assert network.hospital.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    return {
        "requester": {"reference": "Practitioner/hospital-doc"},
        "locationReference": [{"reference": "Location/hospital-w3"}],
    }


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize("category", MINUTES)
def test_each_category_has_its_deadline_its_banner_and_its_urgency(network, report, category):
    result = told(notify(network.reader("anna"), report, category=category))
    ack, request = result["ack"], result["request"]
    assert moment(ack["restriction"]["period"]["end"]) - moment(ack["authoredOn"]) == timedelta(minutes=MINUTES[category])
    assert request["occurrenceDateTime"] == ack["restriction"]["period"]["end"]
    at_once = category in ("acr-1", "rcr-critical")
    assert (request["priority"], ack["priority"]) == (("stat", "stat") if at_once else ("urgent", "asap"))
    assert (request["status"], ack["status"], ack["owner"]) == ("active", "requested", HOSPITAL)
    flag = flag_of(network, ack)
    assert (flag["status"], flag["code"]["text"], flag["subject"]) == ("active", "Pneumothorax", report["subject"])
    for client, status in ((network.hospital, 200), (network.centre, 200), (network.office, 404)):
        for resource in result.values():
            assert client.get(f"{resource['resourceType']}/{resource['id']}").status_code == status
    with unchanged(network.server):  # told once; another category may be told beside
        assert_outcome(notify(network.reader("anna"), report, category=category), 409, "conflict")


@pytest.mark.parametrize(
    ("who", "inputs", "status", "code"),
    [
        *(("anna", {"category": category, "method": method}, 422, "business-rule") for category in ("acr-1", "rcr-critical") for method in ("sms", "secure-message", "hl7")),
        ("anna", {"category": "acr-4"}, 422, "invalid"),
        ("anna", {"method": "pigeon"}, 422, "invalid"),
        ("anna", {"finding": {"coding": [{"display": "x"}]}}, 422, "invalid"),
        ("anna", {"identifiedAt": "2030-01-01"}, 422, "business-rule"),
        ("anna", {"communicatedAt": "2030-01-01"}, 422, "business-rule"),
        ("hospital", {}, 403, "forbidden"),
        ("office", {}, 404, "not-found"),
        ("quality", {}, 403, "forbidden"),
    ],
)  # fmt: skip
def test_what_is_no_notification_is_refused(network, report, who, inputs, status, code):
    named = {"anna": network.reader("anna"), "quality": network.person("centre", "quality", "anna")}
    client = named.get(who) or getattr(network, who)
    with unchanged(network.server):
        assert_outcome(notify(client, report, **inputs), status, code)
        assert_outcome(notify(network.reader("anna"), report, {"If-Match": 'W/"9"'}), 412, "conflict")


def test_the_answer_documents_six_things(network):
    """The finding, when it was found, who told it, who received it, when, and how."""
    *_, report, _ = network.reporting()
    found_at = "2026-11-24T12:00:00Z"
    result = told(notify(network.reader("anna"), report, category="acr-1", method="phone", identifiedAt=found_at))
    done = acknowledge(network.hospital, result["ack"], readBack=True, plan="To theatre").json()
    assert (done["status"], business(done)) == ("completed", "acknowledged")
    [output] = [o for o in done["output"] if o["type"]["coding"][0]["code"] == "communication"]
    said = network.hospital.get(output["valueReference"]["reference"]).json()
    assert said["payload"] == [{"contentString": "Pneumothorax"}]
    assert [one["text"] for one in said["note"]] == [f"Found {found_at}.", "Read back.", "Plan: To theatre"]
    assert said["sender"] == {"reference": "Organization/centre"}
    assert said["recipient"][0]["reference"] == HOSPITAL["reference"]
    assert moment(said["received"]) <= network.server.time
    assert said["medium"] == [{"text": "phone"}]
    flag = flag_of(network, done)
    assert (flag["status"], bool(flag["period"]["end"])) == ("inactive", True)
    assert network.hospital.get(f"CommunicationRequest/{result['request']['id']}").json()["status"] == "completed"
    assert result["communication"]["sender"] == {"reference": "Practitioner/centre-anna"}


def test_who_was_told_by_telephone_and_read_it_back_has_answered(network):
    *_, report, _ = network.reporting()
    to = {"reference": "Practitioner/centre-dora"}
    at = network.server.time.isoformat()
    result = told(
        notify(
            network.reader("anna"),
            report,
            category="acr-1",
            method="phone",
            communicatedTo=to,
            readBack=True,
            communicatedAt=at,
        )
    )
    assert (result["ack"]["status"], result["request"]["status"]) == ("completed", "completed")
    assert (result["communication"]["recipient"][0]["reference"], result["communication"]["received"]) == (to["reference"], at)
    assert result["communication"]["sender"] == {"reference": "Practitioner/centre-anna"}
    assert flag_of(network, result["ack"])["status"] == "inactive"
    assert rung(network, minutes=8) == 0 or network.get(f"Task/{result['ack']['id']}") == result["ack"]


@pytest.mark.parametrize("inputs", [{"method": "phone"}, {"readBack": True}, {"method": "phone", "readBack": False}])
def test_telling_without_a_read_back_is_no_answer(network, inputs):
    *_, report, _ = network.reporting()
    result = told(notify(network.reader("anna"), report, communicatedTo={"reference": "Practitioner/centre-dora"}, **inputs))
    assert (result["ack"]["status"], flag_of(network, result["ack"])["status"]) == ("requested", "active")


def test_of_a_report_that_stands_no_more_nothing_is_told(network):
    *_, attempt, report, _ = network.reporting()
    network.reader("anna").post(f"Task/{attempt['id']}/$release", json=parameters(reason=REASON))
    with unchanged(network.server):
        assert_outcome(notify(network.reader("anna"), report), 409, "conflict")


def test_an_alert_is_in_the_report_and_its_category_may_be_signed(network):
    *_, report, draft = network.reporting()
    anna = network.reader("anna")
    body = parameters(attest=True, alertCategory="acr-1", response=answered(draft, impression="i"))
    told(notify(anna, report, category="acr-2"))
    with unchanged(network.server):  # another category was told
        assert_outcome(anna.post(f"DiagnosticReport/{report['id']}/$sign", json=body), 422, "business-rule")
    told(notify(anna, report, category="acr-1"))
    signed = anna.post(f"DiagnosticReport/{report['id']}/$sign", json=body)
    document = signed.json()["parameter"][1]["resource"]
    sections = document["entry"][0]["resource"]["section"]
    codes = [s["code"]["coding"][0]["code"] for s in sections if s.get("code")]
    assert codes.count("73568-8") == 2
    assert "told, not acknowledged yet" in signed.text


# ---------------------------------------------------------------- the ladder


def test_the_ladder_goes_on_until_a_person_answers(network, ward):
    """The requesting doctor, the ward, the facility's duty, then duty and dispatcher, again and again; late is late, and taken."""
    *_, report, _ = network.reporting(**ward)
    result = told(notify(network.reader("anna"), report, category="acr-1"))
    ack, request = result["ack"], result["request"]
    steps = [["Practitioner/hospital-doc"], ["Ward 3, 2"], ["Organization/hospital"]]
    again = ["Organization/hospital", "Organization/centre"]
    assert recipients(network, request) == steps[:1]
    assert rung(network, minutes=5) == 0 or recipients(network, request) == steps[:1]  # two within a quarter of an hour
    for number in range(1, 6):
        rung(network, minutes=8)
        rung(network, seconds=1)  # each step once
        assert recipients(network, request) == (steps + [again] * 3)[: number + 1]
        now = network.hospital.get(f"Task/{ack['id']}").json()
        assert now["status"] == "requested"
        assert (now.get("businessStatus") is not None and business(now) == "late") is (network.server.time > moment(ack["restriction"]["period"]["end"]))  # fmt: skip
    assert flag_of(network, ack)["status"] == "active"
    done = acknowledge(network.hospital, ack).json()
    assert (done["status"], business(done)) == ("completed", "late")
    told_ = recipients(network, request)
    rung(network, hours=1)
    assert recipients(network, request) == told_  # nobody is told any more


@pytest.mark.parametrize(
    "named", [["Practitioner/centre-dora"], ["Location/hospital-w3"], ["Practitioner/centre-dora", "Practitioner/centre-bela"]]
)
def test_who_is_named_is_told_first_and_the_ladder_follows_whole(network, ward, named):
    *_, report, _ = network.reporting(**ward)
    result = told(notify(network.reader("anna"), report, recipient=[{"reference": one} for one in named]))
    ward_ = {"Location/hospital-w3": "Ward 3, 2"}  # a Location is told by its name and number
    named = [ward_.get(one, one) for one in named]
    following = [[one] for one in ("Practitioner/hospital-doc", "Ward 3, 2", "Organization/hospital") if one not in named]
    for _ in following:
        rung(network, minutes=61)
    assert recipients(network, result["request"]) == [named, *following]


def test_the_agreement_says_how_long_an_answer_may_take_and_whom_to_call(network):
    terms = {"alerts": {"acr-3": 600}, "contacts": [{"name": "Night desk", "phone": "9"}], "dutyPhone": "99"}
    content = [{"contentType": "application/json", "data": base64.b64encode(json.dumps(terms).encode()).decode()}]
    named = [{"system": "urn:fhirserver:agreement", "value": "hospital"}]
    library = {
        "resourceType": "Library",
        "status": "active",
        "type": {"text": "agreement"},
        "identifier": named,
        "content": content,
    }
    made = network.hospital.post("Library", json=library).json()
    try:
        *_, report, _ = network.reporting()
        result = told(notify(network.reader("anna"), report, category="acr-3"))
        assert moment(result["ack"]["restriction"]["period"]["end"]) - moment(result["ack"]["authoredOn"]) == timedelta(
            hours=10
        )
        rung(network, minutes=301)
        assert recipients(network, result["request"]) == [["Night desk, 9"], ["Organization/hospital"]]
    finally:
        assert network.hospital.put(f"Library/{made['id']}", json=made | {"status": "retired"}).status_code == 200


# ---------------------------------------------------------------- the answer


def test_who_answers_and_how(network):
    *_, own, _ = network.reporting()
    ack = told(notify(network.reader("anna"), own))["ack"]
    with unchanged(network.server):
        for client, status in (
            (network.office, 404),
            (network.reader("anna"), 403),  # who told it does not answer it
            (network.person("centre", "quality", "anna"), 403),
            (network.person("hospital", "reader", "eve"), 403),
        ):
            assert acknowledge(client, ack).status_code == status
        assert_outcome(acknowledge(network.hospital, ack, {"If-Match": 'W/"9"'}), 412, "conflict")
        assert_outcome(acknowledge(network.hospital, ack, at="2030-01-01"), 422, "business-rule")
        assert_outcome(acknowledge(network.hospital, ack, at="2026-11-23"), 422, "business-rule")  # before it was told
        assert_outcome(acknowledge(network.hospital, ack, by=[]), 422, "required")
        assert_outcome(acknowledge(network.hospital, own), 404, "not-found")
    for client in (network.person("hospital", "referrer"), network.person("centre", "dispatcher")):
        first = acknowledge(client, ack).json()
        assert first["status"] == "completed"
    version = first["meta"]["versionId"]
    with unchanged(network.server):  # a second answer is the first one, whatever it says
        second = acknowledge(network.hospital, ack, {"If-Match": 'W/"1"'}, plan="other", readBack=True)
        assert (second.status_code, second.json()["meta"]["versionId"], second.json()) == (200, version, first)


def test_an_earlier_moment_that_is_told_late_is_not_late(network):
    *_, report, _ = network.reporting()
    ack = told(notify(network.reader("anna"), report, category="acr-1"))["ack"]
    at = (network.server.time + timedelta(minutes=5)).isoformat()
    network.server.wait(minutes=40)
    assert business(acknowledge(network.hospital, ack, at=at).json()) == "acknowledged"


# ---------------------------------------------------------------- nothing else ends it


def retracted(network, asked, t0, report):
    body = parameters(reason=REASON, second={"reference": "Practitioner/centre-bela"})
    return network.reader("anna").post(f"DiagnosticReport/{report['id']}/$retract", json=body)


def replaced_order(network, asked, t0, report):
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    return network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "entered-in-error"})


@pytest.mark.parametrize("ended", [retracted, replaced_order])
def test_an_alert_outlives_its_report_and_its_order(network, ended):
    asked, t0, report = network.signed()
    result = told(notify(network.reader("anna"), report, category="acr-1"))
    assert ended(network, asked, t0, report).status_code == 200
    before = len(recipients(network, result["request"]))
    rung(network, minutes=8)
    assert len(recipients(network, result["request"])) == before + 1
    assert network.hospital.get(f"Task/{result['ack']['id']}").json()["status"] == "requested"
    assert flag_of(network, result["ack"])["status"] == "active"
    assert acknowledge(network.hospital, result["ack"]).json()["status"] == "completed"


def revoked(network, asked, attempt):
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    return network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})


def given_back(network, asked, attempt):
    return network.reader("anna").post(f"Task/{attempt['id']}/$release", json=parameters(reason=REASON))


@pytest.mark.parametrize("ended", [revoked, given_back])
def test_an_alert_outlives_the_reading_that_raised_it(network, ended):
    asked, _, attempt, report, _ = network.reporting()
    result = told(notify(network.reader("anna"), report, category="acr-1"))
    assert ended(network, asked, attempt).status_code == 200
    rung(network, minutes=8)
    assert len(recipients(network, result["request"])) == 2
    assert acknowledge(network.hospital, result["ack"]).json()["status"] == "completed"


def test_no_plain_write_ends_an_alert(network, report):
    """Not by the facility, the reader, the centre or its administrator: neither the Task, nor what it rests on."""
    *_, own, _ = network.reporting()
    result = told(notify(network.reader("anna"), own))
    flag = flag_of(network, result["ack"])
    clients = (network.hospital, network.reader("anna"), network.centre, network.person("centre", "administrator"))
    patch = {"Content-Type": "application/json-patch+json"}
    ends = {"Task": ("completed", "cancelled", "entered-in-error"), "CommunicationRequest": ("completed", "revoked"), "Flag": ("inactive",), "Communication": ("entered-in-error",)}  # fmt: skip
    with unchanged(network.server):
        for client in clients:
            for resource in (result["ack"], result["request"], result["communication"], flag):
                path = f"{resource['resourceType']}/{resource['id']}"
                for status in ends[resource["resourceType"]]:
                    assert status not in states.OPEN_TASK
                    assert client.put(path, json=resource | {"status": status}).status_code in (403, 409, 422), path
                    change = f'[{{"op": "replace", "path": "/status", "value": "{status}"}}]'
                    assert client.patch(path, content=change, headers=patch).status_code in (403, 409, 422), path
                assert client.delete(path).status_code in (403, 405, 409), path
