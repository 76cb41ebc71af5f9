"""Introspection, revocation, discovery, CORS; signing in with a second factor and by a hospital's own provider."""

from __future__ import annotations

import socket
import threading
import time

import pyotp
import pytest
import uvicorn
from auth_conftest import CALLBACK
from conftest import BASE, Server
from people import PASSWORD, App, Forms, Person, consent
from starlette.testclient import TestClient

from auth.store import AuthStore


@pytest.fixture(scope="module")
def http(server, people):
    server.auth.clients.add("resource-server", "system/*.rs __introspect", secret="of-the-archive", organization="hospital")
    return TestClient(server.app, base_url=BASE)


@pytest.fixture
def body(person, app, http):
    return app.redeem(person.http, consent(person, app, name="anna")["code"]).json()


# ---------------------------------------------------------------- introspection


@pytest.mark.requirement("99 269 271 272 273 274 275 276 277 278 279 280 281 283")
def test_introspection_tells_what_the_token_answer_told(http, body):
    told = http.post(
        "/auth/introspect", data={"token": body["access_token"]}, auth=("resource-server", "of-the-archive")
    ).json()
    assert told["active"] is True
    assert (told["client_id"], told["scope"], told["patient"]) == ("app", body["scope"], body["patient"])
    assert abs(told["exp"] - time.time() - body["expires_in"]) < 30
    assert told["iss"] == BASE
    assert told["fhirUser"] == f"{BASE}/fhir/Practitioner/hospital-anna"


@pytest.mark.requirement("282")
def test_introspection_by_bearer_token(server, http, body):
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs __introspect"}
    plain = http.post("/auth/token", data=form, auth=("resource-server", "of-the-archive")).json()
    token = server.auth.issue(server.auth.clients.get("resource-server"), None, "__introspect", 60)
    for bearer, status in ((token, 200), (plain["access_token"], 401), ("nonsense", 401)):
        reply = http.post(
            "/auth/introspect", data={"token": body["access_token"]}, headers={"Authorization": f"Bearer {bearer}"}
        )
        assert reply.status_code == status
        assert reply.json().get("active", False) is (status == 200)


def test_introspection_of_what_is_not_active_tells_nothing_more(server, http, body, people):
    server.auth.clients.add("stranger", "system/*.rs", secret="of-a-stranger", organization="office")
    asked = [
        ("unknown", "nonsense", ("resource-server", "of-the-archive")),
        ("another client's", body["access_token"], ("stranger", "of-a-stranger")),
    ]
    for what, token, auth in asked:
        assert http.post("/auth/introspect", data={"token": token}, auth=auth).json() == {"active": False}, what
    http.post("/auth/revoke", data={"token": body["refresh_token"], "client_id": "app"})
    server.auth._cache.clear()
    revoked = http.post("/auth/introspect", data={"token": body["access_token"]}, auth=("resource-server", "of-the-archive"))
    assert revoked.json() == {"active": False}
    assert http.post("/auth/introspect", data={"token": body["access_token"]}).status_code == 401
    assert http.post("/auth/introspect", data={}, auth=("resource-server", "of-the-archive")).status_code == 400


# ---------------------------------------------------------------- revocation


def test_revoking_a_refresh_token_ends_its_access_tokens_within_a_second_on_every_worker(server, http, body):
    worker = AuthStore(server.client[server.name], "centre")  # its own cache, the same database
    assert worker.principal(body["access_token"]).client == "app"
    assert http.post("/auth/revoke", data={"token": body["refresh_token"], "client_id": "app"}).status_code == 200
    time.sleep(1)
    assert worker.principal(body["access_token"]).client == ""
    reply = http.get("/fhir/Patient", headers={"Authorization": f"Bearer {body['access_token']}"})
    assert reply.status_code == 401


def test_revoking_an_access_token_ends_it_alone(http, body, app):
    form = {"token": body["access_token"], "client_id": "app", "token_type_hint": "no_such_hint"}
    assert http.post("/auth/revoke", data=form).status_code == 200
    assert http.get("/fhir/Patient", headers={"Authorization": f"Bearer {body['access_token']}"}).status_code == 401
    assert app.refresh(http, body["refresh_token"]).status_code == 200


