"""Earlier studies that are fetched for ``$fetch-priors``: C-GET and C-MOVE from DCMTK's PACS, QIDO-RS and WADO-RS from a second server."""

from __future__ import annotations

import io
import json
import logging
import threading
from contextlib import nullcontext
from dataclasses import replace

import httpx
import pydicom
import pytest
from archives import Both, Pacs, Second, Wire, data_set, free_port, needs_dcmtk, quiet, series_of, uids, until
from conftest import order, patient
from test_stow import uid

from fhirserver.fetching import Bounds
from fhirserver.pulling import TRIES
from imaging import stow as storing
from imaging.dimse.sources import Source
from imaging.peers.destinations import Destination

MRN = "urn:mrn"
BORN, DA = "1970-05-02", "19700502"
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def server(mongodb_uri, tmp_path_factory):
    with quiet(mongodb_uri, tmp_path_factory.mktemp("data"), dimse_port=free_port()) as server:
        yield server


@pytest.fixture(scope="module")
def listener(server):
    listener = server.installation.images.listener
    server.installation.images.sources.add(Source("PACS", "hospital"))
    listener.start()
    until(lambda: listener.owns)
    yield listener
    listener.stop()


@pytest.fixture(scope="module")
def network(server, as_, hospital, office):
    for name, client in (("hospital", hospital), ("office", office), ("elsewhere", as_("elsewhere"))):
        body = {"resourceType": "Organization", "id": name, "name": name.title()}
        assert client.put(f"Organization/{name}", json=body).status_code == 201
    return hospital


@pytest.fixture(scope="module")
def second(mongodb_uri, tmp_path_factory):
    second = Second(mongodb_uri, tmp_path_factory.mktemp("second"))
    yield second
    second.close()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    made = Pacs(tmp_path_factory.mktemp("pacs")).start()
    yield made
    made.kill()


@pytest.fixture
def parts(server):
    installation = server.installation
    installation.database["dicom_destinations"].delete_many({})
    installation.images.pulling.parts.bounds = Bounds()
    return Both(installation)


@pytest.fixture
def source(parts):
    """A PACS of elsewhere's, that the hospital configured and that knows patients by the hospital's numbers."""

    def make(port, name="pacs", **members):
        given = {"owner": "hospital", "organization": "elsewhere", "patient_system": MRN} | members
        parts.destinations.add(
            Destination(name, kind="dimse", host="127.0.0.1", port=port, called="PACS", calling="OURS", queries=True, **given)
        )

    return make


@pytest.fixture
def web_source(parts, second):
    def make(port=None, name="web", **members):
        given = {"owner": "hospital", "organization": "elsewhere", "patient_system": MRN} | members
        parts.destinations.add(
            Destination(
                name, kind="dicomweb", url=f"http://127.0.0.1:{port or second.port}/dicomweb", client_id="network", queries=True,
                token_url=f"{second.url}/auth/token", scope="system/ImagingStudy.cruds", secrets={"client_key": second.jwk}, **given,
            )
        )  # fmt: skip

    return make


class Case:
    """A patient of the hospital's with an active order, and how to ask for what was made of them before."""

    def __init__(self, server, hospital) -> None:
        self.server, self.hospital, self.parts = server, hospital, Both(server.installation)
        self.number = "P" + uid()[-12:]
        person = patient(identifier=[{"system": MRN, "value": self.number}], birthDate=BORN)
        self.patient = f"Patient/{hospital.post('Patient', json=person).json()['id']}"
        asked = order(self.patient, reasonCode=[{"text": "bleeding?"}])
        self.order = hospital.post("ServiceRequest", json=asked).json()["id"]

    def asks(self, *sources, **more):
        rows = [{"name": "source", "valueReference": {"reference": one}} for one in sources or ("Organization/elsewhere",)]
        rows += [{"name": name, **value} for name, value in more.items()]
        body = {"resourceType": "Parameters", "parameter": rows}
        return self.hospital.post(f"ServiceRequest/{self.order}/$fetch-priors", json=body)

    def asked(self, *sources, **more):
        reply = self.asks(*sources, **more)
        assert reply.status_code == 200, reply.text
        body = reply.json()
        return body["id"] if body["resourceType"] == "Task" else body["parameter"][0]["resource"]["id"]

    def worked(self) -> None:
        """One round of the job, here."""
        for task, destination in self.parts.pulling.waiting():
            self.parts.pulling.work(task.reference, destination)

    def task(self, id_):
        return self.hospital.get(f"Task/{id_}").json()

    def named(self):
        return [one["reference"] for one in self.hospital.get(f"ServiceRequest/{self.order}").json().get("supportingInfo", [])]

    def held(self) -> dict[str, bytes]:
        rows = self.parts.index.instances.find({"owner": "hospital"}, {"uid": 1, "digest": 1})
        return {row["uid"]: self.parts.blobs.read(row["digest"]) for row in rows}


