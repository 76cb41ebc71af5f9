"""What comes after a report was signed: images that arrive, and a study that turns out to be another patient's."""

from __future__ import annotations

import io
import uuid

import pydicom
import pytest
from conftest import BASE, assert_outcome, patient
from operations_conftest import answered, out, parameters
from pydicom.data import get_testdata_file
from starlette.testclient import TestClient


def send(network, asked, **members) -> pydicom.Dataset:
    """An image of the order's examination, as its facility stores it."""
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    number = asked["identifier"][0]["value"]
    for name, value in ({"AccessionNumber": number, "PatientID": "P" + number[1:]} | members).items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    headers = {"Content-Type": "application/dicom", "Authorization": network.hospital.headers["Authorization"]}
    sent = TestClient(network.server.app, base_url=BASE).post("/dicomweb/studies", content=file.getvalue(), headers=headers)
    assert sent.status_code in (200, 202), sent.text
    network.server.wait(seconds=20)
    network.server.installation.images.arrivals.settle()
    return dataset


@pytest.fixture
def signed(network):
    """(order, study, report)"""
    asked, _, _, report, draft = network.reporting()
    body = parameters(attest=True, response=answered(draft, findings="Clear.", impression="No bleeding."))
    done = out(network.reader("anna").post(f"DiagnosticReport/{report['id']}/$sign", json=body))
    [entry] = network.hospital.get(f"ImagingStudy?basedon=ServiceRequest/{asked['id']}").json()["entry"]
    return asked, entry["resource"], done["report"]


def tasks(client, focus: str, reason: str) -> list[dict]:
    rows = [e["resource"] for e in client.get(f"Task?focus={focus}").json().get("entry", [])]
    return [r for r in rows if any(c["code"] == reason for c in r.get("reasonCode", {}).get("coding", ()))]


def uid_of(study) -> str:
    return study["identifier"][0]["value"].removeprefix("urn:oid:")


def test_images_that_arrive_after_signing_are_told_to_who_signed(network, signed):
    asked, study, report = signed
    send(
        network,
        asked,
        StudyInstanceUID=uid_of(study),
        SeriesInstanceUID=pydicom.uid.generate_uid(),
        PatientID="P" + asked["identifier"][0]["value"][1:],
    )
    [task] = tasks(network.centre, f"DiagnosticReport/{report['id']}", "images-after-signing")
    assert task["owner"] == {"reference": "Organization/centre"}
    assert network.get(f"DiagnosticReport/{report['id']}") == report  # never a silent change
    network.server.installation.images.arrivals.settle()
    assert len(tasks(network.centre, f"DiagnosticReport/{report['id']}", "images-after-signing")) == 1
    decided = network.reader("anna").post(f"Task/{task['id']}/$reconcile", json=parameters(decision="keep"))
    assert decided.status_code == 200, decided.text
    assert_outcome(network.hospital.post(f"Task/{task['id']}/$reconcile", json=parameters(decision="keep")), 404, "not-found")


@pytest.fixture
def somebody(network):
    number = uuid.uuid4().hex[:8]
    return network.hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": number}])).json()


def test_a_signed_study_that_moves_to_another_patient_withdraws_its_report(network, signed, somebody):
    """By a plain PUT of its facility."""
    _, study, report = signed
    moved = {name: value for name, value in study.items() if name != "basedOn"}
    moved["subject"] = {"reference": f"Patient/{somebody['id']}"}
    reply = network.hospital.put(f"ImagingStudy/{study['id']}", json=moved)
    assert reply.status_code == 200, reply.text
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "entered-in-error"
    told = [e["resource"] for e in network.hospital.get("Communication?_sort=-_lastUpdated&_count=5").json()["entry"]]
    assert any("withdrawn" in one["payload"][0]["contentString"] for one in told)


def test_a_study_with_a_report_is_not_moved_by_the_server(network, signed, somebody):
    """The order's patient is corrected; the images' study is asked about, and moves when a person says so."""
    asked, study, report = signed
    order = network.hospital.get(f"ServiceRequest/{asked['id']}").json()
    number = asked["identifier"][0]["value"]
    send(network, asked, StudyInstanceUID=uid_of(study), PatientID=somebody["identifier"][0]["value"])
    assert network.hospital.get(f"ImagingStudy/{study['id']}").json()["subject"] == study["subject"]
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "final"
    [task] = tasks(network.hospital, f"ImagingStudy/{study['id']}", "set-aside")
    refused = network.hospital.post(f"Task/{task['id']}/$reconcile", json=parameters(decision="replace"))
    assert_outcome(refused, 409, "conflict")
    assert network.get(f"DiagnosticReport/{report['id']}")["status"] == "final"
    assert order["identifier"][0]["value"] == number
