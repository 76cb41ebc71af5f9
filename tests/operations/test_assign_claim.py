"""Task/[id]/$assign and $claim, and the same acts as PUTs of Task.status."""

from __future__ import annotations

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import assert_outcome
from operations_conftest import out, parameters, reader_rows

REASON = {"text": "needed elsewhere"}


def role(name: str, facility: str = "hospital") -> dict:
    return {"reference": f"PractitionerRole/centre-{name}-{facility}"}


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def reason_code(issues) -> str:
    return issues[0]["details"]["coding"][0]["code"]


def decision(provenance) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(provenance["contained"][0]["data"])))


def test_assigning_makes_an_accepted_attempt_and_stores_the_decision(network):
    _, t0 = network.dispatched()
    result = out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="manual", owner=role("anna"))))
    task = result["task"]
    assert (task["status"], task["owner"], task["partOf"]) == ("accepted", role("anna"), [{"reference": f"Task/{t0['id']}"}])
    now = network.get(f"Task/{t0['id']}")
    assert (now["status"], business(now)) == ("accepted", "assigned")
    record = decision(result["decision"])
    assert record["chosen"] == "Practitioner/centre-anna"
    verdicts = {
        c["reader"]["reference"].removeprefix("Practitioner/centre-"): c.get("failed", []) for c in record["candidates"]
    }
    assert verdicts == {
        "anna": [],
        "bela": [],
        "carl": ["privilege-expired"],
        "dora": ["no-modality-privilege"],
        "fred": ["no-read-type-privilege"],
    }
    assert network.get(f"Provenance/{result['decision']['id']}")["target"]


def test_auto_takes_the_eligible_reader_with_the_least_open_work(network):
    loads = []
    for _ in range(4):
        _, t0 = network.dispatched()
        record = decision(out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="auto")))["decision"])
        eligible = {
            c["reader"]["reference"]: c["reader"].get("load", {}).get("now", 0) for c in record["candidates"] if c["eligible"]
        }
        loads.append(eligible)
        assert eligible[record["chosen"]] == min(eligible.values())
        assert set(eligible) == {"Practitioner/centre-anna", "Practitioner/centre-bela"}


@pytest.mark.parametrize(
    ("name", "failed"), [("carl", "privilege-expired"), ("dora", "no-modality-privilege"), ("fred", "no-read-type-privilege")]
)
def test_no_hard_rule_is_overridden(network, name, failed):
    _, t0 = network.dispatched()
    inputs = parameters(mode="manual", owner=role(name), override=True, force=True)
    issues = assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=inputs), 422, "business-rule")
    assert reason_code(issues) == failed
    assert network.attempts(t0) == []
    assert network.get(f"Task/{t0['id']}")["meta"]["versionId"] == "1"


def test_a_privilege_that_the_reader_wrote_themselves_elsewhere_does_not_count(network):
    """Only the fulfiller's and the facility's own rows do."""
    for row in reader_rows("gina", id="office-gina")[1:]:
        row["practitioner"] = {"reference": "Practitioner/centre-emil"}
        assert network.office.put("PractitionerRole/office-gina", json=row).status_code == 201
    _, t0 = network.dispatched()
    inputs = parameters(mode="manual", owner={"reference": "Practitioner/centre-emil"})
    issues = assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=inputs), 422, "business-rule")
    assert reason_code(issues) == "no-privilege"


def test_reassigning_ends_the_old_attempt_and_a_started_one_only_by_force(network):
    _, t0 = network.dispatched()
    first = network.assigned(t0, "anna")
    second = network.assigned(t0, "bela")
    assert network.get(f"Task/{first['id']}")["status"] == "cancelled"
    bela = network.reader("bela")
    assert bela.post(f"Task/{second['id']}/$claim", json=parameters(start=True)).status_code == 200
    report = out(bela.post(f"Task/{second['id']}/$start-report"))["report"]
    inputs = parameters(mode="manual", owner=role("anna"))
    assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=inputs), 409, "lock-error")
    forced = network.centre.post(
        f"Task/{t0['id']}/$assign", json=parameters(mode="manual", owner=role("anna"), force=True, reason=REASON)
    )
    assert out(forced)["decision"]["reason"] == [REASON]
    assert network.get(f"Task/{second['id']}")["status"] == "failed"
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "cancelled"
    assert_outcome(bela.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(attest=True)), 409, "conflict")


