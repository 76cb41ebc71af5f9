"""Task/[id]/$forward: each hop sees less, for a shorter time, and is told of in Provenance; what is taken back is gone for all.

A hospital orders of the centre, which passes on to the far centre, which passes on to the third.
"""

from __future__ import annotations

from conftest import assert_outcome, order
from forward_conftest import POLISH, TERMS, business, forward, read, to
from operations_conftest import REASON, answered, out, parameters
from unchanged import unchanged
from valid_calls import affiliated, agreed, centre_named


def test_the_other_centre_is_asked_and_the_facility_is_told(network, far):
    asked, t0 = network.dispatched()
    attempt = network.assigned(t0)
    child = forward(network.centre, t0, "far").json()
    assert (child["status"], child["requester"], child["owner"]) == ("requested", to("centre"), to("far"))
    assert (child["partOf"], child["groupIdentifier"]) == ([{"reference": f"Task/{t0['id']}"}], t0["groupIdentifier"])
    ended = network.get(f"Task/{attempt['id']}")
    assert (ended["status"], ended["statusReason"]["coding"][0]["code"]) == ("cancelled", "forwarded")
    assert business(network.get(f"Task/{t0['id']}")) == "forwarded"
    told = read(network.hospital, "Communication?category=forwarded&_count=50")["entry"]
    assert {"reference": f"ServiceRequest/{asked['id']}"} in [a for e in told for a in e["resource"]["about"]]
    for path in (f"Task/{child['id']}", f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
        assert far.get(path).status_code == 200
    assert far.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 1


def test_on_whose_behalf_is_told_up_to_the_facility(network, chained):
    *_, second = chained
    proof = [e["resource"] for e in read(network.as_("far"), f"Provenance?target=Task/{second['id']}")["entry"]]
    [made] = [p for p in proof if p["activity"]["coding"][0]["code"] == "forward"]
    behalf = [(a["who"].get("reference"), a["onBehalfOf"]["reference"]) for a in made["agent"] if "reference" in a["who"]]
    assert behalf == [("Organization/far", "Organization/centre"), ("Organization/centre", "Organization/hospital")]
    assert made["reason"] == [REASON]


def test_each_hop_sees_the_order_and_what_it_needs_and_nothing_else(network, chained, far, third):
    asked, t0, first, second = chained
    beside = network.hospital.post("ServiceRequest", json=order(asked["subject"]["reference"], note=[{"text": "x"}])).json()
    for client in (far, third):
        for path in (f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
            assert client.get(path).status_code == 200
        assert client.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 1
        assert_outcome(client.get(f"ServiceRequest/{beside['id']}"), 404, "not-found")
        assert_outcome(client.get(f"Task/{t0['id']}"), 404, "not-found")  # the facility's with the centre
    assert_outcome(third.get(f"Task/{first['id']}"), 404, "not-found")
    assert third.get(f"Task/{second['id']}").status_code == 200
    for client in (network.hospital, network.office):
        assert_outcome(client.get(f"Task/{second['id']}"), 404, "not-found")


def test_no_hop_sees_it_longer_than_the_one_before(network, far, third):
    asked, t0 = network.dispatched()
    first = forward(network.centre, t0, "far", accessUntil="2026-11-27T12:00:00Z").json()
    second = forward(far, first, "third", accessUntil="2099-01-01").json()
    path = f"ServiceRequest/{asked['id']}"
    assert far.get(path).status_code == third.get(path).status_code == 200
    before = network.server.time
    network.server.wait(days=4)
    for client, task in ((far, first), (third, second)):
        for gone in (path, asked["subject"]["reference"], f"Task/{task['id']}"):
            assert_outcome(client.get(gone), 404, "not-found")
        assert client.get(f"ImagingStudy?basedon={path}").json()["total"] == 0
    assert network.centre.get(path).status_code == 200
    network.server.time = before


def test_the_deadline_is_the_facilitys_and_may_only_be_shorter(network, far, third):
    _, t0 = network.dispatched()
    end = t0["restriction"]["period"]["end"]
    with unchanged(network.server):
        assert_outcome(forward(network.centre, t0, "far", due="2099-01-01"), 422, "business-rule")
        assert_outcome(forward(network.centre, t0, "far", accessUntil="2020-01-01"), 422, "business-rule")
    first = forward(network.centre, t0, "far", due="2026-11-25T06:00:00Z").json()
    assert first["restriction"]["period"]["end"] == "2026-11-25T06:00:00Z"
    assert_outcome(forward(far, first, "third", due=end), 422, "business-rule")
    second = forward(far, first, "third").json()
    assert second["restriction"] == first["restriction"]
    assert network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"] == end


def test_an_earlier_deadline_of_a_hop_stays_while_the_facilitys_is_later(network, far):
    asked, t0 = network.dispatched()
    first = forward(network.centre, t0, "far", due="2026-11-25T06:00:00Z").json()

    def prioritized(priority: str) -> list[str]:
        body = parameters(priority=priority, reason=REASON)
        assert network.hospital.post(f"ServiceRequest/{asked['id']}/$prioritize", json=body).status_code == 200
        return [network.get(f"Task/{one['id']}")["restriction"]["period"]["end"] for one in (t0, first)]

    top, below = prioritized("routine")
    assert (top > t0["restriction"]["period"]["end"], below) == (True, "2026-11-25T06:00:00Z")
    top, below = prioritized("asap")
    assert top == below < "2026-11-25T06:00:00Z"


def test_what_is_wrong_with_passing_on_is_said_and_nothing_is_passed_on(network, far, third):
    _, t0, attempt = network.started()
    with unchanged(network.server):
        assert_outcome(forward(network.centre, t0, "far"), 409, "lock-error")  # it is being read
        assert_outcome(forward(network.hospital, t0, "far"), 403, "forbidden")
        assert_outcome(forward(network.reader("anna"), t0, "far"), 403, "forbidden")
        assert_outcome(forward(network.centre, attempt, "far"), 422, "business-rule")
        assert_outcome(forward(network.centre, t0, "third"), 422, "business-rule")  # no affiliation
        for name in ("centre", "hospital"):
            assert_outcome(forward(network.centre, t0, name), 409, "conflict")  # a circle
    _, t0 = network.dispatched()
    first = forward(network.centre, t0, "far").json()
    affiliated(network, "far", "centre")
    with unchanged(network.server):
        assert_outcome(forward(network.centre, t0, "far"), 409, "conflict")  # once
        for name in ("centre", "hospital", "far"):
            assert_outcome(forward(far, first, name), 409, "conflict")
        assert_outcome(network.centre.post(f"Task/{t0['id']}/$assign", json=parameters(mode="auto")), 409, "conflict")


def test_only_where_the_facility_allows_it_and_in_its_countries(network, far):
    _, t0 = network.dispatched()
    centre_named(network, "abroad", address=[{"country": "US"}])
    affiliated(network, "centre", "abroad")
    with unchanged(network.server):
        refused = forward(network.centre, t0, "abroad")
        issues = assert_outcome(refused, 422, "business-rule")
        assert issues[0]["details"]["coding"][0]["code"] == "data-residency"
    agreed(network.centre, "hospital", **TERMS | {"subcontracting": False})
    with unchanged(network.server):
        assert_outcome(forward(network.centre, t0, "far"), 403, "forbidden")
    agreed(network.centre, "hospital", **TERMS)
    assert forward(network.centre, t0, "far").status_code == 200


def test_a_centre_that_cannot_be_reached_is_passed_nothing(network):
    endpoint = {
        "resourceType": "Endpoint", "id": "down-dicomweb", "status": "off", "address": "https://down.example",
        "connectionType": {"code": "dicom-wado-rs"}, "payloadType": [{"text": "DICOM"}],
    }  # fmt: skip
    down = centre_named(network, "down", **POLISH)
    assert down.put("Endpoint/down-dicomweb", json=endpoint).status_code == 201
    centre_named(network, "down", **POLISH, endpoint=[{"reference": "Endpoint/down-dicomweb"}])
    affiliated(network, "centre", "down")
    _, t0 = network.dispatched()
    with unchanged(network.server):
        assert_outcome(forward(network.centre, t0, "down"), 422, "business-rule")


def test_declined_it_is_the_asking_centres_again_and_what_was_shared_is_not(network, far):
    asked, t0 = network.dispatched()
    child = forward(network.centre, t0, "far").json()
    declined = far.post(f"Task/{child['id']}/$respond", json=parameters(response="decline", reason=REASON))
    assert declined.status_code == 200, declined.text
    assert_outcome(far.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    assert business(network.get(f"Task/{t0['id']}")) == "ready-for-assignment"
    assert network.assigned(t0)["status"] == "accepted"


def test_it_is_read_there_and_the_report_goes_to_the_facility(network, far, lena):
    asked, t0 = network.dispatched()
    child = forward(network.centre, t0, "far").json()
    assert far.post(f"Task/{child['id']}/$respond", json=parameters(response="accept")).status_code == 200
    [attempt] = [e["resource"] for e in read(far, f"Task?part-of=Task/{child['id']}")["entry"]]
    assert lena.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True)).status_code == 200
    opened = out(lena.post(f"Task/{attempt['id']}/$start-report"))
    said = answered(opened["draft"], findings="Clear.", impression="No bleeding.")
    report = out(lena.post(f"DiagnosticReport/{opened['report']['id']}/$sign", json=parameters(attest=True, response=said)))[
        "report"
    ]
    assert report["status"] == "final"
    assert read(network.hospital, f"DiagnosticReport/{report['id']}")["conclusion"] == "No bleeding."
    assert read(network.hospital, f"ServiceRequest/{asked['id']}")["status"] == "completed"
    for task in (network.get(f"Task/{t0['id']}"), read(far, f"Task/{child['id']}")):
        assert (task["status"], business(task)) == ("completed", "delivered")
