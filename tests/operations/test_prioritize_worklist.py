"""ServiceRequest/[id]/$prioritize and Task/$worklist."""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import out, parameters

REASON = {"text": "worse"}


def prioritize(client, asked, **inputs):
    return client.post(f"ServiceRequest/{asked['id']}/$prioritize", json=parameters(**({"reason": REASON} | inputs)))


def test_the_facility_sets_its_orders_urgency_and_the_work_follows(network):
    asked, t0 = network.dispatched(priority="routine")
    attempt = network.assigned(t0)
    reply = out(prioritize(network.hospital, asked, priority="stat"))
    assert reply["order"]["priority"] == "stat"
    for id_ in (t0["id"], attempt["id"]):
        task = network.get(f"Task/{id_}")
        assert task["priority"] == "stat"
        assert task["restriction"]["period"]["end"] < t0["restriction"]["period"]["end"]
    proof = network.hospital.get(f"Provenance?target=ServiceRequest/{asked['id']}&_count=1").json()["entry"][0]["resource"]
    assert proof["reason"] == [REASON]
    down = out(prioritize(network.hospital, asked, priority="urgent"))
    assert down["task"]["priority"] == "urgent"


def test_a_plain_put_of_the_priority_is_the_same_act(network):
    asked, t0 = network.dispatched(priority="routine")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"priority": "asap"}).status_code == 200
    assert network.get(f"Task/{t0['id']}")["priority"] == "asap"


def test_the_centre_raises_its_work_and_never_the_order(network):
    asked, t0 = network.dispatched(priority="urgent")
    assert out(prioritize(network.centre, asked, priority="asap"))["task"]["priority"] == "asap"
    assert network.get(f"ServiceRequest/{asked['id']}")["priority"] == "urgent"
    for lower in ("urgent", "routine"):
        assert_outcome(prioritize(network.centre, asked, priority=lower), 422, "business-rule")
    assert_outcome(prioritize(network.centre, asked, priority="stat", scope="order"), 403, "forbidden")
    prioritize(network.hospital, asked, priority="routine")
    assert network.get(f"Task/{t0['id']}")["priority"] == "asap", "what the centre raised stays raised"


def test_a_deadline_can_be_named(network):
    asked, t0 = network.dispatched()
    reply = network.hospital.post(
        f"ServiceRequest/{asked['id']}/$prioritize",
        json={"resourceType": "Parameters", "parameter": [
            {"name": "priority", "valueCode": "urgent"}, {"name": "reason", "valueCodeableConcept": REASON}, {"name": "due", "valueDateTime": "2026-12-24T10:00:00Z"},
        ]},
    )  # fmt: skip
    assert reply.status_code == 200
    assert network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"] == "2026-12-24T10:00:00Z"


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        ({"priority": "cito"}, 422, "invalid"),
        ({"priority": "stat", "scope": "world"}, 422, "invalid"),
        ({}, 422, "required"),
    ],
)
def test_what_is_wrong_with_an_urgency_is_said(network, inputs, status, code):
    assert_outcome(prioritize(network.hospital, network.ordered(), **inputs), status, code)


def test_who_may_change_urgency(network, as_):
    asked = network.ordered()
    assert_outcome(prioritize(network.office, asked, priority="stat"), 404, "not-found")
    reader = as_("hospital", scope="user/*.cruds", user="nobody", roles=("reader",))
    assert_outcome(prioritize(reader, asked, priority="stat"), 403, "forbidden")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})
    assert_outcome(prioritize(network.hospital, asked, priority="stat"), 409, "conflict")


# ---------------------------------------------------------------- worklist


def tasks(reply) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [e["resource"]["id"] for e in reply.json().get("entry", []) if e["search"]["mode"] == "match"]


@pytest.fixture
def pooled(network):
    """Three readings in the pool, by urgency."""
    made = {}
    for priority in ("routine", "stat", "urgent"):
        _, t0 = network.dispatched(priority=priority)
        made[priority] = network.pool(t0)["id"]
    return made


