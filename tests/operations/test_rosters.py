"""Rosters are Schedule and Slot: who is on duty, who is absent, and what becomes of unread work when a shift ends."""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import READ_TYPE, out, parameters
from unchanged import unchanged


def role(name: str) -> dict:
    return {"reference": f"PractitionerRole/centre-{name}-hospital"}


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def at(hour: int, day: int = 24) -> str:
    return f"2026-11-{day}T{hour:02}:00:00Z"


@pytest.fixture(scope="module")
def roster(network):
    """It is noon. Anna is on duty until three; Bela comes at six; Nora should be on duty and is absent."""
    for kind, body in (
        ("Practitioner", {"name": [{"family": "Nora"}], "qualification": [{"code": {"text": "licence"}}]}),
        ("PractitionerRole", {"practitioner": {"reference": "Practitioner/centre-nora"}, "organization": {"reference": "Organization/hospital"}, "code": [{"coding": [{"system": READ_TYPE, "code": "final"}]}]}),
    ):  # fmt: skip
        id_ = "centre-nora" + ("-hospital" if kind == "PractitionerRole" else "")
        assert network.centre.put(f"{kind}/{id_}", json={"resourceType": kind, "id": id_} | body).status_code == 201
    actors = {"anna": role("anna"), "bela": {"reference": "Practitioner/centre-bela"}, "nora": role("nora")}
    slots = {
        "anna": [(at(8), at(15), "busy"), (at(8, 25), at(15, 25), "free")],
        "bela": [(at(18), at(22), "free")],
        "nora": [(at(8), at(16), "free"), (at(11), at(13), "busy-unavailable")],
    }
    made = {}
    for name, actor in actors.items():
        schedule = network.centre.post("Schedule", json={"resourceType": "Schedule", "actor": [actor]}).json()
        for start, end, status in slots[name]:
            slot = {"resourceType": "Slot", "schedule": {"reference": f"Schedule/{schedule['id']}"}, "status": status}
            reply = network.centre.post("Slot", json=slot | {"start": start, "end": end})
            assert reply.status_code == 201, reply.text
            made.setdefault(name, []).append(reply.json())
    return made


@pytest.fixture
def clock(network):
    """The server's clock at an hour of the day, and back."""
    before = network.server.time

    def at_(hour: int, minute: int) -> None:
        network.server.time = before.replace(hour=hour, minute=minute)

    yield at_
    network.server.time = before


def candidates(network, t0, **inputs) -> dict:
    reply = network.centre.post(f"Task/{t0['id']}/$candidates", json=parameters(**inputs))
    assert reply.status_code == 200, reply.text
    found = {}
    for one in reply.json()["parameter"]:
        if one["name"] == "candidate":
            parts = {p["name"]: next(v for k, v in p.items() if k.startswith("value")) for p in one["part"]}
            found[parts["practitioner"]["reference"].removeprefix("Practitioner/centre-")] = parts
    return found


def test_who_is_on_duty_is_told_with_the_slot_and_who_comes_next(network, roster):
    _, t0 = network.dispatched()
    now = candidates(network, t0)
    assert "reason" not in now["anna"]
    assert now["anna"]["slot"] == {"reference": f"Slot/{roster['anna'][0]['id']}"}
    assert now["bela"]["reason"]["code"] == "off-shift"
    assert now["bela"]["nextAvailable"][:16] == at(18)[:16]
    assert now["nora"]["reason"]["code"] == "absent"
    assert next(iter(now)) == "anna"
    evening = candidates(network, t0, asOf=at(19))
    assert "reason" not in evening["bela"]
    assert evening["anna"]["reason"]["code"] == "off-shift"
    assert evening["anna"]["nextAvailable"][:16] == at(8, 25)[:16]
    assert "reason" not in candidates(network, t0, asOf=at(14))["nora"], "she is back"