def test_an_offer_awaits_acceptance(network):
    _, t0 = network.dispatched()
    task = out(
        network.centre.post(
            f"Task/{t0['id']}/$assign", json=parameters(mode="manual", owner=role("anna"), requireAcceptance=True)
        )
    )["task"]
    assert task["status"] == "requested"
    assert business(network.get(f"Task/{t0['id']}")) == "awaiting-acceptance"
    anna = network.reader("anna")
    assert_outcome(network.reader("bela").post(f"Task/{task['id']}/$claim"), 409, "lock-error")
    declined = anna.put(f"Task/{task['id']}", json=task | {"status": "rejected", "statusReason": {"text": "workload"}})
    assert declined.status_code == 200
    states = sorted(a["status"] for a in network.attempts(t0))
    assert states == ["rejected", "requested"]
    assert business(network.get(f"Task/{t0['id']}")) == "ready-for-assignment"


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        ({}, 422, "required"),
        ({"mode": "random"}, 422, "invalid"),
        ({"mode": "manual"}, 422, "invalid"),
        ({"mode": "manual", "owner": {"reference": "Organization/office"}}, 422, "business-rule"),
        ({"mode": "manual", "owner": {"reference": "Practitioner/nobody"}}, 422, "not-found"),
    ],
)
def test_what_is_wrong_with_an_assignment_is_said(network, inputs, status, code):
    _, t0 = network.dispatched()
    assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(**inputs)), status, code)


def test_only_a_dispatcher_of_the_centre_assigns(network, as_):
    _, t0 = network.dispatched()
    inputs = parameters(mode="auto")
    assert_outcome(network.hospital.post(f"Task/{t0['id']}/$assign", json=inputs), 403, "forbidden")
    assert_outcome(network.reader("anna").post(f"Task/{t0['id']}/$assign", json=inputs), 403, "forbidden")
    assert_outcome(network.office.post(f"Task/{t0['id']}/$assign", json=inputs), 404, "not-found")
    stale = network.centre.post(f"Task/{t0['id']}/$assign", json=inputs, headers={"If-Match": 'W/"7"'})
    assert_outcome(stale, 412, "conflict")
    dispatcher = as_("centre", scope="user/*.cruds", user="dan", roles=("dispatcher",))
    attempt = out(dispatcher.post(f"Task/{t0['id']}/$assign", json=inputs))["task"]
    assert_outcome(dispatcher.post(f"Task/{attempt['id']}/$assign", json=inputs), 422, "business-rule")


def test_nothing_is_assigned_before_its_images_are_complete(network):
    t0 = network.dispatch(network.ordered(), expectImages=True)
    assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="auto")), 422, "business-rule")


# ---------------------------------------------------------------- claim


def test_of_many_claims_one_wins(network):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    clients = [network.reader(name) for name in ("anna", "bela") for _ in range(4)]

    def claim(client):
        return client.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(claim, clients))
    won = [i for i, reply in enumerate(replies) if reply.status_code == 200]
    assert {i // 4 for i in won} in ({0}, {1}), "one reader won; a second claim of the same reader renews"
    for i, reply in enumerate(replies):
        if i not in won:
            issues = assert_outcome(reply, 409, "lock-error")
            assert issues[0]["diagnostics"] == "Another reader has this reading."
    assert network.get(f"Task/{t0['id']}")["status"] == "in-progress"


def test_claim_and_start(network):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    anna = network.reader("anna")
    claimed = anna.post(f"Task/{attempt['id']}/$claim").json()
    assert (claimed["status"], claimed["owner"]) == ("accepted", role("anna"))
    assert business(network.get(f"Task/{t0['id']}")) == "assigned"
    started = anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True, leaseMinutes=10)).json()
    assert started["status"] == "in-progress"
    assert started["executionPeriod"]["start"]
    [lease] = [i["valueDateTime"] for i in started["input"] if i["type"]["coding"][0]["code"] == "lease-until"]
    network.server.wait(minutes=5)
    renewed = anna.post(f"Task/{attempt['id']}/$claim").json()
    leases = [i["valueDateTime"] for i in renewed["input"] if i["type"]["coding"][0]["code"] == "lease-until"]
    assert len(leases) == 1
    assert leases[0] > lease
    assert renewed["executionPeriod"] == started["executionPeriod"]
    now = network.get(f"Task/{t0['id']}")
    assert (now["status"], business(now)) == ("in-progress", "reading")


