"""Who reads: the reasons why not, what a dispatcher may override, batches, offers, giving back; and why it was decided so."""

from __future__ import annotations

import base64
import json

import pytest
from conftest import assert_outcome
from operations_conftest import DCM, REASON, out, parameters, reader_rows
from unchanged import unchanged
from valid_calls import agreed

from fhirserver.workflow import ranking

FOREVER = {"code": {"text": "licence"}, "period": {"start": "2020-01-01"}}
JURISDICTION = "urn:fhirserver:StructureDefinition:jurisdiction"


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


@pytest.fixture(scope="module")
def t0(network):
    """A reading that every refusal leaves as it is, and readers who may not have it."""
    agreed(network.centre, "hospital", jurisdiction="PL")
    abroad = FOREVER | {"extension": [{"url": JURISDICTION, "valueCode": "DE"}]}
    engaged(network, "unlicensed", {"qualification": [{"code": {"text": "licence"}, "period": {"end": "2019"}}]})
    engaged(network, "retired", {"active": False})
    engaged(network, "lapsed", {"qualification": [FOREVER | {"period": {"end": "2026-11-23"}}]})
    engaged(network, "german", {"qualification": [abroad]})
    engaged(network, "french", {"communication": [{"coding": [{"system": "urn:ietf:bcp:47", "code": "fr"}]}]})
    engaged(network, "paused", active=False)
    engaged(network, "later", period={"start": "2026-12-01"})
    engaged(network, "hugo")
    asked = network.ordered(requester={"reference": "Practitioner/centre-hugo"})
    network.images(asked)
    return network.dispatch(asked, reportLanguage="pl")


