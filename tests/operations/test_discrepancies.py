"""$report-discrepancy and $resolve-discrepancy: a suspected error is looked at, and who told of it sees what came of it."""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import parameters
from unchanged import unchanged


def values(task, member, kind):
    found = [row for row in task.get(member, ()) if row["type"]["coding"][0]["code"] == kind]
    return [value for row in found for name, value in row.items() if name.startswith("value")]


@pytest.fixture(scope="module")
def lead(network):
    return network.person("centre", "quality", "quentin")


@pytest.fixture(scope="module")
def report(network):
    return network.signed()[2]


def discrepancy(client, report, **inputs):
    known = {"source": "pathology", "severity": "major"} | inputs
    body = parameters(**{k: v for k, v in known.items() if k != "description"})
    body["parameter"] += [{"name": "description", "valueMarkdown": inputs.get("description", "It was benign.")}]
    return client.post(f"DiagnosticReport/{report['id']}/$report-discrepancy", json=body)


@pytest.mark.parametrize(("severity", "hours", "priority"), [("minor", None, "routine"), ("moderate", None, "urgent"), ("major", 24, "asap"), ("critical", 4, "stat")])  # fmt: skip
def test_a_suspected_error_is_the_authors_and_the_offices_and_its_facility_sees_the_outcome(
    network, lead, severity, hours, priority
):
    _, _, report = network.signed()
    hospital, anna = network.hospital, network.reader("anna")
    task = discrepancy(hospital, report, severity=severity).json()
    assert (task["status"], task["priority"], task["owner"]) == ("requested", priority, report["resultsInterpreter"][0])
    assert ("restriction" in task) is (hours is not None)
    for client, status in (
        (lead, 200),
        (anna, 200),
        (hospital, 200),
        (network.centre, 404),
        (network.reader("bela"), 404),
        (network.office, 404),
    ):
        assert client.get(f"Task/{task['id']}").status_code == status
    body = parameters(outcome="confirmed")
    body["parameter"] += [{"name": "comment", "valueMarkdown": "Addendum follows."}]
    path = f"Task/{task['id']}/$resolve-discrepancy"
    with unchanged(network.server):
        assert_outcome(discrepancy(hospital, report, severity=severity), 409, "duplicate")
        assert_outcome(hospital.post(path, json=body), 403, "forbidden")
        assert_outcome(network.reader("bela").post(path, json=body), 404, "not-found")
        assert_outcome(anna.post(path, json=parameters(outcome="perhaps")), 422, "invalid")
        assert_outcome(anna.put(f"Task/{task['id']}", json=task | {"status": "completed"}), 422, "business-rule")
    assert discrepancy(hospital, report, source="clinician").status_code == 200  # from another source
    assert (anna if severity == "major" else lead).post(path, json=body).json()["status"] == "completed"
    seen = hospital.get(f"Task/{task['id']}").json()
    assert (values(seen, "output", "category"), values(seen, "output", "comment")) == (["confirmed"], ["Addendum follows."])
    with unchanged(network.server):
        assert_outcome(anna.post(path, json=body), 409, "conflict")


def test_what_is_no_discrepancy_is_refused(network, report):
    *_, opened, _ = network.reporting()
    with unchanged(network.server):
        assert_outcome(discrepancy(network.hospital, opened), 409, "conflict")
        assert_outcome(discrepancy(network.hospital, report, source="rumour"), 422, "invalid")
        assert_outcome(discrepancy(network.hospital, report, severity="mild"), 422, "invalid")
        assert_outcome(discrepancy(network.office, report), 404, "not-found")
        assert_outcome(discrepancy(network.person("hospital", "patient"), report), 403, "forbidden")
