"""Studies that are sent on: rules, queue, C-STORE to DCMTK's PACS and STOW-RS to a second server of ours."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import subprocess
import threading
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pydicom
import pytest
from archives import (
    Both,
    Pacs,
    Second,
    Wire,
    certificate,
    data_set,
    free_port,
    listens,
    needs_dcmtk,
    pem,
    quiet,
    series_of,
    uids,
    until,
)
from conftest import order, patient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import RSAKey
from test_stow import changed, uid

from fhirserver import sending
from fhirserver.__main__ import main
from fhirserver.app import create_app
from imaging.index import Stored
from imaging.peers import Unavailable
from imaging.peers.destinations import Destination, Rule
from imaging.peers.dicomweb import Web

# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
TASK_TYPE = "urn:fhirserver:CodeSystem:task-type"
CENTRE_AGREES = {"imagesSentOn": True}


@pytest.fixture(scope="module")
def server(mongodb_uri, tmp_path_factory):
    with quiet(mongodb_uri, tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="module")
def second(mongodb_uri, tmp_path_factory):
    second = Second(mongodb_uri, tmp_path_factory.mktemp("second"))
    yield second
    second.close()


@pytest.fixture
def pacs(tmp_path):
    made = Pacs(tmp_path / "pacs")
    yield made
    made.kill()


@pytest.fixture
def parts(server):
    """The installation, with no destination, rule or delivery at first."""
    installation = server.installation
    for name in ("dicom_destinations", "dicom_routes", "dicom_deliveries", "dicom_delivered"):
        installation.database[name].delete_many({})
    installation.images.destinations._known = (0.0, [])
    return Both(installation)


@pytest.fixture
def dimse(parts):
    """A PACS of the hospital's own, and a rule that sends everything of the hospital's to it."""

    def make(port, name="pacs", rule=True, **members):
        given = {"owner": "hospital", "host": "127.0.0.1", "called": "PACS", "calling": "OURS"} | members
        parts.destinations.add(Destination(name, kind="dimse", port=port, sends=True, **given))
        if rule:
            parts.destinations.add_rule(Rule(f"all-to-{name}", name, "hospital"))
        return name

    return make


@pytest.fixture
def web_peer(parts, second):
    def make(name="other", port=None, **members):
        url = f"http://127.0.0.1:{port or second.port}/dicomweb"
        given = {
            "owner": "hospital", "url": url, "client_id": "network", "token_url": f"{second.url}/auth/token",
            "scope": "system/ImagingStudy.cruds", "secrets": {"client_key": second.jwk},
        } | members  # fmt: skip
        parts.destinations.add(Destination(name, kind="dicomweb", sends=True, **given))
        parts.destinations.add_rule(Rule(f"all-to-{name}", name, "hospital"))
        return name

    return make


@pytest.fixture
def complete(server, stow, samples):
    """Stores instances of a study of the hospital's, and lets it become quiet."""

    def make(*files, organization="hospital"):
        reply = stow(*files, organization=organization)
        assert reply.status_code == 200, reply.text
        server.wait(seconds=20)
        server.installation.images.arrivals.settle()

    return make


@pytest.fixture
def ct(samples):
    def make(count=1, **members):
        return series_of(samples("CT_small.dcm"), count, **({"AccessionNumber": "", "PatientID": uid()[-12:]} | members))

    return make


def queued(parts) -> list[tuple[str, str]]:
    rows = parts.database["dicom_deliveries"].find({})
    return sorted((row["destination"], row["state"]) for row in rows)


def deliver_tasks(client) -> list[dict]:
    found = client.get(f"Task?code={TASK_TYPE}|deliver").json()
    return [entry["resource"] for entry in found.get("entry", [])]


# ---------------------------------------------------------------- to DCMTK's PACS


@needs_dcmtk
def test_a_complete_study_goes_to_the_pacs_each_instance_once_and_as_it_is(parts, dimse, pacs, complete, ct):
    files = ct(5)
    dimse(pacs.start().port)
    complete(*files)
    assert queued(parts) == [("pacs", "waiting")]
    parts.sending.send("pacs")
    assert queued(parts) == [("pacs", "sent")]
    kept = pacs.files()
    assert kept.keys() == uids(files).keys()
    for name, data in uids(files).items():
        [path] = kept[name]
        assert data_set(path) == data_set(data)


@needs_dcmtk
def test_instances_that_come_later_are_sent_alone(parts, dimse, pacs, complete, ct, monkeypatch):
    files = ct(4)
    dimse(pacs.start().port)
    complete(*files[:2])
    parts.sending.send("pacs")
    asked = []
    store = sending.Dimse.store
    monkeypatch.setattr(sending.Dimse, "store", lambda self, rows, local: store(self, asked.extend(rows) or rows, local))
    complete(*files[2:])
    assert queued(parts) == [("pacs", "waiting")]
    parts.sending.send("pacs")
    assert {row.uid for row in asked} == set(uids(files[2:]))
    assert pacs.files().keys() == uids(files).keys()


