"""https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html"""

from __future__ import annotations

import json
import re
import threading
from base64 import urlsafe_b64decode

import pytest
from auth_conftest import CALLBACK, SCOPE
from conftest import BASE
from people import PASSWORD, App, Forms, Person, consent, returned
from starlette.testclient import TestClient


def fhir(server, token: str) -> TestClient:
    return TestClient(server.app, base_url=f"{BASE}/fhir/", headers={"Authorization": f"Bearer {token}"})


def tokens(person, app, name="anna", **how):
    told = consent(person, app, name=name, **how)
    reply = app.redeem(person.http, told["code"])
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.requirement("57 59 73 74 75 78 80 81 84 85 134 164 168 170 200 205 346 355")
def test_a_standalone_launch_gives_a_token_for_the_chosen_patient(server, person, app, people):
    chosen = people["patients"][1]
    told = consent(person, app, name="anna", pick=f"Patient/{chosen}")
    assert (told["state"], told["iss"]) == (app.state, BASE)
    reply = app.redeem(person.http, told["code"])
    body = reply.json()
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["pragma"] == "no-cache"
    assert (body["token_type"], body["patient"], body["scope"]) == ("Bearer", chosen, SCOPE)
    assert 0 < body["expires_in"] <= 3600
    assert re.fullmatch(r"[A-Za-z0-9_~+/.-]{20,100}", body["access_token"])
    api = fhir(server, body["access_token"])
    assert api.get(f"Patient/{chosen}").status_code == 200
    assert [e["resource"]["id"] for e in api.get("Patient").json()["entry"]] == [chosen]
    assert api.get(f"Patient/{people['patients'][0]}").status_code == 404
    assert api.get("DiagnosticReport").status_code == 403
    assert api.get("Practitioner/hospital-anna").status_code == 200  # the own fhirUser


@pytest.mark.requirement("198 200 203 207 209 210 358")
def test_the_id_token_is_signed_and_names_the_user(server, person, app):
    body = tokens(person, app)
    header, claims = (json.loads(urlsafe_b64decode(part + "==")) for part in body["id_token"].split(".")[:2])
    keys = person.http.get("/auth/jwks").json()["keys"]
    assert header["alg"] == "RS256"
    assert header["kid"] in [key["kid"] for key in keys]
    assert all("d" not in key for key in keys)
    assert (claims["iss"], claims["aud"]) == (BASE, "app")
    assert claims["fhirUser"] == f"{BASE}/fhir/Practitioner/hospital-anna"
    assert claims["sub"] not in ("", "app", "anna")


def test_the_code_is_good_once_and_its_replay_ends_what_it_gave(server, person, app):
    told = consent(person, app, name="anna")
    body = app.redeem(person.http, told["code"]).json()
    assert app.redeem(person.http, told["code"]).json()["error"] == "invalid_grant"
    server.auth._cache.clear()
    assert fhir(server, body["access_token"]).get("Patient").status_code == 401
    assert app.refresh(person.http, body["refresh_token"]).json()["error"] == "invalid_grant"


def test_eight_parallel_redemptions_of_one_code_give_one_token(server, person, app):
    code = consent(person, app, name="anna")["code"]
    replies = []
    threads = [
        threading.Thread(target=lambda: replies.append(app.redeem(TestClient(server.app, base_url=BASE), code)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies) == [200] + [400] * 7


@pytest.mark.requirement("14 15 31")
@pytest.mark.parametrize("verifier", [None, "", "x" * 64, "challenge"], ids=["none", "blank", "wrong", "the challenge itself"])
def test_a_verifier_that_does_not_fit_is_refused(person, app, verifier):
    code = consent(person, app, name="anna")["code"]
    sent = app.asked()["code_challenge"] if verifier == "challenge" else verifier
    reply = app.redeem(person.http, code, code_verifier=sent)
    assert reply.status_code == 400
    assert "access_token" not in reply.json()
    assert app.redeem(person.http, code).status_code == 400  # it was used up


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"aud": "https://inferno.healthit.gov/invalid_aud"}, "invalid_request"),
        ({"aud": None}, "invalid_request"),
        ({"state": None}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"request": "e30."}, "request_not_supported"),
        ({"request_uri": "https://evil.example/r"}, "request_uri_not_supported"),
        ({"scope": "system/*.cruds"}, "invalid_scope"),
        ({"scope": None}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
    ],
)
@pytest.mark.requirement("54 96")
def test_a_wrong_request_is_told_to_the_app_with_state_and_issuer(person, app, changed, error):
    told = returned(person.http.get(app.url(**changed)))
    assert told["error"] == error
    assert told["iss"] == BASE
    assert told.get("state") == (None if "state" in changed else app.state)
    assert "code" not in told


