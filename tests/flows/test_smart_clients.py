"""Independent SMART clients against the server over TLS: fhirclient (PyPI and npm, in Chromium), openid-client, smart-fetch.

https://hl7.org/fhir/smart-app-launch/STU2.2/
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
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
from threading import Thread, Timer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, RSAKey
from people import PASSWORD, App, Forms, Person
from started import Running

HERE = Path(__file__).parent / "smart"
KEY = RSAKey.generate_key(2048, {"kid": "robot", "alg": "RS384", "use": "sig", "key_ops": ["sign"]})
CURVE = ECKey.generate_key("P-384", {"kid": "curve", "alg": "ES384", "use": "sig", "key_ops": ["sign"]})
CALLBACK = "https://app.example/cb"
PYTHON = "launch/patient openid offline_access patient/*.rs"
STRICT = "openid fhirUser profile offline_access launch/patient patient/Patient.rs user/Task.rs"
BROWSER = "launch launch/patient launch/diagnosticreport openid fhirUser offline_access online_access patient/*.rs user/*.rs"
SECRET = "s3cret/with+signs="
SECRETS = ("100%/a+b=c:d", "two words")
CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
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
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A folder, the app's own origin at which it is served, and another one."""
    folder = tmp_path_factory.mktemp("web")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) for _ in range(2)]
    for server in servers:
        Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{servers[0].server_port}", f"http://127.0.0.1:{servers[1].server_port}"
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def case(running: Running, web: tuple[Path, str, str]) -> dict[str, str]:
    """The people and apps; a patient of the hospital with a study, a report and findings; ``totp`` is Tom's second factor."""
    (running.folder / "keys.json").write_text(json.dumps({"keys": [key.as_dict(private=False) for key in (KEY, CURVE)]}))
    ours, keys = ("--organization", "hospital"), ("--jwks", str(running.folder / "keys.json"))
    all_, python, app = ("--scope", "system/*.cruds user/*.cruds"), ("--redirect-uri", CALLBACK, "--scope", PYTHON), web[1]
    pages = ("--redirect-uri", f"{app}/app.html", "--redirect-uri", f"{app}/nothing.html", "--launch-uri", f"{app}/launch.html")
    lines = running.commands(
        ("user", "add", "root", "--role", "administrator", *ours),
        ("user", "add", "anna", "--role", "reader", "--practitioner", "hospital-anna", "--display", "Dr Anna Lis", *ours),
        ("user", "add", "tom", "--role", "clerk", *ours),
        ("user", "password", "anna"),
        ("user", "password", "tom"),
        ("client", "add", "ehr", "--secret", "secret of ehr", *all_, *ours),
        ("client", "add", "robot", *keys, "--scope", "system/*.rs", *ours),
        ("client", "add", "strict-app", *keys, "--redirect-uri", CALLBACK, "--scope", f"{STRICT} system/Patient.rs", *ours),
        ("client", "add", "python-public", "--public", *python),
        ("client", "add", "python-secret", "--secret", SECRET, *python),
        ("client", "add", "browser-app", "--public", "--name", "CT viewer", *pages, "--scope", BROWSER),
        *(("client", "add", f"words-{i}", "--secret", one, "--scope", "system/Patient.rs") for i, one in enumerate(SECRETS)),
        ("user", "totp", "tom"),
        ("token", "--client", "ehr", "--scope", "user/*.cruds", "--user", "root"),
        ("token", "--client", "ehr", "--scope", "system/*.cruds"),
        given=f"{PASSWORD}\n{PASSWORD}\n",
    )
    totp, boss, system = lines[-3:]
    http = httpx.Client(base_url=f"{running.url}/fhir", timeout=30, verify=running.verify)
    running.clients.append(http)
    practitioner = {"resourceType": "Practitioner", "id": "hospital-anna", "name": [{"family": "Lis", "given": ["Anna"]}]}
    put = http.put("Practitioner/hospital-anna", json=practitioner, headers={"Authorization": f"Bearer {boss}"})
    assert put.status_code == 201, put.text

    def made(type_: str, **members: Any) -> str:
        reply = http.post(type_, json={"resourceType": type_} | members, headers={"Authorization": f"Bearer {system}"})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["id"])

    patient = made("Patient", name=[{"family": "Nowak", "given": ["Jan"]}], birthDate="1950-05-01")
    subject = {"reference": f"Patient/{patient}"}
    study = made("ImagingStudy", status="available", subject=subject, description="CT of the head")
    report = made(
        "DiagnosticReport", status="final", code={"text": "CT of the head"}, subject=subject,
        imagingStudy=[{"reference": f"ImagingStudy/{study}"}],
    )  # fmt: skip
    found = {
        name: made("Observation", status="final", code={"text": name}, subject=subject,
                   category=[{"coding": [{"system": CATEGORY, "code": name}]}])
        for name in ("laboratory", "vital-signs")
    }  # fmt: skip
    secret = dict(parse_qsl(urlsplit(totp).query))["secret"]
    return {"patient": patient, "study": study, "report": report, "totp": secret} | found


