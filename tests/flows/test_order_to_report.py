"""The story that a hospital engineer watches: ordered, uploaded, assigned, read, reported, fetched. Over HTTP."""

from __future__ import annotations

import asyncio
import io
import uuid

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session
from fhirpy import AsyncFHIRClient
from flows_conftest import wait_until
from operations_conftest import answered, out, parameters, reader_rows
from pydicom.data import get_testdata_file

NUMBER = uuid.uuid4().hex[:8].upper()
ACCESSION, PATIENT_ID = f"A{NUMBER}", f"P{NUMBER}"
PERSON, ORDER = f"urn:uuid:{uuid.uuid4()}", f"urn:uuid:{uuid.uuid4()}"


@pytest.fixture(scope="module")
def people(running):
    """The centre's own client sets up the directory; each of the others has a token of its own."""
    system, person = "system/*.cruds", "user/*.cruds"
    hospital, office, centre = running.several(
        ("hospital-ehr", "hospital", None, system), ("office-ehr", "office", None, system), ("centre-ris", None, None, system)
    )
    for client, name in ((hospital, "hospital"), (office, "office")):
        assert (
            client.put(
                f"/Organization/{name}", json={"resourceType": "Organization", "id": name, "name": name.title()}
            ).status_code
            == 201
        )
    for row in reader_rows("anna"):
        assert centre.put(f"/{row['resourceType']}/{row['id']}", json=row).status_code == 201
    users = (
        ("user", "add", "anna", "--role", "reader", "--practitioner", "centre-anna", "--organization", "centre"),
        ("user", "add", "dan", "--role", "dispatcher", "--organization", "centre"),
    )
    asked = ("reading-app", None, "anna", person), ("dispatch-app", None, "dan", person)
    anna, dispatcher = running.several(*asked, before=users)
    clients = {"hospital": hospital, "office": office, "centre": dispatcher, "anna": anna}
    yield clients
    for client in (centre, *clients.values()):
        client.close()


def order_bundle():
    person = {
        "resourceType": "Patient",
        "identifier": [{"system": "https://hospital.example/mrn", "value": PATIENT_ID}],
        "name": [{"family": "Wiśniewska", "given": ["Łucja"]}],
        "birthDate": "1970-05-02",
    }
    order = {
        "resourceType": "ServiceRequest",
        "identifier": [{"system": "https://hospital.example/acsn", "value": ACCESSION}],
        "status": "active",
        "intent": "order",
        "priority": "urgent",
        "code": {"text": "CT of the head"},
        "subject": {"reference": PERSON},
        "reasonCode": [{"text": "fall; bleeding?"}],
    }
    rows = [(person, PERSON), (order, ORDER)]
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"fullUrl": u, "resource": r, "request": {"method": "POST", "url": r["resourceType"]}} for r, u in rows],
    }


def head_ct() -> pydicom.Dataset:
    dataset = pydicom.dcmread(str(get_testdata_file("693_UNCI.dcm", download=False)))
    dataset.PatientID, dataset.AccessionNumber, dataset.PatientBirthDate = PATIENT_ID, ACCESSION, "19700502"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    return dataset