@needs_dcmtk
@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("MR_small_RLE.dcm", "+xr"),
        ("JPEG2000.dcm", "+xw"),
        ("JPEG-LL.dcm", "+xs"),
        ("SC_rgb_jpeg_dcmtk.dcm", "+xy"),
        ("MR_small_jpeg_ls_lossless.dcm", "+xt"),
        ("MR_small_bigendian.dcm", "+xb"),
        ("MR_small_implicit.dcm", "+x="),
    ],
)
def test_each_stored_transfer_syntax_is_proposed_first(parts, dimse, pacs, complete, samples, name, takes):
    [data] = series_of(samples(name), 1, PatientID=uid()[-12:], AccessionNumber="")
    pacs.options = (takes,)
    dimse(pacs.start().port)
    complete(data)
    parts.sending.send("pacs")
    [[path]] = pacs.files().values()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID
    assert data_set(path) == data_set(data)


@needs_dcmtk
def test_what_a_peer_does_not_take_as_it_is_goes_in_a_plain_syntax_and_what_cannot_be_decompressed_fails_with_a_task(
    parts, dimse, tmp_path, complete, samples, hospital
):
    implicit = Pacs(tmp_path / "implicit", None, "+xi").start()
    try:
        dimse(implicit.port)
        [plain] = series_of(samples("CT_small.dcm"), 1, PatientID="PLAIN", AccessionNumber="")
        [packed] = series_of(samples("MR_small_RLE.dcm"), 1, PatientID="PACKED", AccessionNumber="")
        [broken] = series_of(samples("MR_small_RLE.dcm"), 1, PatientID="BROKEN", AccessionNumber="")
        broken = broken.replace(pydicom.dcmread(io.BytesIO(broken)).PixelData[80:400], b"\xff" * 320)
        complete(plain)
        complete(packed)
        complete(broken)
        parts.sending.send("pacs")
        assert queued(parts) == [("pacs", "failed"), ("pacs", "sent"), ("pacs", "sent")]
        kept = implicit.files()
        for data in (plain, packed):
            ours = pydicom.dcmread(io.BytesIO(data))
            [path] = kept.pop(str(ours.SOPInstanceUID))
            sent = pydicom.dcmread(path)
            assert sent.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
            assert (sent.pixel_array == ours.pixel_array).all()
        assert kept == {}
        [task] = [t for t in deliver_tasks(hospital) if "1 refused with C122" in t["description"]]
        assert task["status"] == "requested"
        assert task["owner"] == {"reference": "Organization/hospital"}
        assert task["focus"]["reference"].startswith("ImagingStudy/")
        assert "BROKEN" not in json.dumps(task)
    finally:
        implicit.kill()


@needs_dcmtk
def test_file_meta_information_that_does_not_fit_its_data_set_does_not_rename_what_is_sent(
    parts, dimse, pacs, complete, samples
):
    data = changed(
        samples("CT_small.dcm"), StudyInstanceUID=uid(), SeriesInstanceUID=uid(), SOPInstanceUID=uid(), PatientID="META"
    )
    assert (
        pydicom.dcmread(io.BytesIO(data)).file_meta.MediaStorageSOPInstanceUID
        != pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID
    )
    dimse(pacs.start().port)
    complete(data)
    parts.sending.send("pacs")
    assert pacs.files().keys() == uids([data]).keys()
    [[path]] = pacs.files().values()
    assert pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID


@needs_dcmtk
def test_a_peer_that_is_down_is_tried_later_and_gets_everything_when_it_is_up(server, parts, dimse, pacs, complete, ct):
    files = ct(3)
    dimse(pacs.port)
    complete(*files)
    parts.sending.send("pacs")
    outage = parts.destinations.outage("pacs")
    assert (outage.tries, outage.reason) == (1, "it cannot be reached")
    assert parts.destinations.ready(outage.until - 1) == []
    assert parts.destinations.ready(outage.until) == ["pacs"]
    pacs.start()
    server.wait(hours=1)
    parts.sending.send("pacs")
    assert parts.destinations.outage("pacs") is None
    assert pacs.files().keys() == uids(files).keys()


@needs_dcmtk
def test_a_wire_that_breaks_in_the_middle_is_gone_on_from(server, parts, dimse, pacs, complete, ct):
    files = ct(8)
    wire = Wire(pacs.start().port, 5 * 40_000)
    try:
        dimse(wire.port)
        complete(*files)
        parts.sending.send("pacs")
        assert parts.destinations.outage("pacs").reason == "it broke off"
        arrived = parts.database["dicom_delivered"].count_documents({})
        assert 0 < arrived < 8
        wire.left = 10**9
        server.wait(hours=1)
        parts.sending.send("pacs")
    finally:
        wire.close()
    assert queued(parts) == [("pacs", "sent")]
    kept = pacs.files()
    assert kept.keys() == uids(files).keys()
    assert all(data_set(kept[name][0]) == data_set(data) for name, data in uids(files).items())


