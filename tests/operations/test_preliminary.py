"""$start-report and $publish-preliminary: a report is opened by its reader, is out before it is final, and is signed by another.

https://hl7.org/fhir/R4/valueset-diagnostic-report-status.html
"""

from __future__ import annotations

from conftest import assert_outcome
from operations_conftest import answered, out, parameters
from unchanged import unchanged


def operated(client, report, operation, headers=None, **inputs):
    return client.post(f"DiagnosticReport/{report['id']}/${operation}", json=parameters(**inputs), headers=headers or {})


def sign(client, report, headers=None, **inputs):
    return operated(client, report, "sign", headers, **({"attest": True} | inputs))


def canonical(name, url):
    return {"name": name, "valueCanonical": url}


def business(task):
    return task["businessStatus"]["coding"][0]["code"]


def test_what_keeps_a_report_from_being_opened(network):
    _, t0 = network.dispatched()
    attempt, anna = network.assigned(t0), network.reader("anna")
    start = f"Task/{attempt['id']}/$start-report"
    with unchanged(network.server):
        assert_outcome(anna.post(start), 409, "conflict")  # not started
    assert anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    wrong = parameters() | {"parameter": [canonical("template", "https://elsewhere.example/x")]}
    with unchanged(network.server):
        assert_outcome(network.reader("bela").post(start), 403, "forbidden")
        assert_outcome(network.hospital.post(start), 404, "not-found")
        assert_outcome(anna.post(f"Task/{t0['id']}/$start-report"), 422, "business-rule")
        assert_outcome(anna.post(start, json=wrong), 422, "business-rule")
        assert_outcome(anna.post(start, json=parameters(mode="dictated")), 422, "invalid")
        assert_outcome(anna.post(start, headers={"If-Match": 'W/"1"'}), 412, "conflict")


def test_one_report_answers_several_orders_and_is_open_once(network):
    """The other order's reading has it too: it opens no second one; signing closes both."""
    asked, t0, attempt = network.started()
    beside = network.hospital.post(
        "ServiceRequest", json={k: v for k, v in asked.items() if k not in ("id", "meta", "identifier")} | {"status": "active"}
    ).json()
    [study] = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["entry"]
    both = [{"reference": f"ServiceRequest/{one['id']}"} for one in (asked, beside)]
    assert (
        network.hospital.put(f"ImagingStudy/{study['resource']['id']}", json=study["resource"] | {"basedOn": both}).status_code
        == 200
    )
    other_t0 = network.dispatch(beside)
    other, anna = network.assigned(other_t0), network.reader("anna")
    assert anna.post(f"Task/{other['id']}/$claim", json=parameters(start=True)).status_code == 200
    assert anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200  # looks at what came since
    stranger = network.started()[2]
    with unchanged(network.server):
        for wrong in (f"Task/{stranger['id']}", f"Task/{t0['id']}"):
            reply = anna.post(f"Task/{attempt['id']}/$start-report", json=parameters(also=[{"reference": wrong}]))
            assert_outcome(reply, 422, "business-rule", "Parameters.parameter.where(name='also')[0]")
        patient = parameters(also=[beside["subject"]])
        assert_outcome(anna.post(f"Task/{attempt['id']}/$start-report", json=patient), 422, "value", "Parameters.parameter")
    also = parameters(also=[{"reference": f"Task/{other['id']}"}])
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report", json=also))
    assert opened["report"]["basedOn"] == both
    with unchanged(network.server):
        assert_outcome(anna.post(f"Task/{other['id']}/$start-report"), 409, "conflict")
    assert sign(anna, opened["report"], response=answered(opened["draft"], impression="i")).status_code == 200
    for task in (t0, other_t0):
        assert network.hospital.get(f"Task/{task['id']}").json()["status"] == "completed"
    assert [network.get(f"Task/{one['id']}")["status"] for one in (attempt, other)] == ["completed"] * 2


# ---------------------------------------------------------------- $publish-preliminary


