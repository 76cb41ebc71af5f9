"""$addend, $correct, $retract, $acknowledge-receipt: what was signed stays, what replaces it says so, all who have it learn of it.

https://hl7.org/fhir/R4/documentreference.html#lifecycle
"""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, out, parameters, reader_rows
from unchanged import unchanged

from fhirserver.workflow import states

ANNA = "Practitioner/centre-anna"


def operated(client, report, operation, headers=None, **inputs):
    return client.post(f"DiagnosticReport/{report['id']}/${operation}", json=parameters(**inputs), headers=headers or {})


def addend(client, report, text="Also a cyst.", headers=None):
    body = parameters(reason=REASON)
    body["parameter"].append({"name": "text", "valueMarkdown": text})
    return client.post(f"DiagnosticReport/{report['id']}/$addend", json=body, headers=headers or {})


def response(impression="Bleeding.", findings="No bleeding."):
    rows = [
        {"linkId": name, "answer": [{"valueString": text}]}
        for name, text in (("findings", findings), ("impression", impression))
    ]
    return {"resourceType": "QuestionnaireResponse", "status": "in-progress", "item": rows}


def correct(client, report, impression="Bleeding.", **inputs):
    known = {"kind": "corrected", "significance": "minor", "reason": REASON, "response": response(impression)}
    return operated(client, report, "correct", **(known | inputs))


def retract(client, report, second="Practitioner/centre-bela"):
    return operated(client, report, "retract", reason=REASON, second={"reference": second})


def rows(client, query):
    return [entry["resource"] for entry in client.get(query).json().get("entry", [])]


def documents(client, asked):
    """(status, what it replaces, the Bundle) of each version, the newest last."""
    found = rows(client, f"DocumentReference?related=ServiceRequest/{asked['id']}&_sort=date")
    return [(d["status"], [r["target"]["reference"] for r in d.get("relatesTo", ()) if r["code"] == "replaces"], f"DocumentReference/{d['id']}", d["content"][0]["attachment"]["url"]) for d in found]  # fmt: skip


def told(client, report, category):
    found = rows(client, f"Communication?_sort=_lastUpdated&_count=200&category={category}")
    return [one for one in found if {"reference": f"DiagnosticReport/{report['id']}"} in one["about"]]


def deliveries(client, report):
    return rows(client, f"Task?focus=DiagnosticReport/{report['id']}&code=deliver&_sort=_lastUpdated")


@pytest.fixture(scope="module")
def signed(network):
    """(order, T0, report): of what is refused."""
    return network.signed()


# ---------------------------------------------------------------- $addend, $correct


def test_each_version_replaces_the_document_before_it_which_stays(network):
    """final -> appended -> corrected -> amended; every recipient is told, and asked again for their receipt."""
    asked, t0, report = network.signed()
    anna, hospital = network.reader("anna"), network.hospital
    [(status, replaces, _, bundle)] = documents(hospital, asked)
    assert (status, replaces) == ("current", [])
    frozen = hospital.get(bundle).content
    appended = addend(anna, report, "Also a <cyst>.").json()
    assert (appended["status"], appended["conclusion"]) == ("appended", "Normal.")
    assert "No bleeding." in appended["text"]["div"]
    assert "Also a &lt;cyst&gt;." in appended["text"]["div"]
    corrected = out(correct(anna, report))
    assert (corrected["report"]["status"], corrected["report"]["conclusion"]) == ("corrected", "Bleeding.")
    assert "Also a &lt;cyst&gt;." in corrected["report"]["text"]["div"]  # what was added stays
    amended = out(correct(anna, report, "Bleeding, older.", kind="amended"))["report"]
    assert amended["identifier"] == report["identifier"]
    assert documents(hospital, asked)[-1][0] == "current"
    chain = documents(hospital, asked)
    assert [status for status, *_ in chain] == ["superseded"] * 3 + ["current"]
    assert [replaces for _, replaces, *_ in chain] == [[], *([reference] for _, _, reference, _ in chain[:3])]
    assert hospital.get(bundle).content == frozen
    assert hospital.get(chain[-1][3]).json()["entry"][1]["resource"]["conclusion"] == "Bleeding, older."
    texts = [one["payload"][0]["contentString"] for one in told(hospital, report, "report-changed")]
    assert texts == ["An addendum was made.", "Corrected: it was wrong.", "Amended: there is new information."]
    assert {"reference": "Organization/hospital"} in told(hospital, report, "report-changed")[0]["recipient"]
    now = hospital.get(f"Task/{t0['id']}").json()
    assert (now["status"], now["businessStatus"]["coding"][0]["code"]) == ("completed", "changed")
    assert [one["status"] for one in deliveries(hospital, report)] == ["requested"] * 4
    versions = [v["resource"]["status"] for v in hospital.get(f"DiagnosticReport/{report['id']}/_history").json()["entry"]]
    assert versions == ["amended", "corrected", "appended", "final", "registered"]
    assert rows(hospital, f"ChargeItem?service=DiagnosticReport/{report['id']}&_summary=count") == []
    assert hospital.get(f"ChargeItem?service=DiagnosticReport/{report['id']}").json()["total"] == 1  # they are free


