"""$consult and $answer-consult: a colleague is asked during a reading, and sees the order until they have answered.

https://hl7.org/fhir/R4/communication.html
"""

from __future__ import annotations

import json

import pytest
from conftest import assert_outcome, patient
from operations_conftest import answered, parameters
from unchanged import unchanged


def role(name):
    return {"reference": f"PractitionerRole/centre-{name}-hospital"}


def post(client, task, operation, headers=None, **inputs):
    return client.post(f"Task/{task['id']}/${operation}", json=parameters(**inputs), headers=headers or {})


def business(network, t0):
    return network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"]


def inputs(task, kind):
    rows = [row for row in task.get("input", ()) if row["type"]["coding"][0]["code"] == kind]
    return [value for row in rows for name, value in row.items() if name.startswith("value")]


def sign(client, report, response):
    return client.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(attest=True, response=response))


@pytest.fixture(scope="module")
def consulting(network, as_):
    """anna reads, and a professor of another organisation may be asked."""
    university = as_("university")
    for row in (
        {"resourceType": "Practitioner", "id": "university-prof", "name": [{"family": "Prof"}]},
        patient(id="university-p"),
    ):
        assert university.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    professor = as_("university", scope="user/*.cruds", user="prof", roles=("reader",), practitioner="university-prof")
    colleague = as_("university", scope="user/*.cruds", user="other", roles=("reader",), practitioner="university-other")
    asked, t0, attempt, report, draft = network.reporting()
    draft = answered(draft, impression="A lesion, left.")
    assert network.reader("anna").put(f"QuestionnaireResponse/{draft['id']}", json=draft).status_code == 200
    return professor, colleague, asked, t0, attempt, report, draft


def tasks(reply):
    assert reply.status_code == 200, reply.text
    return [row["resource"] for row in reply.json()["parameter"] if row["name"] == "task"]


PROFESSOR = {"reference": "Practitioner/university-prof"}


@pytest.mark.parametrize("shared", [False, True])  # who is named once is named
def test_a_consultant_sees_the_order_until_they_have_answered(network, consulting, shared):
    professor, colleague, asked, t0, attempt, report, draft = consulting
    anna = network.reader("anna")
    [study] = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["entry"]
    given = [f"ServiceRequest/{asked['id']}", asked["subject"]["reference"], f"ImagingStudy/{study['resource']['id']}"]
    kept = [
        f"Task/{t0['id']}",
        f"Task/{attempt['id']}",
        f"DiagnosticReport/{report['id']}",
        f"QuestionnaireResponse/{draft['id']}",
    ]
    assert {professor.get(path).status_code for path in given} == {404}
    more = {"shareDraft": True} if shared else {}
    [task] = tasks(post(anna, attempt, "consult", question="Metastasis?", recipient=PROFESSOR, **more))
    assert inputs(task, "draft-text") == (["impression: A lesion, left."] if shared else [])
    seen = [f"Task/{task['id']}", *given]
    assert {professor.get(path).status_code for path in seen} == {200}
    assert {professor.get(path).status_code for path in kept} == {404}
    assert {colleague.get(path).status_code for path in (*seen, *kept)} == {404}
    assert network.get(f"Task/{attempt['id']}")["status"] == "in-progress"  # the clock runs on
    body = parameters(attribution=shared)
    body["parameter"].append({"name": "opinion", "valueMarkdown": "A *cyst*."})
    answer = f"Task/{task['id']}/$answer-consult"
    with unchanged(network.server):
        for other, status in ((anna, 403), (network.centre, 403), (network.hospital, 404), (colleague, 404)):
            assert other.post(answer, json=body).status_code == status
        assert_outcome(professor.post(answer, json=parameters()), 422, "required")
        assert_outcome(professor.post(f"Task/{attempt['id']}/$answer-consult", json=body), 404, "not-found")
        assert_outcome(anna.post(f"Task/{attempt['id']}/$answer-consult", json=body), 422, "business-rule")
        assert_outcome(professor.put(f"Task/{task['id']}", json=task | {"status": "completed"}), 422, "business-rule")
    done = professor.post(answer, json=body).json()
    assert done["status"] == "completed"
    said_ = anna.get(done["output"][0]["valueReference"]["reference"]).json()
    assert (said_["payload"], said_["sender"]) == ([{"contentString": "A *cyst*."}], PROFESSOR)
    assert {professor.get(path).status_code for path in seen} == {404}
    assert professor.post(answer, json=body).status_code == 404
    with unchanged(network.server):
        assert network.reader("bela").post(answer, json=body).status_code == 403
    for client in (network.centre, network.hospital):
        proofs = client.get(f"Provenance?target=DiagnosticReport/{report['id']}").text
        assert (PROFESSOR["reference"] in proofs) is shared


