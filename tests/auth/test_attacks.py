"""Attacks on the authorization server: https://www.rfc-editor.org/rfc/rfc9700 and what SMART adds."""

from __future__ import annotations

import json
import logging
import socket
import time
import uuid
from base64 import urlsafe_b64encode
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

import pytest
from argon2 import Type, extract_parameters
from auth_conftest import CALLBACK
from conftest import BASE
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from people import PASSWORD, App, Forms, Person, consent, returned
from starlette.testclient import TestClient

from auth import jwks
from auth.store import AuthStore

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
KEY = ECKey.generate_key("P-384", {"kid": "one"})
OTHER = ECKey.generate_key("P-384", {"kid": "other"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})


@pytest.fixture(scope="module")
def http(server, people):
    keys = {"keys": [KEY.as_dict(private=False), RSA.as_dict(private=False)]}
    server.auth.clients.add("asym", "system/*.rs __introspect", jwks=keys, organization="hospital")
    server.auth.clients.add("plain", "system/*.rs", secret="a-secret-of-some-length", organization="hospital")
    return TestClient(server.app, base_url=BASE)


def claims(**changed):
    now = int(time.time())
    return {"iss": "asym", "sub": "asym", "aud": f"{BASE}/auth/token", "exp": now + 60, "jti": uuid.uuid4().hex} | changed


def asking(assertion: str, **more: str):
    return {
        "grant_type": "client_credentials",
        "scope": "system/Patient.rs",
        "client_assertion_type": ASSERTION,
        "client_assertion": assertion,
    } | more


def signed(key=KEY, alg="ES384", header=None, **changed) -> str:
    return jwt.encode({"alg": alg, "kid": key.kid, **(header or {})}, claims(**changed), key, algorithms=[alg])


def unsigned(header: dict, payload: dict, signature: str = "") -> str:
    parts = (urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload))
    return ".".join([*parts, signature])


def refused(reply) -> bool:
    return (reply.status_code, reply.json()["error"]) == (401, "invalid_client")


# ---------------------------------------------------------------- assertions


def hmac_with_the_public_key() -> str:
    secret = OctKey.import_key(json.dumps(KEY.as_dict(private=False)))
    return jwt.encode({"alg": "HS384", "kid": "one"}, claims(), secret, algorithms=["HS384"])


FORGED = {
    "alg none": lambda: unsigned({"alg": "none", "kid": "one"}, claims()),
    "alg None": lambda: unsigned({"alg": "None", "kid": "one"}, claims()),
    "signature cut off": lambda: signed().rpartition(".")[0] + ".",
    "signature of other claims": lambda: f"{unsigned({'alg': 'ES384', 'kid': 'one'}, claims())}{signed().rpartition('.')[2]}",
    "HS384 with the public key": hmac_with_the_public_key,
    "another key with this kid": lambda: signed(ECKey.generate_key("P-384", {"kid": "one"})),
    "an unknown kid": lambda: signed(OTHER),
    "kid of the RSA key": lambda: signed(header={"kid": "rsa"}),
    "own key in the header": lambda: signed(OTHER, header={"jwk": OTHER.as_dict(private=False)}),
    "jku elsewhere": lambda: signed(header={"jku": "https://evil.example/jwks"}),
    "stale": lambda: signed(exp=int(time.time()) - 120),
    "too far ahead": lambda: signed(exp=int(time.time()) + 400),
    "not yet": lambda: signed(nbf=int(time.time()) + 300),
    "issued in the future": lambda: signed(iat=int(time.time()) + 300),
    "no exp": lambda: jwt.encode({"alg": "ES384", "kid": "one"}, {k: v for k, v in claims().items() if k != "exp"}, KEY, algorithms=["ES384"]),
    "no jti": lambda: jwt.encode({"alg": "ES384", "kid": "one"}, {k: v for k, v in claims().items() if k != "jti"}, KEY, algorithms=["ES384"]),
    "aud of another server": lambda: signed(aud="https://other.example/auth/token"),
    "aud of several": lambda: signed(aud=[f"{BASE}/auth/token", "https://other.example"]),
    "a header of 5 kB": lambda: signed(header={"cty": "y" * 5000}),
    "an assertion of 30 kB": lambda: signed(filler="y" * 22_000),
    "deeply nested": lambda: "W" * 3000 + "." + "W" * 3000 + ".x",
}  # fmt: skip