@pytest.fixture
def case(server, network):
    return Case(server, network)


@pytest.fixture
def earlier(samples, case):
    """An earlier study of the patient's, somewhere else."""

    def make(count=3, name="CT_small.dcm", **members):
        given = {"PatientID": case.number, "PatientBirthDate": DA, "AccessionNumber": "E-1", "StudyDate": "20200101"}
        return series_of(samples(name), count, **(given | members))

    return make


def study_uid(files) -> str:
    return str(pydicom.dcmread(io.BytesIO(files[0])).StudyInstanceUID)


@pytest.fixture
def put_there(second):
    """Into the second server, as its own organisation's."""

    def make(*files):
        token = second.auth.issue(second.auth.clients.get("network"), None, "system/*.cruds", 600)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"}
        for data in files:
            assert httpx.post(f"{second.url}/dicomweb/studies", content=data, headers=headers).status_code == 200

    return make


# ---------------------------------------------------------------- what comes


@needs_dcmtk
@pytest.mark.parametrize("spooled", [False, True])
def test_by_c_get_the_patients_studies_come_and_the_order_names_them(
    case, source, pacs, earlier, spooled, monkeypatch, tmp_path
):
    monkeypatch.setattr("pynetdicom._config.STORE_RECV_CHUNKED_DATASET", spooled)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files, other = earlier(3), earlier(1, StudyDate="20210101")
    pacs.load(*files, *other)
    source(pacs.port)
    task = case.asked()
    case.worked()
    done = case.task(task)
    assert done["status"] == "completed", done.get("statusReason")
    named = case.named()
    assert sorted(one["valueReference"]["reference"] for one in done["output"]) == sorted(named)
    assert len(named) == 2
    held = case.held()
    kept = pacs.files()  # storescu took the padding off
    assert all(data_set(held[name]) == data_set(kept[name][0]) for name in uids(files + other))
    assert list(tmp_path.iterdir()) == []
    for reference in named:
        study = case.hospital.get(reference).json()
        assert study["subject"] == {"reference": case.patient}
        assert study["status"] == "available"
        assert study["extension"][0]["valueReference"] == {"reference": "Organization/elsewhere"}
        assert "basedOn" not in study
        assert [i["system"] for i in study["identifier"]] == ["urn:dicom:uid"]
    found = case.hospital.get(f"ServiceRequest/{case.order}/$priors").json()
    assert sorted(e["fullUrl"].partition("/fhir/")[2] for e in found["entry"]) == sorted(named)


def test_by_wado_they_come_byte_for_byte(case, web_source, earlier, put_there):
    files = earlier(3)
    put_there(*files)
    web_source()
    task = case.asked()
    case.worked()
    assert case.task(task)["status"] == "completed"
    held = case.held()
    assert {name: held[name][128:] for name in uids(files)} == {name: data[128:] for name, data in uids(files).items()}
    [reference] = case.named()
    assert case.hospital.get(reference).json()["numberOfInstances"] == 3


@needs_dcmtk
@pytest.mark.parametrize(("name", "takes"), [("MR_small_RLE.dcm", "+xr"), ("JPEG2000.dcm", "+xw")])
def test_what_is_stored_there_comes_in_its_own_transfer_syntax(case, source, tmp_path, earlier, name, takes):
    there = Pacs(tmp_path / "pacs", None, takes).start()
    try:
        files = earlier(2, name)
        for number, data in enumerate(files):
            (tmp_path / f"{number}.dcm").write_bytes(data)
        ours = Destination(
            "x", "hospital", "dimse", host="127.0.0.1", port=there.port, called="PACS", calling="OURS", sends=True
        )
        _stored(ours, files, tmp_path)
        source(there.port)
        task = case.asked()
        case.worked()
        assert case.task(task)["status"] == "completed", case.task(task)
        held = case.held()
        for name_, data in uids(files).items():
            came, was = pydicom.dcmread(io.BytesIO(held[name_])), pydicom.dcmread(io.BytesIO(data))
            assert came.file_meta.TransferSyntaxUID == was.file_meta.TransferSyntaxUID
            assert came.PixelData == was.PixelData
    finally:
        there.kill()