def test_a_correction_tells_what_changed_section_by_section_and_which_version_it_revises(network):
    _, _, report = network.signed()
    result = out(correct(network.reader("anna"), report, response=response("Bleeding.", "No bleeding.")))
    assert result["diff"] == {
        "resourceType": "Parameters",
        "parameter": [{"name": "section", "part": [
            {"name": "linkId", "valueString": "impression"}, {"name": "heading", "valueString": "impression"},
            {"name": "before", "valueString": "Normal."}, {"name": "after", "valueString": "Bleeding."},
        ]}],
    }  # fmt: skip
    proofs = rows(network.centre, f"Provenance?target=DiagnosticReport/{report['id']}")
    [proof] = [one for one in proofs if one["activity"]["coding"][0]["code"] == "correct"]
    assert proof["reason"] == [REASON]
    before = {"reference": f"DiagnosticReport/{report['id']}/_history/{report['meta']['versionId']}"}
    assert [(e["role"], e["what"]) for e in proof["entity"]] == [("revision", before)]


def test_a_significant_correction_is_told_to_a_person_and_looked_at_by_quality(network):
    """Also where another finding of the report waits for its answer: that answer is of the finding."""
    _, _, report = network.signed()
    anna, hospital = network.reader("anna"), network.hospital
    body = parameters(category="acr-2", finding={"text": "cyst"})
    assert operated(anna, report, "notify-critical", category="acr-2", finding={"text": "cyst"}).status_code == 200, body
    assert correct(anna, report, "Bleeding.", significance="significant").status_code == 200
    waiting = rows(hospital, f"Task?code=acknowledge&status=requested&patient={report['subject']['reference']}")
    assert len(waiting) == 2
    alerts = rows(hospital, f"CommunicationRequest?status=active&subject={report['subject']['reference']}")
    assert "rcr-urgent" in [c["code"] for one in alerts for c in one["category"][0]["coding"]]
    lead = network.person("centre", "quality", "quentin")
    [task] = rows(lead, f"Task?code=discrepancy-review&focus=DiagnosticReport/{report['id']}")
    assert (task["status"], task["priority"], task["owner"]) == ("requested", "asap", report["resultsInterpreter"][0])
    assert "for" not in task
    assert rows(network.reader("anna"), f"Task?code=discrepancy-review&focus=DiagnosticReport/{report['id']}") == [task]
    for other in (network.centre, hospital, network.reader("bela"), network.office):
        assert rows(other, f"Task?code=discrepancy-review&focus=DiagnosticReport/{report['id']}") == []


@pytest.mark.parametrize("significance", ["none", "minor"])
def test_a_correction_that_matters_little_alarms_nobody(network, significance):
    _, _, report = network.signed()
    assert correct(network.reader("anna"), report, significance=significance).status_code == 200
    assert rows(network.hospital, f"Task?code=acknowledge&patient={report['subject']['reference']}") == []
    lead = network.person("centre", "quality", "quentin")
    assert rows(lead, f"Task?code=discrepancy-review&focus=DiagnosticReport/{report['id']}") == []