@pytest.mark.requirement("249 335 336 337 338 340")
@pytest.mark.parametrize("forgery", FORGED.values(), ids=FORGED)
def test_a_forged_assertion_is_refused(http, forgery):
    assert refused(http.post("/auth/token", data=asking(forgery())))


@pytest.mark.requirement("253 310 326 357")
def test_the_same_assertion_unforged_is_taken(http):
    assert http.post("/auth/token", data=asking(signed())).status_code == 200
    assert http.post("/auth/token", data=asking(signed(RSA, "RS384"))).status_code == 200


@pytest.mark.requirement("336")
def test_a_jti_is_used_once_on_all_workers(server, http):
    assertion = signed()
    assert http.post("/auth/token", data=asking(assertion)).status_code == 200
    store = AuthStore(server.client[server.name], "centre")
    assert store.first_use("asym", jwt.decode(assertion, KEY, algorithms=["ES384"]).claims["jti"], time.time() + 60) is False
    assert refused(http.post("/auth/token", data=asking(assertion)))


@pytest.mark.parametrize(
    "more",
    [
        {"client_id": "plain"},
        {"client_secret": "a-secret-of-some-length", "client_id": "plain"},
        {"client_assertion_type": "not_an_assertion_type"},
    ],
    ids=["another client_id", "two proofs", "another type"],
)
def test_one_client_proves_itself_in_one_way(http, more):
    assert http.post("/auth/token", data=asking(signed(), **more)).status_code in (400, 401)


def test_an_asymmetric_client_is_not_let_in_by_a_secret(http):
    assert refused(
        http.post("/auth/token", data={"grant_type": "client_credentials", "scope": "system/*.rs"}, auth=("asym", "x"))
    )


# ---------------------------------------------------------------- jwks_uri


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/jwks",
        "file:///etc/passwd",
        "https://10.0.0.1/jwks",
        "https://169.254.169.254/latest/meta-data",
        "https://[fd00::1]/jwks",
        "ftp://127.0.0.1/jwks",
    ],
)
def test_a_key_set_is_not_fetched_from_inside_the_network(url):
    with pytest.raises(ValueError, match=r"https|private"):
        jwks.allowed(url)


class Keys(BaseHTTPRequestHandler):
    """A client's key set, and what goes wrong with one."""

    asked = 0
    control = "max-age=60"

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "/jwks")
            self.end_headers()
            return
        body = b"[" * 70_000 if self.path == "/large" else json.dumps({"keys": [KEY.as_dict(private=False)]}).encode()
        self.send_response(200)
        self.send_header("Cache-Control", type(self).control)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def published():
    Keys.asked = 0
    web = ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


@pytest.mark.requirement("296 339 341 342")
def test_a_key_set_is_kept_no_longer_than_the_client_says(server, http, published):
    server.auth.clients.add("by-url", "system/*.rs", jwks_uri=f"{published}/jwks", organization="hospital")
    asked = lambda: http.post("/auth/token", data=asking(signed(iss="by-url", sub="by-url")))  # noqa: E731
    assert [asked().status_code for _ in range(3)] == [200] * 3
    assert Keys.asked == 1
    Keys.control = "no-store"
    server.auth.clients.add("by-url", "system/*.rs", jwks_uri=f"{published}/other", organization="hospital")
    assert [asked().status_code for _ in range(3)] == [200] * 3
    assert Keys.asked == 4


@pytest.mark.parametrize("path", ["away", "large"])
def test_a_redirect_or_a_large_answer_is_no_key_set(server, http, published, path):
    server.auth.clients.add("odd", "system/*.rs", jwks_uri=f"{published}/{path}", organization="hospital")
    assert refused(http.post("/auth/token", data=asking(signed(iss="odd", sub="odd"))))