@pytest.mark.parametrize(("name", "reason"), [("bela", "off-shift"), ("nora", "absent")])
def test_who_is_not_on_duty_is_assigned_with_a_reason_alone(network, roster, name, reason):
    _, t0 = network.dispatched()
    inputs = {"mode": "manual", "owner": role(name)}
    with unchanged(network.server):
        reply = network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(**inputs))
        issues = assert_outcome(reply, 422, "business-rule")
        assert issues[0]["details"]["coding"][0]["code"] == reason
    inputs |= {"override": True, "overrideReason": "agreed by telephone"}
    assert out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(**inputs)))["task"]["owner"] == role(name)


def test_by_policy_nobody_off_duty_is_chosen(network, roster):
    for _ in range(3):
        _, t0 = network.dispatched()
        task = out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="auto")))["task"]
        assert task["owner"] == role("anna"), "however much she has"


def test_at_the_end_of_the_shift_unread_work_is_in_the_pool_again_with_its_history(network, roster, clock):
    clock(14, 50)
    _, t0 = network.dispatched()
    unread = network.assigned(t0)
    _, other, reading = network.started()
    assert unread["extension"][0]["valueInstant"][:16] == at(15)[:16]
    network.server.installation.timers.ring()
    assert network.get(f"Task/{unread['id']}")["status"] == "accepted"
    clock(15, 1)
    for _ in range(2):
        network.server.installation.timers.ring()
    rows = sorted(network.attempts(t0), key=lambda one: one["status"])
    assert [(a["status"], a["owner"]) for a in rows] == [
        ("cancelled", role("anna")),
        ("requested", {"reference": "Organization/centre"}),
    ]
    assert rows[0]["statusReason"]["coding"][0]["code"] == "shift-ended"
    assert business(network.get(f"Task/{t0['id']}")) == "ready-for-assignment"
    assert network.get(f"Task/{reading['id']}")["status"] == "in-progress", "what is being read is not taken away"
    assert business(network.get(f"Task/{other['id']}")) == "reading"


def test_a_shift_that_is_prolonged_keeps_its_work(network, roster, clock):
    _, t0 = network.dispatched()
    attempt = network.assigned(t0)
    slot = network.get(f"Slot/{roster['anna'][0]['id']}")
    assert network.centre.put(f"Slot/{slot['id']}", json=slot | {"end": at(17)}).status_code == 200
    clock(15, 1)
    network.server.installation.timers.ring()
    now = network.get(f"Task/{attempt['id']}")
    assert (now["status"], now["extension"][0]["valueInstant"][:16]) == ("accepted", at(17)[:16])
    clock(17, 1)
    network.server.installation.timers.ring()
    assert network.get(f"Task/{attempt['id']}")["status"] == "cancelled"
    clock(12, 30)
    assert network.centre.put(f"Slot/{slot['id']}", json=slot | {"end": at(15)}).status_code == 200


def test_a_claim_from_the_pool_lasts_as_long_as_the_shift(network, roster):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    taken = network.reader("anna").post(f"Task/{attempt['id']}/$claim").json()
    assert taken["extension"][0]["valueInstant"][:16] == at(15)[:16]


# ---------------------------------------------------------------- privileges about to lapse


def test_a_privilege_about_to_lapse_is_announced_once_to_reader_centre_and_facility(network):
    path = "PractitionerRole/centre-fred-hospital"
    current = network.get(path)

    def told(client) -> list:
        rows = client.get("Communication?category=privilege-lapsing&_count=100").json().get("entry", [])
        return [e["resource"] for e in rows if {"reference": path} in e["resource"]["about"]]

    def announce(end: str) -> int:
        before = len(told(network.centre))
        period = {"period": {"end": end}}
        assert network.centre.put(path, json=network.get(path) | period).status_code == 200
        for _ in range(2):
            network.server.installation.announce_lapsing()
        return len(told(network.centre)) - before

    assert announce("2027-06-30") == 0, "there is time"
    assert announce("2026-12-10") == 1
    [said] = told(network.centre)
    assert said["recipient"] == [{"reference": "Practitioner/centre-fred"}, {"reference": "Organization/hospital"}]
    assert "2026-12-10" in said["payload"][0]["contentString"]
    assert told(network.hospital) == [said]
    assert told(network.office) == []
    assert announce("2026-12-20") == 1, "it was renewed, and will lapse again"
    assert announce("2026-01-01") == 0, "it has lapsed"
    network.centre.put(path, json=current)