@pytest.mark.parametrize(
    ("name", "failed"), [("carl", "privilege-expired"), ("dora", "no-modality-privilege"), ("emil", "no-privilege")]
)
def test_who_may_not_read_it_may_not_claim_it(network, name, failed):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    issues = assert_outcome(network.reader(name).post(f"Task/{attempt['id']}/$claim"), 403, "forbidden")
    assert reason_code(issues) == failed


def test_a_claim_is_a_readers(network, as_):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    assert_outcome(network.centre.post(f"Task/{attempt['id']}/$claim"), 403, "forbidden")
    assert_outcome(network.reader("anna").post(f"Task/{t0['id']}/$claim"), 422, "business-rule")
    assert_outcome(network.office.post(f"Task/{attempt['id']}/$claim"), 404, "not-found")
    assert_outcome(network.reader("anna").post(f"Task/{attempt['id']}/$claim", json=parameters(leaseMinutes=0)), 422, "invalid")


def test_reading_does_not_start_without_complete_images(network):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    attempt = network.pool(t0)
    anna = network.reader("anna")
    assert anna.post(f"Task/{attempt['id']}/$claim").status_code == 200
    assert_outcome(anna.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)), 422, "business-rule")


def test_plain_puts_of_the_status_are_the_same_acts(network):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    anna = network.reader("anna")
    taken = anna.put(f"Task/{attempt['id']}", json=attempt | {"status": "accepted"})
    assert taken.status_code == 200
    assert taken.json()["owner"] == role("anna")
    assert_outcome(
        network.reader("bela").put(f"Task/{attempt['id']}", json=taken.json() | {"status": "in-progress"}), 409, "lock-error"
    )
    started = anna.put(f"Task/{attempt['id']}", json=taken.json() | {"status": "in-progress"})
    assert started.json()["status"] == "in-progress"
    held = anna.put(f"Task/{attempt['id']}", json=started.json() | {"status": "on-hold"})
    assert held.json()["status"] == "on-hold"
    back = anna.put(f"Task/{attempt['id']}", json=held.json() | {"status": "failed", "statusReason": {"text": "ill"}})
    assert back.status_code == 200
    assert sorted(a["status"] for a in network.attempts(t0)) == ["failed", "requested"]


@pytest.mark.parametrize(
    ("change", "code", "expression"),
    [
        ({"status": "completed"}, "business-rule", "Task.status"),
        ({"status": "draft"}, "business-rule", "Task.status"),
        (
            {"status": "accepted", "owner": {"reference": "PractitionerRole/centre-anna-hospital"}},
            "business-rule",
            "Task.owner",
        ),
        ({"status": "accepted", "priority": "stat"}, "business-rule", "Task.priority"),
        ({"status": "entered-in-error"}, "business-rule", "Task.status"),
    ],
)
def test_what_a_plain_put_of_a_task_may_not_do(network, change, code, expression):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    reply = network.reader("anna").put(f"Task/{attempt['id']}", json=attempt | change)
    assert_outcome(reply, 422, code, expression)
    assert network.get(f"Task/{attempt['id']}") == attempt


def test_giving_back_needs_a_reason_and_the_owner(network):
    _, _, attempt = network.started()
    body = attempt | {"status": "failed"}
    assert_outcome(network.reader("anna").put(f"Task/{attempt['id']}", json=body), 422, "business-rule", "Task.statusReason")
    assert_outcome(network.reader("bela").put(f"Task/{attempt['id']}", json=body | {"statusReason": REASON}), 403, "forbidden")


def test_network_tasks_are_not_made_or_deleted_by_hand(network):
    _, t0 = network.dispatched()
    body = {"resourceType": "Task", "status": "accepted", "intent": "order", "partOf": [{"reference": f"Task/{t0['id']}"}]}
    body["code"] = {"coding": [{"system": "urn:fhirserver:CodeSystem:task-type", "code": "read"}]}
    assert_outcome(network.centre.post("Task", json=body), 422, "business-rule", "Task.code")
    assert_outcome(network.hospital.delete(f"Task/{t0['id']}"), 409, "conflict")
    own = network.centre.post(
        "Task", json={"resourceType": "Task", "status": "requested", "intent": "order", "description": "call back"}
    )
    assert own.status_code == 201
