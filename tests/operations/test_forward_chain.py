"""What happens at one hop of a reading that was passed on reaches the others: ends, clocks, images, the order itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from conftest import assert_outcome, order
from forward_conftest import business, forward, read
from operations_conftest import REASON, answered, out, parameters
from unchanged import unchanged

# ---------------------------------------------------------------- taken back in the middle


def test_taken_back_by_the_facility_it_ends_at_every_hop(network, chained, far, third):
    asked, t0, first, second = chained
    current = read(network.hospital, f"ServiceRequest/{asked['id']}")
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}).status_code == 200
    for client in (network.centre, far, third):
        for path in (f"ServiceRequest/{asked['id']}", asked["subject"]["reference"]):
            assert_outcome(client.get(path), 404, "not-found")
        assert client.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 0
    for client, task in ((network.centre, t0), (far, first), (third, second)):
        assert read(client, f"Task/{task['id']}")["status"] == "cancelled"


def test_taken_back_in_the_middle_the_hops_below_end_and_those_above_stay(network, chained, far, third):
    asked, t0, first, second = chained
    body = read(network.centre, f"Task/{first['id']}") | {"status": "cancelled"}
    taken = network.centre.put(f"Task/{first['id']}", json=body)
    assert taken.status_code == 200, taken.text
    for client in (far, third):
        assert_outcome(client.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
        assert_outcome(client.get(asked["subject"]["reference"]), 404, "not-found")
    assert network.centre.get(f"ServiceRequest/{asked['id']}").status_code == 200
    assert read(third, f"Task/{second['id']}")["status"] == "cancelled"
    assert business(network.get(f"Task/{t0['id']}")) == "ready-for-assignment"
    assert network.assigned(t0)["status"] == "accepted"
    with unchanged(network.server):
        assert_outcome(third.post(f"Task/{second['id']}/$respond", json=parameters(response="accept")), 409, "conflict")


def test_an_order_that_ends_takes_nothing_from_another_on_the_same_patient(network, chained, far, third):
    asked, *_ = chained
    other = network.hospital.post(
        "ServiceRequest", json=order(asked["subject"]["reference"], reasonCode=[REASON], priority="urgent")
    ).json()
    t0 = network.dispatch(other, expectImages=True)
    forward(far, forward(network.centre, t0, "far").json(), "third")
    current = read(network.hospital, f"ServiceRequest/{asked['id']}")
    assert network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"}).status_code == 200
    for client in (network.centre, far, third):
        assert_outcome(client.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
        assert client.get(f"ServiceRequest/{other['id']}").status_code == 200
        assert client.get(asked["subject"]["reference"]).status_code == 200


# ---------------------------------------------------------------- what happens at the end reaches the top, and back


def test_who_passed_it_on_and_the_facility_see_that_it_is_being_read(network, far, reading_there):
    _, t0, child, _ = reading_there
    top = read(network.hospital, f"Task/{t0['id']}")
    assert (top["status"], business(top)) == ("in-progress", "forwarded")
    assert (read(far, f"Task/{child['id']}")["status"], business(read(far, f"Task/{child['id']}"))) == (
        "in-progress",
        "reading",
    )


def test_images_that_come_after_it_was_passed_on_make_it_ready_there_and_start_the_facilitys_clock(network, far, third):
    asked = network.ordered()
    t0 = network.dispatch(asked, expectImages=True)
    first = forward(network.centre, t0, "far").json()
    second = forward(far, first, "third").json()
    assert business(second) == "awaiting-images"
    network.images(asked)
    for client, task in ((third, second), (network.hospital, t0)):
        assert read(client, f"Task/{task['id']}")["restriction"]["period"]["end"]
    assert business(read(third, f"Task/{second['id']}")) == "ready-for-assignment"
    assert business(read(network.hospital, f"Task/{t0['id']}")) == "forwarded"
    assert third.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["total"] == 1


def test_the_facilitys_clock_stands_while_the_hop_below_waits_for_its_answer(network, lena, reading_there):
    asked, t0, _, attempt = reading_there
    before = network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"]
    question = lena.post(f"Task/{attempt['id']}/$request-information", json=parameters(question="Since when?", blocking=True))
    assert question.status_code == 200, question.text
    network.server.wait(hours=2)
    answer = {
        "resourceType": "Communication",
        "status": "completed",
        "basedOn": [{"reference": f"CommunicationRequest/{question.json()['id']}"}],
    }
    assert network.hospital.post("Communication", json=answer | {"payload": [{"contentString": "Monday."}]}).status_code == 201
    later = network.get(f"Task/{t0['id']}")["restriction"]["period"]["end"]
    took = datetime.fromisoformat(later) - datetime.fromisoformat(before)
    assert timedelta(hours=2) <= took < timedelta(hours=2, minutes=1)
    assert read(lena, f"Task/{attempt['id']}")["status"] == "in-progress"
    assert read(lena, f"Task/{attempt['id']}")["restriction"]["period"]["end"] == later
    assert asked["id"]


def test_who_passed_it_on_takes_it_back_also_while_it_is_read(network, far, lena, reading_there):
    asked, t0, child, attempt = reading_there
    body = network.get(f"Task/{child['id']}")
    with unchanged(network.server):
        assert_outcome(network.centre.put(f"Task/{child['id']}", json=body | {"status": "cancelled"}), 422, "business-rule")
        assert_outcome(far.put(f"Task/{child['id']}", json=body | {"status": "failed"}), 403, "forbidden")
    taken = network.centre.put(f"Task/{child['id']}", json=body | {"status": "failed"})
    assert taken.status_code == 200, taken.text
    assert read(far, f"Task/{attempt['id']}")["status"] == read(far, f"Task/{child['id']}")["status"] == "failed"
    assert_outcome(lena.get(f"ServiceRequest/{asked['id']}"), 404, "not-found")
    assert network.assigned(t0)["status"] == "accepted"


def test_a_preliminary_report_of_a_hop_below_is_not_taken_back_silently(network, lena, reading_there):
    asked, _, child, attempt = reading_there
    opened = out(lena.post(f"Task/{attempt['id']}/$start-report"))
    said = answered(opened["draft"], findings="f", impression="i")
    path = f"DiagnosticReport/{opened['report']['id']}"
    issued = lena.post(f"{path}/$publish-preliminary", json=parameters(response=said))
    assert issued.status_code == 200, issued.text
    assert read(network.hospital, path)["status"] == "preliminary"
    current = read(network.hospital, f"ServiceRequest/{asked['id']}")
    with unchanged(network.server):
        revoked = network.hospital.put(f"ServiceRequest/{asked['id']}", json=current | {"status": "revoked"})
        assert_outcome(revoked, 409, "conflict")
        body = network.get(f"Task/{child['id']}") | {"status": "failed"}
        assert_outcome(network.centre.put(f"Task/{child['id']}", json=body), 409, "conflict")