def person_at(running: Running) -> Person:
    http = httpx.Client(base_url=running.url, verify=running.verify, follow_redirects=False, timeout=30)
    running.clients.append(http)
    return Person.at(http, running.url)


def through_the_pages(person: Person, url: str, decision: str = "allow") -> str:
    """Sign in, choose, allow: the URL that the app is called back with."""
    page = person.follow(person.http.get(url))
    page = person.sign_in("anna", page=page) if 'name="password"' in page.text else page
    while 'name="pick"' in page.text:
        offered = Forms(page.text).to("/auth/continue", "pick")["offered"]
        page = person.submit(page, "/auth/continue", "pick", chosen=offered[0])
    reply = person.submit(page, "/auth/continue", "scope", decision=decision)
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
    "app_id": setup["client"], "app_secret": setup["secret"], "api_base": setup["fhir"], "redirect_uri": setup["redirect_uri"],
    "scope": setup["scope"],
})
print(json.dumps({"url": smart.authorize_url}), flush=True)
smart.handle_callback(sys.stdin.readline().strip())
from fhirclient.models.diagnosticreport import DiagnosticReport
reports = DiagnosticReport.where(struct={"patient": smart.patient_id}).perform_resources(smart.server)
first, held = smart.patient.as_json(), (smart.server.auth.access_token, smart.server.auth.refresh_token)
again = smart.reauthorize()
renewed = smart.server.auth.access_token != held[0] and smart.server.auth.refresh_token != held[1]
read = DiagnosticReport.read(reports[0].id, smart.server)
print(json.dumps({
    "patient": first, "reports": [r.id for r in reports], "again": bool(again), "renewed": renewed, "read": read.as_json(),
}))
"""


@pytest.mark.parametrize(("client", "secret"), [("python-public", None), ("python-secret", SECRET)])
def test_fhirclient_from_pypi_launches_standalone_reads_and_reauthorizes(running, case, ca, client, secret):
    setup = {"client": client, "secret": secret, "fhir": f"{running.url}/fhir", "redirect_uri": CALLBACK, "scope": PYTHON}
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(ca), "PYTHONWARNINGS": "ignore"}
    went: list[str] = []

    def browse(url: str) -> str:
        went.append(url)
        return through_the_pages(person_at(running), url)

    told = conversation([sys.executable, "-c", PYPI, json.dumps(setup)], environment, browse)
    asked = parse_qs(urlsplit(went[0]).query)
    assert went[0].startswith(f"{running.url}/auth/authorize?"), "as the CapabilityStatement says"
    assert (asked["code_challenge_method"], asked["aud"]) == (["S256"], [f"{running.url}/fhir"])
    assert told["patient"]["id"] == case["patient"]
    assert told["patient"]["name"][0]["family"] == "Nowak"
    assert told["reports"] == [case["report"]]
    assert (told["again"], told["renewed"]) == (True, True)
    assert told["read"]["imagingStudy"] == [{"reference": f"ImagingStudy/{case['study']}"}]


def conversation(command: list[str], environment: dict[str, str], browse: Any) -> dict[str, Any]:
    """A client tells where the browser goes, is told where it came back, and tells what it got."""
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        patience = Timer(_SECONDS, process.kill)
        patience.start()
        try:
            first = process.stdout.readline()
            assert first, process.communicate(timeout=10)[1]
            back = browse(json.loads(first)["url"])
            out, err = process.communicate(f"{back}\n", timeout=_SECONDS)
        finally:
            patience.cancel()
            process.kill()
    assert process.returncode == 0, err
    return dict(json.loads(out.strip().splitlines()[-1]))


def ran(command: list[str], environment: dict[str, str]) -> str:
    """What it printed. When it takes too long it is ended with all that it started."""
    process = subprocess.Popen(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, out + err
    return out


# ---------------------------------------------------------------- openid-client, npm


@pytest.fixture(scope="module")
def strict(running: Running, case: dict[str, str], ca: Path, node: Path) -> Any:
    """openid-client as a registered app: how its person decides, and what it is set up with -> what it tells."""
    given = {"issuer": running.url, "client": "strict-app", "jwk": KEY.as_dict(private=True), "scope": STRICT}

    def run(browse: Any = None, **more: Any) -> dict[str, Any]:
        environment = {"NODE_EXTRA_CA_CERTS": str(ca), "SETUP": json.dumps(given | more)}
        command = ["node", str(node / "openid.mjs")]
        if browse is None:
            return dict(json.loads(ran(command, environment).strip().splitlines()[-1]))
        return conversation(command, os.environ | environment, browse)

    return run


def test_openid_client_is_content_with_discovery_tokens_introspection_and_revocation(running, case, strict):
    told = strict(lambda url: through_the_pages(person_at(running), url), redirect_uri=CALLBACK)
    claims = told["claims"]
    assert claims["fhirUser"] == f"{running.url}/fhir/Practitioner/hospital-anna"
    assert claims["name"] == "Dr Anna Lis"
    assert (claims["iss"], claims["aud"], claims["nonce"]) == (running.url, "strict-app", told["nonce"])
    assert told["iss"] == running.url, "iss of RFC 9207"
    assert told["first"]["patient"] == told["refreshed"]["patient"] == case["patient"]
    assert told["first"]["scope"] == told["refreshed"]["scope"] == STRICT
    assert told["refreshed"]["refresh_token"] != told["first"]["refresh_token"]
    assert (told["active"]["active"], told["active"]["scope"], told["active"]["client_id"]) == (True, STRICT, "strict-app")
    assert (told["active"]["sub"], told["active"]["patient"]) == (claims["sub"], case["patient"])
    assert told["ended"] == {"active": False}
    assert told["later"] == "invalid_grant", "a revoked refresh token"
    assert told["again"] == "invalid_grant", "a code that was used"
    assert (told["system"]["scope"], told["system"]["expires_in"]) == ("system/Patient.rs", 300)
    assert "refresh_token" not in told["system"]


def test_openid_client_is_told_with_iss_and_state_that_the_person_declined(running, case, strict):
    """ "including error responses": https://www.rfc-editor.org/rfc/rfc9207#section-2"""
    told = strict(lambda url: through_the_pages(person_at(running), url, "deny"), redirect_uri=CALLBACK, declines=True)
    assert told == {"refused": "access_denied", "iss": running.url}