def test_a_preliminary_report_is_out_and_another_reader_signs_it_finally(network):
    """I3: preliminary -> final, by another owner. What is out names who said it, until somebody else has."""
    _, t0, attempt, report, draft = network.reporting()
    anna, bela = network.reader("anna"), network.reader("bela")
    with unchanged(network.server):
        assert_outcome(operated(bela, report, "publish-preliminary", response=draft), 403, "forbidden")
        assert_outcome(operated(anna, report, "publish-preliminary", response=draft), 422, "required")
        stale = {"If-Match": 'W/"9"'}
        assert_outcome(operated(anna, report, "publish-preliminary", stale, response=draft), 412, "conflict")
    body = parameters(response=answered(draft, findings="Perhaps a bleeding.", impression="Bleeding?"))
    body["parameter"].append({"name": "limitations", "valueString": "Thin slices <missing>."})
    issued = anna.post(f"DiagnosticReport/{report['id']}/$publish-preliminary", json=body).json()
    seen = network.hospital.get(f"DiagnosticReport/{report['id']}").json()
    assert seen == issued
    assert (seen["status"], seen["conclusion"], bool(seen["issued"])) == ("preliminary", "Bleeding?", True)
    assert "Limitations</h3><p>Thin slices &lt;missing&gt;." in seen["text"]["div"]
    assert network.get(f"Task/{attempt['id']}")["status"] == "completed"
    now = network.hospital.get(f"Task/{t0['id']}").json()
    assert (now["status"], business(now)) == ("in-progress", "preliminary-outcome")
    [final] = [one for one in network.attempts(t0) if one["status"] == "requested"]
    assert final["owner"] == {"reference": "Organization/centre"}
    with unchanged(network.server):  # who has not the final reading signs nothing
        assert_outcome(sign(anna, report, response=draft), 409, "conflict")
        assert_outcome(operated(anna, report, "publish-preliminary", response=draft), 409, "conflict")
    assert bela.post(f"Task/{final['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(bela.post(f"Task/{final['id']}/$start-report"))
    assert opened["report"]["id"] == report["id"]
    assert opened["draft"]["item"] == body["parameter"][0]["resource"]["item"]
    assert network.hospital.get(f"DiagnosticReport/{report['id']}").json()["resultsInterpreter"] == report["resultsInterpreter"]
    final_ = out(sign(bela, report, response=answered(opened["draft"], impression="No bleeding.")))["report"]
    assert (final_["status"], final_["conclusion"]) == ("final", "No bleeding.")
    assert final_["resultsInterpreter"] == [{"reference": "PractitionerRole/centre-bela-hospital"}]
    versions = network.hospital.get(f"DiagnosticReport/{report['id']}/_history").json()["entry"]
    assert [v["resource"]["status"] for v in versions] == ["final", "preliminary", "registered"]


def test_a_preliminary_reader_publishes_and_a_specialist_signs(network):
    """fred holds a preliminary privilege at the hospital and no final one; nor does a trainee sign, whatever they hold."""
    asked = network.ordered()
    network.images(asked)
    t0 = network.dispatch(asked, readType="preliminary")
    attempt = out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="manual", owner={"reference": "PractitionerRole/centre-fred-hospital"})))["task"]  # fmt: skip
    fred = network.reader("fred")
    assert fred.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(fred.post(f"Task/{attempt['id']}/$start-report"))
    report, good = opened["report"], answered(opened["draft"], impression="i")
    with unchanged(network.server):
        issues = assert_outcome(sign(fred, report, response=good), 403, "forbidden")
    assert issues[0]["details"]["coding"][0]["code"] == "no-read-type-privilege"
    assert operated(fred, report, "publish-preliminary", response=good).status_code == 200


def test_a_trainees_report_needs_a_co_signature(network):
    """A trainee reads like a reader and publishes; signing is for a specialist, who reads it finally."""
    _, t0 = network.dispatched()
    trainee = network.as_("centre", scope="user/*.cruds", user="tess", roles=("trainee",), practitioner="centre-bela")
    attempt = network.assigned(t0, "bela")
    assert trainee.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(trainee.post(f"Task/{attempt['id']}/$start-report"))
    report, good = opened["report"], answered(opened["draft"], impression="i")
    with unchanged(network.server):
        assert_outcome(sign(trainee, report, response=good), 403, "forbidden")
    assert operated(trainee, report, "publish-preliminary", response=good).status_code == 200
    [final] = [one for one in network.attempts(t0) if one["status"] == "requested"]
    anna = network.reader("anna")
    assert anna.post(f"Task/{final['id']}/$claim", json=parameters(start=True)).status_code == 200
    draft = out(anna.post(f"Task/{final['id']}/$start-report"))["draft"]
    signed = out(sign(anna, report, response=answered(draft, impression="i")))["report"]
    assert signed["resultsInterpreter"] == [{"reference": "PractitionerRole/centre-anna-hospital"}]