@needs_dcmtk
def test_a_pacs_killed_in_the_middle_gets_the_rest_when_it_is_back(server, parts, dimse, pacs, complete, ct):
    files = ct(12)
    dimse(pacs.start().port)
    complete(*files)
    worker = threading.Thread(target=parts.sending.send, args=("pacs",))
    worker.start()
    until(lambda: parts.database["dicom_delivered"].count_documents({}) >= 3)
    pacs.kill()
    worker.join(30)
    assert queued(parts) == [("pacs", "waiting")]
    pacs.start()
    server.wait(hours=1)
    parts.sending.send("pacs")
    assert queued(parts) == [("pacs", "sent")]
    assert pacs.files().keys() == uids(files).keys()


@needs_dcmtk
def test_a_refused_association_waits_longer_each_time_and_then_the_facility_is_told(
    server, parts, dimse, pacs, complete, ct, hospital
):
    dimse(pacs.start().port, name="refuses", called="NOBODY")
    complete(*ct(1, PatientID="REFUSED-1", PatientName="Hidden^Name"))
    waits = []
    for tries in range(1, sending.TRIES + 1):
        parts.sending.send("refuses")
        outage = parts.destinations.outage("refuses")
        assert (outage.tries, outage.reason) == (tries, "it refuses the association")
        waits.append((outage.until - server.time.timestamp() * 1000) / 1000)
        assert parts.sending.step() is None
        server.wait(hours=1)
    assert all(2**n * 2.4 <= wait <= 2**n * 5.1 for n, wait in enumerate(waits[:8]))
    assert max(waits) <= 3600
    [task] = [t for t in deliver_tasks(hospital) if "refuses" in t["description"]]
    assert task["description"].endswith("1 studies wait; it is tried again each hour.")
    assert queued(parts) == [("refuses", "waiting")]
    parts.sending.send("refuses")  # still tried, and told of once
    assert len([t for t in deliver_tasks(hospital) if "refuses" in t["description"]]) == 1
    parts.destinations.add(replace(parts.destinations.get("refuses"), called="PACS"))
    parts.destinations.failed("refuses", outage)
    server.wait(hours=1)
    parts.sending.send("refuses")
    assert queued(parts) == [("refuses", "sent")]
    [task] = [t for t in deliver_tasks(hospital) if "refuses" in t["description"]]
    assert task["status"] == "completed"