def test_a_colleague_answers_once(network, consulting):
    _, _, _, _, attempt, *_ = consulting
    [task] = tasks(post(network.reader("anna"), attempt, "consult", question="?", recipient=role("bela")))
    body = parameters() | {"parameter": [{"name": "opinion", "valueMarkdown": "Yes."}]}
    bela, answer = network.reader("bela"), f"Task/{task['id']}/$answer-consult"
    assert bela.post(answer, json=body).status_code == 200
    with unchanged(network.server):
        assert_outcome(bela.post(answer, json=body), 409, "conflict")


def test_a_consultation_that_blocks_stops_the_clock_until_it_is_answered(network):
    _, t0, attempt, report, draft = network.reporting()
    anna, before = network.reader("anna"), network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"]
    [task] = tasks(post(anna, attempt, "consult", question="?", recipient=role("bela"), blocking=True))
    assert network.get(f"Task/{attempt['id']}")["status"] == "on-hold"
    assert business(network, t0) == "awaiting-information"
    with unchanged(network.server):
        assert_outcome(sign(anna, report, answered(draft, impression="i")), 409, "conflict")
        assert_outcome(post(anna, attempt, "consult", question="?", recipient=role("bela")), 409, "conflict")
    network.server.wait(hours=3)
    body = parameters() | {"parameter": [{"name": "opinion", "valueMarkdown": "Yes."}]}
    assert network.reader("bela").post(f"Task/{task['id']}/$answer-consult", json=body).status_code == 200
    assert (network.get(f"Task/{attempt['id']}")["status"], business(network, t0)) == ("in-progress", "reading")
    after = network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"]
    assert (before[11:13], after[11:13]) == (before[11:13], f"{(int(before[11:13]) + 3) % 24:02}")  # later by what it stood
    assert sign(anna, report, answered(draft, impression="i")).status_code == 200


def test_nobody_to_ask_is_said(network, consulting):
    _, _, _, t0, _, _, _ = consulting
    _, _, attempt = network.started()
    anna = network.reader("anna")
    with unchanged(network.server):
        for recipient in (role("anna"), {"reference": "Practitioner/centre-anna"}):
            reply = post(anna, attempt, "consult", question="?", recipient=recipient)
            assert_outcome(reply, 422, "business-rule", "Parameters.parameter.where(name='recipient')[0]")
        centre = {"reference": "Organization/centre"}
        assert_outcome(post(anna, attempt, "consult", question="?", recipient=centre), 422, "value", "Parameters.parameter")
        assert_outcome(post(anna, attempt, "consult", question="?", recipient=role("bela"), mode="loud"), 422, "invalid")
        past = parameters(question="?", recipient=role("bela"))
        past["parameter"][0] = {"name": "question", "valueString": "?"}
        past["parameter"].append({"name": "due", "valueDateTime": "2020-01-01"})
        assert_outcome(anna.post(f"Task/{attempt['id']}/$consult", json=past), 422, "business-rule")
        assert_outcome(post(network.reader("bela"), attempt, "consult", question="?", recipient=role("anna")), 403, "forbidden")
        assert_outcome(post(network.hospital, attempt, "consult", question="?", recipient=role("anna")), 404, "not-found")
        assert_outcome(post(anna, t0, "consult", question="?", recipient=role("bela")), 422, "business-rule")
    assert json.dumps(network.get(f"Task/{attempt['id']}")) == json.dumps(attempt)


def test_a_consultants_sight_ends_by_itself(network, consulting):
    professor, *_ = consulting
    asked, _, attempt = network.started()
    [task] = tasks(post(network.reader("anna"), attempt, "consult", question="?", recipient=PROFESSOR))
    paths = [f"Task/{task['id']}", f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]]
    assert {professor.get(path).status_code for path in paths} == {200}
    network.server.wait(days=7)
    assert {professor.get(path).status_code for path in paths} == {404}
