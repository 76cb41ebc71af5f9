"""Independent SMART clients against the server over TLS: fhirclient (PyPI and npm, in Chromium), openid-client, smart-fetch.

https://hl7.org/fhir/smart-app-launch/STU2.2/
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import ssl
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc.jwk import RSAKey
from people import PASSWORD, Forms, Person
from started import Running

HERE = Path(__file__).parent / "smart"
KEY = RSAKey.generate_key(2048, {"kid": "robot", "alg": "RS384", "use": "sig", "key_ops": ["sign"]})
_SECONDS = 120


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def certificate(name: str, key: Any, issuer: tuple[x509.Name, Any] | None) -> x509.Certificate:
    """By an authority, or the authority's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    by, signing = issuer or (subject, key)
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1)).add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )  # fmt: skip
    if issuer:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        built = built.add_extension(x509.SubjectAlternativeName(names), False)
        built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False)
    else:
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        built = built.add_extension(usage, True)
    return built.sign(signing, hashes.SHA256())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server over TLS, with an app for each client, a reader, and a case."""
    folder = tmp_path_factory.mktemp("smart")
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate("Test authority", root, None)
    served = certificate("127.0.0.1", leaf, (authority.subject, root))
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "cert.pem").write_bytes(served.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(pem(leaf))
    server = Running(
        folder, folder / "ca.pem", tls_cert=str(folder / "cert.pem"), tls_key=str(folder / "key.pem"), log_format="json"
    )
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def ca(running: Running) -> Path:
    return running.folder / "ca.pem"


@pytest.fixture(scope="module")
def case(running: Running) -> dict[str, str]:
    """A reader of the hospital, a patient with a study and a report."""
    admin = "user", "add", "root", "--role", "administrator", "--organization", "hospital"
    running.command(*admin)
    boss = running.client("boss", "hospital", user="root", scope="user/*.cruds")
    practitioner = {"resourceType": "Practitioner", "id": "hospital-anna", "name": [{"family": "Lis", "given": ["Anna"]}]}
    assert boss.put("Practitioner/hospital-anna", json=practitioner).status_code == 201
    person = ("user", "add", "anna", "--role", "reader", "--practitioner", "hospital-anna", "--organization", "hospital")
    running.command(*person, "--display", "Dr Anna Lis")
    running.command("user", "password", "anna", given=f"{PASSWORD}\n")
    ehr = running.client("ehr", "hospital")

    def made(type_: str, **members: Any) -> str:
        reply = ehr.post(type_, json={"resourceType": type_} | members)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    patient = made("Patient", name=[{"family": "Nowak", "given": ["Jan"]}], birthDate="1950-05-01")
    subject = {"reference": f"Patient/{patient}"}
    study = made("ImagingStudy", status="available", subject=subject, description="CT of the head")
    report = made(
        "DiagnosticReport", status="final", code={"text": "CT of the head"}, subject=subject,
        imagingStudy=[{"reference": f"ImagingStudy/{study}"}],
    )  # fmt: skip
    return {"patient": patient, "study": study, "report": report}


def person_at(running: Running) -> Person:
    http = httpx.Client(base_url=running.url, verify=running.verify, follow_redirects=False, timeout=30)
    running.clients.append(http)
    return Person.at(http, running.url)


def through_the_pages(person: Person, url: str) -> str:
    """Sign in, choose, allow: the URL that the app is called back with."""
    page = person.follow(person.http.get(url))
    page = person.sign_in("anna", page=page) if 'name="password"' in page.text else page
    while 'name="pick"' in page.text:
        offered = Forms(page.text).to("/auth/continue", "pick")["offered"]
        page = person.submit(page, "/auth/continue", "pick", chosen=offered[0])
    reply = person.submit(page, "/auth/continue", "scope", decision="allow")
    assert reply.status_code == 303, reply.text
    return reply.headers["location"]


@pytest.fixture(scope="module")
def node() -> Path:
    """The clients from npm, as the lock file names them."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed: make test-tools")
    lock, done = HERE / "package-lock.json", HERE / "node_modules" / ".of-the-lock"
    if not done.exists() or done.read_text() != lock.read_text():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        installed = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300)
        assert installed.returncode == 0, installed.stderr
        done.write_text(lock.read_text())
    return HERE