@pytest.mark.parametrize("kind", ["dimse", "web"])
@needs_dcmtk
def test_a_file_that_is_not_here_any_more_is_told_and_the_others_go(
    parts, dimse, web_peer, pacs, second, complete, ct, hospital, kind
):
    files = ct(4)
    if kind == "dimse":
        dimse(pacs.start().port, name="lacks")
    else:
        web_peer("lacks")
    complete(*files)
    [gone, *others] = uids(files)
    digest = parts.index.instances.find_one({"uid": gone})["digest"]
    assert parts.blobs.remove(digest, 2**40)
    parts.sending.send("lacks")
    assert queued(parts) == [("lacks", "failed")]
    there = pacs.files() if kind == "dimse" else second.instances()
    assert set(others) <= there.keys()
    assert gone not in there
    assert [t for t in deliver_tasks(hospital) if "lacks: 1 not found here" in t["description"]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and what it signed; and another authority."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("ca", "stranger"):
        key = ec.generate_private_key(ec.SECP256R1())
        authority = certificate(name, key, None)
        (folder / f"{name}.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        for leaf in ("peer", "ours"):
            leaf_key = ec.generate_private_key(ec.SECP256R1())
            signed = certificate(leaf, leaf_key, (authority.subject, key))
            (folder / f"{name}-{leaf}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
            (folder / f"{name}-{leaf}.key").write_bytes(pem(leaf_key))
    return folder


@needs_dcmtk
@pytest.mark.parametrize(
    ("ca", "ours", "goes"), [("ca", "ca", True), ("stranger", "ca", False), ("ca", "stranger", False), ("ca", None, False)]
)
def test_over_tls_each_side_shows_its_certificate_and_looks_at_the_others(
    server, parts, dimse, complete, ct, certificates, tmp_path, ca, ours, goes
):
    """To DCMTK's ``storescp``, which asks for one."""
    (tmp_path / "in").mkdir()
    port = free_port()
    command = ["storescp", "-q", "+tls", str(certificates / "ca-peer.key"), str(certificates / "ca-peer.pem")]
    command += ["+cf", str(certificates / "ca.pem"), "-rc", "-od", str(tmp_path / "in"), str(port)]
    peer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port))
        shown = {"cert": (certificates / f"{ours}-ours.pem").read_text()} if ours else {}
        secrets = {"key": (certificates / f"{ours}-ours.key").read_text()} if ours else {}
        dimse(port, tls=True, ca=(certificates / f"{ca}.pem").read_text(), secrets=secrets, **shown)
        complete(*ct(2))
        parts.sending.send("pacs")
        assert queued(parts) == [("pacs", "sent" if goes else "waiting")]
        assert len(list((tmp_path / "in").iterdir())) == (2 if goes else 0)
    finally:
        peer.kill()
        peer.wait(10)
        gc.collect()


# ---------------------------------------------------------------- by STOW-RS to a second server


def test_by_stow_each_instance_is_there_once_and_byte_for_byte(parts, web_peer, second, complete, ct):
    files = ct(6)
    web_peer()
    complete(*files)
    parts.sending.send("other")
    assert queued(parts) == [("other", "sent")]
    there = second.instances()
    assert {name: there[name][128:] for name in uids(files)} == {name: data[128:] for name, data in uids(files).items()}


def test_a_stow_that_breaks_in_the_middle_is_gone_on_from(server, parts, web_peer, second, complete, ct, monkeypatch):
    monkeypatch.setattr("imaging.peers.dicomweb._AT_ONCE", 2)
    files = ct(7)
    wire = Wire(second.port, 3 * 2 * 40_000)
    try:
        web_peer(port=wire.port)
        complete(*files)
        parts.sending.send("other")
        assert parts.destinations.outage("other").tries == 1
        arrived = parts.database["dicom_delivered"].count_documents({})
        assert arrived in (2, 4, 6)
        wire.left = 10**9
        server.wait(hours=1)
        parts.sending.send("other")
    finally:
        wire.close()
    assert queued(parts) == [("other", "sent")]
    there = second.instances()
    assert all(there[name][128:] == data[128:] for name, data in uids(files).items())


def test_an_instance_that_the_peer_sets_aside_has_arrived(parts, web_peer, second, complete, ct, hospital):
    """Other bytes are there under its UID: it is the peer's people who decide, and it is not sent again and again."""
    files = ct(3)
    web_peer("aside")
    token = second.auth.issue(second.auth.clients.get("network"), None, "system/*.cruds", 600)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"}
    known = changed(files[0], PatientComments="other bytes under this UID")
    assert httpx.post(f"{second.url}/dicomweb/studies", content=known, headers=headers).status_code == 200
    complete(*files)
    parts.sending.send("aside")
    assert queued(parts) == [("aside", "sent")]
    assert not [t for t in deliver_tasks(hospital) if "aside" in t["description"]]
    name = next(iter(uids(files)))
    assert second.instances()[name][128:] == known[128:]


@pytest.mark.parametrize("secrets", [{"client_key": "other"}, {"secret": "wrong"}])
def test_a_peer_that_does_not_let_us_in_is_tried_later(parts, web_peer, second, complete, ct, secrets):
    given = (
        {"client_key": json.dumps(RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True))}
        if "client_key" in secrets
        else secrets
    )
    web_peer(secrets=given)
    complete(*ct(1))
    before = len(second.instances())
    parts.sending.send("other")
    assert parts.destinations.outage("other").reason == "it gives no access token"
    assert len(second.instances()) == before


def test_a_bearer_token_may_be_given_instead_of_a_client(parts, second, complete, ct, web_peer):
    token = second.auth.issue(second.auth.clients.get("network"), None, "system/ImagingStudy.cruds", 600)
    web_peer(client_id="", token_url="", secrets={"token": token})
    [data] = ct(1)
    complete(data)
    parts.sending.send("other")
    assert uids([data]).keys() <= second.instances().keys()