REASONS = {
    "unlicensed": "no-valid-licence",
    "retired": "no-valid-licence",
    "lapsed": "no-valid-licence",
    "german": "no-licence-in-jurisdiction",
    "emil": "no-privilege",
    "paused": "no-privilege",
    "carl": "privilege-expired",
    "later": "privilege-expired",
    "fred": "no-read-type-privilege",
    "dora": "no-modality-privilege",
    "hugo": "conflict-of-interest",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_no_hard_rule_is_overridden_by_any_way_to_a_reading(network, t0, name, reason):
    """To be assigned, to be offered, to be told by $check-eligibility and $candidates."""
    owner = {"reference": f"Practitioner/centre-{name}"}
    with unchanged(network.server):
        for inputs in ({}, {"override": True, "overrideReason": "urgent"}, {"force": True}, {"requireAcceptance": True}):
            reply = assign(network, t0, owner=owner, **inputs)
            assert_outcome(reply, 422, "business-rule")
            assert reason_of(reply) == reason
        checked = network.centre.get(f"Practitioner/centre-{name}/$check-eligibility?task=Task/{t0['id']}").json()["parameter"]
        assert checked[0] == {"name": "eligible", "valueBoolean": False}
        assert reason in [p["valueCoding"]["code"] for p in checked if p["name"] == "reason"]
        rows = {c["practitioner"]: c for c in candidates(network, t0)}
        if name != "emil":  # who has no privilege here is no candidate at all
            assert not rows[f"Practitioner/centre-{name}"]["eligible"]
            assert rows[f"Practitioner/centre-{name}"]["reasons"][0] == reason


def candidates(network, t0, **inputs):
    reply = network.centre.post(f"Task/{t0['id']}/$candidates", json=parameters(**inputs))
    assert reply.status_code == 200, reply.text
    found = []
    for one in reply.json()["parameter"]:
        if one["name"] == "candidate":
            parts = {p["name"]: next(v for k, v in p.items() if k.startswith("value")) for p in one["part"]}
            reasons = [p["valueCoding"]["code"] for p in one["part"] if p["name"] == "reason"]
            found.append(parts | {"practitioner": parts["practitioner"]["reference"], "reasons": reasons})
    return found


def test_candidates_come_eligible_first_with_every_reason_in_words_and_change_nothing(network, t0):
    with unchanged(network.server):
        found = candidates(network, t0)
        assert [c["eligible"] for c in found] == sorted((c["eligible"] for c in found), reverse=True)
        best = [c for c in found if c["eligible"]]
        assert [c["score"] for c in best if not c["reasons"]] == sorted(
            (c["score"] for c in best if not c["reasons"]), reverse=True
        )
        assert candidates(network, t0, includeIneligible=False) == best
        assert candidates(network, t0, max=1) == found[:1]
        before = {c["practitioner"]: c for c in candidates(network, t0, asOf="2026-01-15T12:00:00Z")}
        assert before["Practitioner/centre-carl"]["eligible"], "his privilege ended on the 31st"
        later = {c["practitioner"]: c for c in candidates(network, t0, asOf="2026-12-02T12:00:00Z")}
        assert later["Practitioner/centre-later"]["eligible"]
        for wrong in (0, 1001):
            reply = network.centre.post(f"Task/{t0['id']}/$candidates", json=parameters(max=wrong))
            assert_outcome(reply, 422, "invalid")
        assert_outcome(network.hospital.get(f"Task/{t0['id']}/$candidates"), 403, "forbidden")
        assert_outcome(network.reader("anna").get(f"Task/{t0['id']}/$candidates"), 403, "forbidden")


def test_a_soft_rule_is_overridden_with_its_reason_alone_and_the_reason_is_kept(network):
    asked = network.ordered()
    network.images(asked)
    t0 = network.dispatch(asked, reportLanguage="pl")
    owner = role("french")
    with unchanged(network.server):
        for inputs in ({}, {"overrideReason": "nobody else"}, {"override": True}, {"override": False, "overrideReason": "x"}):
            reply = assign(network, t0, owner=owner, **inputs)
            assert_outcome(reply, 422, "business-rule")
        assert reason_of(assign(network, t0, owner=owner)) == "language"
    done = out(assign(network, t0, owner=owner, override=True, overrideReason="nobody else tonight"))
    stored = ranking.unpacked(done["decision"]["contained"][0]["data"])
    assert (stored.mode, stored.chosen, stored.override_reason) == (
        "manual",
        "Practitioner/centre-french",
        "nobody else tonight",
    )


# ---------------------------------------------------------------- a decision and its replay


def test_a_stored_decision_replays_to_the_same_result_whatever_is_so_now(network):
    policy = {"url": "https://centre.example/policy", "version": "7", "weights": {"load": 9}}
    library = {
        "resourceType": "Library", "status": "active", "type": {"text": "policy"},
        "identifier": [{"system": "urn:fhirserver:assignment-policy", "value": "centre"}],
        "content": [{"contentType": "application/json", "data": base64.b64encode(json.dumps(policy).encode()).decode()}],
    }  # fmt: skip
    made = network.centre.post("Library", json=library)
    assert made.status_code == 201, made.text
    _, t0 = network.dispatched()
    id_ = out(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="auto")))["decision"]["id"]
    assert network.centre.put(f"Library/{made.json()['id']}", json=made.json() | {"status": "retired"}).status_code == 200
    engaged(network, "anna", period={"end": "2026-11-01"})
    try:
        stored = ranking.unpacked(network.get(f"Provenance/{id_}")["contained"][0]["data"])
        assert ranking.same(stored)
        assert stored.policy.canonical == "https://centre.example/policy|7"
        assert {c.reader.reference for c in stored.candidates} >= {"Practitioner/centre-anna", "Practitioner/centre-dora"}
        best = ranking.replay(stored)[0]
        assert stored.chosen == best.reader.reference
    finally:
        engaged(network, "anna")


# ---------------------------------------------------------------- the Polish rule pack