def test_openid_client_authenticates_with_es384(running, case, strict):
    told = strict(jwk=CURVE.as_dict(private=True), scope="system/Patient.rs")
    assert (told.get("scope"), told.get("token_type"), told.get("expires_in")) == ("system/Patient.rs", "bearer", 300), told


@pytest.mark.parametrize("which", range(len(SECRETS)), ids=SECRETS)
def test_a_client_secret_is_form_encoded_in_http_basic(strict, which):
    """The value of application/x-www-form-urlencoded: https://www.rfc-editor.org/rfc/rfc6749#section-2.3.1"""
    told = strict(client=f"words-{which}", secret=SECRETS[which], scope="system/Patient.rs")
    assert told.get("scope") == "system/Patient.rs", told


@pytest.mark.parametrize("parameter", [{"prompt": "login"}, {"max_age": "0"}], ids=["prompt=login", "max_age=0"])
def test_a_signed_in_person_signs_in_again_where_the_app_asks_for_it(running, case, strict, parameter):
    """ "MUST attempt to actively re-authenticate": https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest

    SMART itself does not require it: "Support is not required for parameters that OIDC lists as optional".
    """
    person, shown = person_at(running), []
    person.sign_in("anna")

    def browse(url: str) -> str:
        shown.append('name="password"' in person.follow(person.http.get(url)).text)
        return through_the_pages(person, url)

    told = strict(browse, redirect_uri=CALLBACK, more=parameter)
    assert told["claims"]["auth_time"]
    assert shown == [True]


# ---------------------------------------------------------------- fhirclient.js in Chromium