@pytest.mark.parametrize("operation", ["addend", "correct"])
@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        (lambda n: n.hospital, 403, "forbidden"),
        (lambda n: n.centre, 403, "forbidden"),
        (lambda n: n.office, 404, "not-found"),
        (lambda n: n.person("centre", "dispatcher", "anna"), 403, "forbidden"),
        (lambda n: n.person("centre", "trainee", "anna"), 403, "forbidden"),
        (lambda n: n.reader("carl"), 403, "forbidden"),  # a deputy whose privilege has ended
        (lambda n: n.reader("fred"), 403, "forbidden"),  # who reads preliminarily
        (lambda n: n.as_("hospital", scope="user/*.cruds", user="hr", roles=("reader",), practitioner="centre-anna"), 403, "forbidden"),
    ],
)  # fmt: skip
def test_who_may_not_change_a_signed_report(network, signed, operation, who, status, code):
    with unchanged(network.server):
        assert_outcome((addend if operation == "addend" else correct)(who(network), signed[2]), status, code)


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"kind": "better"}, "invalid"),
        ({"significance": "huge"}, "invalid"),
        ({"impression": "Normal."}, "business-rule"),  # it says so already
        ({"response": response() | {"item": [{"linkId": "findings", "answer": [{"valueString": "x"}]}]}}, "required"),
        ({"reason": []}, "required"),
        ({"response": []}, "required"),
    ],
)
def test_a_correction_that_is_none_is_refused(network, signed, inputs, code):
    with unchanged(network.server):
        assert_outcome(correct(network.reader("anna"), signed[2], **inputs), 422, code)


def test_an_addendum_says_something_once(network, signed):
    anna, path = network.reader("anna"), f"DiagnosticReport/{signed[2]['id']}/$addend"
    with unchanged(network.server):
        assert_outcome(addend(anna, signed[2], " \n"), 422, "value")
        assert_outcome(anna.post(path, json=parameters(reason=REASON)), 422, "invalid")
        both = parameters(reason=REASON, response=response())
        both["parameter"].append({"name": "text", "valueMarkdown": "x"})
        assert_outcome(anna.post(path, json=both), 422, "invalid")
        assert_outcome(addend(anna, signed[2], headers={"If-Match": 'W/"1"'}), 412, "conflict")
        stale = {"If-Match": 'W/"1"'}
        assert_outcome(operated(anna, signed[2], "correct", stale, kind="corrected", significance="none", reason=REASON, response=response()), 412, "conflict")  # fmt: skip


def test_a_report_that_is_not_signed_is_not_changed_after_the_fact(network):
    *_, report, _ = network.reporting()
    imported = {"resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CT"}, "subject": report["subject"]}
    imported = network.hospital.post("DiagnosticReport", json=imported).json()
    with unchanged(network.server):
        for operation in (addend, correct, retract):
            assert_outcome(operation(network.reader("anna"), report), 409, "conflict")
        assert_outcome(addend(network.person("hospital", "reader", "eve"), imported), 409, "conflict")


def test_a_deputy_who_may_read_it_addends(network):
    """bela, who may read for this facility finally, when anna is away."""
    asked, _, report = network.signed()
    changed = addend(network.reader("bela"), report).json()
    bela = {"reference": "PractitionerRole/centre-bela-hospital"}
    assert (changed["status"], changed["resultsInterpreter"]) == ("appended", [*report["resultsInterpreter"], bela])
    composition = network.hospital.get(documents(network.hospital, asked)[-1][3]).json()["entry"][0]["resource"]
    assert [one["party"] for one in composition["attester"]] == [bela, bela]  # who signs this version
    assert composition["author"][:2] == [*report["resultsInterpreter"], bela]
    [proof] = [p for p in rows(network.centre, f"Provenance?target=DiagnosticReport/{report['id']}") if p["activity"]["coding"][0]["code"] == "addend"]  # fmt: skip
    assert proof["agent"][0]["who"]["reference"] == "Practitioner/centre-bela"