# ---------------------------------------------------------------- TLS


@pytest.mark.requirement("231")
def test_tls_1_2_and_later_alone_are_spoken(running, ca):
    spoken = {}
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(ca))
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):  # that the old ones are deprecated
            context.minimum_version = context.maximum_version = version
        try:
            spoken[version.name] = httpx.get(f"{running.url}/healthz", verify=context).status_code
        except httpx.HTTPError:
            spoken[version.name] = None
    assert spoken == {"TLSv1": None, "TLSv1_1": None, "TLSv1_2": 200, "TLSv1_3": 200}


# ---------------------------------------------------------------- fhirclient, PyPI


PYPI = """
import json, sys
from fhirclient import client
setup = json.loads(sys.argv[1])
smart = client.FHIRClient(settings={
    "app_id": "python-app", "api_base": setup["fhir"], "redirect_uri": setup["redirect_uri"], "scope": setup["scope"],
})
print(json.dumps({"url": smart.authorize_url}), flush=True)
smart.handle_callback(sys.stdin.readline().strip())
from fhirclient.models.diagnosticreport import DiagnosticReport
reports = DiagnosticReport.where(struct={"patient": smart.patient_id}).perform_resources(smart.server)
first = smart.patient.as_json()
again = smart.reauthorize()
print(json.dumps({"patient": first, "reports": [r.id for r in reports], "again": bool(again), "ready": smart.ready}))
"""


def test_fhirclient_from_pypi_launches_standalone_reads_and_reauthorizes(running, case, ca):
    scope = "launch/patient openid offline_access patient/*.rs"
    redirect = "https://app.example/callback"
    running.command("client", "add", "python-app", "--public", "--redirect-uri", redirect, "--scope", scope)
    setup = {"fhir": f"{running.url}/fhir", "redirect_uri": redirect, "scope": scope}
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(ca), "PYTHONWARNINGS": "ignore"}
    told = conversation(
        [sys.executable, "-c", PYPI, json.dumps(setup)], environment, lambda url: through_the_pages(person_at(running), url)
    )
    assert told["patient"]["id"] == case["patient"]
    assert told["patient"]["name"][0]["family"] == "Nowak"
    assert told["reports"] == [case["report"]]
    assert told["again"] is True


def conversation(command: list[str], environment: dict[str, str], browse: Any) -> dict[str, Any]:
    """A client tells where the browser goes, is told where it came back, and tells what it got."""
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first, process.communicate(timeout=10)[1]
            back = browse(json.loads(first)["url"])
            out, err = process.communicate(f"{back}\n", timeout=_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return dict(json.loads(out.strip().splitlines()[-1]))


# ---------------------------------------------------------------- openid-client, npm


def test_openid_client_is_content_with_discovery_tokens_introspection_and_revocation(running, case, ca, node):
    keys = running.folder / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    redirect, scope = (
        "https://app.example/cb",
        "openid fhirUser profile offline_access launch/patient patient/Patient.rs user/Task.rs",
    )
    registered = ("--redirect-uri", redirect, "--scope", f"{scope} system/Patient.rs", "--organization", "hospital")
    running.command("client", "add", "strict-app", "--jwks", str(keys), *registered)
    setup = {
        "issuer": running.url,
        "client": "strict-app",
        "jwk": KEY.as_dict(private=True),
        "redirect_uri": redirect,
        "scope": scope,
    }
    environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(ca), "SETUP": json.dumps(setup)}
    told = conversation(["node", str(node / "openid.mjs")], environment, lambda url: through_the_pages(person_at(running), url))
    assert told["claims"]["fhirUser"] == f"{running.url}/fhir/Practitioner/hospital-anna"
    assert told["claims"]["name"] == "Dr Anna Lis"
    assert told["first"]["patient"] == told["refreshed"]["patient"] == case["patient"]
    assert (told["active"]["active"], told["active"]["scope"]) == (True, scope)
    assert told["active"]["sub"] == told["claims"]["sub"]
    assert told["ended"] == {"active": False}
    assert (told["system"]["scope"], told["system"]["expires_in"]) == ("system/Patient.rs", 300)