def test_revocation_of_nothing_is_200_and_of_anothers_is_refused(http, body, app):
    assert http.post("/auth/revoke", data={"token": "nonsense", "client_id": "app"}).status_code == 200
    other = http.post("/auth/revoke", data={"token": body["refresh_token"]}, auth=("resource-server", "of-the-archive"))
    assert other.status_code == 400
    assert app.refresh(http, body["refresh_token"]).status_code == 200


# ---------------------------------------------------------------- discovery and CORS


@pytest.mark.requirement(
    "30 228 285 286 287 288 289 372 373 374 376 377 378 380 381 382 383 384 385 386 389 390 391 392 393 394"
)
def test_smart_configuration_promises_what_is_there(http):
    reply = http.get("/fhir/.well-known/smart-configuration", headers={"Accept": "application/fhir+xml"})
    told = reply.json()
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert {"authorization_code", "refresh_token", "client_credentials"} == set(told["grant_types_supported"])
    assert "private_key_jwt" in told["token_endpoint_auth_methods_supported"]
    urls = {name: value for name, value in told.items() if name.endswith("_endpoint") or name in ("jwks_uri", "issuer")}
    assert all(url.startswith(BASE) for url in urls.values())
    for name, url in urls.items():
        reply = http.request("GET" if name in ("jwks_uri", "management_endpoint") else "POST", url.removeprefix(BASE) or "/")
        assert reply.status_code not in (404, 405, 500) or name == "issuer", (name, reply.status_code)


def test_openid_configuration_is_valid_by_authlib(http):
    from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
    from authlib.oidc.discovery import OpenIDProviderMetadata

    told = http.get("/.well-known/openid-configuration").json()
    assert told["issuer"] == BASE
    assert told["id_token_signing_alg_values_supported"] == ["RS256"]
    secure = {k: v.replace("http://", "https://") if isinstance(v, str) else v for k, v in told.items()}
    AuthorizationServerMetadata(secure).validate()
    OpenIDProviderMetadata(secure).validate()
    [key] = http.get("/auth/jwks").json()["keys"][:1]
    assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")
    assert not {"d", "p", "q"} & set(key)


def test_the_capability_statement_names_the_same_endpoints(http):
    told = http.get("/fhir/metadata").json()["rest"][0]["security"]["extension"][0]["extension"]
    smart = http.get("/fhir/.well-known/smart-configuration").json()
    names = {
        "authorize": "authorization",
        "token": "token",
        "introspect": "introspection",
        "revoke": "revocation",
        "manage": "management",
    }
    assert {row["url"]: row["valueUri"] for row in told} == {name: smart[f"{long}_endpoint"] for name, long in names.items()}


OPEN = ["/fhir/metadata", "/fhir/.well-known/smart-configuration", "/.well-known/openid-configuration", "/auth/jwks"]


@pytest.mark.requirement("16")
@pytest.mark.parametrize("path", OPEN)
def test_discovery_is_open_to_every_origin(http, path):
    assert http.get(path, headers={"Origin": "https://anyone.example"}).headers["access-control-allow-origin"] == "*"


