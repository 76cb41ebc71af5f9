"""Task/$worklist: each view holds what is its caller's concern, and lets go of what is not any more."""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import REASON, out, parameters
from unchanged import unchanged
from valid_calls import QUALITY, review, reviewer

VIEWS = ("mine", "pool", "team", "dispatch", "facility", "peer-review", "critical")


def listed(client, view, **inputs) -> list[str]:
    reply = client.post("Task/$worklist", json=parameters(view=view, **inputs))
    assert reply.status_code == 200, reply.text
    rows = [e for e in reply.json().get("entry", []) if e["search"]["mode"] == "match"]
    scores = [row["search"]["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    return [row["resource"]["id"] for row in rows]


def test_a_reading_is_in_each_view_as_long_as_it_is_somebodys_concern(network):
    asked, t0 = network.dispatched()
    anna, bela = network.reader("anna"), network.reader("bela")
    assert t0["id"] in listed(network.centre, "dispatch")
    assert t0["id"] in listed(network.hospital, "facility")
    attempt = network.pool(t0)["id"]
    assert attempt in listed(anna, "pool")
    assert attempt in listed(bela, "pool")
    assert attempt in listed(network.centre, "team")
    assert attempt not in listed(anna, "mine")
    anna.post(f"Task/{attempt}/$claim", json=parameters(start=True))
    assert attempt in listed(anna, "mine")
    assert attempt not in listed(bela, "pool")
    assert attempt in listed(network.centre, "team", status=["in-progress"])
    assert attempt not in listed(network.centre, "team", status=["requested"])
    anna.post(f"Task/{attempt}/$release", json=parameters(reason=REASON))
    assert attempt not in listed(anna, "mine")
    current = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})
    for client, view in ((network.centre, "dispatch"), (network.hospital, "facility")):
        assert t0["id"] not in listed(client, view)


def test_a_finding_is_in_the_critical_view_of_both_until_somebody_answers(network):
    *_, report, _ = network.reporting()
    inputs = parameters(category="acr-2", finding={"text": "A nodule"})
    ack = out(network.reader("anna").post(f"DiagnosticReport/{report['id']}/$notify-critical", json=inputs))["ack"]["id"]
    for client in (network.hospital, network.centre):
        assert ack in listed(client, "critical")
    assert ack not in listed(network.office, "critical")
    done = network.hospital.post(f"Task/{ack}/$acknowledge", json=parameters(by={"reference": "Organization/hospital"}))
    assert done.status_code == 200, done.text
    for client in (network.hospital, network.centre):
        assert ack not in listed(client, "critical")


def test_a_review_is_in_its_reviewers_list_and_in_nobody_elses(network):
    task = review(network)
    own = network.as_(**reviewer(task))
    assert listed(own, "peer-review") == [task["id"]]
    for client in (network.reader("dora"), network.centre, network.hospital, network.office):
        for view in ("team", "facility", "peer-review", "critical"):
            assert task["id"] not in listed(client, view)
    assert network.as_(**QUALITY).get(f"Task/{task['id']}").status_code == 200


def test_a_stranger_sees_nothing_in_any_view(network):
    network.dispatched()
    stranger = network.as_(
        "elsewhere", scope="user/*.cruds", user="eve", roles=("reader", "dispatcher"), practitioner="elsewhere-eve"
    )
    with unchanged(network.server):
        assert [listed(stranger, view) for view in VIEWS] == [[]] * len(VIEWS)


@pytest.mark.parametrize("view", ["mine", "pool", "dispatch"])
def test_some_views_are_of_a_role(network, view):
    clerk = network.as_("centre", scope="user/*.cruds", user="cleo", roles=("clerk",))
    assert_outcome(clerk.get(f"Task/$worklist?view={view}"), 403, "forbidden")


def test_rows_are_narrowed_by_facility_modality_urgency_and_deadline(network):
    _, t0 = network.dispatched(priority="asap", bodySite=[{"coding": [{"system": "urn:x", "code": "head"}]}])
    end = t0["restriction"]["period"]["end"]
    for inputs, inside in (
        ({"priority": ["asap", "stat"]}, True),
        ({"priority": ["routine"]}, False),
        ({"modality": ["CT"]}, True),
        ({"modality": ["MR"]}, False),
        ({"bodyRegion": ["head"]}, True),
        ({"bodyRegion": ["knee"]}, False),
        ({"organization": [{"reference": "Organization/hospital"}]}, True),
        ({"organization": [{"reference": "Organization/office"}]}, False),
        ({"dueBefore": "2027"}, True),
        ({"dueBefore": end}, False),
        ({"priority": ["asap"], "modality": ["CT"], "status": ["requested"]}, True),
        ({"priority": ["asap"], "modality": ["MR"]}, False),
    ):
        assert (t0["id"] in listed(network.centre, "dispatch", **inputs)) == inside, inputs


def test_a_cursor_is_its_views_and_its_callers(network):
    for _ in range(2):
        network.dispatched()
    page = network.centre.get("Task/$worklist?view=dispatch&count=1").json()
    [following] = [link["url"] for link in page["link"] if link["relation"] == "next"]
    assert network.centre.get(following).status_code == 200
    dispatcher = network.as_("centre", scope="user/*.cruds", user="dan", roles=("dispatcher",))
    assert_outcome(dispatcher.get(following), 400, "invalid")
    assert_outcome(network.centre.get(following.replace("view=dispatch", "view=team")), 400, "invalid")