def test_the_pool_is_ranked_and_brings_order_patient_and_study(network, pooled):
    anna = network.reader("anna")
    reply = anna.get("Task/$worklist?view=pool")
    found = [id_ for id_ in tasks(reply) if id_ in pooled.values()]
    assert found == [pooled["stat"], pooled["urgent"], pooled["routine"]]
    rows = reply.json()["entry"]
    scores = [e["search"]["score"] for e in rows if e["search"]["mode"] == "match"]
    assert scores == sorted(scores, reverse=True)
    assert {e["resource"]["resourceType"] for e in rows} == {"Task", "ServiceRequest", "Patient", "ImagingStudy"}
    [person, *_] = [e["resource"] for e in rows if e["resource"]["resourceType"] == "Patient"]
    assert person["meta"]["tag"][0]["code"] == "SUBSETTED"


def test_the_pool_shows_what_the_reader_may_read(network, pooled):
    for name in ("carl", "dora", "emil"):
        assert not set(tasks(network.reader(name).get("Task/$worklist?view=pool"))) & set(pooled.values()), name


def test_filters_and_pages(network, pooled):
    anna = network.reader("anna")
    assert set(tasks(anna.get("Task/$worklist?view=pool&priority=stat"))) >= {pooled["stat"]}
    assert pooled["routine"] not in tasks(anna.get("Task/$worklist?view=pool&priority=stat&priority=urgent"))
    assert not set(tasks(anna.get("Task/$worklist?view=pool&modality=MR"))) & set(pooled.values())
    assert set(tasks(anna.get("Task/$worklist?view=pool&modality=CT&organization=Organization/hospital"))) >= set(
        pooled.values()
    )
    assert tasks(anna.get("Task/$worklist?view=pool&organization=Organization/office")) == []
    assert tasks(anna.get("Task/$worklist?view=pool&dueBefore=2020-01-01")) == []
    everything, seen, url = tasks(anna.get("Task/$worklist?view=pool")), [], "Task/$worklist?view=pool&count=1&modality=CT"
    while url:
        page = anna.get(url)
        seen += tasks(page)
        url = next((link["url"] for link in page.json()["link"] if link["relation"] == "next"), None)
    assert seen == everything


def test_each_view_is_its_own(network):
    _, t0 = network.dispatched()
    attempt = network.assigned(t0, "anna")
    assert attempt["id"] in tasks(network.reader("anna").get("Task/$worklist?view=mine"))
    assert attempt["id"] not in tasks(network.reader("bela").get("Task/$worklist?view=mine"))
    assert t0["id"] in tasks(network.centre.get("Task/$worklist?view=dispatch"))
    assert attempt["id"] in tasks(network.centre.get("Task/$worklist?view=team"))
    assert t0["id"] in tasks(network.hospital.get("Task/$worklist?view=facility"))
    for view in ("facility", "dispatch", "team"):
        assert t0["id"] not in tasks(network.office.get(f"Task/$worklist?view={view}"))


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 422, "required"),
        ("view=nothing", 422, "invalid"),
        ("view=pool&count=0", 422, "invalid"),
        ("view=pool&colour=red", 422, "not-supported"),
        ("view=pool&cursor=forged", 400, "invalid"),
        ("view=pool&view=mine", 422, "structure"),
        ("view=pool&dueBefore=tomorrow", 422, "value"),
    ],
)
def test_what_is_wrong_with_a_worklist_is_said(network, query, status, code):
    assert_outcome(network.reader("anna").get(f"Task/$worklist?{query}"), status, code)


def test_the_pool_is_for_readers(network):
    assert_outcome(network.hospital.get("Task/$worklist?view=pool"), 403, "forbidden")


def test_scopes_narrow_what_comes_along(network, pooled, as_):
    anna = as_(
        "centre", scope="user/Task.rs user/ServiceRequest.rs", user="anna", roles=("reader",), practitioner="centre-anna"
    )
    rows = anna.get("Task/$worklist?view=pool").json()["entry"]
    assert {e["resource"]["resourceType"] for e in rows} == {"Task", "ServiceRequest"}
