"""$respond, $release, and what is closed: how a reading goes from hand to hand."""

from __future__ import annotations

import json

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, answered, out, parameters, reader_rows
from unchanged import unchanged


def role(name: str, facility: str = "hospital") -> dict:
    return {"reference": f"PractitionerRole/centre-{name}-{facility}"}


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def assign(network, t0, **inputs):
    return network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(**({"mode": "manual"} | inputs)))


def reason_of(reply) -> str:
    return reply.json()["issue"][0]["details"]["coding"][0]["code"]


def engaged(network, name: str, person=None, **members) -> None:
    """A reader with these facts."""
    who, privilege = reader_rows(name, **members)
    for one in (who | (person or {}), privilege):
        assert network.centre.put(f"{one['resourceType']}/{one['id']}", json=one).status_code in (200, 201)


# ---------------------------------------------------------------- offers


def offered(network) -> tuple[dict, dict]:
    _, t0 = network.dispatched()
    return t0, out(assign(network, t0, owner=role("anna"), requireAcceptance=True))["task"]


def respond(client, task, **inputs):
    return client.post(f"Task/{task['id']}/$respond", json=parameters(**inputs))


def test_an_offer_is_accepted_or_declined_by_whom_it_was_made_to_once(network):
    t0, task = offered(network)
    anna = network.reader("anna")
    with unchanged(network.server):
        assert_outcome(respond(anna, task, response="decline"), 400, "required")
        assert_outcome(respond(anna, task, response="perhaps"), 422, "invalid")
        assert_outcome(respond(network.reader("bela"), task, response="accept"), 403, "forbidden")
        assert_outcome(respond(network.hospital, task, response="accept"), 404, "not-found")
    taken = respond(anna, task, response="accept").json()
    assert (taken["status"], business(network.get(f"Task/{t0['id']}"))) == ("accepted", "assigned")
    with unchanged(network.server):
        for inputs in ({"response": "accept"}, {"response": "decline", "reason": REASON}):
            assert_outcome(respond(anna, task, **inputs), 409, "conflict")


def test_a_declined_offer_is_in_the_pool_with_its_reason_and_who_was_suggested(network):
    t0, task = offered(network)
    told = respond(network.reader("anna"), task, response="decline", reason=REASON, alternative=role("bela")).json()
    assert (told["status"], told["statusReason"], told["output"][0]["valueReference"]) == ("rejected", REASON, role("bela"))
    assert sorted(a["status"] for a in network.attempts(t0)) == ["rejected", "requested"]
    assert business(network.get(f"Task/{t0['id']}")) == "ready-for-assignment"


def test_who_is_no_longer_eligible_does_not_accept(network):
    _, task = offered(network)
    engaged(network, "anna", period={"end": "2026-11-01"})
    reply = respond(network.reader("anna"), task, response="accept")
    engaged(network, "anna")
    assert_outcome(reply, 403, "forbidden")
    assert reason_of(reply) == "privilege-expired"


def test_the_centre_answers_what_a_facility_asks_of_it_in_the_same_words(network):
    _, t0 = network.dispatched()
    with unchanged(network.server):
        assert_outcome(respond(network.centre, t0, response="decline"), 400, "required")
        assert_outcome(respond(network.hospital, t0, response="accept"), 403, "forbidden")
        assert_outcome(respond(network.reader("anna"), t0, response="accept"), 403, "forbidden")
    assert respond(network.centre, t0, response="accept").json()["status"] == "accepted"
    assert [a["status"] for a in network.attempts(t0)] == ["requested"]
    with unchanged(network.server):
        assert_outcome(respond(network.centre, t0, response="decline", reason=REASON), 409, "conflict")


# ---------------------------------------------------------------- giving back


def release(client, task, **inputs):
    return client.post(f"Task/{task['id']}/$release", json=parameters(**({"reason": REASON} | inputs)))


def test_before_the_start_it_is_cancelled_and_after_it_failed(network):
    _, t0 = network.dispatched()
    attempt = network.assigned(t0)
    anna = network.reader("anna")
    with unchanged(network.server):
        assert_outcome(release(network.reader("bela"), attempt), 403, "forbidden")
        assert_outcome(release(network.office, attempt), 404, "not-found")
    fresh = release(anna, attempt, note="Not my part of the body.").json()
    ended = network.get(f"Task/{attempt['id']}")
    assert (ended["status"], ended["statusReason"]) == ("cancelled", REASON)
    assert ended["note"][0]["authorReference"] == {"reference": "Practitioner/centre-anna"}
    assert (fresh["status"], fresh["owner"]) == ("requested", {"reference": "Organization/centre"})
    with unchanged(network.server):
        assert_outcome(release(network.centre, fresh), 409, "conflict")  # it is in the pool
        assert_outcome(release(anna, attempt), 409, "conflict")  # it is closed
    bela = network.reader("bela")
    assert bela.post(f"Task/{fresh['id']}/$claim", json=parameters(start=True)).status_code == 200
    again = release(network.centre, fresh).json()  # by a dispatcher
    assert network.get(f"Task/{fresh['id']}")["status"] == "failed"
    assert again["status"] == "requested"
    assert [a["status"] for a in network.attempts(t0)].count("requested") == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_draft_is_handed_over_or_stopped(network, kept):
    _, _, attempt, report, draft = network.reporting()
    anna, bela = network.reader("anna"), network.reader("bela")
    half = answered(draft, findings="Half of it.")
    assert anna.put(f"QuestionnaireResponse/{draft['id']}", json=half).status_code == 200
    fresh = release(anna, attempt, **({"keepDraft": True} if kept else {})).json()
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "cancelled"
    assert_outcome(bela.get(f"QuestionnaireResponse/{draft['id']}"), 404, "not-found")
    assert bela.post(f"Task/{fresh['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(bela.post(f"Task/{fresh['id']}/$start-report"))
    assert ("Half of it." in json.dumps(opened["draft"])) == kept
    assert anna.get(f"QuestionnaireResponse/{draft['id']}").json()["status"] == "stopped"


# ---------------------------------------------------------------- the work goes on where it is closed


def test_what_is_closed_is_not_worked_on(network):
    _, t0, attempt, report, draft = network.reporting()
    anna = network.reader("anna")
    sign = parameters(attest=True, response=answered(draft, findings="f", impression="i"))
    assert anna.post(f"DiagnosticReport/{report['id']}/$sign", json=sign).status_code == 200
    with unchanged(network.server):
        for client, about, operation, inputs, status in (
            (network.centre, t0, "assign", {"mode": "auto"}, 409),
            (network.centre, t0, "candidates", {}, 422),
            (network.centre, t0, "escalate", {"level": 1, "reason": REASON}, 409),
            (network.centre, t0, "forward", {"organization": {"reference": "Organization/office"}, "reason": REASON}, 409),
            (network.centre, t0, "request-information", {"question": "?"}, 409),
            (network.centre, t0, "respond", {"response": "accept"}, 409),
            (anna, attempt, "claim", {}, 409),
            (anna, attempt, "claim", {"start": True}, 409),
            (anna, attempt, "release", {"reason": REASON}, 409),
            (anna, attempt, "respond", {"response": "accept"}, 409),
            (anna, attempt, "request-information", {"question": "?"}, 409),
            (anna, attempt, "start-report", {}, 409),
        ):
            reply = client.post(f"Task/{about['id']}/${operation}", json=parameters(**inputs))
            assert reply.status_code == status, (operation, reply.text)