def _stored(to, files, folder) -> None:
    """By our own C-STORE."""
    from imaging.index import Stored
    from imaging.peers.dimse import Dimse

    rows = []
    for number, data in enumerate(files):
        dataset = pydicom.dcmread(io.BytesIO(data))
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        rows.append(
            Stored(
                "o", "s", "e", str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), syntax, str(number), len(data), 1, (), {}
            )
        )
    assert [reason for _, reason in Dimse(to).store(rows, lambda row: nullcontext(folder / f"{row.digest}.dcm"))] == [0] * len(
        files
    )


@needs_dcmtk
@pytest.mark.parametrize("told", ["truth", "lies"])
def test_a_peer_that_only_moves_sends_them_to_our_listener(case, source, tmp_path, earlier, server, listener, told):
    """Whose studies it may bring is configured with the listener's sources; an archive whose index lies is found out."""
    files = earlier(3)
    if told == "lies":
        files = [_of_another(data) for data in files]
    there = Pacs(tmp_path / "pacs", {"FHIRSERVER": server.settings.dimse_port}, "--disable-get").start()
    try:
        there.load(*files)
        if told == "lies":
            index = there.storage / "index.dat"
            index.write_bytes(index.read_bytes().replace(b"ANOTHER-PATIENT", case.number.ljust(15, "\0").encode()[:15]))
        source(there.port, move_to="FHIRSERVER")
        task = case.asked()
        case.worked()
        done = case.task(task)
        if told == "truth":
            assert done["status"] == "completed", done
            held = case.held()
            assert uids(files).keys() <= held.keys()
            [reference] = case.named()
            study = case.hospital.get(reference).json()
            assert (study["status"], study["numberOfInstances"], "basedOn" in study) == ("available", 3, False)
        else:
            assert done["status"] == "failed", done
            assert "not of this patient" in done["statusReason"]["text"]
            assert case.named() == []
            found = case.hospital.get(f"ImagingStudy?subject={case.patient}").json()
            assert [e["resource"]["status"] for e in found.get("entry", [])] == ["entered-in-error"]
    finally:
        there.kill()


def _of_another(data: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.PatientID = "ANOTHER-PATIENT"
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


@needs_dcmtk
def test_a_peer_that_only_moves_and_is_not_told_where_to_is_not_asked_in_vain(case, source, tmp_path, earlier):
    there = Pacs(tmp_path / "pacs", None, "--disable-get").start()
    try:
        there.load(*earlier(1))
        source(there.port)
        task = case.asked()
        case.worked()
        done = case.task(task)
        assert (done["status"], "C-GET" in done["statusReason"]["text"]) == ("failed", True)
    finally:
        there.kill()


def test_a_named_study_comes_alone(case, web_source, earlier, put_there):
    files, other = earlier(1), earlier(1)
    put_there(*files, *other)
    known = {"resourceType": "ImagingStudy", "status": "registered", "subject": {"reference": case.patient}}
    identifier = {"identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{study_uid(files)}"}]}
    extension = {
        "extension": [{"url": "urn:fhirserver:StructureDefinition:pulled-from", "valueReference": {"display": "elsewhere"}}]
    }
    named = case.hospital.post("ImagingStudy", json=known | identifier | extension).json()
    web_source()
    task = case.asked(study={"valueReference": {"reference": f"ImagingStudy/{named['id']}"}})
    case.worked()
    assert case.task(task)["status"] == "completed"
    assert uids(files).keys() <= case.held().keys()
    assert not uids(other).keys() & case.held().keys()
    assert case.named() == [f"ImagingStudy/{named['id']}"]
    assert case.hospital.get(f"ImagingStudy/{named['id']}").json()["status"] == "available"


def test_a_study_that_the_facility_has_itself_is_named_and_not_fetched(case, web_source, earlier, put_there, stow, server):
    files = earlier(2)
    put_there(*files)
    assert stow(files[0]).status_code == 200
    web_source()
    case.asked()
    case.worked()
    [reference] = case.named()
    assert "extension" not in case.hospital.get(reference).json()
    assert not uids(files[1:]).keys() & case.held().keys()


