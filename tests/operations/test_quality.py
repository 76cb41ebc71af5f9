"""Peer review: drawn repeatably, read blind, scored, decided, told to the author and not by whom.

RADPEER 2016: 1 concur; 2 an understandable miss; 3 should be made most of the time; a/b unlikely/likely significant.
"""

from __future__ import annotations

import json

import pytest
from conftest import assert_outcome, order, patient
from operations_conftest import Network, answered, out, parameters, reader_rows
from unchanged import unchanged

from fhirserver.workflow import states

PERIOD = {"start": "2026-11-01", "end": "2026-12-31"}
RADPEER = "urn:fhirserver:CodeSystem:radpeer-score"


def rows(client, query):
    return [entry["resource"] for entry in client.get(query).json().get("entry", [])]


def values(task, member, kind):
    found = [row for row in task.get(member, ()) if row["type"]["coding"][0]["code"] == kind]
    return [value for row in found for name, value in row.items() if name.startswith("value")]


def sampled(client, **inputs):
    known = {"period": PERIOD, "strategy": "random", "count": 200} | inputs
    types = {"period": "Period", "rate": "Decimal", "seed": "String", "reader": "Reference", "modality": "Coding"}
    body = parameters(**{k: v for k, v in known.items() if k not in types})
    for name, type_ in types.items():
        for one in known.get(name, []) if isinstance(known.get(name), list) else [known[name]] if name in known else []:
            body["parameter"].append({"name": name, f"value{type_}": one})
    return client.post("DiagnosticReport/$sample-for-review", json=body)


def drawn(reply):
    assert reply.status_code == 200, reply.text
    return [row["resource"] for row in reply.json().get("parameter", []) if row["name"] == "task"]


def simulated(reply):
    """(report, reviewer) of each."""
    assert reply.status_code == 200, reply.text
    pairs = [row["part"] for row in reply.json().get("parameter", []) if row["name"] == "simulated"]
    return [tuple(part["valueReference"]["reference"] for part in parts) for parts in pairs]


def submit(client, review, score="1", scale="radpeer", headers=None, **inputs):
    body = parameters(scale=scale, **{k: v for k, v in inputs.items() if k not in ("comment", "category")})
    body["parameter"] += [{"name": "score", "valueCoding": {"code": score}}] if score else []
    body["parameter"] += [{"name": "comment", "valueMarkdown": inputs["comment"]}] if "comment" in inputs else []
    body["parameter"] += [{"name": "category", "valueCoding": {"code": one}} for one in inputs.get("category", ())]
    return client.post(f"Task/{review['id']}/$submit-review", json=body, headers=headers or {})


def adjudicate(client, task, decision="uphold", score=None, headers=None, **inputs):
    body = parameters(decision=decision, **inputs)
    body["parameter"] += [{"name": "score", "valueCoding": {"code": score}}] if score else []
    return client.post(f"Task/{task['id']}/$adjudicate", json=body, headers=headers or {})


@pytest.fixture(scope="module")
def lead(network: Network):
    return network.person("centre", "quality", "quentin")


@pytest.fixture(scope="module")
def reports(network, lead):
    """Signed by anna and by bela: none has been reviewed."""
    return [network.signed(name)[2] for name in ("anna", "anna", "anna", "bela")]


@pytest.fixture
def review(network, lead):
    """A fresh report of anna's, and bela's review of it."""
    _, _, report = network.signed()
    pairs = {f"DiagnosticReport/{report['id']}"}
    found = [t for t in drawn(sampled(lead)) if case_report(lead, t) in pairs]
    assert len(found) == 1
    return report, found[0]


def case_report(lead, review):
    return lead.get(review["partOf"][0]["reference"]).json()["focus"]["reference"]


# ---------------------------------------------------------------- $sample-for-review


