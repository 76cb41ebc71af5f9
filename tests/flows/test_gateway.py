"""A gateway between a modality and the server, each in a process of its own: cut anywhere, everything arrives, and once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pydicom
import pytest
from flows_conftest import Running, wait_until
from joserfc.jwk import ECKey, RSAKey
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from scu import Caller, certificates, data_set, free_port

from auth.keys import client_assertion, header_of
from fhirserver import gateway
from fhirserver.gateway import upload
from fhirserver.gateway.spool import Spool
from fhirserver.gateway.taking import listener
from fhirserver.gateway.upload import Target, Uploads
from imaging import part10
from imaging.part10 import Named

dcmtk = pytest.mark.skipif(not shutil.which("storescu"), reason="DCMTK is not installed: make test-tools")
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
MAIN = "import sys; from fhirserver.entry import main; sys.exit(main())"


def slices(folder: Path, count: int) -> dict[str, bytes]:
    """A series in files: UID -> data set."""
    folder.mkdir(exist_ok=True)
    dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    del dataset.DataSetTrailingPadding  # which storescu leaves out
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    found = {}
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset)
        (folder / f"{number}.dcm").write_bytes(out.getvalue())
        found[str(dataset.SOPInstanceUID)] = data_set(out.getvalue())
    return found


class Gateway:
    """``fhirserver gateway`` in a process of its own."""

    def __init__(self, folder: Path, url: str, *proof: str) -> None:
        self.spool, self.port, self.log = folder / "spool", free_port(), folder / "gateway.log"
        self.command = [
            sys.executable, "-c", MAIN, "gateway", "--spool", str(self.spool), "--listen", f"127.0.0.1:{self.port}",
            "--to", f"{url}/dicomweb", "--token-url", f"{url}/auth/token", "--client", "gateway", *proof,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        wait_until(self._listens, 60)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return Caller(self.port, called="ANY").rejected is None
        except OSError:
            return False

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30) == 0

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def status(self) -> str:
        words = [sys.executable, "-c", MAIN, "gateway", "--status", "--spool", str(self.spool)]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    def waiting(self) -> list[Path]:
        return list((self.spool / "waiting").iterdir())


def storescu(port: int, *what: Path) -> int:
    command = ["storescu", "-pdu", "131072", "-aet", "CT1", "+sd", "127.0.0.1", str(port), *map(str, what)]
    return subprocess.run(command, timeout=120, capture_output=True).returncode


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Running(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def key(server, tmp_path_factory):
    """The gateway's key, which the server knows."""
    folder = tmp_path_factory.mktemp("key")
    made = ECKey.generate_key("P-384", auto_kid=True)
    (folder / "key.json").write_text(json.dumps(made.as_dict(private=True)))
    (folder / "jwks.json").write_text(json.dumps({"keys": [made.as_dict(private=False)]}))
    server.command(
        "client",
        "add",
        "gateway",
        "--jwks",
        str(folder / "jwks.json"),
        "--scope",
        "system/ImagingStudy.c",
        "--organization",
        "hospital",
    )
    return folder / "key.json"


@pytest.fixture(scope="module")
def reader(server):
    """The hospital, which looks what has arrived."""
    return server.client("reader", "hospital")


@pytest.fixture
def gate(tmp_path, server, key):
    gate = Gateway(tmp_path, server.url, "--key", str(key))
    try:
        gate.start()
        yield gate
        gate.stop()
    finally:
        if gate.process is not None and gate.process.poll() is None:
            gate.kill()


