"""$start-report, $publish-preliminary and $sign: whose report it is, what it has to give, what is frozen, what stands in the way.

https://hl7.org/fhir/R4/valueset-diagnostic-report-status.html
"""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from conftest import assert_outcome
from operations_conftest import READ_TYPE, answered, out, parameters
from unchanged import unchanged

from fhirserver.workflow import states

TEMPLATE = {
    "resourceType": "Questionnaire",
    "url": "https://hospital.example/contract",
    "status": "active",
    "item": [
        {"linkId": "comparison", "text": "Comparison", "type": "text"},
        {
            "linkId": "findings",
            "text": "Findings",
            "type": "group",
            "required": True,
            "item": [
                {"linkId": "bleeding", "text": "Bleeding", "type": "boolean", "required": True},
                {"linkId": "shift", "text": "Midline shift", "type": "quantity", "required": True,
                 "enableWhen": [{"question": "bleeding", "operator": "=", "answerBoolean": True}]},
                {"linkId": "side", "text": "Side", "type": "choice", "answerOption": [{"valueCoding": {"code": "L"}}, {"valueCoding": {"code": "R"}}]},
            ],
        },
        {"linkId": "impression", "text": "Impression", "type": "text", "required": True},
    ],
}  # fmt: skip


def operated(client, report, operation, headers=None, **inputs):
    return client.post(f"DiagnosticReport/{report['id']}/${operation}", json=parameters(**inputs), headers=headers or {})


def sign(client, report, headers=None, **inputs):
    return operated(client, report, "sign", headers, **({"attest": True} | inputs))


def canonical(name, url):
    return {"name": name, "valueCanonical": url}


def business(task):
    return task["businessStatus"]["coding"][0]["code"]


def where(link, inside="QuestionnaireResponse"):
    return f"{inside}.item.where(linkId='{link}')"


@pytest.fixture(scope="module")
def contracted(network):
    """(report, draft) of an order with a template, a language, and an earlier study to compare with."""
    assert network.hospital.post("Questionnaire", json=TEMPLATE).status_code == 201
    before = network.ordered()
    network.images(before)
    asked = network.ordered()
    [earlier] = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{before['id']}").json()["entry"]
    earlier = earlier["resource"] | {"subject": asked["subject"]}
    del earlier["basedOn"]
    assert network.hospital.put(f"ImagingStudy/{earlier['id']}", json=earlier).status_code == 200
    network.images(asked)
    body = parameters(destination="central", reportLanguage="pl")
    body["parameter"].append(canonical("reportTemplate", TEMPLATE["url"]))
    reply = network.hospital.post(f"ServiceRequest/{asked['id']}/$dispatch", json=body)
    assert reply.status_code == 200, reply.text
    attempt, anna = network.assigned(reply.json()), network.reader("anna")
    anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    opened = out(anna.post(f"Task/{attempt['id']}/$start-report"))
    return opened["report"], opened["draft"] | {"language": "pl"}


def said(comparison="none", bleeding=False, impression="Normal.", **findings):
    within = [{"linkId": "bleeding", "answer": [{"valueBoolean": bleeding}]}] if bleeding is not None else []
    within += [{"linkId": name, "answer": [value]} for name, value in findings.items()]
    rows = [{"linkId": "comparison", "answer": [{"valueString": comparison}]}] if comparison else []
    rows += [{"linkId": "findings"} | ({"item": within} if within else {})]
    return rows + ([{"linkId": "impression", "answer": [{"valueString": impression}]}] if impression else [])


IN_FINDINGS = "QuestionnaireResponse.item[1]"