def test_a_draw_is_repeatable_by_its_seed_and_a_dry_one_draws_nothing(network, lead, reports):
    with unchanged(network.server):
        draws = [simulated(sampled(lead, count=2, seed=seed, dryRun=True)) for seed in ("a", "a", "b", "c", "d", "e")]
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(draw) == 2 for draw in draws)


def test_nobody_reviews_their_own(network, lead, reports):
    authors = {f"DiagnosticReport/{r['id']}": r["resultsInterpreter"][0]["reference"] for r in reports}
    pairs = dict(simulated(sampled(lead, dryRun=True)))
    assert set(authors) <= set(pairs)
    assert not [report for report, author in authors.items() if pairs[report] == author]
    assert set(pairs.values()) <= {
        "PractitionerRole/centre-anna-hospital",
        "PractitionerRole/centre-bela-hospital",
    }  # who may read it finally


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"rate": 0.5, "count": []}, 2),
        ({"rate": 1, "count": []}, 4),
        ({"count": 3}, 3),
        ({"strategy": "targeted", "reader": {"reference": "PractitionerRole/centre-bela-hospital"}}, 1),
        ({"strategy": "targeted", "reader": {"reference": "PractitionerRole/centre-dora-hospital"}}, 0),
        ({"strategy": "stratified", "count": 2}, 2),
        ({"strategy": "risk"}, 0),
        ({"strategy": "new-reader"}, 0),
        ({"modality": {"code": "CT"}}, 4),
        ({"modality": {"code": "MR"}}, 0),
        ({"period": {"start": "2020-01-01", "end": "2020-12-31"}}, 0),
    ],
)
def test_what_is_drawn(network, lead, reports, inputs, expected):
    pairs = simulated(sampled(lead, dryRun=True, seed="x", **inputs))
    assert len(pairs) == expected
    authors = {f"DiagnosticReport/{r['id']}": r["resultsInterpreter"][0]["reference"] for r in reports}
    if inputs.get("strategy") == "stratified":
        assert len({authors[report] for report, _ in pairs}) == 2
    if inputs.get("strategy") == "targeted":
        assert {authors[report] for report, _ in pairs} <= {inputs["reader"]["reference"]}


@pytest.mark.parametrize(
    ("who", "inputs", "status", "code"),
    [
        ("anna", {}, 403, "forbidden"),
        ("centre", {}, 403, "forbidden"),  # a system is no person
        ("lead", {"strategy": "nice"}, 422, "invalid"),
        ("lead", {"strategy": "targeted"}, 422, "invalid"),
        ("lead", {"rate": 0.5}, 422, "invalid"),
        ("lead", {"count": []}, 422, "invalid"),
        ("lead", {"count": 0}, 422, "invalid"),
        ("lead", {"count": 201}, 422, "invalid"),
        ("lead", {"count": [], "rate": 1.5}, 422, "invalid"),
        ("lead", {"count": [], "rate": 0}, 422, "invalid"),
    ],
)
def test_what_is_no_sample_is_refused(network, lead, who, inputs, status, code):
    client = {"anna": network.reader("anna"), "centre": network.centre, "lead": lead}[who]
    with unchanged(network.server):
        assert_outcome(sampled(client, **inputs), status, code)


def test_what_is_drawn_is_not_drawn_again_and_another_offices_lead_draws_their_own(network, lead, reports):
    assert simulated(sampled(network.person("hospital", "quality"), dryRun=True)) == []
    first = drawn(sampled(lead, strategy="targeted", reader={"reference": "PractitionerRole/centre-bela-hospital"}))
    assert [t["owner"] for t in first] == [{"reference": "PractitionerRole/centre-anna-hospital"}]
    assert drawn(sampled(lead, strategy="targeted", reader={"reference": "PractitionerRole/centre-bela-hospital"})) == []
    [shown] = rows(network.reader("anna"), "Task/$worklist?view=peer-review")
    assert shown["id"] == first[0]["id"]
    assert rows(network.reader("bela"), "Task/$worklist?view=peer-review") == []
    assert submit(network.reader("anna"), first[0]).status_code == 200
    assert rows(network.reader("anna"), "Task/$worklist?view=peer-review") == []