def test_what_is_fetched_makes_no_order_and_answers_none(case, web_source, earlier, put_there, server):
    """Its accession number is another archive's, whatever ours of the same number is."""
    number = "S" + case.number[:12]
    ours = {"identifier": [{"system": "urn:acsn", "value": number}]}
    assert case.hospital.post("ServiceRequest", json=order(case.patient, **ours)).status_code == 201
    put_there(*earlier(1, AccessionNumber=number))
    web_source()
    before = case.hospital.get(f"ServiceRequest?subject={case.patient}&_summary=count").json()["total"]
    case.asked()
    case.worked()
    server.wait(seconds=30)
    server.installation.images.arrivals.settle()
    [reference] = case.named()
    assert "basedOn" not in case.hospital.get(reference).json()
    assert case.hospital.get(f"ServiceRequest?subject={case.patient}&_summary=count").json()["total"] == before


def test_who_reads_the_order_sees_them_and_is_told(case, web_source, earlier, put_there, as_, server):
    centre = as_("centre")
    body = {"resourceType": "Parameters", "parameter": [{"name": "destination", "valueCode": "central"}]}
    body["parameter"].append({"name": "expectImages", "valueBoolean": True})
    sent = case.hospital.post(f"ServiceRequest/{case.order}/$dispatch", json=body)
    assert sent.status_code == 200, sent.text
    put_there(*earlier(1))
    web_source()
    case.asked()
    case.worked()
    [reference] = case.named()
    assert centre.get(reference).status_code == 200
    told = [e["resource"] for e in centre.get("Communication?category=order-changed").json()["entry"]]
    [one] = [c for c in told if {"reference": f"ServiceRequest/{case.order}"} in c["about"]]
    assert "supportingInfo" in one["payload"][0]["contentString"]


# ---------------------------------------------------------------- whose they are


@needs_dcmtk
@pytest.mark.parametrize("other", [{"PatientBirthDate": "19700503"}, {"PatientBirthDate": ""}, {"PatientID": "ANOTHER"}])
def test_another_patients_are_not_taken_from_a_pacs(case, source, pacs, earlier, other):
    files = earlier(1, **other)
    pacs.load(*files)
    source(pacs.port)
    task = case.asked()
    case.worked()
    done = case.task(task)
    assert done["status"] == "failed"
    assert done["statusReason"]["text"].startswith("The source has no earlier study of this patient")
    assert case.named() == []
    assert not uids(files).keys() & case.held().keys()


@pytest.mark.parametrize("other", [{"PatientBirthDate": "19700503"}, {"PatientBirthDate": ""}, {"PatientID": "ANOTHER"}])
def test_another_patients_are_not_taken_from_the_web(case, web_source, earlier, put_there, other):
    files = earlier(1, **other)
    put_there(*files)
    web_source()
    task = case.asked()
    case.worked()
    assert case.task(task)["status"] == "failed"
    assert case.named() == []
    assert not uids(files).keys() & case.held().keys()


@pytest.mark.parametrize(
    "other", [{"PatientBirthDate": "19700503"}, {"PatientID": "ANOTHER"}, {"StudyInstanceUID": "1.2.3.4.5"}]
)
def test_an_instance_that_is_anothers_is_not_taken_though_its_study_was_said_to_be_ours(
    case, web_source, earlier, put_there, second, other
):
    """A peer whose index says one thing and whose files say another."""
    mine = earlier(1)
    put_there(*mine)
    [strange] = series_of(mine[0], 1, **other)
    name = next(iter(uids(mine)))
    incoming = second.installation.images.blobs.receive()
    incoming.write(strange)
    digest = second.installation.images.blobs.keep(incoming)
    second.installation.images.index.instances.update_one({"uid": name}, {"$set": {"digest": digest, "size": len(strange)}})
    web_source()
    task = case.asked()
    case.worked()
    done = case.task(task)
    assert done["status"] == "failed"
    assert "not of this patient" in done["statusReason"]["text"]
    assert case.named() == []
    assert not (uids([strange]).keys() | {name}) & case.held().keys()
    assert list(case.parts.blobs.spool.iterdir()) == []