@pytest.mark.requirement("18")
@pytest.mark.parametrize(
    "changed",
    [
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": f"{CALLBACK}/../x"},
        {"redirect_uri": f"{CALLBACK}?more=1"},
        {"redirect_uri": "https://app.example.evil.example/callback"},
        {"redirect_uri": None},
        {"client_id": "nobody"},
        {"client_id": None},
    ],
)
def test_an_unknown_app_or_address_is_told_to_the_person_and_never_redirected(person, app, changed):
    reply = person.http.get(app.url(**changed))
    assert reply.status_code == 400
    assert "location" not in reply.headers
    assert "evil" not in reply.text


def test_a_repeated_parameter_is_never_redirected(person, app):
    reply = person.http.get(f"{app.url()}&redirect_uri=https%3A%2F%2Fevil.example")
    assert reply.status_code == 400


@pytest.mark.requirement("49 354")
def test_the_authorization_endpoint_takes_post_from_another_site(person, app):
    reply = person.http.post("/auth/authorize", data=app.asked(), headers={"Sec-Fetch-Site": "cross-site"})
    assert reply.status_code == 303
    assert reply.headers["location"].startswith("/auth/continue?tx=")


@pytest.mark.requirement("53 54")
def test_denying_tells_the_app_so(person, app):
    reply = person.sign_in("anna", page=person.follow(person.http.get(app.url())))
    reply = person.submit(reply, "/auth/continue", "pick")
    told = returned(person.submit(reply, "/auth/continue", decision="deny"))
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", app.state, BASE)


@pytest.mark.requirement("79 115 145")
def test_a_person_takes_scopes_away_and_narrows_one_to_a_part(server, person, app):
    vital = "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
    body = tokens(person, app, scopes=["openid", "patient/Patient.rs", "patient/Observation.rs", vital])
    assert set(body["scope"].split()) == {"openid", "patient/Patient.rs", vital}  # and not the whole of Observation
    assert "refresh_token" not in body  # offline_access was taken away
    assert "fhirUser" not in json.loads(urlsafe_b64decode(body["id_token"].split(".")[1] + "=="))


def test_a_person_cannot_be_made_to_grant_more_than_was_asked(person, app):
    body = tokens(
        person, app, scopes=["patient/Patient.rs", "patient/*.cruds", "user/*.cruds", "system/*.cruds", "user/Task.rs"]
    )
    assert body["scope"] == "patient/Patient.rs"


@pytest.mark.requirement("197")
def test_who_is_no_practitioner_is_not_asked_for_fhiruser(person, app):
    assert "fhirUser" not in tokens(person, app, name="clerk")["scope"]


@pytest.mark.requirement("126 127 128 369")
def test_version_1_scopes_are_told_as_they_were_asked_for(server, person, people):
    app = App("app", CALLBACK, "launch/patient patient/Observation.read")
    body = tokens(person, app)
    assert body["scope"] == "launch/patient patient/Observation.read"
    assert fhir(server, body["access_token"]).get("Observation").status_code == 200
    assert fhir(server, body["access_token"]).post("Observation", json={}).status_code == 403


@pytest.mark.requirement("101 103 104 109 113 114 365")
def test_refreshing_rotates_and_an_old_token_ends_the_family(server, person, app):
    first = tokens(person, app)
    second = app.refresh(person.http, first["refresh_token"]).json()
    assert (second["scope"], second["patient"]) == (first["scope"], first["patient"])
    assert second["refresh_token"] != first["refresh_token"]
    third = app.refresh(person.http, second["refresh_token"], scope="patient/Patient.r").json()
    assert third["scope"] == "patient/Patient.r"
    assert app.refresh(person.http, first["refresh_token"]).json()["error"] == "invalid_grant"
    server.auth._cache.clear()
    assert app.refresh(person.http, third["refresh_token"]).json()["error"] == "invalid_grant"
    assert fhir(server, third["access_token"]).get(f"Patient/{first['patient']}").status_code == 401


