"""$priors and $fetch-priors: what there is to compare with, and how another facility is asked for it."""

from __future__ import annotations

import uuid

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import DCM, REASON, answered, out, parameters
from unchanged import unchanged
from valid_calls import agreed

PESEL = "urn:oid:2.16.840.1.113883.3.4424.1.1.616"
NUMBERS = iter(("70050510006", "70050510013", "70050510020", "70050510037", "70050510044"))
OFFICE = {"reference": "Organization/office"}


def person(client, number=None, born="1970-05-05", use=None):
    row = {"system": PESEL, "value": number} | ({"use": use} if use else {})
    made = client.post("Patient", json=patient(birthDate=born, **({"identifier": [row]} if number else {})))
    assert made.status_code == 201, made.text
    return f"Patient/{made.json()['id']}"


def study(client, subject, modality="CT", region="head", started="2025-01-01", **members):
    body = {
        "resourceType": "ImagingStudy", "status": "available", "subject": {"reference": subject}, "started": started,
        "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:2.25.{uuid.uuid4().int}"}],
        "modality": [{"system": DCM, "code": modality}],
        "series": [{"uid": f"2.25.{uuid.uuid4().int}", "modality": {"system": DCM, "code": modality}, "bodySite": {"system": "urn:x", "code": region}}],
    }  # fmt: skip
    made = client.post("ImagingStudy", json=body | members)
    assert made.status_code == 201, made.text
    return made.json()["id"]


def ordered(client, subject, modality="CT", region="head"):
    asked = client.post("ServiceRequest", json=order(subject, reasonCode=[REASON])).json()
    study(client, subject, modality, region, "2026-11-24", basedOn=[{"reference": f"ServiceRequest/{asked['id']}"}])
    return asked


def priors(client, asked, **inputs):
    return client.post(f"ServiceRequest/{asked['id']}/$priors", json=parameters(**inputs))


def found(reply) -> list[str]:
    assert reply.status_code == 200, reply.text
    assert reply.json()["total"] == len([e for e in reply.json().get("entry", []) if e["search"]["mode"] == "match"])
    return [e["resource"]["id"] for e in reply.json().get("entry", []) if e["resource"]["resourceType"] == "ImagingStudy"]


def test_the_same_region_goes_before_the_same_modality_before_the_more_recent(network):
    subject = person(network.hospital)
    old_head = study(network.hospital, subject, "CT", "head", "2015-01-01")
    new_head = study(network.hospital, subject, "CT", "head", "2025-01-01")
    knee = study(network.hospital, subject, "CT", "knee", "2026-11-01")
    knee_mr = study(network.hospital, subject, "MR", "knee", "2026-11-20")
    study(network.hospital, subject, status="cancelled")
    asked = ordered(network.hospital, subject)
    with unchanged(network.server):
        reply = priors(network.hospital, asked)
        assert found(reply) == [new_head, old_head, knee, knee_mr]
        scores = [e["search"]["score"] for e in reply.json()["entry"]]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert found(priors(network.hospital, asked, max=1)) == [new_head]
        assert found(priors(network.hospital, asked, since="2026-01-01")) == [knee, knee_mr]
        assert found(priors(network.hospital, asked, modality={"code": "MR"}, bodyRegion={"code": "KNEE"}))[0] == knee_mr
        assert network.hospital.get(f"ServiceRequest/{asked['id']}/$priors?max=2").json()["total"] == 2
        for wrong in (0, 101):
            assert_outcome(priors(network.hospital, asked, max=wrong), 422, "invalid")


def test_reports_come_with_their_studies(network):
    asked, *_, report, draft = network.reporting()
    sign = parameters(attest=True, response=answered(draft, findings="f", impression="i"))
    assert network.reader("anna").post(f"DiagnosticReport/{report['id']}/$sign", json=sign).status_code == 200
    again = ordered(network.hospital, asked["subject"]["reference"])
    kinds = [(e["resource"]["resourceType"], e["search"]["mode"]) for e in priors(network.hospital, again).json()["entry"]]
    assert kinds == [("ImagingStudy", "match"), ("DiagnosticReport", "include")]