def test_a_patient_without_a_number_that_the_source_knows_is_not_asked_about(case, web_source, second):
    web_source(patient_system="urn:another")
    task = case.asked()
    case.worked()
    assert "no number" in case.task(task)["statusReason"]["text"]


def test_the_national_number_is_asked_by_where_no_other_is_said(server, network, web_source, earlier, put_there):
    case = Case(server, network)
    number = "70050212344"
    from stdnum.pl import pesel

    number = next(n for n in (f"7005021234{d}" for d in range(10)) if pesel.is_valid(n))
    person = case.hospital.get(case.patient).json()
    person["identifier"].append({"system": "urn:oid:2.16.840.1.113883.3.4424.1.1.616", "value": number})
    assert case.hospital.put(case.patient, json=person).status_code == 200
    files = earlier(1, PatientID=number)
    put_there(*files)
    web_source(patient_system=None)
    task = case.asked()
    case.worked()
    assert case.task(task)["status"] == "completed", case.task(task)
    assert uids(files).keys() <= case.held().keys()


def test_a_study_that_was_fetched_for_another_record_is_left(case, web_source, earlier, put_there, server, network):
    """The same number and birth date in two records of the facility: people have to say whether they are one."""
    files = earlier(1)
    put_there(*files)
    web_source()
    case.asked()
    case.worked()
    twin = Case(server, network)
    person = {"identifier": [{"system": "urn:mrn", "value": case.number}], "birthDate": BORN}
    made = twin.hospital.post("Patient", json=patient(**person))
    if made.status_code != 201:
        pytest.skip("a facility has a number once")
    twin.order = twin.hospital.post("ServiceRequest", json=order(f"Patient/{made.json()['id']}")).json()["id"]
    task = twin.asked()
    twin.worked()
    assert twin.task(task)["status"] == "failed"
    assert "another patient's" in twin.task(task)["statusReason"]["text"]
    assert twin.named() == []


@pytest.mark.parametrize("own", [True, False])
def test_what_comes_from_the_facilitys_own_archive_answers_its_own_order(case, web_source, earlier, put_there, own):
    ours = {"identifier": [{"system": "urn:acsn", "value": f"O{case.number[:12]}"}]}
    asked = case.hospital.post("ServiceRequest", json=order(case.patient, **ours)).json()["id"]
    put_there(*earlier(1, AccessionNumber=f"O{case.number[:12]}"))
    owner = "hospital" if own else "elsewhere"
    web_source(organization=owner)
    case.asked(f"Organization/{owner}")
    case.worked()
    [reference] = case.named()
    study = case.hospital.get(reference).json()
    assert study.get("basedOn", []) == ([{"reference": f"ServiceRequest/{asked}"}] if own else [])


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    ("owner", "agreed", "asked"),
    [
        ("centre", ("hospital", "elsewhere"), True),
        ("centre", ("hospital",), False),
        ("centre", ("elsewhere",), False),
        ("office", ("hospital", "elsewhere"), False),
    ],
)
def test_what_another_configured_is_asked_where_both_have_agreed(case, web_source, as_, owner, agreed, asked):
    from test_sending import agreed as agree

    for facility in ("hospital", "elsewhere"):
        agree(as_("centre"), facility, **({"priorsShared": True} if facility in agreed else {}))
    web_source(owner=owner)
    task = case.asked()
    assert bool([t for t, _ in case.parts.pulling.waiting() if t.stored.id == task]) is asked


def test_a_task_whose_source_has_no_destination_is_left_to_people(case, parts):
    task = case.asked()
    case.worked()
    assert case.task(task)["status"] == "requested"


# ---------------------------------------------------------------- the operation


def test_an_endpoint_names_its_organization_and_which_destination(case, web_source, as_, parts, second):
    endpoint = {
        "resourceType": "Endpoint", "status": "active", "connectionType": {"code": "dicom-wado-rs"}, "payloadType": [{"text": "DICOM"}],
        "address": f"{second.url}/dicomweb/", "managingOrganization": {"reference": "Organization/elsewhere"},
    }  # fmt: skip
    id_ = as_("elsewhere").post("Endpoint", json=endpoint).json()["id"]
    web_source(port=free_port(), name="a-first")
    web_source(name="the-one")
    task = case.asked(f"Endpoint/{id_}")
    assert case.task(task)["owner"] == {"reference": "Organization/elsewhere"}
    [destination] = [d.name for t, d in parts.pulling.waiting() if t.stored.id == task]
    assert destination == "the-one"