# ---------------------------------------------------------------- blind


SECRETS = {
    "patient": ["Kowalska-Zawada", "Kowalska", "Kowalskiej", "kowalską", "Zawada", "Barbara", "BARBARZE", "80020312345", "1980-02-03", "3.02.1980"],
    "doctor": ["Grzeszczyk", "Grzeszczykowi"],
    "author": ["Anna"],
    "places": ["Hospital", "+48 22 555 01 01", "022 555 01 01"],
    "dates": ["2026-11-24", "24.11.2026", "24/11/26", "24 November 2026", "November 24, 2026", "3 maja 2025", "12 listopada", "May 2024"],
    "numbers": ["A1234567", "1.2.840.113619.2.55.3", "1234567890"],
}  # fmt: skip
KEPT = "Lesion of 12 mm in segment 4, 2 may be cysts; annular, no change; 2 separate foci of 3.5 x 4.0 cm, Hounsfield 45. L4/5."


def test_a_blind_reviewer_reads_the_text_without_names_numbers_and_dates(network, lead):
    hospital = network.hospital
    doctor = {"resourceType": "Practitioner", "id": "hospital-g", "name": [{"family": "Grzeszczyk", "given": ["Zenon"]}]}
    assert hospital.put("Practitioner/hospital-g", json=doctor).status_code == 201
    person = hospital.post("Patient", json=patient(
        name=[{"family": "Kowalska-Zawada", "given": ["Barbara"]}], birthDate="1980-02-03",
        identifier=[{"system": "urn:pesel", "value": "80020312345"}, {"system": "urn:mrn", "value": "PX7"}],
    )).json()  # fmt: skip
    number = [{"system": "urn:acsn", "value": "A1234567"}]
    asked = order(
        f"Patient/{person['id']}",
        reasonCode=[{"text": "?"}],
        identifier=number,
        requester={"reference": "Practitioner/hospital-g"},
    )
    asked = hospital.post("ServiceRequest", json=asked).json()
    study = {
        "resourceType": "ImagingStudy", "status": "available", "subject": asked["subject"],
        "basedOn": [{"reference": f"ServiceRequest/{asked['id']}"}], "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}],
    }  # fmt: skip
    assert hospital.post("ImagingStudy", json=study).status_code == 201
    attempt, anna = network.assigned(network.dispatch(asked)), network.reader("anna")
    assert anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    text = "; ".join(f"({one})" for found in SECRETS.values() for one in found)
    body = parameters(attest=True, response=answered(opened["draft"], findings=text, impression=KEPT))
    assert anna.post(f"DiagnosticReport/{opened['report']['id']}/$sign", json=body).status_code == 200
    found = [t for t in drawn(sampled(lead)) if case_report(lead, t) == f"DiagnosticReport/{opened['report']['id']}"]
    [task] = found
    told = task["description"]
    assert KEPT in told
    left = [one for found in SECRETS.values() for one in found if one.casefold() in told.casefold()]
    assert left == []
    assert "focus" not in task
    assert "for" not in task
    assert values(task, "input", "modality") == ["CT"]
    assert {c["code"] for c in task["meta"]["security"]} == {"R", "HQUALIMP"}
    assert opened["report"]["id"] not in json.dumps(task)


def test_a_review_that_is_not_blind_names_the_report(network, lead):
    _, _, report = network.signed()
    tasks = [
        t for t in drawn(sampled(lead, blind=False)) if t.get("focus") == {"reference": f"DiagnosticReport/{report['id']}"}
    ]
    assert len(tasks) == 1
    assert "description" not in tasks[0]


# ---------------------------------------------------------------- $submit-review, $adjudicate