@pytest.mark.parametrize(
    ("items", "members", "code", "expression"),
    [
        (said(comparison=None), {}, "required", where("comparison")),
        (said(bleeding=None), {}, "required", where("bleeding", IN_FINDINGS)),
        (said(bleeding=True), {}, "required", where("shift", IN_FINDINGS)),
        (said(shift={"valueQuantity": {"value": 5, "unit": "mm"}}), {}, "business-rule", f"{IN_FINDINGS}.item[1]"),
        (said(side={"valueCoding": {"code": "X"}}), {}, "code-invalid", f"{IN_FINDINGS}.item[1].answer"),
        (said(side={"valueString": "left"}), {}, "value", f"{IN_FINDINGS}.item[1].answer"),
        (said(impression=None), {}, "required", where("impression")),
        ([*said(), {"linkId": "joke", "answer": [{"valueString": "x"}]}], {}, "business-rule", "QuestionnaireResponse.item[3]"),
        (said(), {"language": "de"}, "business-rule", "QuestionnaireResponse.language"),
    ],
)
def test_each_item_of_the_contract_that_is_not_met_is_named_by_fhirpath(network, contracted, items, members, code, expression):
    report, draft = contracted
    with unchanged(network.server):
        reply = sign(network.reader("anna"), report, response=draft | {"item": items} | members)
        issues = assert_outcome(reply, 422, code, expression)
    assert (code, [expression]) in [(i["code"], i["expression"]) for i in issues]


def test_all_that_is_missing_is_named_at_once_and_what_is_complete_is_signed(network, contracted):
    report, draft = contracted
    anna = network.reader("anna")
    issues = assert_outcome(sign(anna, report, response=draft | {"item": said("", None, None)}), 422, "required")
    assert [i["expression"][0] for i in issues][:3] == [
        where("bleeding", IN_FINDINGS.replace("1", "0")),
        where("impression"),
        where("comparison"),
    ]
    shift = {"valueQuantity": {"value": 5.0, "unit": "mm"}}
    good = draft | {"item": said(bleeding=True, shift=shift, side={"valueCoding": {"code": "L"}})}
    assert out(sign(anna, report, response=good))["report"]["status"] == "final"


# ---------------------------------------------------------------- $start-report


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
        for wrong in (f"Task/{stranger['id']}", f"Task/{t0['id']}", beside["subject"]["reference"]):
            reply = anna.post(f"Task/{attempt['id']}/$start-report", json=parameters(also=[{"reference": wrong}]))
            assert_outcome(reply, 422, "business-rule", "Parameters.parameter.where(name='also')[0]")
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


# ---------------------------------------------------------------- $sign


@pytest.fixture(scope="module")
def opened(network):
    """A report that is complete but for one thing; nothing changes where it is refused."""
    asked, _, attempt, report, draft = network.reporting()
    return asked, attempt, report, answered(draft, impression="Normal.")


@pytest.mark.parametrize(
    ("who", "inputs", "headers", "status", "code"),
    [
        ("anna", {}, {"If-Match": 'W/"2"'}, 412, "conflict"),
        ("anna", {"attest": False}, {}, 422, "business-rule"),
        ("anna", {"attest": None}, {}, 422, "required"),
        ("anna", {"alertCategory": "acr-1"}, {}, 422, "business-rule"),
        ("anna", {"alertCategory": "acr-9"}, {}, 422, "business-rule"),
        ("bela", {}, {}, 403, "forbidden"),
        ("centre", {}, {}, 403, "forbidden"),
        ("hospital", {}, {}, 403, "forbidden"),
        ("office", {}, {}, 404, "not-found"),
    ],
)
def test_what_keeps_a_report_from_being_signed(network, opened, who, inputs, headers, status, code):
    *_, report, good = opened
    client = getattr(network, who) if hasattr(network, who) else network.reader(who)
    given = {name: value for name, value in ({"attest": True, "response": good} | inputs).items() if value is not None}
    with unchanged(network.server):
        assert_outcome(operated(client, report, "sign", headers, **given), status, code)


def held_order(network, asked, attempt):
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "on-hold"})
    return lambda: network.hospital.put(f"ServiceRequest/{asked['id']}", json=current)


def changed_order(network, asked, attempt):
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    reply = network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"reasonCode": [{"text": "metastases?"}]})
    assert reply.status_code == 200
    return lambda: network.reader("anna").post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))


def new_images(network, asked, attempt):
    network.images(asked)
    return lambda: network.reader("anna").post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))


def waiting_reading(network, asked, attempt):
    anna = network.reader("anna")
    assert (
        anna.put(f"Task/{attempt['id']}", json=network.get(f"Task/{attempt['id']}") | {"status": "on-hold"}).status_code == 200
    )
    return lambda: anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))