def test_what_was_told_stays_in_the_report(network):
    """The communication of a finding, in each version after it; with the answer that came meanwhile."""
    asked, _, report = network.signed()
    anna, hospital = network.reader("anna"), network.hospital
    reply = operated(anna, report, "notify-critical", category="acr-2", finding={"text": "A <big> cyst"})
    ack = next(row["resource"] for row in reply.json()["parameter"] if row["name"] == "ack")
    hospital.post(f"Task/{ack['id']}/$acknowledge", json=parameters(by={"reference": "Organization/hospital"}))
    for changed in (addend(anna, report).json(), out(correct(anna, report))["report"]):
        assert "A &lt;big&gt; cyst (acr-2, " in changed["text"]["div"]
        assert "acknowledged)" in changed["text"]["div"]
        document = hospital.get(documents(hospital, asked)[-1][3]).json()["entry"][0]["resource"]
        assert [s["code"]["coding"][0]["code"] for s in document["section"] if "code" in s].count("73568-8") == 1


# ---------------------------------------------------------------- $retract


@pytest.mark.parametrize(
    ("who", "second", "status"),
    [
        (lambda n: n.reader("anna"), ANNA, 422),  # one person
        (lambda n: n.reader("anna"), "PractitionerRole/centre-anna-hospital", 422),  # the same by another name
        (lambda n: n.reader("anna"), "Organization/centre", 422),
        (lambda n: n.reader("anna"), "Practitioner/hospital-eve", 422),
        (lambda n: n.reader("bela"), ANNA, 403),  # neither its reader, nor quality, nor a dispatcher
        (lambda n: n.centre, ANNA, 403),  # no person
        (lambda n: n.person("centre", "quality"), ANNA, 403),
        (lambda n: n.hospital, ANNA, 403),
        (lambda n: n.office, ANNA, 404),
    ],
)
def test_a_report_is_not_withdrawn_by_one_alone_nor_by_anybody(network, signed, who, second, status):
    eve = {"resourceType": "Practitioner", "id": "hospital-eve", "name": [{"family": "Eve"}]}
    network.hospital.put("Practitioner/hospital-eve", json=eve)
    with unchanged(network.server):
        assert retract(who(network), signed[2], second).status_code == status


@pytest.mark.parametrize(("role", "name"), [("reader", "anna"), ("quality", "quentin"), ("dispatcher", "dick")])
def test_two_withdraw_a_report_and_the_study_is_read_again_under_a_new_order(network, role, name):
    for row in reader_rows(name)[:1]:
        network.centre.put(f"Practitioner/{row['id']}", json=row)
    asked, t0, report = network.signed()
    hospital = network.hospital
    gone = retract(network.person("centre", role, name), report).json()
    assert gone["status"] == "entered-in-error"
    assert hospital.get(f"DiagnosticReport/{report['id']}").json() == gone
    assert [status for status, *_ in documents(hospital, asked)] == ["entered-in-error"]
    [warning] = told(hospital, report, "report-withdrawn")
    assert {"reference": "Organization/hospital"} in warning["recipient"]
    now = hospital.get(f"Task/{t0['id']}").json()
    assert (now["status"], now["businessStatus"]["coding"][0]["code"]) == ("completed", "withdrawn")
    assert hospital.get(f"ServiceRequest/{asked['id']}").json()["status"] == "completed"
    [proof] = [p for p in rows(network.centre, f"Provenance?target=DiagnosticReport/{report['id']}") if p["activity"]["coding"][0]["code"] == "retract"]  # fmt: skip
    assert [a["who"]["reference"] for a in proof["agent"]] == [f"Practitioner/centre-{name}", "Practitioner/centre-bela"]
    assert [one["status"] for one in deliveries(hospital, report)] == ["requested"] * 2  # it must be acknowledged
    assert operated(hospital, report, "acknowledge-receipt", by={"reference": "Organization/hospital"}).status_code == 200
    assert [one["status"] for one in deliveries(hospital, report)] == ["completed"] * 2
    assert hospital.get(f"Task/{t0['id']}").json()["businessStatus"] == now["businessStatus"]
    with unchanged(network.server):
        for operation in (addend, correct, retract):
            assert_outcome(operation(network.reader("anna"), report), 409, "conflict")
        assert_outcome(operated(network.reader("anna"), report, "sign", attest=True), 409, "conflict")
    if role == "reader":
        again = {k: v for k, v in asked.items() if k not in ("id", "meta", "identifier")}
        again |= {"status": "active", "replaces": [{"reference": f"ServiceRequest/{asked['id']}"}]}
        again = hospital.post("ServiceRequest", json=again).json()
        [study] = rows(hospital, f"ImagingStudy?basedon=ServiceRequest/{asked['id']}")
        both = study | {"basedOn": [{"reference": f"ServiceRequest/{one['id']}"} for one in (asked, again)]}
        assert hospital.put(f"ImagingStudy/{study['id']}", json=both).status_code == 200
        attempt, bela = network.assigned(network.dispatch(again), "bela"), network.reader("bela")
        assert bela.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
        opened = out(bela.post(f"Task/{attempt['id']}/$start-report"))
        assert opened["report"]["id"] != report["id"]
        assert operated(bela, opened["report"], "sign", attest=True, response=response("Bleeding.")).status_code == 200
        assert hospital.get(f"DiagnosticReport/{report['id']}").json() == gone