@pytest.mark.parametrize("score", ["1", "2a"])
def test_a_score_that_matters_little_ends_the_review(network, lead, review, score):
    """The author is told it, and not by whom."""
    report, task = review
    bela = network.reader("bela")
    done = submit(bela, task, score, comment="Well described.", category=["perceptual"], learningPoint=True).json()
    assert done["status"] == "completed"
    assert values(done, "output", "score") == [{"system": RADPEER, "code": score}]
    assert values(done, "output", "learning-point") == [True]
    assert lead.get(task["partOf"][0]["reference"]).json()["status"] == "completed"
    assert rows(lead, f"Task?code=adjudicate&part-of={task['partOf'][0]['reference']}") == []
    [feedback] = rows(network.reader("anna"), f"Task?code=feedback&focus=DiagnosticReport/{report['id']}")
    assert values(feedback, "input", "score") == [{"system": RADPEER, "code": score}]
    assert values(feedback, "input", "comment") == ["Well described."]
    assert "bela" not in json.dumps(feedback)
    with unchanged(network.server):
        assert bela.put(f"Task/{feedback['id']}", json=feedback | {"status": "completed"}).status_code in (403, 404, 422)
        assert_outcome(lead.put(f"Task/{feedback['id']}", json=feedback | {"status": "completed"}), 403, "forbidden")
        forged = feedback | {"status": "completed", "input": feedback["input"][1:]}
        assert_outcome(network.reader("anna").put(f"Task/{feedback['id']}", json=forged), 422, "business-rule")
    read = network.reader("anna").put(f"Task/{feedback['id']}", json=feedback | {"status": "completed"})
    assert (read.status_code, read.json()["status"]) == (200, "completed")
    with unchanged(network.server):
        assert_outcome(submit(bela, task, score, comment="x"), 409, "conflict")


@pytest.mark.parametrize("score", ["2b", "3a", "3b"])
def test_a_score_that_matters_goes_to_arbitration_before_anybody_is_told(network, lead, review, score):
    report, task = review
    assert submit(network.reader("bela"), task, score, comment="Missed.").json()["status"] == "completed"
    [waiting] = rows(lead, f"Task?code=adjudicate&part-of={task['partOf'][0]['reference']}")
    assert (waiting["status"], waiting["owner"]) == ("requested", {"reference": "Organization/centre"})
    assert values(waiting, "input", "score") == [{"system": RADPEER, "code": score}]
    assert waiting["id"] in [one["id"] for one in rows(lead, "Task/$worklist?view=peer-review")]
    assert rows(network.reader("anna"), f"Task?code=feedback&focus=DiagnosticReport/{report['id']}") == []
    with unchanged(network.server):
        for client in (network.reader("bela"), network.reader("anna"), network.centre):
            assert adjudicate(client, waiting).status_code in (403, 404)
        assert_outcome(adjudicate(network.person("hospital", "quality"), waiting), 404, "not-found")
        assert_outcome(adjudicate(network.person("centre", "quality", "anna"), waiting), 403, "forbidden")  # the author
        assert_outcome(adjudicate(lead, waiting, "change"), 422, "business-rule")
        assert_outcome(adjudicate(lead, waiting, "change", "4"), 422, "business-rule")
        assert_outcome(adjudicate(lead, waiting, "perhaps"), 422, "invalid")
        assert_outcome(adjudicate(lead, waiting, action=["fire"]), 422, "invalid")
        assert_outcome(adjudicate(lead, waiting, headers={"If-Match": 'W/"9"'}), 412, "conflict")
        assert_outcome(adjudicate(lead, task), 422, "business-rule")
    assert adjudicate(lead, waiting, action=["correct", "learning", "none"]).json()["status"] == "completed"
    told = rows(network.reader("anna"), f"Task?code=feedback&focus=DiagnosticReport/{report['id']}")
    assert sorted(values(one, "input", "category")[0] for one in told if one["intent"] == "proposal") == ["correct", "learning"]
    [feedback] = [one for one in told if one["intent"] == "order"]
    assert values(feedback, "input", "score") == [{"system": RADPEER, "code": score}]
    with unchanged(network.server):
        assert_outcome(adjudicate(lead, waiting), 409, "conflict")


