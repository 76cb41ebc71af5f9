"""Deadlines, leases and the ladder on real Tasks: calendars, pauses, and that each level is told once however many look."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, parameters
from unchanged import unchanged
from valid_calls import agreed

from fhirserver.app import Installation

OFFICE_HOURS = {
    "timeZone": "Europe/Warsaw",
    "country": "PL",
    "hours": dict.fromkeys(("mon", "tue", "wed", "thu", "fri"), ("08:00", "16:00")),
}


def business(task) -> list[str]:
    return [c["code"] for c in task["businessStatus"]["coding"]]


def due(task) -> datetime:
    return datetime.fromisoformat(task["restriction"]["period"]["end"])


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture
def clock(network):
    """The server's clock at a moment, and back."""
    before = network.server.time

    def at(text: str) -> None:
        network.server.time = moment(text)

    yield at
    network.server.time = before


@pytest.fixture
def terms(network):
    """What the hospital has agreed with the centre, for this test."""
    yield lambda **terms: agreed(network.centre, "hospital", **terms)
    agreed(network.centre, "hospital")


# ---------------------------------------------------------------- when it is due


@pytest.mark.parametrize(("priority", "minutes"), [("stat", 60), ("asap", 240), ("urgent", 24 * 60), ("routine", 72 * 60)])
def test_each_urgency_has_its_time_from_when_the_images_are_complete(network, priority, minutes):
    asked = network.ordered(priority=priority)
    t0 = network.dispatch(asked, expectImages=True)
    assert "restriction" not in t0
    network.images(asked)
    assert (
        timedelta()
        <= network.server.time - due(network.get(f"Task/{t0['id']}")) + timedelta(minutes=minutes)
        < timedelta(minutes=1)
    )


def test_stroke_and_trauma_are_due_in_half_the_time(network):
    stroke = [{"coding": [{"system": "http://snomed.info/sct", "code": "230690007"}]}]
    _, t0 = network.dispatched(priority="stat", reasonCode=stroke)
    assert due(t0) - network.server.time < timedelta(minutes=30)


@pytest.mark.parametrize(
    ("now", "minutes", "end"),
    [
        ("2026-11-27T14:30:00+00:00", 60, "2026-11-30T07:30:00+00:00"),  # half an hour on Friday, half on Monday
        ("2026-11-10T14:00:00+00:00", 120, "2026-11-12T08:00:00+00:00"),  # the 11th is Independence Day
        ("2026-10-23T13:00:00+00:00", 120, "2026-10-26T08:00:00+00:00"),  # the clock goes back on the 25th
        ("2026-03-27T14:00:00+00:00", 120, "2026-03-30T07:00:00+00:00"),  # and forward on the 29th
    ],
)
def test_working_time_is_the_facilitys_own(network, clock, terms, now, minutes, end):
    """08:00 to 16:00 in Warsaw."""
    terms(terms={"urgent": {"minutes": minutes, "working": True}}, calendar=OFFICE_HOURS, clock="dispatched")
    asked = network.ordered()
    clock(now)
    t0 = network.dispatch(asked, expectImages=True)
    assert timedelta() <= due(t0) - moment(end) < timedelta(seconds=2)


def test_the_canonical_of_the_agreement_stands_on_the_task(network, terms):
    made = terms(terms={"urgent": {"minutes": 60}})
    _, t0 = network.dispatched()
    [policy] = [i["valueCanonical"] for i in t0["input"] if i["type"]["coding"][0]["code"] == "sla-policy"]
    assert policy.startswith(f"Library/{made['id']}|")


# ---------------------------------------------------------------- whose clocks


def test_a_clients_clock_moves_none_of_ours(network, terms):
    """I8: ordered, received, complete are moments of this server, however wrong a client's clock goes."""
    for wrong in ("1999-01-01T00:00:00Z", "2099-01-01T00:00:00Z"):
        terms(clock="ordered")
        asked = network.ordered(authoredOn=wrong)
        arrived = network.server.time
        network.server.wait(minutes=10)
        t0 = network.dispatch(asked, expectImages=True)
        assert timedelta() <= arrived + timedelta(hours=24) - due(t0) < timedelta(seconds=2)


def test_a_client_that_is_in_another_century_starts_and_ends_nothing_earlier(network):
    _, t0 = network.dispatched()
    attempt = network.pool(t0)
    anna = network.reader("anna")
    skewed = {"executionPeriod": {"start": "1999-01-01", "end": "1999-01-02"}, "lastModified": "2099-01-01T00:00:00Z"}
    started = anna.put(
        f"Task/{attempt['id']}",
        json=attempt | skewed | {"status": "in-progress"},
        headers={"Date": "Fri, 01 Jan 1999 00:00:00 GMT"},
    )
    assert started.status_code == 200, started.text
    assert started.json()["executionPeriod"]["start"][:10] == started.json()["lastModified"][:10] == "2026-11-24"
    assert "end" not in started.json()["executionPeriod"]


# ---------------------------------------------------------------- pauses


def ask(client, task, **inputs):
    return client.post(f"Task/{task['id']}/$request-information", json=parameters(**({"question": "Since when?"} | inputs)))