def arrived(reader, server, uids) -> dict[str, bytes]:
    """UID -> data set, of those of one study that are there; each is there once."""
    found = {}
    for uid in uids:
        rows = reader.get(f"{server.url}/dicomweb/instances?SOPInstanceUID={uid}")
        if rows.status_code == 204:
            continue
        [row] = rows.json()
        url = "{}/dicomweb/studies/{}/series/{}/instances/{}".format(
            server.url, *(row[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
        )
        reply = reader.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
        found[uid] = data_set(reply.content)
    return found


@dcmtk
def test_data_sets_that_tell_no_character_set_are_read_in_that_of_their_facility(tmp_path, server, key, reader):
    gate = Gateway(tmp_path, server.url, "--key", str(key), "--charset", "ISO_IR 144")
    try:
        gate.start()
        [uid] = slices(tmp_path / "study", 1)
        [file] = (tmp_path / "study").iterdir()
        dataset = pydicom.dcmread(file)
        del dataset.SpecificCharacterSet
        dataset.PatientName = "A^Name^Here1"
        dataset.save_as(file)
        file.write_bytes(file.read_bytes().replace(b"A^Name^Here1", "Люксембург".encode("iso8859_5").ljust(12)))
        assert storescu(gate.port, tmp_path / "study") == 0
        wait_until(lambda: not gate.waiting(), 60)
        [row] = reader.get(f"{server.url}/dicomweb/instances?SOPInstanceUID={uid}&includefield=PatientName").json()
        assert row["00100010"]["Value"] == [{"Alphabetic": "Люксембург"}]
        gate.stop()
    finally:
        if gate.process is not None and gate.process.poll() is None:
            gate.kill()


@dcmtk
def test_what_a_modality_sends_arrives_as_it_was_and_leaves_the_spool(gate, server, reader, tmp_path):
    sent = slices(tmp_path / "study", 40)
    assert storescu(gate.port, tmp_path / "study") == 0
    wait_until(lambda: not gate.waiting(), 60)
    assert arrived(reader, server, sent) == sent
    wait_until(lambda: "waiting 0" in gate.status() and "sent 40" in gate.status(), 60)
    assert "refused 0" in gate.status()
    assert list((gate.spool / "incoming").iterdir()) == []
    gate.stop()
    assert gate.status().endswith("not running")


@dcmtk
def test_one_that_the_server_sets_aside_is_delivered(gate, server, reader, tmp_path):
    [(uid, data)] = slices(tmp_path / "study", 1).items()
    with Caller(gate.port, called="ANY") as caller:
        assert caller.store(uid, data) == (0, "")
        assert caller.store(uid, data.replace(b"CompressedSamples^CT1", b"CorrectedSamples^^CT1")) == (0, "")
    wait_until(lambda: not gate.waiting(), 60)
    assert arrived(reader, server, [uid]) == {uid: data}
    assert list((gate.spool / "refused").iterdir()) == []


@dcmtk
def test_one_that_the_server_refuses_is_put_aside_with_the_reason_and_the_others_arrive(gate, server, reader, tmp_path):
    sent = slices(tmp_path / "study", 5)
    broken, whole = next(iter(sent.items()))
    with Caller(gate.port, called="ANY") as caller:
        assert caller.store(broken, whole[:-3000]) == (0, "")  # the gateway does not look into it
        for uid, data in list(sent.items())[1:]:
            assert caller.store(uid, data) == (0, "")
    wait_until(lambda: not gate.waiting(), 60)
    assert set(arrived(reader, server, sent)) == set(sent) - {broken}
    refused = sorted((gate.spool / "refused").iterdir())
    assert [path.suffix for path in refused] == [".dcm", ".json"]
    assert data_set(refused[0].read_bytes()) == whole[:-3000]
    told = json.loads(refused[1].read_text())
    assert (told["sopInstance"], told["reason"]) == (broken, "failure reason C000")


@dcmtk
def test_cut_anywhere_everything_that_was_acknowledged_arrives_once(gate, server, reader, tmp_path):
    first, second = slices(tmp_path / "first", 60), slices(tmp_path / "second", 30)
    command = ["storescu", "-aet", "CT1", "+sd", "127.0.0.1", str(gate.port), str(tmp_path / "first")]
    server.process.send_signal(signal.SIGSTOP)  # it would take them as fast as they come
    sending = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(gate.waiting()) > 2, 60)
        gate.kill()  # amid receiving and sending
        server.process.send_signal(signal.SIGCONT)
        sending.wait(60)
        kept = {path.name for path in gate.waiting()}
        gate.start()
        assert storescu(gate.port, tmp_path / "first") == 0
        server.kill()  # amid sending
        assert storescu(gate.port, tmp_path / "second") == 0  # it is taken in all the same
        wait_until(lambda: "not sending: the server cannot be reached" in gate.status(), 60)
        assert kept
        assert len(gate.waiting()) >= 30
        gate.kill()
        gate.start()
        server.start()
        wait_until(lambda: not gate.waiting(), 60)
        assert arrived(reader, server, [*first, *second]) == first | second
        assert list((gate.spool / "refused").iterdir()) == []
    finally:
        sending.kill()
        sending.wait(10)
        server.process.send_signal(signal.SIGCONT)
        if server.process.poll() is not None:
            server.start()


class _Secured(BaseHTTPRequestHandler):
    """A server that takes everything, over TLS."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = {"access_token": "t", "expires_in": 300}
        if self.path == "/dicomweb/studies":
            uid = part10.named(body[body.index(b"\r\n\r\n") + 4 :][: part10.HEAD]).uid
            answer = response(stored=[uid]).json()
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def test_it_sends_to_a_server_whose_certificate_is_signed_by_whom_it_knows_and_to_no_other(tmp_path):
    certificates(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Secured) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{web.server_port}"
        gate = Gateway(tmp_path, url, "--secret", "s", "--ca", str(tmp_path / "stranger.pem"))
        try:
            gate.start()
            with Caller(gate.port, called="ANY") as caller:
                assert caller.store("1.2.3", b"data") == (0, "")
            wait_until(lambda: "not sending: the server cannot be reached (ConnectError)" in gate.status(), 60)
            assert len(gate.waiting()) == 1
            gate.stop()
            gate.command[-1] = str(tmp_path / "ca.pem")
            gate.start()
            wait_until(lambda: not gate.waiting(), 60)
            gate.stop()
            assert "sent 1 " in gate.status()
        finally:
            if gate.process is not None and gate.process.poll() is None:
                gate.kill()
            web.shutdown()


# ---------------------------------------------------------------- what the server, and whatever is before it, may answer


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", 10_000_000, 0)
    yield spool
    spool.close()


def put(spool: Spool, uid: str, data: bytes = b"data") -> None:
    incoming = spool.receive()
    incoming.write(part10.header(Named(CT, uid, EXPLICIT)) + data)
    spool.keep(incoming, uid)


def response(stored=(), failed=()) -> httpx.Response:
    def item(uid, **more):
        return {"00081155": {"vr": "UI", "Value": [uid]}} | {tag: {"vr": "US", "Value": [v]} for tag, v in more.items()}

    body = {
        "00081199": {"vr": "SQ", "Value": [item(uid) for uid in stored]},
        "00081198": {"vr": "SQ", "Value": [item(uid, **{"00081197": reason}) for uid, reason in failed]},
    }
    return httpx.Response(200 if not failed else 202 if stored else 409, json=body)


class Answering:
    """A server that answers as it is told, the last for ever, and remembers what it was sent."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.bodies, self.times = list(answers), [], []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(200, json={"access_token": "t", "expires_in": 300})
        self.times.append(time.monotonic())
        self.bodies.append(request.read())
        assert len(self.bodies[-1]) == int(request.headers["content-length"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def sending(spool: Spool, answering: Answering, until, seconds: float = 15) -> Uploads:
    """Uploads over one connection, until it is so."""
    target = Target("https://server/dicomweb/studies", "https://server/auth/token", "gateway", "secret", None, "s")
    with httpx.Client(transport=httpx.MockTransport(answering)) as http:
        uploads = Uploads(spool, http, target, 1)
        uploads.start()
        try:
            wait_until(lambda: until(uploads), seconds)
        finally:
            uploads.stop()
    return uploads


HTML = httpx.Response(403, text="<html>Blocked</html>", headers={"content-type": "text/html"})


@pytest.mark.parametrize(
    "answer",
    [
        HTML, httpx.Response(200, text="<html>Welcome to the hospital</html>"), httpx.Response(400, text="<html>"),
        httpx.Response(407), httpx.Response(302, headers={"location": "https://elsewhere/"}), httpx.Response(502),
        httpx.Response(503, json={"message": "away"}), httpx.Response(507, json={"message": "full"}), httpx.Response(429),
        httpx.Response(401, json={"message": "token"}), httpx.Response(404, json={"message": "no"}), httpx.Response(200, json=[]),
        response(failed=[("1.2.3", 0xA700)]), response(stored=["9.9"]), httpx.ConnectError("refused"), httpx.ReadTimeout("slow"),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_settle_an_instance_leaves_it_waiting(spool, answer):
    put(spool, "1.2.3")
    answering = Answering(answer)
    sending(spool, answering, lambda _: answering.bodies and not [e for e in spool._entries.values() if e.taken])
    assert spool.waiting()[0] == 1
    assert spool.refused() == 0
    sending(spool, answered := Answering(response(stored=["1.2.3"])), lambda _: spool.waiting()[0] == 0)
    assert len(answered.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(failed=[("1.2.3", 0xC000)]), "failure reason C000"),
        (httpx.Response(413, json={"message": "too large"}), "413 too large"),
        (
            httpx.Response(409, json={"0008119A": {"vr": "SQ", "Value": [{"00081197": {"Value": [0xC000]}}]}}),
            "failure reason C000",
        ),
    ],
)
def test_what_the_server_refuses_is_put_aside(spool, answer, reason):
    put(spool, "1.2.3")
    sending(spool, Answering(answer), lambda _: spool.waiting()[0] == 0)
    [told] = (spool.folder / "refused").glob("*.json")
    assert json.loads(told.read_text())["reason"] == reason


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_request_that_fails_as_a_whole_is_sent_one_by_one(spool, status):
    for uid in ("1.1", "1.2", "1.3"):
        put(spool, uid, uid.encode())
    answering = Answering(
        httpx.Response(status, json={"message": "no"}),
        *(response(stored=[uid]) for uid in ("1.1", "1.2", "1.3")),
    )
    sending(spool, answering, lambda _: spool.waiting()[0] == 0)
    assert [body.count(b"DICM") for body in answering.bodies] == [3, 1, 1, 1]


def test_one_bad_instance_does_not_hold_up_the_others(spool):
    for uid in ("1.1", "1.2", "1.3"):
        put(spool, uid, uid.encode())

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(200, json={"access_token": "t"})
        body = request.read()
        uids = [uid for uid in ("1.1", "1.2", "1.3") if uid.encode() + b"\r\n" in body]
        return httpx.Response(500) if "1.1" in uids else response(stored=uids)

    sending(spool, answer, lambda _: spool.waiting()[0] == 1)
    assert spool.refused() == 0


def test_the_servers_retry_after_is_honoured(spool):
    put(spool, "1.2.3")
    answering = Answering(httpx.Response(503, headers={"retry-after": "2"}), response(stored=["1.2.3"]))
    uploads = sending(spool, answering, lambda _: spool.waiting()[0] == 0)
    first, second = answering.times
    assert second - first > 1.9  # without it at most one
    assert uploads.trouble == ""
    assert (uploads.sent, uploads.rate() > 0) == (1, True)


def test_pauses_grow_and_end_with_the_first_that_is_taken(spool, monkeypatch):
    monkeypatch.setattr(upload, "_FIRST_PAUSE", 0.2)
    put(spool, "1.2.3")
    answering = Answering(*[httpx.ConnectError("away")] * 3, response(stored=["1.2.3"]))
    sending(spool, answering, lambda _: spool.waiting()[0] == 0, 30)
    gaps = [late - early for early, late in zip(answering.times, answering.times[1:], strict=False)]
    assert all(gap > least for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=True))


def test_of_two_versions_of_an_instance_the_first_is_sent_first_and_alone(spool):
    put(spool, "1.2.3", b"first")
    put(spool, "1.2.3", b"second")
    put(spool, "1.2.4", b"another")
    batch = spool.take(10, 10_000, 0)
    assert [entry.uid for entry in batch] == ["1.2.3", "1.2.4"]
    assert b"first" in batch[0].path.read_bytes()
    assert spool.take(10, 10_000, 0) == []
    spool.again(batch[:1], later=True)
    assert spool.take(10, 10_000, 0) == []
    spool.delivered(batch[0])
    assert [b"second" in entry.path.read_bytes() for entry in spool.take(10, 10_000, 0)] == [True]


# ---------------------------------------------------------------- the spool


def test_the_same_bytes_are_spooled_once_and_are_there_after_a_restart(tmp_path):
    spool = Spool(tmp_path / "spool", 10_000_000, 0)
    for _ in range(3):
        put(spool, "1.2.3")
    put(spool, "1.2.4")
    cut = spool.receive()
    cut.write(b"half")
    (spool.folder / "waiting" / f"{0:020}-damaged.dcm").write_bytes(b"not what was written")
    spool.close()
    again = Spool(tmp_path / "spool", 10_000_000, 0)
    assert (again.waiting()[0], again.unreadable) == (2, 1)
    assert [entry.uid for entry in again.take(10, 10_000, 0)] == ["1.2.3", "1.2.4"]
    assert not cut.path.exists()
    assert len(list((again.folder / "waiting").iterdir())) == 3
    with pytest.raises(RuntimeError, match="another gateway"):
        Spool(tmp_path / "spool", 1, 0)
    again.close()
    cut.discard()


def test_a_full_spool_asks_the_modality_to_try_again(tmp_path):
    spool = Spool(tmp_path / "spool", 2000, 0)
    taking = listener(spool, "127.0.0.1", free_port(), "GATE", frozenset({"CT1"}), 5, 1_000_000)
    taking.start()
    port = taking._place.port
    try:
        wait_until(lambda: taking.owns)
        assert Caller(port, called="OTHER").rejected == (1, 1, 7)
        assert Caller(port, calling="CT2", called="GATE").rejected == (1, 1, 3)
        with Caller(port, called="GATE") as caller:
            assert caller.store("1.2.3", bytes(3000)) == (0, "")
            assert caller.store("1.2.4", bytes(3000))[0] == 0xA700
            spool.delivered(spool.take(1, 1, 0)[0])
            assert caller.store("1.2.4", bytes(3000)) == (0, "")
            assert caller.store("1.2.5/../..", bytes(10))[0] == 0xA900
    finally:
        taking.stop()
        spool.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"), reason="needs to mount a small disk")
def test_a_disk_that_is_full_is_told_and_nothing_of_it_is_left(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small disk")
    spool = Spool(tmp_path / "spool", 10_000_000, 0)
    taking = listener(spool, "127.0.0.1", free_port(), None, frozenset(), 5, 10_000_000)
    taking.start()
    try:
        wait_until(lambda: taking.owns)
        with Caller(taking._place.port) as caller:
            assert caller.store("1.2.3", bytes(3_000_000))[0] == 0xA700
            assert list((spool.folder / "incoming").iterdir()) == []
            assert caller.store("1.2.4", bytes(300_000)) == (0, "")
            assert [entry.uid for entry in spool.take(5, 10_000_000, 0)] == ["1.2.4"]
    finally:
        taking.stop()
        spool.close()
        subprocess.run(["umount", str(tmp_path)], check=False)


# ---------------------------------------------------------------- the command

GOOD = (
    "--listen",
    "127.0.0.1:1",
    "--to",
    "https://server/dicomweb",
    "--token-url",
    "https://server/auth/token",
    "--client",
    "c",
)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "missing: --listen --to --token-url --client --key or --secret"),
        ((*GOOD, "--secret", "s", "--to", "http://server/dicomweb"), "not an https URL"),
        ((*GOOD, "--secret", "s", "--token-url", "ftp://server/"), "not an https URL"),
        ((*GOOD, "--secret", "s", "--listen", "11112"), "HOST:PORT"),
        ((*GOOD, "--key", "/dev/null"), "not a private key"),
        (("--status",), "no gateway has used"),
    ],
)
def test_a_gateway_that_cannot_work_says_why(tmp_path, capsys, words, told):
    assert gateway.main(["--spool", str(tmp_path / "spool"), *words]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "algorithm"), [(RSAKey.generate_key(2048), "RS384"), (ECKey.generate_key("P-384", auto_kid=True), "ES384")]
)
def test_a_key_is_a_json_web_key_or_pem(made, algorithm):
    for text in (json.dumps(made.as_dict(private=True)), made.as_pem(private=True).decode()):
        assert header_of(client_assertion({"sub": "c"}, text))["alg"] == algorithm
    with pytest.raises(ValueError, match="not a private key"):
        client_assertion({}, ECKey.generate_key("P-256").as_pem(private=True).decode())


def test_it_needs_no_database_and_no_web_framework():
    code = (
        "import sys, fhirserver.entry, fhirserver.gateway.taking, fhirserver.gateway.upload;"
        "print([m for m in ('pymongo', 'fastapi', 'fhir.resources', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"