def test_asking_for_more_at_refresh_costs_nothing_and_gives_nothing(person, app):
    body = tokens(person, app, scopes=["patient/Patient.rs", "offline_access"])
    for scope in ("patient/Patient.cruds", "user/*.cruds", "patient/Patient.rs patient/Observation.rs"):
        assert app.refresh(person.http, body["refresh_token"], scope=scope).json()["error"] == "invalid_scope"
    assert app.refresh(person.http, body["refresh_token"]).status_code == 200


def test_a_public_client_refreshes_without_saying_who_it_is(person, app):
    body = tokens(person, app)
    form = {"grant_type": "refresh_token", "refresh_token": body["refresh_token"]}
    assert person.http.post("/auth/token", data=form).status_code == 200


def test_codes_and_refresh_tokens_are_bound_to_their_client(person, app, people):
    other = App("server-app", CALLBACK, SCOPE, secret="app-secret", verifier=app.verifier)
    code = consent(person, app, name="anna")["code"]
    assert other.redeem(person.http, code).json()["error"] == "invalid_grant"
    body = app.redeem(person.http, code).json()
    assert other.refresh(person.http, body["refresh_token"]).json()["error"] == "invalid_grant"
    assert app.refresh(person.http, body["refresh_token"]).status_code == 200


@pytest.mark.requirement("356")
def test_a_confidential_client_must_prove_itself(person, people):
    app = App("server-app", CALLBACK, SCOPE, secret="app-secret")
    code = consent(person, app, name="anna")["code"]
    unproven = person.http.post("/auth/token", data=app.form(code, client_id="server-app"))
    assert (unproven.status_code, unproven.json()["error"]) == (401, "invalid_client")
    assert app.redeem(person.http, code).status_code == 200


def test_the_redirect_uri_at_the_token_endpoint_is_that_of_the_request(person, app):
    code = consent(person, app, name="anna")["code"]
    assert app.redeem(person.http, code, redirect_uri="https://app.example/other").json()["error"] == "invalid_grant"


@pytest.mark.requirement("100 366")
def test_online_access_ends_with_the_session(server, person, people):
    app = App("app", CALLBACK, "online_access patient/Patient.rs")
    body = tokens(person, app)
    renewed = app.refresh(person.http, body["refresh_token"]).json()
    person.submit(person.http.get("/auth/logout"), "/auth/logout")
    server.auth._cache.clear()
    assert fhir(server, renewed["access_token"]).get("Patient").status_code == 401
    assert app.refresh(person.http, renewed["refresh_token"]).json()["error"] == "invalid_grant"


def test_what_a_person_revokes_stops_at_once_and_nobody_elses(server, person, app):
    body = tokens(person, app)
    page = person.http.get("/auth/apps")
    grants = [dict(form["fields"])["grant"] for form in Forms(page.text).forms if form["action"] == "/auth/apps"]
    thief = Person(server.app)
    thief.sign_in("clerk")
    token = dict(Forms(thief.http.get("/auth/logout").text).to("/auth/logout")["fields"])["token"]
    for grant in grants:
        thief.http.post("/auth/apps", data={"grant": grant, "token": token})
    assert app.refresh(person.http, body["refresh_token"]).status_code == 200
    for grant in grants:
        person.submit(page, "/auth/apps", grant=grant)
    server.auth._cache.clear()
    assert fhir(server, body["access_token"]).get("Patient").status_code == 401
    assert "Growth charts" not in person.http.get("/auth/apps").text


def test_a_disabled_person_and_a_removed_client_have_no_tokens(server, person, app, people):
    server.auth.add_user("leaver", ("clerk",), None, "hospital")
    server.auth.people.set_password("leaver", PASSWORD)
    body = tokens(person, app, name="leaver")
    assert fhir(server, body["access_token"]).get("Patient").status_code == 200
    server.auth.disable_user("leaver")
    server.auth._cache.clear()
    assert fhir(server, body["access_token"]).get("Patient").status_code == 401
    assert app.refresh(person.http, body["refresh_token"]).status_code == 400


def test_a_part_beside_a_wildcard_narrows_the_wildcard_too(person, people):
    asked = App("app", CALLBACK, "launch/patient patient/*.rs patient/Observation.rs")
    vital = "patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
    told = tokens(person, asked, scopes=["launch/patient", "patient/*.rs", "patient/Observation.rs", vital])
    assert set(told["scope"].split()) == {"launch/patient", vital}


def test_a_wrong_method_is_told_the_right_ones(person):
    assert person.http.get("/auth/token").headers["allow"] == "POST"