def test_a_preliminary_report_is_withdrawn_with_what_was_to_follow(network):
    """What is out is never silently taken back: revoking its order is refused, withdrawing it is told."""
    asked, t0, _, report, _ = network.reporting()
    anna, hospital = network.reader("anna"), network.hospital
    assert operated(anna, report, "publish-preliminary", response=response()).status_code == 200
    current = hospital.get(f"ServiceRequest/{asked['id']}").json()
    with unchanged(network.server):
        assert_outcome(hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}), 409, "conflict")
    assert retract(anna, report).json()["status"] == "entered-in-error"
    assert len(told(hospital, report, "report-withdrawn")) == 1
    now = hospital.get(f"Task/{t0['id']}").json()
    assert now["status"] not in states.OPEN_TASK
    assert now["businessStatus"]["coding"][0]["code"] == "withdrawn"
    assert [one["status"] for one in network.attempts(t0) if one["status"] in states.OPEN_TASK] == []


# ---------------------------------------------------------------- $acknowledge-receipt


def test_receipt_is_confirmed_once_by_who_the_report_goes_to(network):
    _, t0, report = network.signed()
    hospital, by = network.hospital, {"reference": "Organization/hospital"}
    future = parameters(by=by)
    future["parameter"].append({"name": "at", "valueDateTime": "2030-01-01T00:00:00Z"})
    with unchanged(network.server):
        assert_outcome(operated(network.office, report, "acknowledge-receipt", by=by), 404, "not-found")
        assert_outcome(operated(network.centre, report, "acknowledge-receipt", by=by), 403, "forbidden")
        assert_outcome(
            hospital.post(f"DiagnosticReport/{report['id']}/$acknowledge-receipt", json=future), 422, "business-rule"
        )
    said = operated(hospital, report, "acknowledge-receipt", by=by).json()
    assert (said["status"], said["recipient"], bool(said["received"])) == ("completed", [by], True)
    [delivered] = deliveries(hospital, report)
    assert delivered["status"] == "completed"
    assert hospital.get(f"Task/{t0['id']}").json()["businessStatus"]["coding"][0]["code"] == "acknowledged"
    assert network.centre.get(f"Communication/{said['id']}").status_code == 200
    with unchanged(network.server):
        assert_outcome(operated(hospital, report, "acknowledge-receipt", by=by), 409, "duplicate")
    addend(network.reader("anna"), report)  # a new version is received anew
    assert operated(hospital, report, "acknowledge-receipt", by=by).status_code == 200


def test_what_is_not_delivered_is_not_received(network):
    *_, report, _ = network.reporting()
    with unchanged(network.server):
        reply = operated(network.hospital, report, "acknowledge-receipt", by={"reference": "Organization/hospital"})
        assert_outcome(reply, 409, "conflict")