def test_they_are_shown_to_the_facility_and_to_who_reads_the_order_now(network):
    subject = person(network.hospital)
    earlier = study(network.hospital, subject)
    asked = ordered(network.hospital, subject)
    with unchanged(network.server):
        for client in (network.centre, network.reader("anna"), network.office):
            assert_outcome(priors(client, asked), 404, "not-found")
    network.dispatch(asked)
    assert found(priors(network.reader("anna"), asked)) == [earlier]
    assert_outcome(network.centre.get(f"ImagingStudy/{earlier}"), 404, "not-found")  # shown for this order, not given
    clerk = network.as_("centre", scope="user/*.cruds", user="cleo", roles=("clerk",))
    assert_outcome(priors(clerk, asked), 403, "forbidden")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})
    assert_outcome(priors(network.reader("anna"), asked), 404, "not-found")


# ---------------------------------------------------------------- another facility's


@pytest.fixture
def sharing(network):
    """Both facilities have agreed to share earlier examinations through the centre."""

    def share(*facilities: str) -> None:
        for name in ("hospital", "office"):
            agreed(network.centre, name, priorsShared=name in facilities)

    share("hospital", "office")
    yield share
    share()


@pytest.mark.parametrize(
    ("number", "born", "use", "shown"),
    [
        ("same", "1970-05-05", None, True),
        ("same", "1970-05-06", None, False),
        ("same", "1970", None, False),
        ("same", "1970-05-05", "old", False),
        ("other", "1970-05-05", None, False),
        (None, "1970-05-05", None, False),
    ],
)
def test_another_facilitys_appear_on_an_equal_verified_number_and_birth_date_alone(network, sharing, number, born, use, shown):
    own, another = "70050510006", "70050510013"
    subject = person(network.hospital, own)
    theirs = person(network.office, {"same": own, "other": another}.get(number or ""), born, use)
    elsewhere = study(network.office, theirs)
    asked = ordered(network.hospital, subject)
    assert (elsewhere in found(priors(network.hospital, asked))) == shown
    assert elsewhere not in found(priors(network.hospital, asked, includeExternal=False))
    network.dispatch(asked)
    assert (elsewhere in found(priors(network.reader("anna"), asked))) == shown


@pytest.mark.parametrize("willing", [(), ("hospital",), ("office",)])
def test_and_only_where_both_have_agreed(network, sharing, willing):
    sharing(*willing)
    subject, theirs = person(network.hospital, "70050510020"), person(network.office, "70050510020")
    elsewhere = study(network.office, theirs)
    asked = ordered(network.hospital, subject)
    assert elsewhere not in found(priors(network.hospital, asked))


def test_what_a_patient_withholds_is_not_shown_whatever_was_agreed(network, sharing):
    subject, theirs = person(network.hospital, "70050510037"), person(network.office, "70050510037")
    elsewhere = study(network.office, theirs)
    asked = ordered(network.hospital, subject)
    assert elsewhere in found(priors(network.hospital, asked))
    consent = {
        "resourceType": "Consent", "status": "active", "patient": {"reference": theirs}, "policyRule": {"text": "x"},
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "provision": {"type": "deny", "actor": [{"role": {"text": "x"}, "reference": {"reference": "Organization/hospital"}}]},
    }  # fmt: skip
    assert network.office.post("Consent", json=consent).status_code == 201
    assert elsewhere not in found(priors(network.hospital, asked))


# ---------------------------------------------------------------- $fetch-priors


def fetch(client, asked, **inputs):
    return client.post(f"ServiceRequest/{asked['id']}/$fetch-priors", json=parameters(**inputs))


@pytest.fixture(scope="module")
def asked_for(network):
    """(order, the office's study of the same person, the Task that asks the office)"""
    subject, theirs = person(network.hospital, "70050510044"), person(network.office, "70050510044")
    elsewhere = study(network.office, theirs)
    asked = ordered(network.hospital, subject)
    network.dispatch(asked)
    sent = fetch(network.reader("anna"), asked)
    assert sent.status_code == 200, sent.text
    [task] = out(sent).values()
    return asked, elsewhere, network.office.get(f"Task/{task['id']}").json()