def lapsed_privilege(network, asked, attempt):
    """I2: it was in force when the reading was claimed, and is not when it is signed."""
    path = "PractitionerRole/centre-anna-hospital"
    ended = network.get(path) | {"period": {"end": "2026-01-01"}}
    assert network.centre.put(path, json=ended).status_code == 200
    return lambda: network.centre.put(path, json={k: v for k, v in network.get(path).items() if k != "period"})


def lost_read_type(network, asked, attempt):
    path = "PractitionerRole/centre-anna-hospital"
    now = network.get(path)
    preliminary = [{"coding": [{"system": READ_TYPE, "code": "preliminary"}]}]
    assert network.centre.put(path, json=now | {"code": preliminary}).status_code == 200
    return lambda: network.centre.put(path, json=now | {"code": now["code"]})


@pytest.mark.parametrize(
    ("happened", "status"),
    [(held_order, 409), (changed_order, 409), (new_images, 409), (waiting_reading, 409), (lapsed_privilege, 403), (lost_read_type, 403)],
)  # fmt: skip
def test_what_happened_since_the_reading_was_started_keeps_it_from_being_signed(network, opened, happened, status):
    asked, attempt, report, good = opened
    undo, anna = happened(network, asked, attempt), network.reader("anna")
    with unchanged(network.server):
        assert_outcome(sign(anna, report, response=good), status, "conflict" if status == 409 else "forbidden")
    assert undo().status_code == 200


def test_images_that_arrive_in_the_moment_of_signing_keep_it_from_being_signed(network, monkeypatch):
    asked, _, _, report, draft = network.reporting()
    [study] = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["entry"]
    store = type(network.server.installation.store)
    commit, late = store.commit, [study["resource"] | {"description": "one series more"}]

    def slow(self, changes):
        if late and any(write.type == "DiagnosticReport" for write in changes.writes.values()):
            arrived = late.pop()
            assert network.hospital.put(f"ImagingStudy/{arrived['id']}", json=arrived).status_code == 200
        return commit(self, changes)

    monkeypatch.setattr(store, "commit", slow)
    assert_outcome(sign(network.reader("anna"), report, response=answered(draft, impression="i")), 409, "conflict")
    assert not late
    assert network.get(f"DiagnosticReport/{report['id']}") == report


def test_after_all_was_put_right_it_is_signed_and_names_the_version_that_was_read(network, opened):
    asked, attempt, report, good = opened
    network.reader("anna").post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    assert out(sign(network.reader("anna"), report, response=good))["report"]["status"] == "final"
    studies = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["entry"]
    read = {f"ImagingStudy/{s['resource']['id']}/_history/{s['resource']['meta']['versionId']}" for s in studies}
    proofs = network.hospital.get(f"Provenance?target=DiagnosticReport/{report['id']}").json()["entry"]
    [proof] = [p["resource"] for p in proofs if p["resource"]["activity"]["coding"][0]["code"] == "sign"]
    assert {e["what"]["reference"] for e in proof["entity"]} == read
    with unchanged(network.server):
        assert_outcome(sign(network.reader("anna"), report, response=good), 409, "conflict")


def test_the_signed_document_is_frozen_with_its_hash(network):
    asked, t0, report = network.signed()
    [listed] = network.hospital.get(f"DocumentReference?related=ServiceRequest/{asked['id']}").json()["entry"]
    listed = listed["resource"]
    [attachment] = [content["attachment"] for content in listed["content"]]
    raw = network.hospital.get(attachment["url"])
    assert (listed["status"], attachment["size"]) == ("current", len(raw.content))
    assert attachment["hash"] == base64.b64encode(hashlib.sha1(raw.content).digest()).decode()
    document = raw.json()
    assert document["entry"][1]["resource"] == {name: value for name, value in report.items() if name != "meta"}
    page = report["presentedForm"][0]
    data = base64.b64decode(page["data"])
    assert (page["size"], page["hash"]) == (len(data), base64.b64encode(hashlib.sha1(data).digest()).decode())
    done = network.hospital.get(f"Task/{t0['id']}").json()  # I5
    outputs = {o["type"]["coding"][0]["code"]: o["valueReference"]["reference"] for o in done["output"]}
    assert outputs["document"] == attachment["url"]
    with unchanged(network.server):
        for client in (network.centre, network.person("centre", "administrator"), network.hospital):
            forged = json.loads(raw.text.replace("Normal.", "Cancer."))
            assert client.put(attachment["url"], json=forged).status_code in (403, 409)
            assert client.delete(attachment["url"]).status_code in (403, 409)
            assert client.put(f"DocumentReference/{listed['id']}", json=listed | {"status": "superseded"}).status_code in (
                403,
                409,
            )