def _response(stored=(), failed=()):
    """PS3.18 Table I.1-1"""
    named = [{"00081155": {"vr": "UI", "Value": [one]}} for one in stored]
    lost = [{"00081155": {"vr": "UI", "Value": [one]}, "00081197": {"vr": "US", "Value": [reason]}} for one, reason in failed]
    return json.dumps({"00081199": {"vr": "SQ", "Value": named}, "00081198": {"vr": "SQ", "Value": lost}})


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, _response(["1.1", "1.2"]), [0, 0]),
        (200, "<NativeDicomModel/>", [0, 0]),
        (200, _response(["1.1"], [("1.2", 0xA700)]), [0, 0xA700]),
        (202, _response(["1.1"], [("1.2", 0xA900)]), [0, 0xA900]),
        (202, _response(["1.1"]), [0, 0xC000]),
        (202, "not JSON", "its answer is not JSON"),
        (409, _response([], [("1.1", 0x0111), ("1.2", 0xC122)]), [0, 0xC122]),
        (409, '{"00081198": {"Value": ["x", null]}, "00081199": 7}', [0xC000, 0xC000]),
        (400, "", [0xC000, 0xC000]),
        (413, "", [0xA700, 0xA700]),
        (302, "", "it answers 302"),
        (401, "", "it does not let us in"),
        (403, "", "it does not let us in"),
        (503, "", "it answers 503"),
    ],
)
def test_what_a_peer_answers_to_a_stow_is_read(parts, tmp_path, status, body, told):
    class Peer(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            """Nobody reads it."""

    peer = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    threading.Thread(target=peer.serve_forever, daemon=True).start()
    (tmp_path / "file").write_bytes(b"bytes")
    rows = [Stored("o", "1", "1.0", uid_, "1.2", "1.2.3", "d", 5, 1, (), {}) for uid_ in ("1.1", "1.2")]
    web = Web(Destination("x", "o", "dicomweb", url=f"http://127.0.0.1:{peer.server_port}", sends=True))
    try:
        if isinstance(told, str):
            with pytest.raises(Unavailable, match=told):
                list(web.store(rows, lambda row: nullcontext(tmp_path / "file")))
        else:
            assert [reason for _, reason in web.store(rows, lambda row: nullcontext(tmp_path / "file"))] == told
    finally:
        web.close()
        peer.shutdown()
        peer.server_close()


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("criteria", "fits"),
    [
        ({}, True),
        ({"facility": "hospital"}, True),
        ({"facility": "office"}, False),
        ({"modality": "CT"}, True),
        ({"modality": "MR"}, False),
        ({"body_part": "head"}, True),
        ({"body_part": "KNEE"}, False),
        ({"priority": "stat"}, True),
        ({"priority": "routine"}, False),
        ({"facility": "hospital", "modality": "CT", "body_part": "HEAD", "priority": "stat"}, True),
        ({"facility": "hospital", "modality": "CT", "body_part": "HEAD", "priority": "urgent"}, False),
    ],
)
def test_a_rule_fits_where_all_of_its_criteria_do(parts, dimse, ordered_ct, criteria, fits):
    dimse(free_port(), rule=False)
    parts.destinations.add_rule(Rule("rule", "pacs", **criteria))
    parts.destinations._known = (0.0, [])
    parts.sending.consider("hospital", ordered_ct)
    assert queued(parts) == ([("pacs", "waiting")] if fits else [])


@pytest.fixture(scope="module")
def ordered_ct(server, hospital, stow, samples) -> str:
    """A complete head CT that answers a stat order; its UID."""
    person = hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": "P-RULE"}])).json()
    asked = order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": "A-RULE"}], priority="stat")
    assert hospital.post("ServiceRequest", json=asked).status_code == 201
    [data] = series_of(samples("CT_small.dcm"), 1, PatientID="P-RULE", AccessionNumber="A-RULE", BodyPartExamined="HEAD")
    assert stow(data).status_code == 200
    server.wait(seconds=20)
    server.installation.images.arrivals.settle()
    return str(pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID)


def test_a_rule_by_urgency_is_looked_at_again_when_the_order_becomes_urgent(parts, dimse, server, hospital, complete, ct):
    person = hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": "P-LATER"}])).json()
    asked = order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": "A-LATER"}], priority="routine")
    made = hospital.post("ServiceRequest", json=asked).json()
    dimse(free_port(), rule=False)
    parts.destinations.add_rule(Rule("urgent-ones", "pacs", priority="stat"))
    parts.destinations._known = (0.0, [])
    complete(*ct(1, PatientID="P-LATER", AccessionNumber="A-LATER"))
    assert queued(parts) == []
    assert hospital.put(f"ServiceRequest/{made['id']}", json=made | {"priority": "stat"}).status_code == 200
    server.installation.images.arrivals.settle()
    assert queued(parts) == [("pacs", "waiting")]


def test_a_study_that_is_not_complete_stays(server, parts, dimse, stow, ct):
    dimse(free_port())
    assert stow(*ct(2)).status_code == 200
    server.installation.images.arrivals.settle()
    assert queued(parts) == []
    server.wait(seconds=20)
    server.installation.images.arrivals.settle()
    assert queued(parts) == [("pacs", "waiting")]


def test_the_queue_is_made_again_after_a_crash_between_the_study_and_it(server, parts, dimse, stow, ct, monkeypatch):
    dimse(free_port())
    assert stow(*ct(1)).status_code == 200
    server.wait(seconds=20)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts.deliveries, "want", crash)
    with pytest.raises(KeyboardInterrupt):
        server.installation.images.arrivals.settle()
    monkeypatch.undo()
    assert queued(parts) == []
    server.installation.images.arrivals.settle()
    assert queued(parts) == [("pacs", "waiting")]


def test_the_most_urgent_goes_first(server, parts, dimse, complete, ct, ordered_ct):
    dimse(free_port())
    complete(*ct(1))
    parts.sending.consider("hospital", ordered_ct)
    first, second_ = parts.deliveries.due("pacs", 2**53)
    assert (first.study, first.rank, second_.rank) == (ordered_ct, 0, 4)


# ---------------------------------------------------------------- who may send what