@pytest.mark.requirement("17")
@pytest.mark.parametrize(("method", "path"), [("POST", "/auth/token"), ("GET", "/fhir/Patient"), ("GET", "/dicomweb/studies")])
def test_the_rest_is_open_to_registered_origins_alone(http, people, method, path):
    for origin, allowed in (("https://app.example", True), ("https://evil.example", False), ("null", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
        preflight, reply = http.options(path, headers=asked), http.request(method, path, headers={"Origin": origin})
        for answer in (preflight, reply):
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert "access-control-allow-credentials" not in answer.headers
        assert preflight.status_code == 204
        assert ("ETag" in reply.headers.get("access-control-expose-headers", "")) == allowed


def test_pages_are_open_to_no_origin(http, people):
    for path in ("/auth/authorize", "/auth/login", "/auth/apps"):
        assert "access-control-allow-origin" not in http.get(path, headers={"Origin": "https://app.example"}).headers


# ---------------------------------------------------------------- second factor, another provider


def test_a_second_factor_is_asked_for_and_each_code_taken_once(server, people):
    server.auth.add_user("careful", ("reader",), None, "hospital")
    server.auth.people.set_password("careful", PASSWORD)
    totp = pyotp.TOTP(server.auth.people.set_totp("careful"))

    def at_the_second_step() -> tuple[Person, object]:
        person = Person(server.app)
        page = person.sign_in("careful")
        assert "session" not in person.http.cookies
        return person, page

    person, page = at_the_second_step()
    wrong = person.submit(page, "/auth/code", code="000000")
    assert wrong.status_code == 403
    assert "session" not in person.http.cookies
    code = totp.now()
    inside = person.submit(wrong, "/auth/code", code=code)
    assert "Apps with access" in inside.text
    again, page = at_the_second_step()
    assert again.submit(page, "/auth/code", code=code).status_code == 403
    for _ in range(5):
        again.submit(page, "/auth/code", code="000000")
    assert again.submit(page, "/auth/code", code=totp.at(time.time() + 30)).status_code == 429


def test_the_second_step_is_bound_to_the_first(server, people, person):
    reply = person.http.post("/auth/code", data={"first": "forged", "code": "123456", "token": "x"})
    assert reply.status_code == 403
    assert "session" not in person.http.cookies


def test_people_sign_in_by_a_hospitals_own_provider(server, people, mongodb_uri, tmp_path):
    """The provider is another installation of this server, over real HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    provider = f"http://127.0.0.1:{port}"
    other = Server(mongodb_uri, tmp_path, port=port)
    config = uvicorn.Config(other.app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    while not web.started:
        time.sleep(0.05)
    try:
        back = f"{BASE}/auth/login/city/return"
        other.auth.clients.add("us", "openid profile", secret="between-the-two", redirect_uris=(back,))
        other.auth.add_user("a.lis", ("reader",), None, "centre")
        other.auth.people.set_password("a.lis", PASSWORD)
        said = {
            "title": "City hospital",
            "issuer": provider,
            "client_id": "us",
            "client_secret": "between-the-two",
        }
        server.auth.add_provider("city", said | {"claim": "sub"})

        def by_provider() -> object:
            person, there = Person(server.app), Person(other.app, provider)
            login = person.http.get("/auth/login")
            assert "City hospital" in login.text
            away = person.submit(login, "/auth/login/city")
            assert away.headers["location"].startswith(f"{provider}/auth/authorize?")
            page = there.follow(there.http.get(away.headers["location"].removeprefix(provider)))
            page = there.sign_in("a.lis", page=page)
            home = there.submit(page, "/auth/continue", "scope", decision="allow")
            return person, home.headers["location"]

        person, home = by_provider()
        stranger = person.follow(person.http.get(home.removeprefix(BASE)))
        assert stranger.status_code == 403
        assert "not registered here" in stranger.text
        server.auth.people.link("anna", "city", other.auth.people.get("a.lis")["sub"])
        person, home = by_provider()
        thief = Person(server.app)
        assert thief.http.get(home.removeprefix(BASE)).status_code == 403  # the state is another browser's
        inside = person.follow(person.http.get(home.removeprefix(BASE)))
        assert "Dr Anna Lis" in inside.text
        assert person.http.get(home.removeprefix(BASE)).status_code == 403  # a code is good once
    finally:
        web.should_exit = True
        thread.join(10)
        other.close()


def test_an_unknown_provider_is_no_way_in(person):
    page = person.http.get("/auth/login")
    token = dict(Forms(page.text).to("/auth/login", "password")["fields"])["token"]
    assert person.http.post("/auth/login/nobody", data={"token": token}).status_code == 404
    assert person.http.get("/auth/login/nobody/return?state=x&code=y").status_code == 404


def test_polish_is_spoken_where_it_is_preferred(server, people):
    person = Person(server.app)
    assert 'lang="pl"' in person.http.get("/auth/login", headers={"Accept-Language": "pl-PL,pl;q=0.9"}).text
    assert "Zaloguj się" in person.http.get("/auth/login?lang=pl").text
    assert "Zaloguj się" in person.http.get("/auth/login").text  # and stays


def test_the_log_of_accesses_is_a_page_for_the_facilitys_clerk(server, people, person):
    chosen = people["patients"][0]
    other = Person(server.app)
    other.sign_in("anna")
    other.http.get(f"/auth/launch?focus=Patient/{chosen}")
    server.installation.store_audit()
    page = person.sign_in("clerk", page=person.follow(person.http.get(f"/auth/log?patient={chosen}")))
    assert "Who saw this record" in page.text
    assert "anna@pages" in page.text
    assert other.http.get(f"/auth/log?patient={chosen}").status_code == 404  # a reader is not told
    missing = person.http.get("/auth/log?patient=00000000-0000-4000-8000-000000000000")
    assert missing.status_code == 404


def test_what_was_taken_from_a_person_or_an_app_does_not_come_back(server, people, http):
    server.auth.add_user("returning", ("reader",), None, "hospital")
    server.auth.people.set_password("returning", PASSWORD)
    app = App("app", CALLBACK, "offline_access user/ServiceRequest.rs")
    body = app.redeem(http, consent(Person(server.app), app, name="returning")["code"]).json()
    server.auth.disable_user("returning")
    server.auth.add_user("returning", ("clerk",), None, "hospital")  # what they are, said anew, lets nobody in
    assert not server.auth.people.password_matches("returning", PASSWORD)
    server.auth.people.enable("returning")
    server.auth._cache.clear()
    assert server.auth.principal(body["access_token"]).client == ""
    assert app.refresh(http, body["refresh_token"]).status_code == 400
    server.auth.clients.add("brief", "offline_access user/*.rs", redirect_uris=(CALLBACK,))
    brief = App("brief", CALLBACK, "offline_access user/*.rs")
    body = brief.redeem(http, consent(Person(server.app), brief, name="anna")["code"]).json()
    server.auth.clients.add("brief", "offline_access user/Task.rs", redirect_uris=(CALLBACK,))
    narrower = brief.refresh(http, body["refresh_token"]).json()
    assert "user/*" not in narrower.get("scope", "")
    server.auth.remove_client("brief")
    server.auth.clients.add("brief", "offline_access user/*.rs", redirect_uris=(CALLBACK,))
    server.auth._cache.clear()
    assert server.auth.principal(body["access_token"]).client == ""


def test_many_wrong_passwords_at_once_are_slowed_too(server, people):
    server.auth.add_user("rushed", ("reader",), None, "hospital")
    server.auth.people.set_password("rushed", PASSWORD)
    person = Person(server.app)
    fields = dict(Forms(person.http.get("/auth/login").text).to("/auth/login", "password")["fields"])
    cookies = dict(person.http.cookies)
    statuses: list[int] = []

    def attempt() -> None:
        one = TestClient(server.app, base_url=BASE, follow_redirects=False)
        one.cookies.update(cookies)
        statuses.append(one.post("/auth/login", data=fields | {"name": "rushed", "password": "wrong"}).status_code)

    threads = [threading.Thread(target=attempt) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {403, 429}
    assert statuses.count(403) <= 5


@pytest.mark.parametrize("path", ["/auth/token", "/auth/introspect", "/auth/revoke"])
def test_odd_subjects_of_assertions_are_refused(http, path):
    claims = "eyJzdWIiOiJcdWQ4MDAifQ"  # {"sub":"\ud800"}
    form = {"client_assertion": f"eyJhbGciOiJFUzM4NCJ9.{claims}.x", "grant_type": "client_credentials", "token": "x"}
    assert http.post(path, data=form).status_code in (400, 401)


def test_an_origin_is_told_as_browsers_tell_it(server, http, people):
    server.auth.clients.add("ported", "patient/*.rs", redirect_uris=("https://port.example:443/cb",))
    server.auth.clients._origins = (0.0, frozenset())
    reply = http.get("/fhir/Patient", headers={"Origin": "https://port.example"})
    assert reply.headers["access-control-allow-origin"] == "https://port.example"