@pytest.fixture(scope="module")
def browse(running: Running, case: dict[str, str], node: Path, web: tuple[Path, str, str]) -> Any:
    """A flow of browser.mjs, in a Chromium of its own -> what it tells."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed: make test-tools")
    folder, app, elsewhere = web
    shutil.copy(node / "node_modules" / "fhirclient" / "build" / "fhir-client.js", folder)
    for name in ("launch.html", "app.html", "nothing.html"):
        shutil.copy(node / name, folder)
    given = {
        "base": running.url, "fhir": f"{running.url}/fhir", "app": app, "elsewhere": elsewhere, "chromium": chromium, "user": "anna",
        "password": PASSWORD, "patient": case["patient"], "focus": f"DiagnosticReport/{case['report']}",
    }  # fmt: skip

    def run(flow: str, **more: Any) -> dict[str, Any]:
        environment = {"SETUP": json.dumps(given | {"flow": flow} | more), "TMPDIR": str(running.folder)}
        told = json.loads(ran(["node", str(node / "browser.mjs")], environment).strip().splitlines()[-1])
        return dict(told)

    return run


def test_fhirclient_js_launches_from_a_report_and_standalone_in_a_browser(running, case, browse):
    told = browse("launches")
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


def test_a_browser_lets_the_registered_origin_read_and_keeps_the_same_token_from_any_other(browse):
    """https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#considerations-for-cross-origin-resource-sharing-cors-support"""
    told = browse("origins")
    assert "error" not in told, told
    own, elsewhere = told["own"], told["elsewhere"]
    assert own["discovery"] == own["metadata"] == elsewhere["discovery"] == elsewhere["metadata"] == 200
    assert (own["fhir"]["status"], own["fhir"]["type"], own["fhir"]["etag"]) == (200, "Patient", 'W/"1"')
    assert (own["unknown"]["status"], own["unknown"]["type"]) == (404, "OperationOutcome"), "errors are told to it too"
    assert own["token"]["status"] in (400, 401)
    for what in ("fhir", "unknown", "token", "pages"):
        assert "Failed to fetch" in elsewhere[what], (what, elsewhere[what])
    assert "Failed to fetch" in own["pages"], "what people see is never for an app"


def test_a_person_in_a_browser_allows_a_part_and_the_app_gets_that_alone(case, browse):
    told = browse("narrowed")
    assert "error" not in told, told
    laboratory = f"patient/Observation.rs?category={CATEGORY}|laboratory"
    assert told["told"]["scope"].split() == ["launch/patient", "openid", "patient/Patient.rs", laboratory]
    assert told["refused"] == 403
    assert told["observations"] == [case["laboratory"]]
    assert (told["patient"], told["rotated"]) == (case["patient"], False)
    assert "refresh_token" not in told["told"]


def test_fhirclient_js_is_told_that_the_person_declined(browse):
    told = browse("denied")
    assert "declined" in told["error"], told


def test_an_app_in_a_browser_posts_its_request_and_the_person_is_still_signed_in(running, case, browse, web):
    """authorize-post: https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-authorization-code"""
    app = App("browser-app", f"{web[1]}/nothing.html", "launch/patient openid patient/*.rs")
    told = browse("posted", asked=app.asked(aud=f"{running.url}/fhir"))
    assert "error" not in told, told
    assert (told["at"], told["state"], told["iss"]) == (app.redirect_uri, app.state, running.url)
    reply = person_at(running).http.post("/auth/token", data=app.form(told["code"]), headers={"Origin": web[1]})
    assert (reply.json()["patient"], reply.headers["access-control-allow-origin"]) == (case["patient"], web[1])


def test_a_person_in_a_browser_comes_to_the_app_through_the_second_factor(case, browse):
    told = browse("second", user="tom", totp=case["totp"])
    assert told == {
        "refused": "This code is not right, or was used already. Wait for the next one.",
        "patient": case["patient"],
    }


@pytest.mark.parametrize("wrong", [False, True], ids=["at first", "after a wrong code"])
def test_a_person_who_changes_the_language_at_the_second_factor_is_still_on_the_way_to_the_app(browse, wrong):
    told = browse("language", user="tom", wrong=wrong)
    assert "error" not in told, told
    assert (told["status"], told["lang"]) == (200, "pl")
    assert told["next"].startswith("/auth/continue?tx="), "the app's request is lost"


# ---------------------------------------------------------------- smart-fetch


def test_smart_fetch_crawls_as_a_backend_service(running, case, ca, tmp_path):
    private = tmp_path / "robot.jwks"
    private.write_text(json.dumps({"keys": [KEY.as_dict(private=True)]}))
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).parent / "smart-fetch"), "crawl", "--fhir-url", f"{running.url}/fhir", "--smart-client-id", "robot",
        "--smart-key", str(private), "--id-list", case["patient"], "--type", "Patient,DiagnosticReport,Observation", str(out),
    ]  # fmt: skip
    ran(command, {"SSL_CERT_FILE": str(ca), "PYTHONWARNINGS": "ignore"})
    files = [path for type_ in ("Patient", "DiagnosticReport", "Observation") for path in out.rglob(f"{type_}*.ndjson*")]
    ids = {json.loads(line)["id"] for path in files for line in _lines(path)}
    assert ids == {case["patient"], case["report"], case["laboratory"], case["vital-signs"]}


def _lines(path: Path) -> list[str]:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()


def test_no_token_or_url_is_in_the_servers_log(running, case):
    log = running.log()
    assert '"area"' in log
    for word in ("Bearer", "code=", "access_token", "client_assertion", PASSWORD, case["patient"]):
        assert word not in log, word
