"""Where images and record do not agree, people decide; what was sent stays as it was sent."""

from __future__ import annotations

import pydicom
import pytest
from conftest import assert_outcome, order, patient
from files import fresh, opened, path, saved

from imaging.stow import store


def parameters(**values) -> dict:
    kinds = {"order": "valueReference", "patient": "valueReference", "decision": "valueCode", "note": "valueString"}
    rows = [{"name": n, kinds[n]: {"reference": v} if kinds[n] == "valueReference" else v} for n, v in values.items()]
    return {"resourceType": "Parameters", "parameter": rows}


@pytest.fixture
def ordered(created):
    def make(number: str, mrn: str) -> tuple[dict, dict]:
        person = created(patient(identifier=[{"system": "urn:mrn", "value": mrn}], birthDate="1970-05-02"))
        return person, created(order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": number}]))

    return make


@pytest.fixture
def study_of(hospital):
    def find(dataset) -> dict:
        bundle = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{dataset.StudyInstanceUID}").json()
        [entry] = bundle["entry"]
        return entry["resource"]

    return find


@pytest.fixture
def tasks(hospital, server):
    def find(focus: str, reason: str) -> list[dict]:
        server.installation.images.arrivals.settle()
        rows = [e["resource"] for e in hospital.get(f"Task?focus={focus}").json().get("entry", [])]
        of_reason = [row for row in rows if row["reasonCode"]["coding"][0]["code"] == reason]
        return [row for row in of_reason if row["status"] != "cancelled"]

    return find


@pytest.fixture
def settle(hospital):
    def post(task: dict, **values):
        return hospital.post(f"Task/{task['id']}/$reconcile", json=parameters(**values))

    return post


def test_other_bytes_under_a_known_uid_are_set_aside_with_a_warning(stow, web, study_of, tasks, settle, hospital, server):
    """A PACS that sends again with corrected values is not held up; what came first stays until a person decides."""
    first = opened(fresh("CT_small.dcm", PatientName="Wrong^Name"))
    again = opened(saved(first))
    again.PatientName = "Right^Name"
    assert stow(saved(first)).status_code == 200
    reply = stow(saved(again))
    assert reply.status_code == 202
    [row] = reply.json()["00081199"]["Value"]
    assert row["00081196"]["Value"] == [0xB000]
    assert stow(saved(again)).status_code == 202
    shown = {"Accept": "application/dicom; transfer-syntax=*"}
    assert web().get(path(first), headers=shown).content[128:] == saved(first)[128:]
    study = study_of(first)
    [task] = tasks(f"ImagingStudy/{study['id']}", "set-aside")
    assert task["code"]["coding"][0]["code"] == "reconcile"
    assert "Name" not in str(task)
    assert_outcome(settle(task, decision="link"), 422, "business-rule")
    done = settle(task, decision="replace", note="corrected by the modality")
    assert done.status_code == 200, done.text
    assert (done.json()["status"], done.json()["note"][0]["text"]) == ("completed", "corrected by the modality")
    assert web().get(path(first), headers=shown).content[128:] == saved(again)[128:]
    [told] = web().get(f"{path(first)}/metadata").json()
    assert told["00100010"]["Value"] == [{"Alphabetic": "Right^Name"}]
    assert_outcome(settle(task, decision="keep"), 409, "conflict")
    [kept] = server.installation.images.index.quarantine.find({"uid": str(first.SOPInstanceUID)})
    assert server.installation.images.blobs.read(kept["digest"])[128:] == saved(first)[128:]
    agents = [e["resource"] for e in hospital.get(f"Provenance?target=Task/{task['id']}").json()["entry"]]
    assert any(a["activity"]["coding"][0]["code"] == "reconcile" for a in agents), agents


def test_one_data_set_is_the_same_whoever_wrote_the_meta_information(stow, study_of, tasks):
    first = opened(fresh("CT_small.dcm"))
    again = opened(saved(first))
    again.file_meta.ImplementationVersionName = "ANOTHER PACS"
    again.file_meta.SourceApplicationEntityTitle = "PACS"
    assert saved(first) != saved(again)
    assert stow(saved(first)).status_code == 200
    assert stow(saved(again)).status_code == 200
    assert tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside") == []


def test_what_was_set_aside_may_stay_aside(stow, web, study_of, tasks, settle):
    first = opened(fresh("CT_small.dcm"))
    again = opened(saved(first))
    again.StationName = "OTHER"
    stow(saved(first))
    stow(saved(again))
    [task] = tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside")
    assert settle(task, decision="keep").status_code == 200
    assert (
        web().get(path(first), headers={"Accept": "application/dicom; transfer-syntax=*"}).content[128:] == saved(first)[128:]
    )
    stow(saved(again))  # the same bytes once more: decided is decided
    assert len(tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside")) == 1


def test_a_study_that_was_sent_again_for_another_patient_moves_as_a_whole(
    stow, web, study_of, tasks, settle, ordered, hospital, server
):
    person, _ = ordered("MOVE-1", "MV-RIGHT")
    first = opened(fresh("CT_small.dcm", PatientID="MV-WRONG", PatientBirthDate="19700502", AccessionNumber=""))
    second = opened(saved(first))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    assert stow(saved(first), saved(second)).status_code == 200
    study = study_of(first)
    first.PatientID = second.PatientID = "MV-RIGHT"
    assert stow(saved(first)).status_code == 202
    [task] = tasks(f"ImagingStudy/{study['id']}", "set-aside")
    assert_outcome(settle(task, decision="replace"), 409, "conflict")
    assert stow(saved(second)).status_code == 202
    assert_outcome(settle(task, decision="replace"), 409, "conflict")  # it is about the first alone
    [newer] = [t for t in tasks(f"ImagingStudy/{study['id']}", "set-aside") if t["id"] != task["id"]]
    assert settle(newer, decision="replace").status_code == 200
    assert hospital.get(f"Task/{task['id']}").json()["status"] == "cancelled"
    server.installation.images.arrivals.settle()
    rows = web().get(f"studies/{first.StudyInstanceUID}/instances?includefield=PatientID").json()
    assert [row["00100020"]["Value"] for row in rows] == [["MV-RIGHT"]] * 2
    assert tasks(f"ImagingStudy/{study['id']}", "patient-changed") == []
    moved = study_of(first)  # the record follows: the images and their resource are of one patient
    assert moved["subject"]["reference"] == f"Patient/{person['id']}" != study["subject"]["reference"]
    for one in moved["basedOn"]:
        assert hospital.get(one["reference"]).json()["subject"] == moved["subject"]


def test_what_comes_for_the_former_patient_after_a_move_is_set_aside_in_every_process(
    stow, tasks, study_of, settle, server, monkeypatch
):
    """Another process took images of this series a moment ago, and has not heard of the move."""
    monkeypatch.setattr("imaging.index.writing.BELIEVED", 0.0)
    first = opened(fresh("CT_small.dcm", PatientID="LATE-WRONG"))
    assert stow(saved(first)).status_code == 200
    study = study_of(first)
    late = opened(saved(first))
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    first.PatientID = "LATE-RIGHT"
    assert stow(saved(first)).status_code == 202
    [task] = tasks(f"ImagingStudy/{study['id']}", "set-aside")
    index = server.installation.images.index
    heard_before = dict(index._known)
    assert settle(task, decision="replace").status_code == 200
    index._known.update(heard_before)
    assert stow(saved(late)).status_code == 202


def test_what_is_moved_by_hand_is_moved_though_the_server_stopped_half_way(
    resent, cut_short, stow, web, study_of, tasks, settle, ordered, server
):
    """Half of the images were replaced when it stopped: the same decision again moves the rest, and still knows that it moves them."""
    person, _ = ordered("HALF-1", "HALF-RIGHT")
    (first, second), task = resent("HALF-WRONG", "HALF-RIGHT")
    images, uid = server.installation.images, str(first.StudyInstanceUID)
    cut_short(task, uid)
    images.arrivals.settle()
    assert study_of(first)["subject"]["reference"] != f"Patient/{person['id']}"
    # Half of the images are one patient's and half another's: nobody is shown any.
    assert web().get(path(first)).status_code == web().get(path(second)).status_code == 404
    assert web().get(f"studies?StudyInstanceUID={uid}").status_code == 204
    assert_outcome(settle(task, decision="keep"), 409, "conflict")  # it was decided, and half of it is done
    late = opened(saved(first))
    late.StationName = "LATER"
    assert stow(saved(late)).status_code == 202  # it came after the decision, which is not about it
    assert settle(task, decision="replace").status_code == 200
    assert web().get(path(first)).status_code == 404  # the record has not followed yet
    server.installation.images.arrivals.settle()
    assert tasks(f"ImagingStudy/{study_of(first)['id']}", "patient-changed") == []
    assert study_of(first)["subject"]["reference"] == f"Patient/{person['id']}"
    shown = {"Accept": "application/dicom; transfer-syntax=*"}
    assert [web().get(path(one), headers=shown).content[128:] for one in (first, second)] == [
        saved(one)[128:] for one in (first, second)
    ]
    assert len(images.index.aside("hospital", uid)) == 1
    [newer] = [t for t in tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside") if t["status"] == "requested"]
    assert settle(newer, decision="keep").status_code == 200
    assert images.index.aside("hospital", uid) == []


def test_what_was_set_aside_is_read_as_it_was_sent(stow, web, study_of, tasks, settle, server):
    """Its source has a character set of its own, which the file does not tell."""
    first = opened(fresh("CT_small.dcm", PatientName="A^Name^Here"))
    del first.SpecificCharacterSet
    assert stow(saved(first)).status_code == 200
    images = server.installation.images
    incoming = images.blobs.receive()
    incoming.write(saved(first).replace(b"A^Name^Here", "Люксембург".encode("iso8859_5").ljust(11)))
    incoming.charset = "ISO_IR 144"
    store(incoming, "hospital", images.blobs, images.index, None)
    images.index.mark("hospital", str(first.StudyInstanceUID), 0)
    [task] = tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside")
    assert settle(task, decision="replace").status_code == 200
    [told] = web().get(f"{path(first)}/metadata").json()
    assert told["00100010"]["Value"] == [{"Alphabetic": "Люксембург"}]


def test_an_instance_that_was_sent_again_in_another_study_is_shown_there(stow, study_of, tasks, settle, web, hospital):
    first = opened(fresh("CT_small.dcm"))
    assert stow(saved(first)).status_code == 200
    study = study_of(first)
    first.StudyInstanceUID, first.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    assert stow(saved(first)).status_code == 202
    [task] = tasks(f"ImagingStudy/{study['id']}", "set-aside")
    assert settle(task, decision="replace").status_code == 200
    tasks(f"ImagingStudy/{study['id']}", "set-aside")
    assert study_of(first)["numberOfInstances"] == 1
    assert len(web().get(f"studies/{first.StudyInstanceUID}/metadata").json()) == 1
    emptied = study["identifier"][0]["value"].removeprefix("urn:oid:")  # nothing is left of the series that it was in
    assert web().get(f"studies/{emptied}/series").status_code == 204
    assert hospital.get(f"ImagingStudy/{study['id']}").json()["numberOfSeries"] == 0


def test_a_mismatch_is_linked_corrected_or_rejected_by_hand(stow, study_of, tasks, settle, ordered, hospital, office, created):
    person, asked = ordered("REC-1", "R-1")
    wrong = opened(fresh("CT_small.dcm", AccessionNumber="REC-1", PatientID="R-1-TYPO", PatientBirthDate="19700502"))
    stow(saved(wrong))
    study = study_of(wrong)
    [task] = tasks(f"ImagingStudy/{study['id']}", "patient-mismatch")
    foreign = office.post("Patient", json=patient()).json()
    assert office.post(f"Task/{task['id']}/$reconcile", json=parameters(decision="keep")).status_code == 404
    assert_outcome(settle(task, decision="maybe"), 400, "invalid")
    assert_outcome(settle(task, decision="link"), 400, "invalid")
    assert_outcome(settle(task, decision="correct", patient=f"Patient/{foreign['id']}"), 422, "not-found")
    assert_outcome(settle(task, decision="replace"), 422, "business-rule")
    assert hospital.get(f"Task/{task['id']}").json() == task
    assert study_of(wrong) == study
    assert settle(task, decision="link", order=f"ServiceRequest/{asked['id']}").status_code == 200
    linked = study_of(wrong)
    assert linked["subject"]["reference"] == f"Patient/{person['id']}"
    assert [one["reference"] for one in linked["basedOn"]] == [f"ServiceRequest/{asked['id']}"]
    more = opened(saved(wrong))
    more.SOPInstanceUID = more.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    stow(saved(more))
    tasks(f"ImagingStudy/{study['id']}", "patient-mismatch")
    after = study_of(wrong)
    assert after["numberOfInstances"] == 2
    assert after["subject"] == linked["subject"]  # what a person decided stays decided


def test_a_rejected_study_leaves_the_record_and_its_bytes_stay(stow, study_of, tasks, settle, ordered, web, server):
    ordered("REJ-1", "J-1")
    wrong = opened(fresh("CT_small.dcm", AccessionNumber="REJ-1", PatientID="SOMEBODY", PatientBirthDate="19700502"))
    stow(saved(wrong))
    study = study_of(wrong)
    [task] = tasks(f"ImagingStudy/{study['id']}", "patient-mismatch")
    assert settle(task, decision="reject").status_code == 200
    assert study_of(wrong)["status"] == "entered-in-error"
    [row] = server.installation.images.index.stored("hospital", str(wrong.StudyInstanceUID))
    assert server.installation.images.blobs.read(row.digest)[128:] == saved(wrong)[128:]


def test_the_same_examination_under_new_uids_is_flagged(stow, study_of, tasks, ordered, server):
    ordered("SAME-1", "S-1")
    members = {"AccessionNumber": "SAME-1", "PatientID": "S-1", "PatientBirthDate": "19700502"}
    one, other = (opened(fresh("CT_small.dcm", **members)) for _ in range(2))
    for dataset in (one, other):
        stow(saved(dataset))
        server.wait(seconds=11)
        server.installation.images.arrivals.settle()
    assert len(tasks(f"ImagingStudy/{study_of(other)['id']}", "same-examination")) == 1
    assert tasks(f"ImagingStudy/{study_of(one)['id']}", "same-examination") == []


def test_each_facility_has_an_endpoint_of_its_own(stow, study_of, hospital):
    dataset = opened(fresh("CT_small.dcm"))
    stow(saved(dataset))
    [reference] = study_of(dataset)["endpoint"]
    endpoint = hospital.get(reference["reference"]).json()
    assert endpoint["managingOrganization"] == {"reference": "Organization/hospital"}
    assert endpoint["address"].endswith("/dicomweb")
    assert endpoint["connectionType"]["code"] == "dicom-wado-rs"


# ---------------------------------------------------------------- what goes wrong on the way


@pytest.fixture
def resent(stow, study_of, tasks):
    """Two images of a study that were sent again for another patient, and the Task about them."""

    def make(before: str, after: str) -> tuple[list, dict]:
        first = opened(fresh("CT_small.dcm", PatientID=before, PatientBirthDate="19700502", AccessionNumber=""))
        second = opened(saved(first))
        second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        assert stow(saved(first), saved(second)).status_code == 200
        first.PatientID = second.PatientID = after
        assert stow(saved(first), saved(second)).status_code == 202
        about = tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside")  # one about the first alone may be there, too
        return [first, second], max(about, key=lambda task: task["authoredOn"])

    return make


@pytest.fixture
def cut_short(server, monkeypatch):
    """The process ends after the first image was replaced."""

    def cut(task: dict, uid: str) -> None:
        images, replaced = server.installation.images, []
        replace = images.index.replace

        def stops(*one) -> None:
            if replaced:
                raise SystemExit
            replaced.append(one)
            replace(*one)

        with monkeypatch.context() as patched:
            patched.setattr(images.index, "replace", stops)
            with pytest.raises(SystemExit):
                images.take_from_quarantine("hospital", uid, True, task["id"], lambda _: True)

    return cut


def test_a_move_that_nobody_ends_goes_on_by_itself(resent, cut_short, study_of, web, server, ordered, monkeypatch):
    person, _ = ordered("ALONE-1", "ALONE-RIGHT")
    pair, task = resent("ALONE-WRONG", "ALONE-RIGHT")
    cut_short(task, str(pair[0].StudyInstanceUID))
    arrivals = server.installation.images.arrivals
    arrivals.settle()
    assert web().get(path(pair[0])).status_code == 404
    monkeypatch.setattr("imaging.index.deciding.CUT_OFF", 0.0)
    for _ in range(3):
        server.wait(seconds=5)
        arrivals.settle()
    assert study_of(pair[0])["subject"]["reference"] == f"Patient/{person['id']}"
    shown = {"Accept": "application/dicom; transfer-syntax=*"}
    assert [web().get(path(one), headers=shown).content[128:] for one in pair] == [saved(one)[128:] for one in pair]


def test_a_report_goes_with_the_move_whoever_is_first(resent, study_of, web, server, ordered, hospital, settle):
    """The job that follows the images comes before the decision is committed."""
    person, _ = ordered("FIRST-1", "FIRST-RIGHT")
    pair, task = resent("FIRST-WRONG", "FIRST-RIGHT")
    study = study_of(pair[0])
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CT"}, "subject": study["subject"],
        "imagingStudy": [{"reference": f"ImagingStudy/{study['id']}"}], "conclusion": "of the wrong one",
    }  # fmt: skip
    made = hospital.post("DiagnosticReport", json=report)
    assert made.status_code == 201, made.text
    images = server.installation.images
    images.take_from_quarantine("hospital", str(pair[0].StudyInstanceUID), True, task["id"], lambda _: True)
    images.arrivals.settle()
    assert study_of(pair[0])["subject"]["reference"] == f"Patient/{person['id']}"
    assert hospital.get(f"DiagnosticReport/{made.json()['id']}").json()["status"] == "entered-in-error"
    assert web().get(path(pair[0])).status_code == 200
    assert settle(task, decision="replace").status_code == 200


def test_what_cannot_be_read_moves_nothing(resent, settle, server, web):
    pair, task = resent("GONE-WRONG", "GONE-RIGHT")
    images = server.installation.images
    row, _ = images.index.aside("hospital", str(pair[0].StudyInstanceUID))
    file = images.blobs._path(row["digest"])
    file.rename(file.with_suffix(".away"))
    reply = settle(task, decision="replace")
    assert_outcome(reply, 409, "conflict")
    assert "check-images" in reply.text
    assert [web().get(path(one)).status_code for one in pair] == [200, 200]
    file.with_suffix(".away").rename(file)
    assert settle(task, decision="replace").status_code == 200


def test_an_image_that_belongs_to_a_study_of_a_third_patient_is_not_put_there(stow, study_of, tasks, settle, web):
    one = opened(fresh("CT_small.dcm", PatientID="THIRD-1"))
    other = opened(fresh("CT_small.dcm", PatientID="THIRD-2"))
    assert stow(saved(one)).status_code == 200
    again = opened(saved(one))
    again.StudyInstanceUID, again.SeriesInstanceUID, again.PatientID = (
        other.StudyInstanceUID,
        other.SeriesInstanceUID,
        "THIRD-3",
    )
    assert stow(saved(other)).status_code == 200
    moved = opened(saved(again))
    moved.PatientID = "THIRD-2"
    assert stow(saved(moved)).status_code == 202
    [task] = tasks(f"ImagingStudy/{study_of(one)['id']}", "set-aside")
    other.PatientID = "THIRD-4"
    assert stow(saved(other)).status_code == 202
    [of_other] = tasks(f"ImagingStudy/{study_of(other)['id']}", "set-aside")
    assert settle(of_other, decision="replace").status_code == 200
    tasks(f"ImagingStudy/{study_of(other)['id']}", "set-aside")
    assert_outcome(settle(task, decision="replace"), 409, "conflict")
    rows = web().get(f"studies/{other.StudyInstanceUID}/instances?includefield=PatientID").json()
    assert [row["00100020"]["Value"] for row in rows] == [["THIRD-4"]]


def test_nothing_for_the_former_patient_is_taken_while_a_study_moves(resent, cut_short, stow, web, settle, server):
    pair, task = resent("WHILE-WRONG", "WHILE-RIGHT")
    cut_short(task, str(pair[0].StudyInstanceUID))
    late = opened(saved(pair[0]))
    late.PatientID = "WHILE-WRONG"
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    assert stow(saved(late)).status_code == 202
    assert settle(task, decision="replace").status_code == 200
    server.installation.images.arrivals.settle()
    rows = web().get(f"studies/{late.StudyInstanceUID}/instances?includefield=PatientID").json()
    assert [row["00100020"]["Value"] for row in rows] == [["WHILE-RIGHT"]] * 2


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_move_that_can_no_longer_be_made_whole_is_given_back_to_people(
    resent, stow, study_of, tasks, settle, web, server, monkeypatch, by_itself
):
    """The process ended before the first image was replaced, and another one, which had not heard, took an image of the former patient."""
    pair, task = resent(f"BACK-WRONG-{by_itself}", f"BACK-RIGHT-{by_itself}")
    images, uid = server.installation.images, str(pair[0].StudyInstanceUID)

    def ends(*_) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("imaging.deciding.sleep", ends)
        with pytest.raises(SystemExit):
            images.take_from_quarantine("hospital", uid, True, task["id"], lambda _: True)
    late = opened(saved(pair[0]))
    late.PatientID = f"BACK-WRONG-{by_itself}"
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    images.index.moving("hospital", uid, 0)
    assert stow(saved(late)).status_code == 200
    images.index.moving("hospital", uid, 1)
    if by_itself:
        monkeypatch.setattr("imaging.index.deciding.CUT_OFF", 0.0)
        for _ in range(3):
            server.wait(seconds=5)
            images.arrivals.settle()
    assert_outcome(settle(task, decision="replace"), 409, "conflict")
    assert [web().get(path(one)).status_code for one in (*pair, late)] == [200] * 3
    assert len(images.index.aside("hospital", uid)) == 2
    assert settle(task, decision="keep").status_code == 200


def test_a_correction_that_was_cut_off_goes_on_by_itself_and_the_study_is_shown_meanwhile(
    resent, cut_short, stow, tasks, study_of, settle, web, server, monkeypatch
):
    """Of the same patient. What comes meanwhile has a Task of its own, whose decision does not end it."""
    first = opened(fresh("CT_small.dcm", PatientID="SAME-ONE"))
    second = opened(saved(first))
    second.SOPInstanceUID = second.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    assert stow(saved(first), saved(second)).status_code == 200
    first.StationName = second.StationName = "CORRECTED"
    assert stow(saved(first), saved(second)).status_code == 202
    about = tasks(f"ImagingStudy/{study_of(first)['id']}", "set-aside")
    task = max(about, key=lambda task: task["authoredOn"])
    cut_short(task, str(first.StudyInstanceUID))
    assert [web().get(path(one)).status_code for one in (first, second)] == [200, 200]
    monkeypatch.setattr("imaging.index.deciding.CUT_OFF", 0.0)
    for _ in range(3):
        server.wait(seconds=5)
        server.installation.images.arrivals.settle()
    shown = {"Accept": "application/dicom; transfer-syntax=*"}
    assert [web().get(path(one), headers=shown).content[128:] for one in (first, second)] == [
        saved(one)[128:] for one in (first, second)
    ]
    assert settle(task, decision="replace").status_code == 200


def shown_patients(web, dataset) -> list[str]:
    """Of the images themselves; a search tells the study's."""
    reply = web().get(f"studies/{dataset.StudyInstanceUID}/metadata")
    return sorted(row["00100020"]["Value"][0] for row in reply.json()) if reply.status_code == 200 else []


def test_a_move_that_was_cut_off_in_a_study_that_is_quiet_goes_on_by_itself(resent, cut_short, web, server, monkeypatch):
    pair, task = resent("QUIET-WRONG", "QUIET-RIGHT")
    arrivals = server.installation.images.arrivals
    for _ in range(3):
        server.wait(seconds=60)
        arrivals.settle()
    cut_short(task, str(pair[0].StudyInstanceUID))
    monkeypatch.setattr("imaging.index.deciding.CUT_OFF", 0.0)
    for _ in range(4):
        server.wait(seconds=60)
        arrivals.settle()
    assert shown_patients(web, pair[0]) == ["QUIET-RIGHT"] * 2


def test_while_one_decision_is_done_no_other_is_taken(resent, cut_short, stow, tasks, study_of, settle, web, server, hospital):
    pair, task = resent("ONE-WRONG", "ONE-RIGHT")
    cut_short(task, str(pair[0].StudyInstanceUID))
    about = hospital.get(f"Task?focus=ImagingStudy/{study_of(pair[0])['id']}").json()["entry"]
    others = [e["resource"] for e in about if e["resource"]["id"] != task["id"] and e["resource"]["status"] == "requested"]
    for other in others:
        assert_outcome(settle(other, decision="keep"), 409, "conflict")
    assert_outcome(settle(task, decision="keep"), 409, "conflict")
    assert settle(task, decision="replace").status_code == 200
    server.installation.images.arrivals.settle()
    assert shown_patients(web, pair[0]) == ["ONE-RIGHT"] * 2


def test_what_slipped_into_a_study_while_it_moved_is_set_aside_before_it_is_shown_again(
    resent, stow, tasks, study_of, settle, web, server, monkeypatch
):
    pair, task = resent("SLIP-WRONG", "SLIP-RIGHT")
    images = server.installation.images
    late = opened(saved(pair[0]))
    late.PatientID = "SLIP-WRONG"
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    replace = images.index.replace

    def slips(*one) -> None:
        """Another process's insert, which was under way all the time."""
        monkeypatch.undo()
        with monkeypatch.context() as patched:
            patched.setattr(images.index, "_has_parents", lambda *_: True)
            assert stow(saved(late)).status_code == 200
        replace(*one)

    monkeypatch.setattr(images.index, "replace", slips)
    assert settle(task, decision="replace").status_code == 200
    images.arrivals.settle()
    assert shown_patients(web, pair[0]) == ["SLIP-RIGHT"] * 2
    assert [row["uid"] for row in images.index.aside("hospital", str(late.StudyInstanceUID))] == [str(late.SOPInstanceUID)]


def test_what_was_moved_by_mistake_is_moved_back(resent, stow, tasks, study_of, settle, web, server):
    pair, task = resent("BACKWARDS-1", "BACKWARDS-2")
    assert settle(task, decision="replace").status_code == 200
    server.installation.images.arrivals.settle()
    assert shown_patients(web, pair[0]) == ["BACKWARDS-2"] * 2
    for one in pair:
        one.PatientID = "BACKWARDS-1"
    assert stow(*(saved(one) for one in pair)).status_code == 202
    open_ = [t for t in tasks(f"ImagingStudy/{study_of(pair[0])['id']}", "set-aside") if t["status"] == "requested"]
    newest = max(open_, key=lambda task: task["authoredOn"])
    assert settle(newest, decision="replace").status_code == 200
    server.installation.images.arrivals.settle()
    assert shown_patients(web, pair[0]) == ["BACKWARDS-1"] * 2


def test_a_report_of_the_same_person_stays(resent, study_of, hospital, settle, server, created):
    """The number was corrected, and the record has both."""
    person = created(
        patient(identifier=[{"system": "urn:mrn", "value": n} for n in ("BOTH-1", "BOTH-2")], birthDate="1970-05-02")
    )
    pair, task = resent("BOTH-1", "BOTH-2")
    study = study_of(pair[0])
    assert study["subject"]["reference"] == f"Patient/{person['id']}"
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "code": {"text": "CT"}, "subject": study["subject"],
        "imagingStudy": [{"reference": f"ImagingStudy/{study['id']}"}],
    }  # fmt: skip
    made = hospital.post("DiagnosticReport", json=report).json()
    assert settle(task, decision="replace").status_code == 200
    server.installation.images.arrivals.settle()
    assert study_of(pair[0])["subject"] == study["subject"]
    assert hospital.get(f"DiagnosticReport/{made['id']}").json()["status"] == "final"