def test_while_a_reader_covers_one_facility_for_stat_they_get_none_of_another(network):
    """Draft MZ 1818 of 2025-09-30: no simultaneous service for more than one entity for patients of certain urgency."""
    agreed(network.centre, "office", jurisdiction="PL")
    agreed(network.centre, "hospital", jurisdiction="PL")
    engaged(network, "ida")
    engaged(network, "ida", facility="office")

    def stat(client, priority="stat"):
        person = client.post("Patient", json={"resourceType": "Patient"}).json()
        body = {"resourceType": "ServiceRequest", "status": "active", "intent": "order", "priority": priority}
        asked = client.post(
            "ServiceRequest", json=body | {"reasonCode": [REASON], "subject": {"reference": f"Patient/{person['id']}"}}
        ).json()
        linked = {
            "studyInstanceUid": f"2.25.{int(asked['id'].replace('-', ''), 16)}",
            "order": {"reference": f"ServiceRequest/{asked['id']}"},
        }
        said = client.post("ImagingStudy/$register", json=parameters(**linked, complete=True))
        assert said.status_code == 200, said.text
        sent = client.post(f"ServiceRequest/{asked['id']}/$dispatch", json=parameters(destination="central"))
        assert sent.status_code == 200, sent.text
        return sent.json()

    ida = {"reference": "Practitioner/centre-ida"}
    first = out(assign(network, stat(network.office), owner=ida))["task"]
    here = stat(network.hospital)
    refused = assign(network, here, owner=ida, override=True, overrideReason="x")
    assert_outcome(refused, 422, "business-rule")
    assert reason_of(refused) == "exclusive-cover"
    attempt = network.pool(here)
    claimed = network.reader("ida").post(f"Task/{attempt['id']}/$claim")
    assert_outcome(claimed, 403, "forbidden")
    assert reason_of(claimed) == "exclusive-cover"
    assert out(assign(network, stat(network.office), owner=ida)), "a second one of the same facility"
    assert out(assign(network, stat(network.hospital, "urgent"), owner=ida)), "and what can wait of another"
    for task in network.centre.get("Task?owner=PractitionerRole/centre-ida-office&status=accepted").json()["entry"]:
        given = network.reader("ida").post(f"Task/{task['resource']['id']}/$release", json=parameters(reason=REASON))
        assert given.status_code == 200
    assert first["status"] == "accepted"
    assert network.reader("ida").post(f"Task/{attempt['id']}/$claim").status_code == 200


# ---------------------------------------------------------------- $auto-assign


def auto(network, **inputs):
    reply = network.centre.post("Task/$auto-assign", json=parameters(**inputs))
    assert reply.status_code == 200, reply.text
    found = {}
    for one in reply.json().get("parameter", []):
        parts = {p["name"]: next(v for k, v in p.items() if k != "name") for p in one["part"]}
        found[parts["task"]["reference"].removeprefix("Task/")] = parts
    return found


def test_a_batch_is_assigned_one_by_one_and_a_dry_run_assigns_nothing(network):
    waiting = {network.dispatched(priority=priority)[1]["id"]: priority for priority in ("stat", "urgent")}
    mr = network.dispatched()[1]["id"]
    awaiting = network.dispatch(network.ordered(), expectImages=True)["id"]
    with unchanged(network.server):
        told = auto(network, dryRun=True)
        assert {told[id_]["outcome"] for id_ in waiting} == {"simulated"}
        assert awaiting not in told
        assert mr not in auto(network, dryRun=True, priority=["stat"])
        assert not auto(network, dryRun=True, modality=[{"system": DCM, "code": "MR"}])
        assert not set(waiting) & set(auto(network, dryRun=True, organization=[{"reference": "Organization/office"}]))
        assert len(auto(network, dryRun=True, max=1)) == 1
        for wrong in (0, 501):
            reply = network.centre.post("Task/$auto-assign", json=parameters(max=wrong))
            assert_outcome(reply, 422, "invalid")
        assert_outcome(network.reader("anna").post("Task/$auto-assign"), 403, "forbidden")
    done = auto(network, priority=["stat"])
    [stat] = [id_ for id_, priority in waiting.items() if priority == "stat"]
    assert done[stat]["outcome"] == "assigned"
    [attempt] = network.attempts({"id": stat})
    assert attempt["owner"] == done[stat]["owner"]
    assert business(network.get(f"Task/{stat}")) == "assigned"
    assert stat not in auto(network), "it is nobody's no more"


def test_what_cannot_be_assigned_says_why_and_holds_up_nothing(network):
    asked = network.ordered()
    network.images(asked)
    german = network.dispatch(asked, readType="preliminary", reportLanguage="de")
    _, plain = network.dispatched()
    engaged(network, "fred", read_type="preliminary", active=False)
    done = auto(network)
    engaged(network, "fred", read_type="preliminary")
    assert (done[german["id"]]["outcome"], done[plain["id"]]["outcome"]) == ("refused", "assigned")
    assert done[german["id"]]["issue"]["issue"][0]["code"] == "business-rule"
    assert network.attempts(german) == []