def test_an_order_is_completed_by_its_facility_where_that_was_agreed(network):
    """I6, with an agreement that leaves it to the facility."""
    terms = base64.b64encode(json.dumps({"completesOrder": False}).encode()).decode()
    library = {
        "resourceType": "Library", "status": "active", "type": {"text": "agreement"},
        "identifier": [{"system": "urn:fhirserver:agreement", "value": "hospital"}],
        "content": [{"contentType": "application/json", "data": terms}],
    }  # fmt: skip
    made = network.hospital.post("Library", json=library).json()
    try:
        asked, t0, _ = network.signed()
    finally:
        assert network.hospital.put(f"Library/{made['id']}", json=made | {"status": "retired"}).status_code == 200
    assert network.hospital.get(f"Task/{t0['id']}").json()["status"] == "completed"
    order = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert order["status"] == "active"
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=order | {"status": "completed"}).status_code == 200


def test_an_order_is_not_completed_before_its_reading(network, opened):
    asked, *_ = network.started()
    with unchanged(network.server):
        current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
        assert_outcome(
            network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "completed"}), 409, "conflict"
        )


# ---------------------------------------------------------------- the status moves forward (I4, I9)

STATUSES = [status for status in states.DIAGNOSTIC_REPORT if status]
FORWARD = {"Content-Type": "application/json-patch+json"}


def patched(status):
    return json.dumps([{"op": "replace", "path": "/status", "value": status}])


def test_no_plain_write_moves_the_status_of_a_report_made_here(network):
    """Of one that is open and of one that is signed: in no direction, by nobody."""
    _, _, final = network.signed()
    *_, registered, _ = network.reporting()
    clients = (network.centre, network.reader("anna"), network.hospital)
    with unchanged(network.server):
        for number, report in enumerate((registered, final)):
            rows = [report | {"status": new} for new in STATUSES if new != report["status"]]
            asked = {"method": "PUT", "url": f"DiagnosticReport/{report['id']}"}
            body = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": row, "request": asked} for row in rows]}
            for client in clients[number : number + 2]:
                answers = client.post("", json=body).json()["entry"]
                assert {entry["response"]["status"] for entry in answers} == {"409"}
                reply = client.patch(asked["url"], content=patched("amended"), headers=FORWARD)
                assert_outcome(reply, 409, "conflict")


@pytest.mark.parametrize("old", STATUSES)
def test_the_status_of_an_imported_report_moves_as_the_table_says(network, opened, old):
    """By PUT and by PATCH; a late lower status never overwrites a higher one."""
    body = {"resourceType": "DiagnosticReport", "code": {"text": "CT"}, "subject": opened[0]["subject"]}
    first = old if old in states.DIAGNOSTIC_REPORT[None] else "final"
    rows = [{"resource": body | {"status": first}, "request": {"method": "POST", "url": "DiagnosticReport"}} for _ in STATUSES]
    made = network.hospital.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": rows}).json()["entry"]
    for new, entry in zip(STATUSES, made, strict=True):
        path = entry["response"]["location"].partition("/_history")[0].rpartition("/fhir/")[2]
        if first != old:
            assert network.hospital.put(path, json=body | {"id": path.partition("/")[2], "status": old}).status_code == 200
        allowed = new == old or new in states.DIAGNOSTIC_REPORT[old]
        reply = network.hospital.patch(path, content=patched(new), headers=FORWARD)
        if not allowed:
            assert_outcome(reply, 422, "business-rule", "DiagnosticReport.status")
            reply = network.hospital.put(path, json=body | {"id": path.partition("/")[2], "status": new})
            assert_outcome(reply, 422, "business-rule", "DiagnosticReport.status")
        assert network.hospital.get(path).json()["status"] == (new if allowed else old)