# ---------------------------------------------------------------- people


def test_what_people_choose_is_hashed_slowly(the_servers_hasher):
    """Tests hash at the least cost; the server at least as OWASP asks: argon2id, 19 MiB, two passes."""
    cost = extract_parameters(the_servers_hasher.hash("secret"))
    assert (cost.type, cost.memory_cost >= 19 * 1024, cost.time_cost >= 2) == (Type.ID, True, True)


def test_a_thousand_bad_logins_are_slowed_and_open_nothing(server, people, person):
    server.auth.add_user("target", ("reader",), None, "hospital")
    server.auth.people.set_password("target", PASSWORD)
    page = person.http.get("/auth/login")
    fields = dict(Forms(page.text).to("/auth/login", "password")["fields"])
    statuses = [
        person.http.post("/auth/login", data=fields | {"name": "target", "password": f"guess {number}"}).status_code
        for number in range(1000)
    ]
    assert statuses.count(403) == 5
    assert statuses.count(429) == 995
    right = person.http.post("/auth/login", data=fields | {"name": "target", "password": PASSWORD})
    assert right.status_code == 429  # as for a wrong one: nothing is told
    elsewhere = Person(server.app)
    elsewhere.http = TestClient(server.app, base_url=BASE, follow_redirects=False, client=("192.0.2.9", 1234))
    assert "Apps with access" in elsewhere.sign_in("target").text  # nobody is locked out from everywhere by one address
    server.client[server.name].auth_failures.delete_many({})  # five minutes later
    assert person.http.post("/auth/login", data=fields | {"name": "target", "password": PASSWORD}).status_code == 303


def test_an_unknown_name_is_answered_like_a_wrong_password(person):
    names = ("anna", "nobody-of-this-name")
    pages = [person.sign_in(name, "not the password").text.replace(f'value="{name}"', "") for name in names]
    for page in pages:
        assert "not right" in page
    assert pages[0] == pages[1]


def test_bad_secrets_of_a_client_are_slowed_per_address(http, server):
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}
    statuses = [http.post("/auth/token", data=form, auth=("plain", f"x{n}")).status_code for n in range(35)]
    assert statuses == [401] * 30 + [429] * 5
    elsewhere = TestClient(server.app, base_url=BASE, client=("192.0.2.7", 1234))
    assert elsewhere.post("/auth/token", data=form, auth=("plain", "a-secret-of-some-length")).status_code == 200


@pytest.mark.parametrize("where", ["/auth/launch?focus=x", "/auth/logout", "/auth/apps", "/auth/continue?tx=x"])
def test_pages_are_not_framed_cached_or_referred_to(person, where):
    person.sign_in("anna")
    reply = person.http.get(where)
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in reply.headers


def pending(person: Person, app: App):
    """At the consent page."""
    reply = person.follow(person.http.get(app.url()))
    if 'name="password"' in reply.text:
        reply = person.sign_in("anna", page=reply)
    return person.submit(reply, "/auth/continue", "pick") if 'name="pick"' in reply.text else reply


def test_consent_takes_this_browsers_form_alone(server, person, app):
    page = pending(person, app)
    fields = dict(Forms(page.text).to("/auth/continue", "scope")["fields"])
    for token in ("", "x" * 64, "é"):
        reply = person.http.post("/auth/continue", data=fields | {"token": token, "decision": "allow"})
        assert (reply.status_code, "location" in reply.headers) == (403, False)
    crossing = person.http.post("/auth/continue", data=fields | {"decision": "allow"}, headers={"Sec-Fetch-Site": "cross-site"})
    assert crossing.status_code == 403
    assert "code" in returned(person.http.post("/auth/continue", data=fields | {"decision": "allow"}))


