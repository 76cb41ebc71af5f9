"""C-STORE and C-ECHO: PS3.4 Annex B, PS3.7 section 9.1, PS3.8 section 9; and everything that a network brings to an open port."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import random
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pydicom
import pytest
from conftest import BASE, Server
from pymongo.errors import AutoReconnect
from scu import CT, EXPLICIT, VERIFICATION, Caller, certificates, command, data_set, even, free_port, pdv
from starlette.testclient import TestClient
from test_stow import changed, uid

from fhirserver.__main__ import main
from fhirserver.app import create_app
from fhirserver.settings import Settings
from imaging import part10
from imaging.blobs import Incoming
from imaging.dataset import parse
from imaging.dimse import store as cstore
from imaging.dimse.listener import Listener, Place
from imaging.dimse.service import Status
from imaging.dimse.sources import Source, proven
from imaging.dimse.upperlayer import Limits, chosen_syntax

dcmtk = pytest.mark.skipif(not shutil.which("storescu"), reason="DCMTK is not installed: make test-tools")


@pytest.fixture(scope="module")
def server(mongodb_uri, tmp_path_factory):
    server = Server(mongodb_uri, tmp_path_factory.mktemp("data"), dimse_port=free_port(), max_part_bytes=5_000_000)
    with TestClient(server.app, base_url=BASE):
        server.installation.images.sources.add(Source("CT1", "hospital"))
        server.installation.images.sources.add(Source("STORESCU", "hospital"))
        server.installation.images.sources.add(Source("ECHOSCU", "hospital"))
        server.installation.images.sources.add(Source("OLD", "hospital", charset="ISO_IR 144"))
        until(lambda: server.installation.images.listener.owns)
        yield server
    server.close()


@pytest.fixture
def port(server):
    return server.settings.dimse_port


@pytest.fixture
def ct(samples):
    """A CT of its own study: (its UID, the whole file)."""

    def make(**members):
        new = {"StudyInstanceUID": uid(), "SeriesInstanceUID": uid(), "SOPInstanceUID": uid()}
        data = changed(samples("CT_small.dcm"), **(new | members))
        return pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID, data

    return make


def until(check, seconds: float = 10):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def back(web, data) -> bytes:
    """The stored file."""
    instance = pydicom.dcmread(io.BytesIO(data))
    path = f"studies/{instance.StudyInstanceUID}/series/{instance.SeriesInstanceUID}/instances/{instance.SOPInstanceUID}"
    reply = web().get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
    assert reply.status_code == 200
    return reply.content


def left_behind(server) -> list[str]:
    return [path.name for path in (server.settings.blob_dir / "incoming").iterdir()]


def rows(server) -> int:
    return server.installation.images.index.instances.count_documents({})


# ---------------------------------------------------------------- stored as by STOW


@dcmtk
def test_dcmtk_stores_a_folder_and_every_data_set_comes_back_as_it_was_sent(port, ct, web, tmp_path, hospital, office):
    study, files = uid(), []
    for number in range(5):
        # storescu itself leaves trailing padding out
        files.append(ct(StudyInstanceUID=study, InstanceNumber=str(number), DataSetTrailingPadding=None)[1])
        (tmp_path / f"{number}.dcm").write_bytes(files[-1])
    command = ["storescu", "-aec", "FHIRSERVER", "-pdu", "131072", "+sd", "127.0.0.1", str(port), str(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == 0
    for data in files:
        stored = back(web, data)
        assert stored[:132] == bytes(128) + b"DICM"
        assert data_set(stored) == data_set(data)
        meta = pydicom.dcmread(io.BytesIO(stored), stop_before_pixels=True).file_meta
        assert (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) == (CT, EXPLICIT)
        assert meta.ImplementationClassUID == part10.IMPLEMENTATION_UID
    found = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()["entry"][0]["resource"]
    assert found["modality"][0]["code"] == "CT"
    assert "entry" not in office.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()


def test_who_stored_is_in_the_audit_once_a_study(port, ct, hospital, server):
    study = uid()
    with Caller(port) as caller:
        for _ in range(3):
            assert caller.store(*_sent(ct(StudyInstanceUID=study))) == (0, "")
        assert caller.release() == 6
    found = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()["entry"][0]["resource"]
    server.installation.store_audit()
    entries = hospital.get(f"AuditEvent?entity=ImagingStudy/{found['id']}&_count=50").json()["entry"]
    stored = [e["resource"] for e in entries if "cstore" in json.dumps(e["resource"])]
    assert len(stored) == 1
    assert stored[0]["agent"][0]["who"]["identifier"]["value"] == "CT1"


def _sent(made: tuple[str, bytes]) -> tuple[str, bytes]:
    return made[0], data_set(made[1])


def test_the_same_data_set_again_succeeds_and_leaves_one_file(port, ct, server, web):
    name, data = ct()
    with Caller(port) as caller:
        assert [caller.store(name, data_set(data))[0] for _ in range(3)] == [0, 0, 0]
    assert data_set(back(web, data)) == data_set(data)
    assert server.installation.images.index.instances.count_documents({"uid": name}) == 1


def test_other_bytes_under_a_known_uid_are_a_warning_and_no_blocked_queue(port, ct, server, web):
    study = uid()
    name, data = ct(StudyInstanceUID=study)
    corrected = changed(data, PatientName="Corrected^Name")
    with Caller(port) as caller:
        assert caller.store(name, data_set(data)) == (0, "")
        status, comment = caller.store(name, data_set(corrected))
        assert (status, comment[:11]) == (0xB000, "Other bytes")
        stranger = ct(StudyInstanceUID=study, PatientID="SOMEBODY-ELSE")
        assert caller.store(*_sent(stranger))[0] == 0xB000
        assert caller.store(*_sent(ct(StudyInstanceUID=study))) == (0, "")
    assert data_set(back(web, data)) == data_set(data)
    assert len(server.installation.images.index.aside("hospital", study)) == 2


def test_a_study_is_complete_when_its_source_has_been_quiet_for_as_long_as_it_is_said(port, ct, server, hospital):
    def status(data) -> str:
        study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
        found = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{study}").json()["entry"][0]["resource"]
        return str(found["status"])

    server.installation.images.sources.add(Source("SLOW", "hospital", quiet=60))
    made = {calling: ct() for calling in ("CT1", "SLOW")}
    for calling, one in made.items():
        with Caller(port, calling=calling) as caller:
            assert caller.store(*_sent(one)) == (0, "")
    server.wait(seconds=11)
    server.installation.images.arrivals.settle()
    assert {calling: status(data) for calling, (_, data) in made.items()} == {"CT1": "available", "SLOW": "registered"}
    server.wait(seconds=50)
    server.installation.images.arrivals.settle()
    assert status(made["SLOW"][1]) == "available"


def test_what_arrives_is_found_at_once_though_others_of_its_study_were_asked_for(port, ct, web):
    study, series = uid(), uid()
    with Caller(port) as caller:
        for number in range(1, 5):
            assert caller.store(*_sent(ct(StudyInstanceUID=study, SeriesInstanceUID=series))) == (0, "")
            assert len(web().get(f"studies/{study}/series/{series}/instances").json()) == number
            assert len(web().get(f"studies/{study}/series/{series}/metadata").json()) == number
        caller.release()
    assert len(web().get(f"studies/{study}/series/{series}/metadata").json()) == 4


def test_a_transfer_syntax_is_kept_as_it_is_sent(port, samples, web):
    data = changed(samples("JPEG-LL.dcm"), SOPInstanceUID=uid())
    instance = pydicom.dcmread(io.BytesIO(data))
    syntax = str(instance.file_meta.TransferSyntaxUID)
    with Caller(port, contexts=((str(instance.SOPClassUID), syntax, EXPLICIT),)) as caller:
        assert caller.contexts == {1: (0, syntax)}
        assert caller.store(instance.SOPInstanceUID, data_set(data), str(instance.SOPClassUID))[0] == 0
    assert data_set(back(web, data)) == data_set(data)


def test_private_classes_are_stored_queries_and_deflated_data_sets_are_not_offered(port, ct, web):
    private = "1.3.46.670589.5.0.2.1"
    find, deflated = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.1.2.1.99"
    contexts = ((private, EXPLICIT), (find, EXPLICIT), (CT, deflated), (VERIFICATION, "1.2.840.10008.1.2"))
    name, data = ct(SOPClassUID=private)
    with Caller(port, contexts=contexts) as caller:
        assert [result for result, _ in caller.contexts.values()] == [0, 3, 4, 0]
        assert caller.store(name, data_set(data), private)[0] == 0
        assert caller.echo(context=7) == 0
        assert caller.release() == 6
    assert data_set(back(web, data)) == data_set(data)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1"),
        (["1.2.840.10008.1.2.2", "1.2.840.10008.1.2"], "1.2.840.10008.1.2"),
        (["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1"], "1.2.840.10008.1.2.1"),
        (["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"], "1.2.840.10008.1.2.4.70"),
        (["1.2.840.10008.1.2.4.91"], "1.2.840.10008.1.2.4.91"),
        (["1.2.840.10008.1.2.4.50.1"], None),
        (["1.2.840.10008.1.2.1.99"], None),
        (["1.2.840.10008.1.2.2"], "1.2.840.10008.1.2.2"),
    ],
)
def test_of_what_is_offered_nothing_is_lost_if_that_can_be(offered, chosen):
    assert chosen_syntax(offered) == chosen


# ---------------------------------------------------------------- refused


def _wrong(ct, samples):
    name, data = ct()
    other = ct()[0]
    yield "another instance than it says", other, data_set(data), CT, 0xA900
    yield "a name that is a path", "../../../tmp/evil", data_set(data), CT, 0xA900
    yield "a name that is too long", "1." + "2" * 70, data_set(data), CT, 0xA900
    yield "another class than the context's", name, data_set(data), "1.2.840.10008.5.1.4.1.1.4", 0xA900
    yield "no DICOM at all", name, b"nothing of it" * 10, CT, None
    yield "cut pixels", name, data_set(data)[:-1000], CT, 0xC000
    yield "a data set without a study", name, data_set(ct(StudyInstanceUID=None, SOPInstanceUID=name)[1]), CT, 0xA900
    yield "a study that is markup", name, data_set(ct(StudyInstanceUID="<b>", SOPInstanceUID=name)[1]), CT, 0xA900


def test_what_is_wrong_is_refused_with_its_status_and_the_association_goes_on(port, ct, samples, server, web):
    before = rows(server)
    with Caller(port) as caller:
        for what, name, data, sop_class, status in _wrong(ct, samples):
            found, comment = caller.store(name, data, sop_class)
            assert found == status if status else found >= 0xA900, what
            assert comment, what
        assert rows(server) == before
        good = ct()
        assert caller.store(*_sent(good)) == (0, "")
    assert data_set(back(web, good[1])) == data_set(good[1])
    assert left_behind(server) == []


def test_an_instance_beyond_the_largest_is_refused_and_the_next_is_stored(port, ct, server):
    with Caller(port) as caller:
        name, data = ct()
        assert caller.store(name, data_set(data) + bytes(6_000_000))[0] == 0xA700
        assert left_behind(server) == []
        assert caller.store(name, data_set(data))[0] == 0


def test_without_room_or_database_the_sender_is_asked_to_try_again(port, ct, server, monkeypatch):
    name, data = ct()

    def away(*_):
        raise AutoReconnect

    write = Incoming.write

    def full(incoming, chunk=b""):
        if incoming.size > 200:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(incoming, chunk)

    with Caller(port) as caller:
        with monkeypatch.context() as patch:
            patch.setattr(server.installation.room, "_looked", float("inf"))
            patch.setattr(server.installation.room, "_enough", False)
            assert caller.store(name, data_set(data))[0] == 0xA700
        with monkeypatch.context() as patch:  # it fills up amid the instance
            patch.setattr(Incoming, "write", full)
            assert caller.store(name, data_set(data))[0] == 0xA700
        with monkeypatch.context() as patch:
            patch.setattr(Incoming, "sync", full)
            assert caller.store(name, data_set(data))[0] == 0xA700
        with monkeypatch.context() as patch:
            patch.setattr(server.installation.images.index, "add", away)
            assert caller.store(name, data_set(data))[0] == 0xA700
        assert left_behind(server) == []
        assert caller.store(name, data_set(data)) == (0, "")
    with monkeypatch.context() as patch:
        patch.setattr(server.installation.images.sources, "_titled", away)
        assert Caller(port).rejected == (2, 3, 1)


def test_a_failure_of_ours_is_told_without_what_was_in_it(port, ct, server, monkeypatch, caplog):
    name, data = ct()
    patient = str(pydicom.dcmread(io.BytesIO(data)).PatientName)

    def broken(*_):
        raise KeyError(patient)

    with Caller(port) as caller, monkeypatch.context() as patch:
        patch.setattr(server.installation.images.index, "add", broken)
        assert caller.store(name, data_set(data)) == (0x0110, "The server failed.")
    assert patient not in caplog.text


# ---------------------------------------------------------------- who may call


@dcmtk
def test_echo_is_answered_to_those_that_are_known(port):
    def echo(*words):
        return subprocess.run(["echoscu", *words, "127.0.0.1", str(port)], timeout=30, capture_output=True).returncode

    assert echo("-aec", "FHIRSERVER") == 0
    assert echo("-aec", "FHIRSERVER", "-aet", "NOBODY") != 0
    assert echo("-aec", "ELSEWHERE") != 0


def test_unknown_titles_are_rejected_by_the_reasons_of_the_standard(port):
    assert Caller(port, calling="NOBODY").rejected == (1, 1, 3)
    assert Caller(port, called="ELSEWHERE").rejected == (1, 1, 7)


CERTIFICATE = "ab" * 32


@pytest.mark.parametrize(
    ("source", "address", "fingerprint", "by_address", "yes"),
    [
        (Source("A", "o"), "127.0.0.1", None, False, True),
        (Source("A", "o"), "::1", None, False, True),
        (Source("A", "o"), "10.0.0.5", None, False, False),
        (Source("A", "o"), "10.0.0.5", CERTIFICATE, True, False),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "10.0.0.5", None, False, False),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "10.0.0.5", CERTIFICATE, False, False),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "10.0.0.5", None, True, True),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "10.0.1.5", None, True, False),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "::ffff:10.0.0.5", None, True, True),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "::ffff:10.0.1.5", None, True, False),
        (Source("A", "o", addresses=("10.0.0.0/24",)), "127.0.0.1", None, True, False),
        (Source("A", "o", CERTIFICATE), "10.0.0.5", CERTIFICATE, False, True),
        (Source("A", "o", CERTIFICATE), "10.0.0.5", "cd" * 32, True, False),
        (Source("A", "o", CERTIFICATE), "127.0.0.1", None, True, False),
        (Source("A", "o", CERTIFICATE, ("10.0.0.0/24",)), "10.0.1.5", CERTIFICATE, True, False),
        (Source("A", "o", addresses=("2001:db8::/32",)), "2001:db8::7%eth0", None, True, True),
    ],
)
def test_a_title_alone_proves_nothing_beyond_loopback(source, address, fingerprint, by_address, yes):
    assert proven(source, address, fingerprint, by_address) is yes


def test_two_facilities_may_use_one_title_when_they_can_be_told_apart(server):
    sources = server.installation.images.sources
    assert sources.add(Source("SHARED", "hospital", CERTIFICATE))
    with pytest.raises(ValueError, match="registered for hospital"):
        sources.add(Source("SHARED", "office"))
    with pytest.raises(ValueError, match="registered for hospital"):
        sources.add(Source("SHARED", "office", CERTIFICATE))
    assert sources.add(Source("SHARED", "office", "cd" * 32))
    assert sources.known("SHARED", "10.0.0.1", CERTIFICATE, False).organization == "hospital"
    assert sources.known("SHARED", "10.0.0.1", "cd" * 32, False).organization == "office"
    assert sources.known("SHARED", "10.0.0.1", None, True) is None


def test_a_registration_that_ends_ends_what_is_sent_by_it(port, ct, server, monkeypatch):
    monkeypatch.setattr(cstore, "_LOOK", 0.0)
    server.installation.images.sources.add(Source("LEAVING", "hospital"))
    with Caller(port, calling="LEAVING") as caller:
        assert caller.store(*_sent(ct())) == (0, "")
        server.installation.images.sources.remove("LEAVING", "hospital")
        assert caller.store(*_sent(ct()))[0] == 0x0124
        server.installation.images.sources.add(Source("LEAVING", "office"))
        assert caller.store(*_sent(ct()))[0] == 0x0124
        server.installation.images.sources.remove("LEAVING", "office")


@pytest.fixture
def run(server, monkeypatch, capsys, mongodb_uri, tmp_path):
    monkeypatch.setenv("FHIRSERVER_MONGODB_URI", mongodb_uri)
    monkeypatch.setenv("FHIRSERVER_DATABASE", server.name)

    def command(*words: str) -> tuple[int, str, str]:
        status = main([*words, "--data", str(tmp_path)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return command


def test_sources_are_added_listed_and_removed_by_commands(run, port, tmp_path):
    certificates(tmp_path, "ct7")
    words = ("source", "add", "CT7", "--organization", "hospital")
    status, out, _ = run(*words, "--address", "10.1.0.0/16", "--charset", "ISO_IR 100", "--quiet-seconds", "30")
    assert (status, "address alone proves it only where" in out) == (0, True)
    assert Caller(port, calling="CT7").rejected == (1, 1, 3)
    assert "was there: replaced" in run(*words)[1]
    assert Caller(port, calling="CT7").rejected is None
    status, out, _ = run(*words, "--certificate", str(tmp_path / "ct7.pem"))
    assert (status, "certificate " in run("source", "list")[1]) == (0, True)
    assert Caller(port, calling="CT7").rejected == (1, 1, 3)
    assert run("source", "remove", "CT7", "--organization", "hospital")[0] == 0
    assert "CT7" not in run("source", "list")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "SEVENTEEN-LETTERS"), "AE title"),
        (("add", "A\\B"), "AE title"),
        (("add", "X", "--organization", "a|b"), "organisation's id"),
        (("add", "X", "--address", "10.0.0.5/8"), "host bits"),
        (("add", "X", "--charset", "LATIN"), "not a Specific Character Set"),
        (("add", "X", "--quiet-seconds", "0"), "quiet seconds"),
        (("add", "X", "--certificate", "/dev/null"), "not a certificate"),
        (("remove", "NOBODY"), "no source NOBODY"),
    ],
)
def test_a_command_that_says_no_source_is_refused(run, words, told):
    status, out, err = run("source", *words)
    assert (status, out) == (1, "")
    assert told in err


@pytest.mark.parametrize(
    "settings",
    [
        {"dimse_host": "0.0.0.0"},
        {"dimse_host": "192.0.2.7"},
        {"dimse_host": "0.0.0.0", "dimse_tls_cert": "server.pem"},
        {"dimse_host": "0.0.0.0", "dimse_tls_cert": "server.pem", "dimse_tls_key": "server.key"},
    ],
)
def test_a_server_that_would_take_images_from_anyone_does_not_start(server, tmp_path, settings):
    with pytest.raises(ValueError, match="FHIRSERVER_DIMSE_"):
        create_app(Settings(data_dir=tmp_path, dimse_port=free_port(), **settings), server.client["never"])


def test_without_a_port_nothing_listens(server, tmp_path):
    assert create_app(Settings(data_dir=tmp_path), server.client["never"]).state.installation.images.listener is None


# ---------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def secured(mongodb_uri, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder, "server", "ct1", "ct2")
    tls = {
        f"dimse_tls_{name}": folder / file for name, file in (("cert", "server.pem"), ("key", "server.key"), ("ca", "ca.pem"))
    }
    server = Server(mongodb_uri, tmp_path_factory.mktemp("data"), dimse_port=free_port(), **tls)
    server.folder = folder
    with TestClient(server.app, base_url=BASE):
        der = ssl.PEM_cert_to_DER_cert((folder / "ct1.pem").read_text())
        server.installation.images.sources.add(Source("CT1", "hospital", hashlib.sha256(der).hexdigest()))
        until(lambda: server.installation.images.listener.owns)
        yield server
    server.close()


@dcmtk
@pytest.mark.parametrize(("who", "status"), [("ct1", 0), ("ct2", 1), ("stranger", 1)])
def test_the_certificate_proves_who_calls(secured, ct, tmp_path, who, status):
    before = rows(secured)
    (tmp_path / "a.dcm").write_bytes(ct()[1])
    keys = [str(secured.folder / f"{who}.key"), str(secured.folder / f"{who}.pem")]
    sent = subprocess.run(
        ["storescu", "-aet", "CT1", "-aec", "FHIRSERVER", "+tls", *keys, "+cf", str(secured.folder / "ca.pem"), "127.0.0.1",
         str(secured.settings.dimse_port), str(tmp_path / "a.dcm")],
        timeout=30, capture_output=True,
    )  # fmt: skip
    assert bool(sent.returncode) == bool(status), sent.stderr
    assert rows(secured) - before == 1 - status


def test_without_tls_nothing_is_answered_and_a_silent_caller_holds_up_nobody(secured):
    silent = [socket.create_connection(("127.0.0.1", secured.settings.dimse_port)) for _ in range(10)]
    plain = socket.create_connection(("127.0.0.1", secured.settings.dimse_port), timeout=10)
    plain.sendall(b"\x01\0\0\0\0\x44" + bytes(68))
    assert plain.recv(1) != b"\x02"
    context = ssl.create_default_context(cafile=str(secured.folder / "ca.pem"))
    context.load_cert_chain(secured.folder / "ct1.pem", secured.folder / "ct1.key")
    with Caller(secured.settings.dimse_port, contexts=((VERIFICATION, EXPLICIT),), tls=context) as caller:
        assert caller.echo() == 0
    for one in (*silent, plain):
        one.close()


# ---------------------------------------------------------------- character sets


def test_a_data_set_without_a_character_set_is_read_by_its_sources(port, ct, web):
    name, data = ct(SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг^Яна", StudyDescription="Череп")
    at = data.index(b"\x08\x00\x05\x00CS")
    bare = data[:at] + data[at + 8 + int.from_bytes(data[at + 6 : at + 8], "little") :]
    with Caller(port, calling="OLD") as caller:
        assert caller.store(name, data_set(bare))[0] == 0
    [found] = web().get("studies?PatientName=люк*").json()
    assert found["00100010"]["Value"] == [{"Alphabetic": "Люкceмбypг^Яна"}]
    study = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    [told] = web().get(f"studies/{study}/metadata").json()
    assert told["00081030"]["Value"] == ["Череп"]
    assert told["00080005"]["Value"] == ["ISO_IR 192"]
    assert data_set(back(web, bare)) == data_set(bare)


def test_a_character_set_that_is_told_counts_and_so_do_nested_items(tmp_path, samples):
    item, coded = pydicom.Dataset(), pydicom.Dataset()
    coded.CodeMeaning, item.AccessionNumber = "Größe", "Ä-1"
    item.ScheduledProtocolCodeSequence = [coded]
    data = changed(
        samples("CT_small.dcm"), SpecificCharacterSet="ISO_IR 100", RequestAttributesSequence=[item], PatientName="Ö"
    )
    (tmp_path / "told").write_bytes(data)
    assert parse(tmp_path / "told", "ISO_IR 144").attributes["study"]["PatientName"] == "Ö"
    at = data.index(b"\x08\x00\x05\x00CS")
    (tmp_path / "bare").write_bytes(data[:at] + data[at + 8 + int.from_bytes(data[at + 6 : at + 8], "little") :])
    bare = parse(tmp_path / "bare", "ISO_IR 100")
    assert bare.attributes["study"]["PatientName"] == "Ö"
    assert "Ä-1" in [accession.number for accession in bare.accessions]
    metadata = json.loads(zlib.decompress(bare.metadata))
    nested = metadata["00400275"]["Value"][0]["00400008"]["Value"][0]["00080104"]["Value"]
    assert nested == ["Größe"]
    assert list(metadata) == sorted(metadata)


# ---------------------------------------------------------------- hostile


def test_an_association_that_is_cut_or_aborted_amid_an_instance_leaves_nothing(port, ct, server):
    name, data = ct()
    before = rows(server)
    for end in ("close", "abort", "release"):
        caller = Caller(port)
        caller.ask(name)
        caller.send(data_set(data)[:20_000], last=False)
        until(lambda: left_behind(server))
        if end == "abort":
            caller.socket.sendall(b"\x07\0\0\0\0\4\0\0\0\0")
        if end == "release":
            assert caller.release() in (0, 7)
        caller.close()
        until(lambda: not left_behind(server))
    until(lambda: server.installation.images.listener.associations == 0)
    assert rows(server) == before


LIES = {
    "a PDU of 4 GB": b"\x04\0\xff\xff\xff\xff" + bytes(1000),
    "a value longer than its PDU": b"\x04\0\0\0\0\x0a" + b"\xff\xff\xff\xf0\x01\x00" + bytes(4),
    "a value shorter than its own head": b"\x04\0\0\0\0\x06" + b"\0\0\0\x01\x01\x00",
    "a value in a PDU that is too short for one": b"\x04\0\0\0\0\x03" + b"\0\0\0",
    "a data set without a request": pdv(1, 2, b"data"),
    "a command in a context that there is not": pdv(99, 3, command({0x0100: b"\1\0", 0x0110: b"\7\0"})),
    "a command whose element is longer than it": pdv(1, 3, b"\0\0\0\1\xff\xff\xff\x7f" + bytes(8)),
    "a command of another group": pdv(1, 3, b"\x08\0\0\1\2\0\0\0\1\0"),
    "a command without a field": pdv(1, 3, command({0x0110: b"\7\0"})),
    "a command without an end": b"".join(pdv(1, 1, b"\0" * 60_000) for _ in range(3)),
    "another association request": b"\x01\0\0\0\0\4\0\0\0\0",
    "a PDU of no kind": b"\x63\0\0\0\0\4\0\0\0\0",
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_protocol_is_aborted_with_its_reason(port, lie, server):
    caller = Caller(port)
    caller.socket.sendall(LIES[lie])
    type_, body = caller.pdu()
    assert type_ == 7
    assert (body[2], body[3] in (1, 2, 6)) == (2, True)
    assert caller.pdu() == (0, b"")
    with Caller(port, contexts=((VERIFICATION, EXPLICIT),)) as other:
        assert other.echo() == 0


def test_operations_that_are_not_offered_are_answered_so(port):
    with Caller(port) as caller:
        find = command({0x0002: even(CT), 0x0100: b"\x20\0", 0x0110: b"\7\0", 0x0800: b"\1\0"})
        caller.socket.sendall(pdv(1, 3, find) + pdv(1, 2, b"identifier"))
        assert caller.status()[0] == 0x0211
        caller.socket.sendall(pdv(1, 3, command({0x0100: b"\xff\x0f", 0x0110: b"\7\0", 0x0120: b"\7\0", 0x0800: b"\1\1"})))
        assert caller.release() == 6


def test_a_command_may_come_in_pieces_and_several_values_in_one_pdu(port, ct):
    name, data = ct()
    with Caller(port) as caller:
        elements = {0x0002: even(CT), 0x0100: b"\1\0", 0x0110: b"\7\0", 0x0800: b"\1\0", 0x1000: even(name)}
        whole, rest = command(elements), data_set(data)
        parts = [pdv(1, 1, whole[:10])[6:], pdv(1, 3, whole[10:])[6:], pdv(1, 0, rest[:7])[6:], pdv(1, 2, rest[7:])[6:]]
        body = b"".join(parts)
        caller.socket.sendall(b"\x04\0" + len(body).to_bytes(4, "big") + body)
        assert caller.status() == (0, "")


def test_whatever_bytes_come_the_server_lives(port, server):
    chance = random.Random(6)
    heads = [
        b"",
        b"\x01\0\0\0\0\x80",
        b"\x01\0\0\0\1\0\0\1\0\0FHIRSERVER      CT1             " + bytes(32),
        b"\x04\0\0\0\0\x40",
        b"\x07\0",
    ]

    def throw(seed: int) -> None:
        bytes_ = heads[seed % len(heads)] + random.Random(seed).randbytes(chance.randrange(1, 600))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(bytes_)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(throw, range(300)))
    until(lambda: server.installation.images.listener.associations == 0)
    with Caller(port, contexts=((VERIFICATION, EXPLICIT),)) as caller:
        assert caller.echo() == 0
    until(lambda: len([t for t in threading.enumerate() if t.name == "association"]) <= 1)


# ---------------------------------------------------------------- bounds


def test_twenty_associations_store_at_once_and_the_next_is_told_to_come_later(port, ct, server):
    callers = [Caller(port) for _ in range(20)]
    assert {caller.rejected for caller in callers} == {None}
    assert Caller(port).rejected == (2, 3, 2)
    made = [ct() for _ in callers]
    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda pair: pair[0].store(*_sent(pair[1])), zip(callers, made, strict=True)))
    assert statuses == [(0, "")] * 20
    assert {caller.release() for caller in callers} == {6}
    until(lambda: server.installation.images.listener.associations == 0)
    assert Caller(port).rejected is None


class _Nowhere:
    largest = 1000

    def receive(self):
        return Status(0xA700)

    def ended(self):
        pass


def _listening(**limits) -> Listener:
    listener = Listener(Place("127.0.0.1", free_port(), None, limits=Limits(**limits)), lambda _: _Nowhere())
    listener.start()
    until(lambda: listener.owns)
    return listener


def test_who_says_nothing_is_cut_before_during_and_after_the_request():
    listener = _listening(agreement=0.3, network=0.3, idle=0.6)
    port = listener._place.port
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as silent:
            assert silent.recv(10) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"\x01\0\0\0\1\0")
            for _ in range(100):
                try:
                    slow.sendall(b"\0")
                except OSError:
                    break
                time.sleep(0.02)
            else:
                raise AssertionError("a request that trickles in was waited for")
        idle = Caller(port, called="ANY")
        begun = time.monotonic()
        assert idle.pdu()[0] == 7
        assert 0.4 < time.monotonic() - begun < 8
        amid = Caller(port, called="ANY")
        amid.socket.sendall(b"\x04\0\0\0\1\0")
        assert amid.pdu()[0] in (0, 7)
        until(lambda: listener.associations == 0)
    finally:
        listener.stop()


def test_an_instance_without_an_end_is_not_read_for_ever():
    listener = _listening()
    try:
        caller = Caller(listener._place.port, called="ANY")
        caller.ask("1.2.3")
        with suppress(ConnectionError):
            for _ in range(1000):
                caller.send(bytes(1000), last=False)
        assert caller.pdu()[0] in (0, 7)
        until(lambda: listener.associations == 0)
    finally:
        listener.stop()


def test_callers_who_never_ask_give_way_to_those_who_do():
    listener = _listening(agreement=20)
    silent = [socket.create_connection(("127.0.0.1", listener._place.port)) for _ in range(60)]
    try:
        with Caller(listener._place.port, called="ANY") as caller:
            assert caller.rejected is None
        assert len([t for t in threading.enumerate() if t.name == "association"]) < 60
    finally:
        for one in silent:
            one.close()
        listener.stop()


def test_a_server_that_stops_finishes_the_instance_that_is_coming(mongodb_uri, tmp_path, ct):
    server = Server(mongodb_uri, tmp_path, dimse_port=free_port())
    name, data = ct()
    with TestClient(server.app, base_url=BASE):
        server.installation.images.sources.add(Source("CT1", "hospital"))
        until(lambda: server.installation.images.listener.owns)
        busy, idle = Caller(server.settings.dimse_port), Caller(server.settings.dimse_port)
        busy.ask(name)
        busy.send(data_set(data)[:10_000], last=False)
        until(lambda: left_behind(server))
        stopping = threading.Thread(target=server.installation.images.listener.stop)
        stopping.start()
        assert idle.pdu()[0] == 7
        busy.send(data_set(data)[10_000:])
        assert busy.status() == (0, "")
        assert busy.pdu()[0] == 7
        stopping.join(10)
        assert not stopping.is_alive()
        assert rows(server) == 1
        with pytest.raises(ConnectionRefusedError):
            Caller(server.settings.dimse_port)
    server.close()


OWNING = """
import sys, time
from imaging.dimse.listener import Listener, Place
listener = Listener(Place("127.0.0.1", int(sys.argv[1]), None), lambda _: None)
listener.start()
while not listener.owns:
    time.sleep(0.01)
