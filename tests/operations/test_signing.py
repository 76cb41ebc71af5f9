"""$sign: what a report has to give, whose it is, what stands in the way, and what is frozen.

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