def agreed(centre, facility="hospital", **terms):
    content = [{"contentType": "application/json", "data": base64.b64encode(json.dumps(terms).encode()).decode()}]
    document = {
        "resourceType": "Library",
        "id": f"centre-agreement-{facility}",
        "status": "active",
        "type": {"text": "agreement"},
        "identifier": [{"system": "urn:fhirserver:agreement", "value": facility}],
        "content": content,
    }
    reply = centre.put(f"Library/centre-agreement-{facility}", json=document)
    assert reply.status_code in (200, 201), reply.text


@pytest.mark.parametrize(
    ("owner", "terms", "goes"), [("centre", CENTRE_AGREES, True), ("centre", {}, False), ("office", CENTRE_AGREES, False)]
)
def test_what_another_configured_goes_where_the_facility_has_agreed_with_the_centre(
    parts, dimse, as_, ordered_ct, owner, terms, goes
):
    agreed(as_("centre"), **terms)
    if owner == "office":
        agreed_with = as_("office")
        document = as_("centre").get("Library/centre-agreement-hospital").json()
        own = document | {"id": "office-agreement-hospital"}
        assert agreed_with.put("Library/office-agreement-hospital", json=own).status_code in (200, 201)
    dimse(free_port(), owner=owner, rule=False)
    parts.destinations.add_rule(Rule("all", "pacs"))
    parts.destinations._known = (0.0, [])
    parts.sending.consider("hospital", ordered_ct)
    assert queued(parts) == ([("pacs", "waiting")] if goes else [])


@needs_dcmtk
def test_an_agreement_that_ends_meanwhile_holds_for_what_waits(parts, dimse, pacs, as_, complete, ct):
    agreed(as_("centre"), **CENTRE_AGREES)
    dimse(pacs.start().port, owner="centre", rule=False)
    parts.destinations.add_rule(Rule("all", "pacs"))
    complete(*ct(1))
    assert queued(parts) == [("pacs", "waiting")]
    agreed(as_("centre"))
    parts.sending.send("pacs")
    assert queued(parts) == []
    assert pacs.files() == {}


@needs_dcmtk
def test_what_a_patient_keeps_from_others_stays(server, parts, dimse, pacs, complete, ct, hospital):
    person = hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": "P-KEEPS"}])).json()
    consent = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "policyRule": {"text": "opt-out"},
        "patient": {"reference": f"Patient/{person['id']}"},
        "provision": {"type": "deny"},
    }
    assert hospital.post("Consent", json=consent).status_code == 201
    dimse(pacs.start().port)
    dimse(pacs.port, name="own", organization="hospital")
    parts.restrictions.refresh()
    complete(*ct(1, PatientID="P-KEEPS", PatientBirthDate=""))
    assert queued(parts) == [("own", "waiting")]


@needs_dcmtk
def test_a_study_whose_patient_is_in_doubt_is_held(server, parts, dimse, pacs, complete, ct, hospital):
    person = hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": "P-SURE"}])).json()
    asked = order(f"Patient/{person['id']}", identifier=[{"system": "urn:acsn", "value": "A-DOUBT"}])
    assert hospital.post("ServiceRequest", json=asked).status_code == 201
    dimse(pacs.start().port)
    complete(*ct(1, PatientID="P-OTHER", AccessionNumber="A-DOUBT"))
    parts.sending.send("pacs")
    [row] = parts.deliveries.waiting("pacs")
    assert row.reason == "its patient is in doubt"
    assert pacs.files() == {}


def test_a_study_that_was_moved_to_another_patient_is_not_sent_under_its_old_name(parts, dimse, complete, ct, hospital):
    """Its files name who it was of; who gets them would file them so."""
    [data] = ct(1, PatientID="P-WAS")
    dimse(free_port(), name="moved")
    complete(data)
    person = hospital.post("Patient", json=patient(identifier=[{"system": "urn:mrn", "value": "P-IS"}])).json()
    uid_ = pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    found = hospital.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{uid_}").json()["entry"][0]["resource"]
    moved = {name: value for name, value in found.items() if name != "basedOn"} | {
        "subject": {"reference": f"Patient/{person['id']}"}
    }
    assert hospital.put(f"ImagingStudy/{found['id']}", json=moved).status_code == 200
    parts.sending.send("moved")
    assert queued(parts) == [("moved", "failed")]
    [task] = [t for t in deliver_tasks(hospital) if "to moved" in t["description"]]
    assert "its files name another patient than its record" in task["description"]


@needs_dcmtk
def test_each_study_that_is_sent_is_audited_as_an_export(server, parts, dimse, pacs, complete, ct, hospital):
    dimse(pacs.start().port, name="audited")
    [data] = ct(1)
    complete(data)
    parts.sending.send("audited")
    parts.store_audit()
    found = hospital.get("AuditEvent?type=http://dicom.nema.org/resources/ontology/DCM|110106&_count=100").json()
    events = [e["resource"] for e in found["entry"] if any(a.get("name") == "audited" for a in e["resource"]["agent"])]
    [event] = events
    assert event["type"]["display"] == "Export"
    assert event["agent"][1]["type"]["coding"][0]["code"] == "110152"
    study = hospital.get(
        f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID}"
    ).json()
    about = {entity["what"]["reference"] for entity in event["entity"]}
    resource = study["entry"][0]["resource"]
    assert about == {f"ImagingStudy/{resource['id']}", resource["subject"]["reference"]}