def test_order_to_report(running, people):
    hospital, office, centre, anna = (people[name] for name in ("hospital", "office", "centre", "anna"))

    # The facility posts patient and order in one transaction ...
    posted = hospital.post("", json=order_bundle())
    assert posted.status_code == 200, posted.text
    person, order = [e["resource"] for e in posted.json()["entry"]]
    assert order["subject"]["reference"] == f"Patient/{person['id']}"

    # ... uploads the real study by STOW-RS, with a client of its own ...
    dataset = head_ct()
    web = DICOMwebClient(f"{running.url}/dicomweb", session=session_of(hospital))
    web.store_instances([dataset])
    study = wait_until(lambda: available(hospital, order))
    assert study["subject"] == {"reference": f"Patient/{person['id']}"}

    # ... dispatches the order and raises its priority.
    t0 = hospital.post(f"/ServiceRequest/{order['id']}/$dispatch", json=parameters(destination="central")).json()
    raised = out(
        hospital.post(f"/ServiceRequest/{order['id']}/$prioritize", json=parameters(priority="stat", reason={"text": "worse"}))
    )
    assert raised["order"]["priority"] == raised["task"]["priority"] == "stat"

    # The centre finds it on its worklist and assigns it.
    listed = centre.get("/Task/$worklist?view=dispatch").json()["entry"]
    assert t0["id"] in [e["resource"]["id"] for e in listed]
    owner = {"reference": "PractitionerRole/centre-anna-hospital"}
    attempt = out(centre.post(f"/Task/{t0['id']}/$assign", json=parameters(mode="manual", owner=owner)))["task"]

    # The reader claims it, reads the frames and signs.
    mine = anna.get("/Task/$worklist?view=mine").json()["entry"]
    assert [e["resource"]["id"] for e in mine if e["resource"]["resourceType"] == "Task"] == [attempt["id"]]
    assert anna.post(f"/Task/{attempt['id']}/$claim", json=parameters(start=True)).json()["status"] == "in-progress"
    viewer = DICOMwebClient(f"{running.url}/dicomweb", session=session_of(anna))
    [frame] = viewer.retrieve_instance_frames(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID, [1])
    assert np.array_equal(np.frombuffer(frame, "<i2").reshape(512, 512), dataset.pixel_array)
    opened = out(anna.post(f"/Task/{attempt['id']}/$start-report"))
    draft = answered(opened["draft"], findings="Small right subdural haematoma.", impression="Acute subdural haematoma.")
    assert anna.put(f"/QuestionnaireResponse/{draft['id']}", json=draft).status_code == 200
    signed = out(anna.post(f"/DiagnosticReport/{opened['report']['id']}/$sign", json=parameters(attest=True)))["report"]
    assert signed["status"] == "final"

    # The EHR finds report, study and patient in one search, with its own FHIR client.
    found = asyncio.run(ehr_search(running, hospital))
    assert {(r["resourceType"], r["id"]) for r in found} == {
        ("DiagnosticReport", signed["id"]), ("ImagingStudy", study["id"]), ("Patient", person["id"]),
    }  # fmt: skip
    assert next(r for r in found if r["resourceType"] == "DiagnosticReport")["conclusion"] == "Acute subdural haematoma."
    assert hospital.get(f"/ServiceRequest/{order['id']}").json()["status"] == "completed"

    # The other facility finds none of it, and cannot gain it by an order of its own.
    document = hospital.get(f"/DocumentReference?subject=Patient/{person['id']}").json()["entry"][0]["resource"]
    for reference in (
        f"Patient/{person['id']}", f"ServiceRequest/{order['id']}", f"ImagingStudy/{study['id']}", f"DiagnosticReport/{signed['id']}",
        f"Task/{t0['id']}", f"Task/{attempt['id']}", f"QuestionnaireResponse/{draft['id']}", f"DocumentReference/{document['id']}",
        document["content"][0]["attachment"]["url"],
    ):  # fmt: skip
        assert office.get(f"/{reference}").status_code == 404, reference
        assert office.get(f"/{reference}/_history").status_code == 404, reference
    secrets = (person["id"], ACCESSION, PATIENT_ID, dataset.StudyInstanceUID)
    for search in (
        "Patient", f"Patient?identifier={PATIENT_ID}", "ServiceRequest", f"ServiceRequest?subject:Patient.identifier={PATIENT_ID}", "ImagingStudy",
        "DiagnosticReport", f"DiagnosticReport?based-on:ServiceRequest.identifier={ACCESSION}", "Task", "DocumentReference", "Bundle",
        "Provenance", "AuditEvent", "Task/$worklist?view=facility", "Patient?_revinclude=ServiceRequest:subject",
    ):  # fmt: skip
        text = str(office.get(f"/{search}").json().get("entry", ""))
        assert not any(secret in text for secret in secrets), search
    for path in (f"studies?PatientID={PATIENT_ID}", "studies", "instances", f"studies/{dataset.StudyInstanceUID}/series"):
        assert office.get(f"{running.url}/dicomweb/{path}").status_code == 204
    instance = f"studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
    for path in (instance, f"{instance}/frames/1", f"{instance}/metadata"):
        assert office.get(f"{running.url}/dicomweb/{path}").status_code == 404
    grab = {
        "resourceType": "ServiceRequest",
        "status": "active",
        "intent": "order",
        "subject": {"reference": f"Patient/{person['id']}"},
    }
    missing = grab | {"subject": {"reference": f"Patient/{uuid.uuid4()}"}}
    refused, unknown = office.post("/ServiceRequest", json=grab), office.post("/ServiceRequest", json=missing)
    assert (refused.status_code, refused.content) == (422, unknown.content)
    assert office.get(f"/Patient/{person['id']}").status_code == 404
    assert office.post(f"/ServiceRequest/{order['id']}/$dispatch", json=parameters(destination="central")).status_code == 404


def available(hospital: httpx.Client, order: dict) -> dict | None:
    """The study, once it has been quiet and is matched to the order."""
    rows = hospital.get(f"/ImagingStudy?basedon=ServiceRequest/{order['id']}&status=available").json().get("entry", [])
    return rows[0]["resource"] if rows else None


def session_of(client: httpx.Client):
    session = create_session()
    session.headers["Authorization"] = client.headers["Authorization"]
    return session


async def ehr_search(running, hospital: httpx.Client) -> list[dict]:
    """PyPI's fhirpy as the hospital's EHR."""
    client = AsyncFHIRClient(f"{running.url}/fhir", authorization=hospital.headers["Authorization"])
    reports = client.resources("DiagnosticReport").search(
        **{"based-on:ServiceRequest.identifier": f"https://hospital.example/acsn|{ACCESSION}"}
    )
    bundle = await reports.include("DiagnosticReport", "subject").include("DiagnosticReport", "imaging-study").fetch_raw()
    return [entry.resource.serialize() for entry in bundle.entry]


def test_the_token_endpoint_over_http(running, people):
    reply = httpx.post(
        f"{running.url}/auth/token",
        data={"grant_type": "client_credentials", "scope": "system/Patient.rs"},
        auth=("hospital-ehr", "secret of hospital-ehr"),
    )
    token = reply.json()["access_token"]
    assert httpx.get(f"{running.url}/fhir/Patient", headers={"Authorization": f"Bearer {token}"}).json()["total"] >= 1


def test_no_patient_data_or_token_reaches_the_log(running, people):
    people["hospital"].get("/Patient?family=Wiśniewska")
    people["hospital"].post("/Patient", json={"resourceType": "Patient", "name": "Wiśniewska"})
    log = running.log()
    assert "Wiśniewska" not in log
    assert "Wi%C5%9Bniewska" not in log
    assert people["hospital"].headers["Authorization"].split()[1] not in log


def test_a_written_file_is_as_the_peer_sent_it(running, people):
    data = io.BytesIO()
    pydicom.dcmwrite(data, head_ct())
    sent = people["hospital"].post(
        f"{running.url}/dicomweb/studies", content=data.getvalue(), headers={"Content-Type": "application/dicom"}
    )
    url = sent.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
    back = people["hospital"].get(url, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    assert data.getvalue()[128:] in back.content