@pytest.mark.parametrize(("decision", "score", "final", "told"), [("change", "2a", "2a", 1), ("dismiss", None, "1", 0)])
def test_the_office_changes_a_score_or_dismisses_it(network, lead, review, decision, score, final, told):
    report, task = review
    submit(network.reader("bela"), task, "3b", comment="Missed.")
    [waiting] = rows(lead, f"Task?code=adjudicate&part-of={task['partOf'][0]['reference']}")
    assert values(adjudicate(lead, waiting, decision, score).json(), "output", "score") == [{"system": RADPEER, "code": final}]
    assert values(lead.get(task["partOf"][0]["reference"]).json(), "output", "score") == [{"system": RADPEER, "code": final}]
    assert len(rows(network.reader("anna"), f"Task?code=feedback&focus=DiagnosticReport/{report['id']}")) == told


def test_a_score_says_what_the_scale_has_and_why(network, lead, review):
    """The reviewer alone scores it, once."""
    _, task = review
    bela = network.reader("bela")
    with unchanged(network.server):
        for score in ("2", "3", "4", "2c", "0"):
            assert_outcome(submit(bela, task, score, comment="x"), 422, "business-rule")
        for score in ("2a", "2b", "3a", "3b"):
            assert_outcome(submit(bela, task, score), 422, "business-rule")
        assert_outcome(submit(bela, task, None), 422, "required")
        assert_outcome(submit(bela, task, "7", scale="rcr"), 422, "business-rule")
        assert_outcome(submit(bela, task, "1", scale="stars"), 422, "invalid")
        assert_outcome(submit(bela, task, headers={"If-Match": 'W/"9"'}), 412, "conflict")
        assert_outcome(submit(lead, task), 403, "forbidden")
        for client in (network.reader("anna"), network.centre, network.reader("dora"), network.hospital):
            assert_outcome(submit(client, task), 404, "not-found")
        for status in ("completed", "cancelled"):
            assert bela.put(f"Task/{task['id']}", json=task | {"status": status}).status_code in (403, 422)
    assert submit(bela, task, "5", scale="rcr").status_code == 200


def test_quality_has_no_patient(network, lead, reports):
    """No Task of it stands in a patient's compartment or names one."""
    tasks = rows(lead, "Task?code=review-case,peer-review,adjudicate,feedback&_count=200")
    assert {next(iter(t["code"]["coding"]))["code"] for t in tasks} >= {"review-case", "peer-review"}
    for task in tasks:
        assert not {"for", "encounter", "basedOn"} & set(task)
        assert "Patient/" not in json.dumps(task)
    assert all(status in states.TASK for status in {t["status"] for t in tasks})


def test_who_has_the_fewest_reviews_waiting_gets_the_next(network, lead):
    network.signed()
    annas = {
        "count": 1,
        "strategy": "targeted",
        "reader": {"reference": "PractitionerRole/centre-anna-hospital"},
        "dryRun": True,
    }
    assert [reviewer for _, reviewer in simulated(sampled(lead, **annas))] == ["PractitionerRole/centre-bela-hospital"]
    assert rows(lead, "Task?code=peer-review&status=requested&owner=PractitionerRole/centre-bela-hospital")
    for row in reader_rows("gina"):
        assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201
    assert [reviewer for _, reviewer in simulated(sampled(lead, **annas))] == ["PractitionerRole/centre-gina-hospital"]


def test_a_reviewer_is_eligible_for_what_they_review(network, lead):
    """Of a facility for which only its author may read nothing is drawn."""
    for row in reader_rows("ivan", facility="office"):
        network.centre.put(f"{row['resourceType']}/{row['id']}", json=row)
    pairs = dict(simulated(sampled(lead, dryRun=True)))
    assert "PractitionerRole/centre-ivan-office" not in pairs.values()
