"""SMART Imaging Access: an app that has a token for a patient's record has that patient's images by the same token.

https://github.com/sync-for-science/imaging
"""

from __future__ import annotations

import pytest
from conftest import BASE, patient
from starlette.testclient import TestClient
from test_stow import changed, uid

REQUIRES_TOKEN = "http://hl7.org/fhir/smart-app-launch/StructureDefinition/requires-access-token"
STATIC = "multipart/related; type=application/dicom; transfer-syntax=*"
SCOPES = [
    "patient/*.rs",
    "patient/*.read",
    "patient/ImagingStudy.rs patient/Endpoint.rs",
    "patient/ImagingStudy.read patient/Endpoint.read",
]


@pytest.fixture(scope="module")
def case(hospital, stow, samples):
    """Two patients with a study each; (patient's id, study UID, the file)."""
    found = {}
    for name, number in (("jan", "P-71"), ("ewa", "P-72")):
        whose = patient(identifier=[{"system": "urn:mrn", "value": number}], birthDate="1970-05-02")
        id_ = hospital.post("Patient", json=whose).json()["id"]
        study = uid()
        data = changed(
            samples("CT_small.dcm"), StudyInstanceUID=study, SeriesInstanceUID=uid(), SOPInstanceUID=uid(), PatientID=number,
            PatientBirthDate="19700502", AccessionNumber="",
        )  # fmt: skip
        assert stow(data).status_code == 200
        found[name] = (id_, str(study), data)
    return found


@pytest.fixture(params=SCOPES)
def app(request, as_, case):
    """An app that was launched for Jan."""
    return as_("hospital", scope=request.param, patient=case["jan"][0], user="jan", roles=("clerk",))


@pytest.mark.requirement('imaging-access: advertise by including "smart-imaging-access" in top-level capabilities')
def test_the_capability_is_named_where_apps_look_for_it(server):
    told = TestClient(server.app, base_url=BASE).get("/fhir/.well-known/smart-configuration").json()
    assert "smart-imaging-access" in told["capabilities"]


@pytest.mark.requirement(
    "imaging-access: SHALL support patient; patient and _lastUpdated; patient and identifier; _include=ImagingStudy:endpoint"
)
@pytest.mark.parametrize(("more", "found"), [
    ("", True), ("&_lastUpdated=gt2020-01-30", True), ("&_lastUpdated=gt2099-01-30", False), ("&identifier=urn:oid:{uid}", True),
    ("&identifier=urn:oid:1.2.3", False), ("&_lastUpdated=gt2020-01-30T04:00:00", True), ("&identifier=urn:dicom:uid|urn:oid:{uid}", True),
])  # fmt: skip
def test_a_patients_studies_are_found_with_their_endpoints(app, case, more, found):
    id_, study, _ = case["jan"]
    reply = app.get(f"ImagingStudy?patient={id_}&_include=ImagingStudy:endpoint" + more.format(uid=study))
    assert reply.status_code == 200, reply.text
    kinds = sorted(entry["resource"]["resourceType"] for entry in reply.json().get("entry", ()))
    assert kinds == (["Endpoint", "ImagingStudy"] if found else [])


@pytest.mark.requirement(
    "imaging-access: SHALL populate id, identifier, status, subject, modality, endpoint; address, connectionType, extension"
)
def test_study_and_endpoint_say_what_an_app_needs(server, app, case):
    id_, uid_, _ = case["jan"]
    entries = app.get(f"ImagingStudy?patient=Patient/{id_}&_include=ImagingStudy:endpoint").json()["entry"]
    found = {entry["resource"]["resourceType"]: entry["resource"] for entry in entries}
    study, endpoint = found["ImagingStudy"], found["Endpoint"]
    assert {"system": "urn:dicom:uid", "value": f"urn:oid:{uid_}"} in study["identifier"]
    assert study["subject"] == {"reference": f"Patient/{id_}"}
    assert [one["code"] for one in study["modality"]] == ["CT"]
    assert study["endpoint"] == [{"reference": f"Endpoint/{endpoint['id']}"}]
    assert (study["status"] in ("registered", "available"), study["numberOfSeries"], study["numberOfInstances"]) == (True, 1, 1)
    [series] = study["series"]
    assert {"uid", "number", "modality", "numberOfInstances", "instance"} <= set(series)
    assert {"uid", "sopClass"} <= set(series["instance"][0])
    assert endpoint["address"] == f"{BASE}/dicomweb"
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"
    assert {"url": REQUIRES_TOKEN, "valueBoolean": True} in endpoint["extension"]


@pytest.mark.requirement(
    "imaging-access: SHALL support retrieving a full study for multipart/related; type=application/dicom; transfer-syntax=*"
)
def test_the_same_token_gets_the_whole_study(server, app, case):
    _, study, data = case["jan"]
    reply = TestClient(server.app, base_url=BASE, headers=app.headers).get(
        f"/dicomweb/studies/{study}", headers={"Accept": STATIC}
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("multipart/related")
    assert data[128:] in reply.content


@pytest.mark.requirement(
    "imaging-access: the token is active, matches the patient of the study, includes scopes for ImagingStudy"
)
@pytest.mark.parametrize(("scope", "whose", "status"), [
    ("patient/*.rs", "ewa", 404), ("patient/ImagingStudy.read", "ewa", 404), ("patient/Patient.rs", "jan", 403), ("patient/*.s", "jan", 403),
    ("patient/ImagingStudy.rs", None, 401),
])  # fmt: skip
def test_a_token_of_another_patient_scope_or_time_gets_nothing(server, as_, case, scope, whose, status):
    headers = dict(as_("hospital", scope=scope, patient=case["jan"][0]).headers)
    if whose is None:
        server.auth.forget(headers["authorization"].partition(" ")[2])
    web = TestClient(server.app, base_url=BASE, headers=headers)
    study = case[whose or "jan"][1]
    assert web.get(f"/dicomweb/studies/{study}", headers={"Accept": STATIC}).status_code == status
    by_other = web.get(f"/fhir/ImagingStudy?patient={case['ewa'][0]}")
    assert by_other.status_code in (200, 401, 403)
    assert "entry" not in by_other.json()