def test_what_one_person_began_another_cannot_finish(server, person, app):
    page = pending(person, app)
    fields = dict(Forms(page.text).to("/auth/continue", "scope")["fields"])
    thief = Person(server.app)
    thief.sign_in("clerk")
    assert thief.http.get(f"/auth/continue?tx={fields['tx']}").status_code == 403
    token = dict(Forms(thief.http.get("/auth/logout").text).to("/auth/logout")["fields"])["token"]
    reply = thief.http.post("/auth/continue", data=fields | {"token": token, "decision": "allow"})
    assert (reply.status_code, "location" in reply.headers) == (403, False)


def test_login_leads_inside_alone(person):
    for where in (
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/auth//evil.example",
        "javascript:alert(1)",
        "/auth/../x\r\nX: y",
    ):
        other = Person(person.http.app)
        page = other.http.get("/auth/login", params={"next": where})
        fields = dict(Forms(page.text).to("/auth/login", "password")["fields"])
        reply = other.http.post("/auth/login", data=fields | {"name": "anna", "password": PASSWORD, "next": where})
        assert reply.headers["location"] == "/auth/apps"


def test_a_session_cookie_of_before_the_login_is_not_the_one_after(server, people):
    fixed = Person(server.app)
    fixed.http.cookies.set("session", "chosen-by-an-attacker")
    fixed.sign_in("anna")
    assert fixed.http.cookies.get("session", domain="127.0.0.1") != "chosen-by-an-attacker"
    assert server.auth.people.session("chosen-by-an-attacker") is None


def test_words_from_a_request_are_shown_as_text(server, person, people):
    server.auth.clients.add("odd-name", "patient/*.rs", redirect_uris=(CALLBACK,), name="<script>alert(1)</script>{token}")
    reply = person.sign_in("anna", page=person.follow(person.http.get(App("odd-name", CALLBACK, "patient/*.rs").url())))
    assert "<script>" not in reply.text
    assert "&lt;script&gt;" in reply.text


# ---------------------------------------------------------------- launch handles


@pytest.fixture
def handle(server, person, people):
    """(the browser of the person who launched, the handle)"""
    person.sign_in("anna")
    page = person.http.get(f"/auth/launch?focus=Patient/{people['patients'][0]}")
    reply = person.submit(page, "/auth/launch", app="app")
    told = dict(parse_qsl(urlsplit(reply.headers["location"]).query))
    assert told["iss"] == f"{BASE}/fhir"
    return person, told["launch"]


LAUNCH = "launch patient/Patient.rs"


@pytest.mark.requirement("170 352")
def test_a_launch_brings_its_patient_and_banner(handle, people):
    person, launch = handle
    app = App("app", CALLBACK, LAUNCH)
    page = person.follow(person.http.get(app.url(launch=launch)))
    assert 'name="pick"' not in page.text
    code = returned(person.submit(page, "/auth/continue", "scope", decision="allow"))["code"]
    body = app.redeem(person.http, code).json()
    assert (body["patient"], body["need_patient_banner"], body["tenant"]) == (people["patients"][0], True, "hospital")
    style = person.http.get(urlsplit(body["smart_style_url"]).path)
    assert style.json()["color_text"].startswith("#")


def test_a_launch_handle_is_good_once(handle):
    person, launch = handle
    app = App("app", CALLBACK, LAUNCH)
    person.follow(person.http.get(app.url(launch=launch)))
    told = returned(person.follow(person.http.get(app.url(launch=launch))))
    assert (told["error"], "code" in told) == ("invalid_request", False)


def test_a_stolen_launch_handle_gives_nothing(server, handle):
    _, launch = handle
    thief = Person(server.app)
    thief.sign_in("clerk")
    told = returned(thief.follow(thief.http.get(App("app", CALLBACK, LAUNCH).url(launch=launch))))
    assert told["error"] == "invalid_request"


def test_a_launch_handle_is_for_one_app(server, handle):
    person, launch = handle
    app = App("server-app", CALLBACK, "user/ServiceRequest.rs", secret="app-secret")
    told = returned(person.follow(person.http.get(app.url(launch=launch))))
    assert told["error"] == "invalid_request"