# ---------------------------------------------------------------- fhirclient.js in Chromium


@pytest.fixture
def web(node: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The app on its own origin, and the same pages on another one."""
    shutil.copy(node / "node_modules" / "fhirclient" / "build" / "fhir-client.js", tmp_path)
    for name in ("launch.html", "app.html", "nothing.html"):
        shutil.copy(node / name, tmp_path)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) for _ in range(2)]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{servers[0].server_port}", f"http://127.0.0.1:{servers[1].server_port}"
    for server in servers:
        server.shutdown()
        server.server_close()


def test_fhirclient_js_launches_from_a_report_and_standalone_in_a_browser(running, case, node, web):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed: make test-tools")
    app, elsewhere = web
    scope = "launch launch/patient launch/diagnosticreport openid fhirUser offline_access online_access patient/*.rs user/*.rs"
    places = ("--redirect-uri", f"{app}/app.html", "--launch-uri", f"{app}/launch.html")
    running.command("client", "add", "browser-app", "--public", "--name", "CT viewer", *places, "--scope", scope)
    setup = {
        "base": running.url, "fhir": f"{running.url}/fhir", "app": app, "elsewhere": elsewhere, "chromium": chromium, "user": "anna",
        "password": PASSWORD, "focus": f"DiagnosticReport/{case['report']}", "shots": os.environ.get("FHIRSERVER_SHOTS"),
        "viewport": json.loads(os.environ.get("FHIRSERVER_VIEWPORT", "null")),
    }  # fmt: skip
    done = subprocess.run(
        ["node", str(node / "browser.mjs")],
        env=os.environ | {"SETUP": json.dumps(setup)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert "error" not in told, told
    context = [{"reference": f"DiagnosticReport/{case['report']}"}, {"reference": f"ImagingStudy/{case['study']}"}]
    for flow, expected in (("standalone", context[:1]), ("launched", context)):
        got = told[flow]
        assert "error" not in got, (flow, got)
        assert (got["patient"], got["again"]) == (case["patient"], case["patient"])
        assert got["user"] == "Practitioner/hospital-anna"
        assert got["reports"] == [case["report"]]
        assert got["told"]["fhirContext"] == expected
        assert got["rotated"] is True
    assert (told["launched"]["told"]["intent"], told["launched"]["told"]["need_patient_banner"]) == ("review", True)
    assert told["elsewhere"]["discovery"] == told["elsewhere"]["metadata"] == 200
    assert "Failed to fetch" in told["elsewhere"]["fhir"]
    assert "Failed to fetch" in told["elsewhere"]["token"]


# ---------------------------------------------------------------- smart-fetch


def test_smart_fetch_crawls_as_a_backend_service(running, case, ca, tmp_path):
    keys, private = running.folder / "robot.json", tmp_path / "robot.jwks"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    private.write_text(json.dumps({"keys": [KEY.as_dict(private=True)]}))
    running.command("client", "add", "robot", "--jwks", str(keys), "--scope", "system/*.rs", "--organization", "hospital")
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).parent / "smart-fetch"), "crawl", "--fhir-url", f"{running.url}/fhir", "--smart-client-id", "robot",
        "--smart-key", str(private), "--id-list", case["patient"], "--type", "Patient,DiagnosticReport", str(out),
    ]  # fmt: skip
    environment = os.environ | {"SSL_CERT_FILE": str(ca), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for type_ in ("Patient", "DiagnosticReport") for path in out.rglob(f"{type_}*.ndjson*")]
    ids = {json.loads(line)["id"] for path in files for line in _lines(path)}
    assert {case["patient"], case["report"]} <= ids


def _lines(path: Path) -> list[str]:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()


def test_no_token_or_url_is_in_the_servers_log(running, case):
    log = running.log()
    assert '"area"' in log
    for word in ("Bearer", "code=", "access_token", "client_assertion", PASSWORD, case["patient"]):
        assert word not in log, word
