"""A study becomes an ImagingStudy and is matched to its order by facility, accession and patient."""

from __future__ import annotations

import io

import pydicom
import pytest
from conftest import order, patient
from test_stow import changed, uid

from fhirserver import studies


@pytest.fixture
def ct(samples):
    """A CT of patient P-1, accession A-1, as a new study."""

    def make(**members):
        defaults = {
            "StudyInstanceUID": uid(),
            "SeriesInstanceUID": uid(),
            "SOPInstanceUID": uid(),
            "PatientID": "P-1",
            "AccessionNumber": "A-1",
        }
        return changed(samples("CT_small.dcm"), **(defaults | {"PatientBirthDate": "19700502"} | members))

    return make


def study_of(hospital, data) -> dict:
    found = hospital.get(
        f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID}"
    ).json()
    [entry] = found["entry"]
    return dict(entry["resource"])


@pytest.fixture
def ordered(created):
    """A patient and an order with this accession number."""

    def make(accession, patient_id, **members):
        person = created(patient(identifier=[{"system": "urn:mrn", "value": patient_id}], birthDate="1970-05-02"))
        asked = created(order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": accession}], **members))
        return person, asked

    return make


def test_the_study_is_mapped(hospital, stow, ct):
    data = ct(
        AccessionNumber="MAP-1",
        SeriesNumber="3",
        BodyPartExamined="HEAD",
        Laterality="L",
        TimezoneOffsetFromUTC="+0100",
        StudyTime="101500",
    )
    assert stow(data).status_code == 200
    study = study_of(hospital, data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    assert study["status"] == "registered"
    assert study["identifier"][1] == {
        "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]},
        "system": "urn:fhirserver:accession:hospital",
        "value": "MAP-1",
    }
    assert study["modality"] == [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}]
    assert study["started"] == "2004-01-19T10:15:00+01:00"
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (1, 1)
    [series] = study["series"]
    assert (series["uid"], series["number"], series["bodySite"], series["laterality"]["code"]) == (
        dataset.SeriesInstanceUID,
        3,
        {"display": "HEAD"},
        "7771000",
    )
    assert series["instance"][0]["sopClass"] == {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{dataset.SOPClassUID}"}
    assert series["instance"][0]["uid"] == dataset.SOPInstanceUID


def test_a_time_without_a_zone_is_left_out(hospital, stow, ct):
    data = ct(AccessionNumber="ZONE-1", TimezoneOffsetFromUTC=None)
    stow(data)
    assert study_of(hospital, data)["started"] == "2004-01-19"


def test_it_is_matched_to_its_order(hospital, stow, ct, ordered):
    person, asked = ordered("A-77", "P-77")
    data = ct(AccessionNumber="A-77", PatientID="P-77")
    stow(data)
    study = study_of(hospital, data)
    assert study["basedOn"] == [{"reference": f"ServiceRequest/{asked['id']}"}]
    assert study["subject"] == {"reference": f"Patient/{person['id']}"}
    assert hospital.get(f"ImagingStudy?based-on=ServiceRequest/{asked['id']}").json()["total"] == 1


def test_another_facilitys_order_of_the_same_number_is_not_it(hospital, office, stow, ct):
    person = office.post("Patient", json=patient(identifier=[{"value": "P-88"}])).json()
    office.post("ServiceRequest", json=order(f"Patient/{person['id']}", identifier=[{"value": "A-88"}]))
    data = ct(AccessionNumber="A-88", PatientID="P-88")
    stow(data)
    study = study_of(hospital, data)
    draft = hospital.get(study["basedOn"][0]["reference"]).json()
    assert draft["status"] == "draft"
    assert study["subject"]["reference"] != f"Patient/{person['id']}"


def test_a_patient_that_does_not_agree_opens_a_reconcile_task_and_links_nothing(hospital, office, stow, ct, ordered):
    _, asked = ordered("A-99", "P-99")
    data = ct(AccessionNumber="A-99", PatientID="SOMEBODY-ELSE")
    stow(data)
    study = study_of(hospital, data)
    assert "basedOn" not in study
    [task] = hospital.get(f"Task?focus=ImagingStudy/{study['id']}").json()["entry"]
    assert task["resource"]["code"]["coding"][0]["code"] == "reconcile"
    assert task["resource"]["input"][0]["valueReference"] == {"reference": f"ServiceRequest/{asked['id']}"}
    born = ct(AccessionNumber="A-99", PatientID="P-99", PatientBirthDate="19990101")
    stow(born)
    assert "basedOn" not in study_of(hospital, born)


def test_a_study_without_an_order_makes_a_draft_with_the_facilitys_defaults(hospital, stow, ct):
    defaults = {
        "url": "urn:fhirserver:StructureDefinition:order-defaults",
        "extension": [{"url": "priority", "valueCode": "urgent"}],
    }
    body = {"resourceType": "Organization", "id": "hospital", "name": "Hospital", "extension": [defaults]}
    assert hospital.put("Organization/hospital", json=body).status_code in (200, 201)
    data = ct(AccessionNumber="", PatientID="P-NEW", StudyDescription="Head CT")
    stow(data)
    study = study_of(hospital, data)
    draft = hospital.get(study["basedOn"][0]["reference"]).json()
    assert (draft["status"], draft["priority"], draft["code"]["text"]) == ("draft", "urgent", "Head CT")
    person = hospital.get(draft["subject"]["reference"]).json()
    assert person["identifier"] == [{"system": "urn:fhirserver:patient:hospital", "value": "P-NEW"}]
    assert person["birthDate"] == "1970-05-02"
    again = ct(AccessionNumber="", PatientID="P-NEW")
    stow(again)
    assert study_of(hospital, again)["subject"] == study["subject"]


def test_one_study_may_answer_several_orders(hospital, stow, ct, created):
    person = created(patient(identifier=[{"value": "P-2"}], birthDate="1970-05-02"))
    orders = [created(order(f"Patient/{person['id']}", identifier=[{"value": n}]))["id"] for n in ("M-1", "M-2")]
    item = pydicom.Dataset()
    item.AccessionNumber = "M-2"
    data = ct(AccessionNumber="M-1", PatientID="P-2", RequestAttributesSequence=[item])
    stow(data)
    assert {r["reference"] for r in study_of(hospital, data)["basedOn"]} == {f"ServiceRequest/{o}" for o in orders}


def test_it_is_available_when_it_has_been_quiet(hospital, stow, ct, server):
    data = ct(AccessionNumber="Q-1")
    stow(data)
    server.installation.images.arrivals.settle()
    assert study_of(hospital, data)["status"] == "registered"
    server.wait(seconds=11)
    server.installation.images.arrivals.settle()
    study = study_of(hospital, data)
    assert study["status"] == "available"
    more = changed(data, SOPInstanceUID=uid(), InstanceNumber="2")
    stow(more)
    server.installation.images.arrivals.settle()
    later = study_of(hospital, data)
    assert (later["numberOfInstances"], later["status"]) == (2, "available")


def test_only_what_changed_makes_a_version(hospital, stow, ct, server):
    data = ct(AccessionNumber="V-1")
    for _ in range(3):
        stow(data)
    server.installation.images.arrivals.settle()
    assert study_of(hospital, data)["meta"]["versionId"] == "1"


def test_a_study_without_any_identity_is_still_kept(hospital, stow, ct):
    data = ct(PatientID="", PatientName="", PatientBirthDate="", PatientSex="", AccessionNumber="")
    assert stow(data).status_code == 200
    subject = study_of(hospital, data)["subject"]["reference"]
    assert hospital.get(subject).json()["resourceType"] == "Patient"


def test_what_arrives_within_the_same_millisecond_is_not_forgotten(stow, ct, server):
    data = ct(AccessionNumber="MS-1")
    assert stow(data).status_code == 200
    study, index = str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID), server.installation.images.index
    index.mark("hospital", study, 5)
    _, revision = index.study("hospital", study)
    index.mark("hospital", study, 5)  # after the study was read, before it is settled
    index.settle("hospital", study, revision, 100, complete=True)
    assert ("hospital", study) in index.dirty(10**13)
    assert ("hospital", study) in index.waiting(100_000, 10)


def test_what_is_held_stays_to_be_brought_up_to_date_until_it_is_let_go_or_the_time_is_over(stow, ct, server):
    data = ct(AccessionNumber="HELD-1")
    assert stow(data).status_code == 200
    study, index = str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID), server.installation.images.index
    server.installation.images.arrivals.left("hospital", study)

    def settled(begun: int) -> bool:
        index.settle("hospital", study, index.study("hospital", study)[1], begun, complete=False)
        return ("hospital", study) not in index.dirty(10**13)

    index.mark("hospital", study, 1000, held=6000)
    index.mark("hospital", study, 1001)  # by somebody who does not hold it
    assert not settled(2000)
    index.mark("hospital", study, 1500, held=6500)  # by another, for longer
    index.let_go("hospital", study, 6000)
    assert not settled(2000)
    _, before = index.study("hospital", study)
    index.let_go("hospital", study, 6500)
    index.settle("hospital", study, before, 7000, complete=False)  # of what was read before
    assert ("hospital", study) in index.dirty(10**13)
    assert settled(2000)
    index.mark("hospital", study, 1000, held=6000)  # by one that died
    assert not settled(6000)
    assert settled(6001)


def test_studies_that_cannot_be_brought_up_to_date_do_not_hold_up_the_others(stow, ct, server, hospital, monkeypatch):
    monkeypatch.setattr("imaging.index.writing._AT_ONCE", 2)
    arrivals, real = server.installation.images.arrivals, studies.arrived
    broken, good = [ct(AccessionNumber="") for _ in range(4)], ct(AccessionNumber="")
    names = {str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID) for data in broken}

    def arrived(ctx, study, complete):
        if study.uid in names:
            raise LookupError
        return real(ctx, study, complete)

    monkeypatch.setattr(studies, "arrived", arrived)
    assert stow(*broken, good).status_code == 200
    server.wait(seconds=20)
    for _ in range(4):
        arrivals.settle()
    assert study_of(hospital, good)["status"] == "available"
    monkeypatch.undo()
    server.wait(seconds=60)  # and they are tried again
    for _ in range(4):
        arrivals.settle()
    assert [study_of(hospital, data)["status"] for data in broken] == ["available"] * 4