def reply_to(network, question, client=None):
    body = {"resourceType": "Communication", "status": "completed", "payload": [{"contentString": "Since Monday."}]}
    body["basedOn"] = [{"reference": f"CommunicationRequest/{question['id']}"}]
    return (client or network.hospital).post("Communication", json=body)


def test_the_clock_stands_while_the_facility_owes_information(network):
    asked, t0, attempt = network.started()
    question = ask(network.reader("anna"), attempt, blocking=True).json()
    assert (network.get(f"Task/{attempt['id']}")["status"], business(network.get(f"Task/{t0['id']}"))) == (
        "on-hold",
        ["awaiting-information"],
    )
    assert question["basedOn"] == [{"reference": f"ServiceRequest/{asked['id']}"}]
    network.server.wait(hours=30)  # longer than the deadline was
    network.server.installation.timers.ring()
    assert business(network.get(f"Task/{t0['id']}")) == ["awaiting-information"], "nobody is late"
    assert reply_to(network, question, network.office).status_code == 422  # it is nobody's but the facility's
    assert reply_to(network, question).status_code == 201
    now = network.get(f"Task/{t0['id']}")
    assert (network.get(f"Task/{attempt['id']}")["status"], business(now)) == ("in-progress", ["reading"])
    assert timedelta(hours=30) <= due(now) - due(t0) < timedelta(hours=30, minutes=1)
    assert due(network.get(f"Task/{attempt['id']}")) == due(now)
    assert network.get(f"CommunicationRequest/{question['id']}")["status"] == "completed"
    assert reply_to(network, question).status_code == 201
    assert due(network.get(f"Task/{t0['id']}")) == due(now), "a second answer moves nothing"


def test_where_it_was_agreed_so_the_clock_runs_on(network, terms):
    terms(pauses=False)
    _, t0, attempt = network.started()
    question = ask(network.reader("anna"), attempt, blocking=True).json()
    network.server.wait(hours=2)
    assert reply_to(network, question).status_code == 201
    assert due(network.get(f"Task/{t0['id']}")) == due(t0)


def test_a_reading_that_waits_and_is_given_back_lets_the_clock_run(network):
    _, t0, attempt = network.started()
    ask(network.reader("anna"), attempt, blocking=True)
    network.server.wait(hours=1)
    given = network.reader("anna").post(f"Task/{attempt['id']}/$release", json=parameters(reason=REASON))
    assert given.status_code == 200
    assert timedelta(hours=1) <= due(network.get(f"Task/{t0['id']}")) - due(t0) < timedelta(hours=1, minutes=1)
    assert due(given.json()) == due(network.get(f"Task/{t0['id']}"))


def test_what_is_asked_without_waiting_holds_nothing_up_and_is_asked_by_who_may(network):
    _, t0, attempt = network.started()
    anna = network.reader("anna")
    with unchanged(network.server):
        assert_outcome(ask(network.reader("bela"), attempt), 403, "forbidden")
        assert_outcome(ask(network.hospital, t0), 403, "forbidden")
        assert_outcome(ask(network.centre, t0, blocking=True), 409, "conflict")  # nobody's reading waits
    said = ask(anna, attempt, recipient=[{"reference": "Organization/hospital"}])
    assert said.status_code == 200, said.text
    assert ask(network.centre, t0).status_code == 200
    assert network.get(f"Task/{attempt['id']}")["status"] == "in-progress"
    assert network.hospital.get(f"CommunicationRequest/{said.json()['id']}").json()["payload"] == [
        {"contentString": "Since when?"}
    ]
    assert_outcome(network.office.get(f"CommunicationRequest/{said.json()['id']}"), 404, "not-found")
    body = network.get(f"Task/{attempt['id']}")
    assert anna.put(f"Task/{attempt['id']}", json=body | {"status": "on-hold"}).status_code == 200
    assert_outcome(ask(anna, attempt, blocking=True), 409, "conflict")  # it waits already


# ---------------------------------------------------------------- leases


def test_a_lease_that_nobody_renews_gives_the_reading_back_with_its_draft(network):
    _, t0, attempt = network.started()
    anna = network.reader("anna")
    network.server.wait(minutes=20)
    assert anna.post(f"Task/{attempt['id']}/$claim").status_code == 200
    network.server.wait(minutes=20)
    network.server.installation.timers.ring()
    assert network.get(f"Task/{attempt['id']}")["status"] == "in-progress", "it was renewed"
    network.server.wait(minutes=11)
    for _ in range(3):
        network.server.installation.timers.ring()
    rows = sorted(network.attempts(t0), key=lambda one: one["status"])
    assert [a["status"] for a in rows] == ["failed", "requested"]
    assert rows[0]["statusReason"]["coding"][0]["code"] == "lease-expired"
    assert_outcome(anna.post(f"Task/{attempt['id']}/$claim"), 409, "conflict")
    assert network.reader("bela").post(f"Task/{rows[1]['id']}/$claim", json=parameters(start=True)).status_code == 200


# ---------------------------------------------------------------- the ladder