print("owns", flush=True)
time.sleep(60)
"""


def test_of_two_processes_one_has_the_port_and_the_other_takes_it_over():
    port = free_port()
    first, second = (
        subprocess.Popen([sys.executable, "-c", OWNING, str(port)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    try:
        with selectors.DefaultSelector() as told:
            for process in (first, second):
                told.register(process.stdout, selectors.EVENT_READ, process)
            [(key, _)] = told.select(30)
            owner, other = key.data, second if key.data is first else first
            assert owner.stdout.readline() == "owns\n"
            told.unregister(owner.stdout)
            assert told.select(1.5) == []
            assert Caller(port).rejected == (1, 1, 3)
            owner.kill()
            assert told.select(10)
        assert other.stdout.readline() == "owns\n"
        assert Caller(port).rejected == (1, 1, 3)
    finally:
        for process in (first, second):
            process.kill()
            process.wait(10)
            process.stdout.close()


def test_what_the_file_meta_says_is_read_back_as_it_was_written():
    named = part10.Named(CT, "1.2.3", EXPLICIT)
    head = part10.header(named)
    meta = pydicom.dcmread(io.BytesIO(head), force=False).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (CT, "1.2.3", EXPLICIT)
    assert part10.named(head) == named
    for wrong in (b"", b"x" * 400, bytes(128) + b"DICM" + bytes(300)):
        with pytest.raises(ValueError, match="not a DICOM file"):
            part10.named(wrong)