# ---------------------------------------------------------------- two installations, figures, commands


@needs_dcmtk
def test_of_two_installations_on_one_database_one_sends(server, parts, dimse, pacs, complete, ct):
    twin = create_app(server.settings, server.client[server.name], clock=server.now).state.installation.images
    files = ct(12)
    dimse(pacs.start().port)
    complete(*files)
    begun = [threading.Thread(target=one.sending.send, args=("pacs",)) for one in (parts, twin)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join(30)
    assert queued(parts) == [("pacs", "sent")]
    kept = pacs.files()
    assert kept.keys() == uids(files).keys()
    assert all(len(paths) == 1 for paths in kept.values())
    lines = list(parts.database["leases"].find({"_id": "sending pacs"}))
    assert len(lines) == 1
    twin.sending.stop()


@needs_dcmtk
def test_an_installation_that_dies_in_the_middle_is_taken_over_from(server, parts, dimse, pacs, complete, ct, monkeypatch):
    """It dies after the peer has answered an instance and before that is written down: that one is sent again, and no other."""
    twin = create_app(server.settings, server.client[server.name], clock=server.now).state.installation.images
    files = ct(6)
    dimse(pacs.start().port)
    complete(*files)
    note, count = parts.deliveries.note, []

    def dying(*arguments):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        note(*arguments)

    monkeypatch.setattr(parts.deliveries, "note", dying)
    monkeypatch.setattr(parts.sending._crew, "_release", lambda name: None)  # who dies gives nothing back
    with pytest.raises(KeyboardInterrupt):
        parts.sending.send("pacs")
    asked = []
    store = sending.Dimse.store
    monkeypatch.setattr(sending.Dimse, "store", lambda self, rows, local: store(self, asked.extend(rows) or rows, local))
    twin.sending.send("pacs")
    assert asked == []  # the lease is the other's still
    server.wait(seconds=61)
    twin.sending.send("pacs")
    assert queued(parts) == [("pacs", "sent")]
    assert len(asked) == 3
    kept = pacs.files()
    assert kept.keys() == uids(files).keys()
    assert all(data_set(kept[name][0]) == data_set(data) for name, data in uids(files).items())
    twin.sending.stop()


@needs_dcmtk
def test_the_job_sends_by_itself(server, parts, dimse, pacs, complete, ct):
    files = ct(2)
    dimse(pacs.start().port)
    complete(*files)
    parts.sending.step()
    until(lambda: queued(parts) == [("pacs", "sent")])
    assert pacs.files().keys() == uids(files).keys()


def test_the_figures_tell_what_waits_and_for_how_long(server, parts, dimse, complete, ct, hospital):
    dimse(free_port())
    complete(*ct(1))
    parts.sending.send("pacs")
    server.wait(minutes=10)
    gauges = {name: dict(values) for name, _, _, values in parts.gauges()}
    assert gauges["fhirserver_deliveries_waiting"] == {"pacs": 1.0}
    assert gauges["fhirserver_deliveries_sent"] == {"pacs": 0.0}
    assert gauges["fhirserver_deliveries_failed"] == {"pacs": 0.0}
    assert 600 <= gauges["fhirserver_deliveries_oldest_seconds"]["pacs"] < 700
    assert 600 <= gauges["fhirserver_destination_unreachable_seconds"]["pacs"] < 700


@pytest.fixture
def run(server, monkeypatch, capsys, mongodb_uri, tmp_path):
    monkeypatch.setenv("FHIRSERVER_MONGODB_URI", mongodb_uri)
    monkeypatch.setenv("FHIRSERVER_DATABASE", server.name)

    def command(*words: str, given: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        status = main([*words, "--data", str(tmp_path)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return command


def test_the_commands_configure_list_and_retry_and_never_show_a_secret(server, parts, run, second, tmp_path, complete, ct):
    jwk = tmp_path / "key.json"
    jwk.write_text(second.jwk)
    web = ("destination", "add", "web", "--url", f"{second.url}/dicomweb", "--send", "--owner", "hospital")
    assert run(*web, "--token", "-", given="s3cret-token\n")[:2] == (0, f"destination web: {second.url}/dicomweb\n")
    assert (
        "was there: replaced"
        in run(*web, "--client-id", "network", "--token-url", f"{second.url}/auth/token", "--client-key", str(jwk))[1]
    )
    assert (
        run(
            "destination",
            "add",
            "pacs",
            "--dimse",
            f"127.0.0.1:{free_port()}",
            "--called",
            "PACS",
            "--send",
            "--owner",
            "hospital",
        )[0]
        == 0
    )
    listed = run("destination", "list")[1].splitlines()
    assert listed[1] == f"web: {second.url}/dicomweb; send; of hospital; with a client's private key"
    assert run("route", "add", "r1", "--to", "pacs", "--facility", "hospital", "--modality", "CT")[:2] == (
        0,
        "route r1: facility hospital, modality CT -> pacs\n",
    )
    assert run("route", "list")[1] == "route r1: facility hospital, modality CT -> pacs\n"
    parts.destinations._known = (0.0, [])
    complete(*ct(1))
    parts.sending.send("pacs")
    told = run("deliveries")[1]
    assert "pacs: 1 waiting" in told
    assert "not reached since" in told
    assert run("deliveries", "--retry", "pacs")[1] == "pacs: 1 studies are tried again\n"
    assert parts.destinations.outage("pacs") is None
    assert run("route", "remove", "r1")[0] == 0
    assert run("destination", "remove", "pacs")[0] == 0
    assert queued(parts) == []
    stored = str(list(parts.database["dicom_destinations"].find({})))
    private = json.loads(second.jwk)["d"]
    assert private not in stored
    assert "s3cret-token" not in stored
    assert private not in "".join(listed)
    assert parts.destinations.get("web").secrets["client_key"]
    assert private not in repr(parts.destinations.get("web"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("destination", "add", "x", "--send"), "exactly one of --dimse and --url"),
        (("destination", "add", "x", "--dimse", "host", "--called", "A", "--send"), "a host and a port"),
        (("destination", "add", "x", "--dimse", "h:1", "--called", "A" * 17, "--send"), "AE title"),
        (("destination", "add", "x", "--dimse", "h:1", "--called", "A"), "say what it is for"),
        (("destination", "add", "x", "--dimse", "h:1", "--called", "A", "--query"), "--organization"),
        (("destination", "add", "../x", "--dimse", "h:1", "--called", "A", "--send"), "name"),
        (("destination", "add", "x", "--url", "http://pacs.example/web", "--send"), "https"),
        (("destination", "add", "x", "--url", "https://u:p@pacs.example/web", "--send"), "without credentials"),
        (("destination", "add", "x", "--url", "https://pacs.example/web", "--send", "--secret", "s"), "an id, a token URL"),
        (("destination", "remove", "nobody"), "no destination nobody"),
        (("route", "add", "r", "--to", "nobody"), "no destination nobody"),
        (("route", "remove", "nobody"), "no route nobody"),
        (("deliveries", "--retry", "nobody"), "no destination nobody"),
    ],
)
def test_what_is_wrong_is_told(parts, run, words, told):
    status, _, err = run(*words)
    assert status == 1
    assert told in err


def test_another_organisations_destination_is_not_replaced(parts, run, dimse):
    dimse(free_port())
    status, _, err = run("destination", "add", "pacs", "--dimse", "h:1", "--called", "A", "--send", "--owner", "office")
    assert (status, "another organisation's" in err) == (1, True)
    assert parts.destinations.get("pacs").owner == "hospital"


@needs_dcmtk
def test_neither_patients_nor_secrets_reach_the_log(server, parts, dimse, web_peer, pacs, complete, ct, caplog, second):
    caplog.set_level(logging.DEBUG)
    dimse(pacs.start().port)
    web_peer(client_id="", token_url="", secrets={"token": "s3cret-token"})
    complete(*ct(1, PatientID="LOGGED-ID", PatientName="Logged^Name"))
    parts.sending.send("pacs")
    pacs.kill()
    complete(*ct(1, PatientID="LOGGED-ID", PatientName="Logged^Name"))
    parts.sending.send("pacs")
    parts.sending.send("other")
    told = caplog.text
    assert "pacs was not reached" in told
    for hidden in ("LOGGED-ID", "Logged", "s3cret-token"):
        assert hidden not in told


def test_time_between_tries_grows_to_an_hour():
    assert 2.5 <= sending.backoff(1) <= 5
    assert 1800 <= sending.backoff(50) <= 3600
    assert len({sending.backoff(5) for _ in range(5)}) > 1


def test_a_study_that_is_being_moved_to_another_patient_is_not_sent(parts, dimse, complete, ct, server, monkeypatch):
    files = ct(2, PatientID="MOVES")
    dimse(free_port())
    complete(*files)
    index, uid_ = server.installation.images.index, str(pydicom.dcmread(io.BytesIO(files[0])).StudyInstanceUID)
    sent = []
    monkeypatch.setattr(sending.Dimse, "store", lambda self, rows, local: sent.extend(rows) or iter(()))
    for state in ({"moving": 1, "hides": True}, {"moving": 0, "moved": True}):
        index.studies.update_one({"uid": uid_}, {"$set": state})
        parts.sending.send("pacs")
        assert sent == []
        assert queued(parts) == [("pacs", "waiting")]
        server.wait(seconds=100)