def test_nothing_hidden_is_launched_on(server, person, as_):
    from conftest import patient

    other = as_("office").post("Patient", json=patient()).json()["id"]
    person.sign_in("anna")
    hidden = person.http.get(f"/auth/launch?focus=Patient/{other}")
    missing = person.http.get("/auth/launch?focus=Patient/00000000-0000-4000-8000-000000000000")
    assert (hidden.status_code, hidden.text) == (404, missing.text)


def test_a_hidden_patient_cannot_be_picked(server, person, app, as_):
    from conftest import patient

    other = as_("office").post("Patient", json=patient()).json()["id"]
    page = person.sign_in("anna", page=person.follow(person.http.get(app.url())))
    again = person.submit(page, "/auth/continue", "pick", chosen=f"Patient/{other}")
    assert 'name="pick"' in again.text
    assert other not in again.text


# ---------------------------------------------------------------- secrets stay secret


def test_tokens_codes_and_passwords_reach_no_log_and_no_database_field(server, person, app, caplog):
    with caplog.at_level(logging.DEBUG):
        code = consent(person, app, name="anna")["code"]
        body = app.redeem(person.http, code).json()
        renewed = app.refresh(person.http, body["refresh_token"]).json()
        person.http.get("/fhir/Patient", headers={"Authorization": f"Bearer {renewed['access_token']}"})
    secrets = [code, PASSWORD, app.verifier]
    secrets += [answer[name] for answer in (body, renewed) for name in ("access_token", "refresh_token")]
    database = server.client[server.name]
    kept = "".join(str(row) for name in database.list_collection_names() for row in database[name].find({}))
    trail = "".join(path.read_text(errors="replace") for path in (server.settings.data_dir / "audit").glob("*"))
    for secret in secrets:
        assert secret not in caplog.text
        assert secret not in kept
        assert secret not in trail


def test_login_consent_token_refusal_and_revocation_are_in_the_audit(server, person, app, as_):
    body = app.redeem(person.http, consent(person, app, name="anna")["code"]).json()
    assert person.http.post("/auth/revoke", data={"token": body["refresh_token"], "client_id": "app"}).status_code == 200
    app.refresh(person.http, body["refresh_token"])
    person.sign_in("anna", "not the password", page=Person(server.app).http.get("/auth/login"))
    server.installation.store_audit()
    found = as_("hospital").get("AuditEvent?type=http://dicom.nema.org/resources/ontology/DCM|110114&_count=200").json()
    rows = [(e["resource"]["subtype"][-1]["code"], e["resource"]["outcome"]) for e in found["entry"]]
    for kind in ("login", "consent", "token"):
        assert (kind, "0") in rows, kind
    assert ("login", "4") in rows
    own = as_("centre").get("AuditEvent?type=http://dicom.nema.org/resources/ontology/DCM|110114&_count=200").json()
    rows = [(e["resource"]["subtype"][-1]["code"], e["resource"]["outcome"]) for e in own["entry"]]
    assert {("revoke", "0"), ("token", "4")} <= set(rows)  # what names no person is the app's organisation's


@pytest.mark.parametrize("answers", [("8.8.8.8", "127.0.0.1"), ("8.8.8.8", "8.8.8.8")], ids=["elsewhere", "the same"])
def test_a_name_that_resolves_otherwise_the_second_time_gives_no_key_set(monkeypatch, published, answers):
    """DNS rebinding: public when it is looked at, inside the network when it is asked. Plain HTTP stands for TLS here."""
    told = iter(answers)
    port = urlsplit(published).port
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(told), port))]
    )

    def connect(self) -> None:
        socket.getaddrinfo(self.host, self.port)
        self.sock = socket.socket()
        self.sock.connect(("127.0.0.1", port))
        if answers[1] != "127.0.0.1":  # it got where it was sent
            self.sock = Elsewhere(self.sock)

    monkeypatch.setattr(HTTPSConnection, "connect", connect)
    found = jwks.KeySets().get(f"https://keys.example:{port}/jwks")
    assert (found is None) is (answers[1] == "127.0.0.1")


class Elsewhere:
    """A connection to a public address."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def getpeername(self) -> tuple[str, int]:
        return "8.8.8.8", 443

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)