@pytest.mark.parametrize("what", ["source", "study"])
def test_what_is_no_source_or_no_study_of_the_patient_answers_422(case, what, server, network):
    if what == "source":
        reply = case.asks(case.patient)
    else:
        other = Case(server, network)
        study = {"resourceType": "ImagingStudy", "status": "available", "subject": {"reference": other.patient}}
        made = case.hospital.post("ImagingStudy", json=study).json()
        reply = case.asks(study={"valueReference": {"reference": f"ImagingStudy/{made['id']}"}})
    assert reply.status_code == 422
    assert case.hospital.get(f"Task?focus=ServiceRequest/{case.order}").json()["total"] == 0


# ---------------------------------------------------------------- when it fails


def test_a_wire_that_breaks_in_the_middle_is_gone_on_from(case, web_source, earlier, put_there, second, server):
    files = earlier(6)
    put_there(*files)
    wire = Wire(second.port, 10**9, back=3 * 40_000)
    try:
        web_source(port=wire.port)
        task = case.asked()
        case.worked()
        assert case.task(task)["status"] == "in-progress"
        came = uids(files).keys() & case.held().keys()
        assert 0 < len(came) < 6
        wire.back = 10**9
        server.wait(hours=1)
        case.worked()
    finally:
        wire.close()
    assert case.task(task)["status"] == "completed"
    held = case.held()
    assert all(held[name][128:] == data[128:] for name, data in uids(files).items())
    [reference] = case.named()
    assert case.hospital.get(reference).json()["numberOfInstances"] == 6


@needs_dcmtk
def test_a_pacs_killed_in_the_middle_gives_the_rest_when_it_is_back(case, source, tmp_path, earlier, server, monkeypatch):
    there, files = Pacs(tmp_path / "pacs").start(), earlier(6)
    try:
        there.load(*files)
        source(there.port)
        task = case.asked()
        store, count = storing.store, []

        def killing(*arguments):
            count.append(1)
            if len(count) == 3:
                there.kill()
            return store(*arguments)

        monkeypatch.setattr("fhirserver.fetching.stow.store", killing)
        case.worked()
        assert case.task(task)["status"] == "in-progress"
        came = len(uids(files).keys() & case.held().keys())
        assert 3 <= came < 6
        monkeypatch.undo()
        there.start()
        server.wait(hours=1)
        case.worked()
        assert case.task(task)["status"] == "completed", case.task(task)
        held, kept = case.held(), there.files()
        assert all(data_set(held[name]) == data_set(kept[name][0]) for name in uids(files))
    finally:
        there.kill()


def test_a_source_that_cannot_be_reached_fails_after_some_tries(case, source, parts, server):
    source(free_port())
    task = case.asked()
    for tries in range(1, TRIES + 1):
        assert case.task(task)["status"] == ("requested" if tries == 1 else "in-progress")
        case.worked()
        assert parts.pulling.waiting() == []  # not at once again
        server.wait(hours=1)
    done = case.task(task)
    assert (done["status"], done["statusReason"]["text"]) == ("failed", "The source cannot be asked: it cannot be reached.")
    assert case.named() == []


def test_what_came_is_named_though_the_source_does_not_give_the_rest(case, web_source, earlier, put_there, second, server):
    first, rest = earlier(1, StudyDate="20220101"), earlier(6, StudyDate="20210101")
    put_there(*first, *rest)
    wire = Wire(second.port, 10**9, back=3 * 40_000)
    try:
        web_source(port=wire.port)
        task = case.asked()
        case.worked()
        assert case.task(task)["status"] == "in-progress"
        assert len(case.task(task)["output"]) == 1
        assert case.named() == []
        for _ in range(TRIES):
            server.wait(hours=1)
            case.worked()
    finally:
        wire.close()
    done = case.task(task)
    assert (done["status"], "cannot be asked" in done["statusReason"]["text"]) == ("completed", True)
    [reference] = case.named()
    study = case.hospital.get(reference).json()
    assert study["identifier"][0]["value"] == f"urn:oid:{study_uid(first)}"
    found = case.hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study_uid(rest)}").json()
    assert [e["resource"]["status"] for e in found.get("entry", [])] in ([], ["registered"])