def levels(network, t0) -> list[str]:
    """What was told of the deadline, in order."""
    rows = (
        network.centre.get("Communication?category=sla-at-risk,sla-breached&_count=200&_sort=_lastUpdated")
        .json()
        .get("entry", [])
    )
    about = {"reference": f"Task/{t0['id']}"}
    return [e["resource"]["payload"][0]["contentString"].rpartition("(")[2] for e in rows if about in e["resource"]["about"]]


def escalate(client, t0, **inputs):
    return client.post(f"Task/{t0['id']}/$escalate", json=parameters(**({"reason": REASON} | inputs)))


def test_each_level_of_the_ladder_is_told_at_its_time_and_once(network):
    _, t0 = network.dispatched(priority="stat")
    told = []
    for minutes in (25, 7, 18, 12, 60):  # stat: 50, 80 and 100 % of an hour
        network.server.wait(minutes=minutes)
        for _ in range(2):
            network.server.installation.timers.ring()
        told.append(len(levels(network, t0)))
    assert told == [0, 1, 2, 3, 3]
    assert business(network.get(f"Task/{t0['id']}"))[1:] == ["sla-breached"]
    assert levels(network, t0) == ["level 1).", "level 2).", "level 3)."]


def test_two_processes_over_one_database_tell_each_level_once(network, server, tmp_path):
    """The timer is in the Task: whichever finds it acts on it as it is then."""
    settings = server.settings.model_copy(update={"data_dir": tmp_path})
    other = Installation(settings, server.client[server.name], server.now)
    tasks = [network.dispatched(priority="stat")[1] for _ in range(3)]
    _, started, attempt = network.started()
    for minutes in (31, 18, 13):
        network.server.wait(minutes=minutes)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: one.timers.ring(), [server.installation, other] * 4))
    for t0 in tasks:
        assert levels(network, t0) == ["level 1).", "level 2).", "level 3)."]
    assert sorted(a["status"] for a in network.attempts(started)) == ["failed", "requested"], "a lease ends once too"
    assert network.get(f"Task/{attempt['id']}")["status"] == "failed"
    other.store_audit()


def test_a_dispatcher_tells_a_level_earlier_and_no_level_twice(network):
    asked, t0 = network.dispatched(priority="routine")
    with unchanged(network.server):
        assert_outcome(escalate(network.hospital, t0, level=1), 403, "forbidden")
        assert_outcome(escalate(network.reader("anna"), t0, level=1), 403, "forbidden")
        for level in (0, 101):
            assert_outcome(escalate(network.centre, t0, level=level), 422, "invalid")
        assert_outcome(escalate(network.centre, t0, level=1, action=["shout"]), 422, "invalid")
    told = escalate(network.centre, t0, level=2, action=["notify", "raise-priority"]).json()
    assert (told["priority"], business(told)[1:]) == ("urgent", ["sla-at-risk"])
    assert network.hospital.get(f"ServiceRequest/{asked['id']}").json()["priority"] == "routine", "the order is the facility's"
    assert due(told) < due(t0)
    with unchanged(network.server):
        for level in (1, 2):
            assert_outcome(escalate(network.centre, t0, level=level), 409, "duplicate")
    assert escalate(network.centre, t0, level=3).status_code == 200
    assert levels(network, t0) == ["level 2).", "level 3)."]


def test_escalated_it_is_given_to_who_has_not_had_it_and_not_while_it_is_read(network):
    _, t0 = network.dispatched()
    first = network.assigned(t0, "anna")
    told = escalate(network.centre, t0, level=1, action=["reassign"])
    assert told.status_code == 200, told.text
    assert (business(told.json()), network.get(f"Task/{first['id']}")["status"]) == (["assigned", "sla-at-risk"], "cancelled")
    [second] = [a for a in network.attempts(t0) if a["status"] == "accepted"]
    assert second["owner"] == {"reference": "PractitionerRole/centre-bela-hospital"}
    assert escalate(network.centre, t0, level=2, action=["reassign"]).status_code == 200
    [third] = [a for a in network.attempts(t0) if a["status"] == "requested"]
    assert third["owner"] == {"reference": "Organization/centre"}, "everybody has had it: the pool"
    assert network.reader("anna").post(f"Task/{third['id']}/$claim", json=parameters(start=True)).status_code == 200
    with unchanged(network.server):
        assert_outcome(escalate(network.centre, t0, level=3, action=["reassign"]), 409, "lock-error")


def test_the_facility_hears_of_it_from_the_second_level(network):
    _, t0 = network.dispatched(priority="stat")
    for level, heard in ((1, 0), (2, 1), (3, 2)):
        assert escalate(network.centre, t0, level=level).status_code == 200
        rows = network.hospital.get("Communication?category=sla-at-risk,sla-breached&_count=200").json().get("entry", [])
        assert len([e for e in rows if {"reference": f"Task/{t0['id']}"} in e["resource"]["about"]]) == heard


def test_a_reading_that_is_done_or_taken_back_is_late_no_more(network):
    asked, t0 = network.dispatched(priority="stat")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})
    network.server.wait(hours=2)
    network.server.installation.timers.ring()
    assert levels(network, t0) == []