def test_who_is_asked_sees_a_number_and_a_birth_date_and_nothing_of_the_order(network, asked_for):
    asked, elsewhere, task = asked_for
    assert (task["status"], task["owner"]) == ("requested", OFFICE)
    told = [next(v for k, v in i.items() if k.startswith("value")) for i in task["input"]]
    assert told == [f"{PESEL}|70050510044", "1970-05-05"]
    assert "for" not in task
    for path in (f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
        assert_outcome(network.office.get(path), 404, "not-found")
    assert elsewhere not in found(priors(network.reader("anna"), asked)), "it is not held up, and not shown either"
    with unchanged(network.server):
        assert_outcome(fetch(network.hospital, asked), 409, "duplicate")


def test_what_is_wrong_with_asking_is_said(network, asked_for):
    lonely = ordered(network.hospital, person(network.hospital))
    with unchanged(network.server):
        assert_outcome(fetch(network.hospital, lonely), 422, "business-rule")  # nobody is known to have any
        assert_outcome(fetch(network.office, lonely), 404, "not-found")
    read = ordered(network.hospital, person(network.hospital, "70050510006"))
    network.dispatch(read)
    with unchanged(network.server):  # the centre tells nobody a patient's number who is not known to have that patient
        assert_outcome(fetch(network.reader("anna"), read, source=[{"reference": "Organization/centre"}]), 422, "business-rule")
    current = network.hospital.get(f"ServiceRequest/{lonely['id']}").json()
    assert network.hospital.put(f"ServiceRequest/{lonely['id']}", json=current | {"status": "on-hold"}).status_code == 200
    with unchanged(network.server):
        assert_outcome(fetch(network.hospital, lonely, source=[OFFICE]), 409, "conflict")


def put(client, task, **members):
    return client.put(f"Task/{task['id']}", json=task | members)


def output(reference) -> list:
    return [{"type": {"text": "study"}, "valueReference": {"reference": reference}}]


def test_nothing_is_released_but_by_who_was_asked_and_of_who_was_asked_about(network, asked_for):
    asked, elsewhere, task = asked_for
    other = study(network.office, person(network.office, "70050510013"))
    done = {"status": "completed"}
    with unchanged(network.server):
        for client in (network.hospital, network.centre):  # a facility does not release another's to itself
            assert_outcome(put(client, task, **done, output=output("Organization/office")), 403, "forbidden")
        assert_outcome(
            put(network.office, task, **done, output=output(f"ImagingStudy/{other}")), 422, "business-rule", "Task.output[0]"
        )
        assert_outcome(put(network.office, task, **done, output=output(asked["subject"]["reference"])), 422, "not-found")
        assert_outcome(put(network.office, task, **done, output=output("Organization/office")), 422, "business-rule")
        assert_outcome(put(network.office, task, status="rejected"), 422, "business-rule", "Task.statusReason")
        assert_outcome(
            put(network.office, task, status="accepted", output=output(f"ImagingStudy/{elsewhere}")), 422, "business-rule"
        )
        assert_outcome(put(network.office, task, status="cancelled"), 403, "forbidden")
        assert_outcome(put(network.office, task, status="on-hold"), 422, "business-rule")
        assert_outcome(
            put(network.office, task, status="accepted", owner={"reference": "Organization/far"}), 422, "business-rule"
        )
        stale = network.office.put(f"Task/{task['id']}", json=task | done, headers={"If-Match": 'W/"9"'})
        assert_outcome(stale, 412, "conflict")


def test_what_is_released_is_seen_by_the_facility_and_who_reads_because_of_the_order_alone(network, asked_for):
    asked, elsewhere, task = asked_for
    released = put(network.office, task, status="completed", output=output(f"ImagingStudy/{elsewhere}"))
    assert released.status_code == 200, released.text
    assert network.hospital.get(f"Task/{task['id']}").json()["status"] == "completed"
    for client in (network.hospital, network.reader("anna")):
        assert elsewhere in found(priors(client, asked))
        assert client.get(f"ImagingStudy/{elsewhere}").status_code == 200
        assert_outcome(
            client.get(network.office.get(f"ImagingStudy/{elsewhere}").json()["subject"]["reference"]), 404, "not-found"
        )
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}).status_code == 200
    assert_outcome(network.reader("anna").get(f"ImagingStudy/{elsewhere}"), 404, "not-found")