def test_a_study_that_the_source_does_not_give_does_not_hold_up_the_others(case, web_source, earlier, put_there, second):
    gone, files = earlier(1, StudyDate="20220101"), earlier(1, StudyDate="20210101")
    put_there(*gone, *files)
    assert second.installation.images.index.instances.delete_many({"uid": {"$in": list(uids(gone))}}).deleted_count == 1
    web_source()
    task = case.asked()
    case.worked()
    done = case.task(task)
    assert done["status"] == "completed"
    assert done["statusReason"]["text"] in (
        "The source gave nothing of a study.",
        "The peer does not have the study any more, or does not show it.",
    )
    assert len(case.named()) == 1
    assert uids(files).keys() <= case.held().keys()


def test_for_an_order_that_ended_nothing_is_fetched(case, web_source, earlier, put_there):
    files = earlier(1)
    put_there(*files)
    web_source()
    task = case.asked()
    current = case.hospital.get(f"ServiceRequest/{case.order}").json()
    assert case.hospital.put(f"ServiceRequest/{case.order}", json=current | {"status": "revoked"}).status_code == 200
    case.worked()
    done = case.task(task)
    assert (done["status"], done["statusReason"]["text"]) == ("failed", "The order is not active any more.")
    assert not uids(files).keys() & case.held().keys()


def test_what_is_not_there_in_time_fails(case, source, server):
    source(free_port())
    task = case.asked(due={"valueDateTime": (server.time.replace(microsecond=0)).isoformat()})
    server.wait(hours=1)
    case.worked()
    assert case.task(task)["statusReason"]["text"] == "It was not answered in time."


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"bytes": 50_000}, "more than may be fetched"),
        ({"instance": 1000}, "larger than this server takes"),
        ({"seconds": -1.0}, "longer than it may"),
        ({"studies": 1}, "The source has more"),
    ],
)
def test_what_a_task_may_fetch_is_bounded(case, web_source, earlier, put_there, parts, bounds, told):
    put_there(*earlier(2), *earlier(2))
    web_source()
    parts.pulling.parts.bounds = replace(Bounds(), **bounds)
    task = case.asked()
    case.worked()
    done = case.task(task)
    assert told in done["statusReason"]["text"]
    assert len(case.named()) == len(done.get("output", []))
    assert len(case.held().keys()) >= 0
    assert list(parts.blobs.spool.iterdir()) == []


def test_of_two_that_work_a_task_one_does(case, web_source, earlier, put_there, parts):
    put_there(*earlier(3))
    web_source()
    task = case.asked()
    [(item, destination)] = [row for row in parts.pulling.waiting() if row[0].stored.id == task]
    from fhirserver.app import create_app

    twin = create_app(
        case.server.settings, case.server.client[case.server.name], clock=case.server.now
    ).state.installation.images
    begun = [threading.Thread(target=one.pulling.work, args=(item.reference, destination)) for one in (parts, twin)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join(30)
    assert case.task(task)["status"] == "completed"
    assert len(case.named()) == 1
    assert len(case.hospital.get(f"ServiceRequest/{case.order}/_history").json()["entry"]) == 2
    twin.pulling.stop()


def test_the_job_works_it_by_itself(case, web_source, earlier, put_there, parts):
    put_there(*earlier(1))
    web_source()
    task = case.asked()
    parts.pulling.step()
    until(lambda: case.task(task)["status"] == "completed")
    assert len(case.named()) == 1


def test_asking_and_taking_are_audited_and_the_log_names_nobody(case, web_source, earlier, put_there, parts, caplog):
    caplog.set_level(logging.INFO)
    put_there(*earlier(1, PatientName="Logged^Name"))
    web_source(name="audited")
    case.asked()
    case.worked()
    parts.store_audit()
    for code, about in (("110112", case.patient), ("110107", case.named()[0])):
        found = case.hospital.get(f"AuditEvent?type=http://dicom.nema.org/resources/ontology/DCM|{code}&_count=200").json()
        events = [e["resource"] for e in found["entry"]]
        [event] = [e for e in events if any(row["what"]["reference"] == about for row in e["entity"])]
        assert event["agent"][1]["name"] == "audited"
    for hidden in (case.number, "Logged", DA):
        assert hidden not in caplog.text
        assert hidden not in json.dumps(parts.destinations.all()[0].name)
