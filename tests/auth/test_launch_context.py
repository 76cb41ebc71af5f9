"""https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import pytest
from auth_conftest import CALLBACK
from conftest import BASE, order
from people import App, Forms, consent, returned
from starlette.testclient import TestClient

from auth.store.documents import after, left

CONTEXTS = "launch/patient launch/encounter launch/imagingstudy launch/diagnosticreport launch/servicerequest"
EVERYTHING = f"launch {CONTEXTS} openid fhirUser online_access user/*.rs patient/*.rs"


@pytest.fixture(scope="module")
def case(server, people, as_):
    """A report on a study, for an order, in an encounter; and another patient's study."""
    hospital, subject = as_("hospital"), {"reference": f"Patient/{people['patients'][0]}"}
    other = {"reference": f"Patient/{people['patients'][1]}"}

    def made(type_: str, **members) -> str:
        reply = hospital.post(type_, json={"resourceType": type_} | members)
        assert reply.status_code == 201, reply.text
        return f"{type_}/{reply.json()['id']}"

    klass = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    encounter = made("Encounter", status="finished", subject=subject, **{"class": klass})
    asked = hospital.post("ServiceRequest", json=order(subject["reference"], encounter={"reference": encounter})).json()
    request = f"ServiceRequest/{asked['id']}"
    study = made(
        "ImagingStudy", status="available", subject=subject, basedOn=[{"reference": request}], description="CT of the head"
    )
    report = made(
        "DiagnosticReport", status="final", code={"text": "CT report"}, subject=subject, encounter={"reference": encounter},
        basedOn=[{"reference": request}], imagingStudy=[{"reference": study}],
    )  # fmt: skip
    hidden = made("ImagingStudy", status="available", subject=other)
    server.auth.clients.add(
        "viewer", EVERYTHING, redirect_uris=(CALLBACK,), launch_uri="https://app.example/launch", name="Viewer"
    )
    return {
        "encounter": encounter,
        "order": request,
        "study": study,
        "report": report,
        "other": hidden,
        "patient": people["patients"][0],
    }


def launched(person, focus: str, scope: str, intent: str = "") -> dict:
    person.sign_in("anna")
    page = person.http.get(f"/auth/launch?focus={focus}")
    away = person.submit(page, "/auth/launch", app="viewer", intent=intent)
    told = dict(parse_qsl(urlsplit(away.headers["location"]).query))
    assert away.headers["location"].startswith("https://app.example/launch?")
    assert told["iss"] == f"{BASE}/fhir"
    app = App("viewer", CALLBACK, scope)
    page = person.follow(person.http.get(app.url(launch=told["launch"])))
    assert 'name="pick"' not in page.text
    code = returned(person.submit(page, "/auth/continue", "scope", decision="allow"))["code"]
    return app.redeem(person.http, code).json()


@pytest.mark.requirement("83 163 167 169 170 171 172 173 174 175 176 177 178 179 180 194 349 351 352 359 360 361 362")
def test_an_ehr_launch_on_a_report_tells_patient_encounter_and_the_case(person, case):
    body = launched(person, case["report"], "launch patient/*.rs", "review")
    assert (body["patient"], f"Encounter/{body['encounter']}") == (case["patient"], case["encounter"])
    assert body["fhirContext"] == [{"reference": case[name]} for name in ("report", "order", "study")]
    assert (body["intent"], body["need_patient_banner"], body["tenant"]) == ("review", True, "hospital")
    assert urlsplit(body["smart_style_url"]).scheme in ("http", "https")
    assert set(person.http.get(urlsplit(body["smart_style_url"]).path).json()) >= {"color_background", "color_text"}


@pytest.mark.parametrize("focus", ["order", "study", "report"])
def test_each_of_the_case_opens_it_whole(person, case, focus):
    body = launched(person, case[focus], "launch patient/*.rs")
    assert body["fhirContext"][0] == {"reference": case[focus]}
    assert {row["reference"] for row in body["fhirContext"]} == {case[name] for name in ("order", "study", "report")}


@pytest.mark.requirement("149 154 159 160 168 348 350 353 363 364")
def test_a_standalone_launch_solicits_what_it_asks_for(person, case):
    app = App(
        "viewer",
        CALLBACK,
        "launch/patient launch/encounter launch/imagingstudy?role=primary launch/diagnosticreport patient/*.rs",
    )
    page = person.sign_in("anna", page=person.follow(person.http.get(app.url())))
    offered = {}
    for kind in ("Patient", "Encounter", "ImagingStudy", "DiagnosticReport"):
        form = Forms(page.text).to("/auth/continue", "pick")
        assert dict(form["fields"])["pick"] == kind
        offered[kind] = form["offered"]
        mine = {"Patient": f"Patient/{case['patient']}", "Encounter": case["encounter"], "ImagingStudy": case["study"]}
        page = person.submit(page, "/auth/continue", "pick", chosen=mine.get(kind, case["report"]))
    assert case["other"] not in offered["ImagingStudy"]  # another patient's
    told = returned(person.submit(page, "/auth/continue", "scope", decision="allow"))
    body = app.redeem(person.http, told["code"]).json()
    assert body["patient"] == case["patient"]
    assert body["fhirContext"] == [{"reference": case["study"]}, {"reference": case["report"]}]


def test_a_context_may_be_left_out_where_there_is_none(person, case, people):
    app = App("viewer", CALLBACK, "launch/patient launch/imagingstudy patient/*.rs")
    page = person.sign_in("anna", page=person.follow(person.http.get(app.url())))
    page = person.submit(page, "/auth/continue", "pick", chosen=f"Patient/{case['patient']}")
    page = person.submit(page, "/auth/continue", "pick", skip="1")
    body = app.redeem(person.http, returned(person.submit(page, "/auth/continue", "scope", decision="allow"))["code"]).json()
    assert "fhirContext" not in body


def test_another_patients_study_cannot_be_picked(person, case):
    app = App("viewer", CALLBACK, "launch/patient launch/imagingstudy patient/*.rs")
    page = person.sign_in("anna", page=person.follow(person.http.get(app.url())))
    page = person.submit(page, "/auth/continue", "pick", chosen=f"Patient/{case['patient']}")
    again = person.submit(page, "/auth/continue", "pick", chosen=case["other"])
    assert dict(Forms(again.text).to("/auth/continue", "pick")["fields"])["pick"] == "ImagingStudy"


@pytest.mark.requirement("48 56 58 76 86 87 88 89 91 110 111 112 116 118 165")
def test_lifetimes_and_headers(server, person, case):
    app = App("viewer", CALLBACK, "patient/Patient.rs online_access")  # launch/patient is inferred
    code = consent(person, app, name="anna")["code"]
    row = server.client[server.name].auth_codes.find_one({"used": False}, sort=[("until", -1)])
    assert 0 < left({"expires": row["until"]}) <= 60
    reply = app.redeem(person.http, code)
    body = reply.json()
    assert body["expires_in"] == 3600
    renewed = app.refresh(person.http, body["refresh_token"])
    for answer in (reply, renewed):
        assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert (renewed.json()["token_type"], renewed.json()["patient"]) == ("Bearer", body["patient"])


def test_a_code_that_is_a_minute_old_is_refused(server, person, case):
    app = App("viewer", CALLBACK, "patient/Patient.rs")
    code = consent(person, app, name="anna")["code"]
    server.client[server.name].auth_codes.update_many({}, {"$set": {"until": after(-1)}})
    assert app.redeem(person.http, code).json()["error"] == "invalid_grant"


@pytest.mark.requirement("77 94 95 119 123 130 136 138 140 144 243 244 245 247 265 266 367 368 370")
def test_scopes_narrow_what_the_person_may_and_never_widen_it(server, person, case, as_, people):
    """Each entry of a batch by itself, and what the person may not do no scope lets them do."""
    office = as_("office").post("Patient", json={"resourceType": "Patient"}).json()["id"]
    app = App("viewer", CALLBACK, "user/Patient.rs patient/Observation.rs")
    body = app.redeem(person.http, consent(person, app, name="anna", pick=f"Patient/{case['patient']}")["code"]).json()
    api = TestClient(server.app, base_url=f"{BASE}/fhir/", headers={"Authorization": f"Bearer {body['access_token']}"})
    entries = [
        "Patient/" + case["patient"],
        case["study"],
        f"Patient/{office}",
        "Observation",
        "DiagnosticReport",
        "NoSuchType",
    ]
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": url}} for url in entries],
    }
    statuses = [entry["response"]["status"] for entry in api.post("", json=bundle).json()["entry"]]
    assert statuses == ["200", "403", "404", "200", "403", "404"]
    assert TestClient(server.app, base_url=f"{BASE}/fhir/").get("Patient").status_code == 401
    server.client[server.name].auth_tokens.update_many({}, {"$set": {"expires": after(-1)}})
    server.auth._cache.clear()
    assert api.get("Patient").status_code == 401


@pytest.mark.requirement("123")
def test_an_update_scope_creates_by_put(server, case, as_):
    api = as_("hospital", scope="system/Patient.u system/Patient.r")
    body = {"resourceType": "Patient", "id": "hospital-put"}
    assert api.put("Patient/hospital-put", json=body).status_code == 201
    assert api.post("Patient", json={"resourceType": "Patient"}).status_code == 403


@pytest.mark.requirement("142 240 241 248 250 254 255 256 257 258 259 260 261 262 297")
def test_a_system_is_given_what_it_asks_for_of_what_it_is_registered_for(server, case):
    server.auth.clients.add("robot", "system/Patient.rs system/Observation.rs", secret="of-a-robot", organization="hospital")
    http = TestClient(server.app, base_url=BASE)
    form = {"grant_type": "client_credentials", "scope": "system/Patient.r system/DiagnosticReport.rs offline_access"}
    body = http.post("/auth/token", data=form, auth=("robot", "of-a-robot")).json()
    assert (body["scope"], body["expires_in"]) == ("system/Patient.r", 300)
    assert "refresh_token" not in body


@pytest.mark.requirement("251 252 340")
@pytest.mark.parametrize(
    "form", [{"grant_type": "not_a_grant_type"}, {"grant_type": "password", "username": "anna", "password": "x"}]
)
def test_an_unknown_grant_type_is_exactly_400(server, case, form):
    http = TestClient(server.app, base_url=BASE)
    reply = http.post("/auth/token", data=form, auth=("robot", "of-a-robot"))
    assert reply.status_code == 400
    assert reply.json()["error"] == "unsupported_grant_type"


def test_what_refers_absolutely_opens_the_same_patient(server, person, case, as_, people):
    subject = {"reference": f"{BASE}/fhir/Patient/{case['patient']}"}
    klass = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    made = as_("hospital").post(
        "Encounter", json={"resourceType": "Encounter", "status": "finished", "class": klass, "subject": subject}
    )
    body = launched(person, f"Encounter/{made.json()['id']}", "launch patient/*.rs")
    assert (body["patient"], body["encounter"]) == (case["patient"], made.json()["id"])


def test_no_patient_is_chosen_beside_an_encounter_of_none(server, person, case, as_):
    klass = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    made = as_("hospital").post("Encounter", json={"resourceType": "Encounter", "status": "finished", "class": klass}).json()
    person.sign_in("anna")
    page = person.http.get(f"/auth/launch?focus=Encounter/{made['id']}")
    away = person.submit(page, "/auth/launch", app="viewer", intent="")
    handle = dict(parse_qsl(urlsplit(away.headers["location"]).query))["launch"]
    app = App("viewer", CALLBACK, "launch patient/*.rs")
    assert returned(person.follow(person.http.get(app.url(launch=handle))))["error"] == "invalid_request"


@pytest.mark.parametrize(
    "focus", ["Patient", "Patient/{patient}/_history", "Patient/{patient}/$everything", "ImagingStudy/_history", "Task/x"]
)
def test_only_a_resource_is_launched_on(person, case, focus):
    person.sign_in("anna")
    assert person.http.get(f"/auth/launch?focus={focus.format(**case)}").status_code == 404


@pytest.mark.parametrize("more", [{"prompt": "login"}, {"max_age": "0"}])
def test_an_app_has_the_person_sign_in_anew(person, case, more):
    person.sign_in("anna")
    app = App("viewer", CALLBACK, "launch/patient patient/*.rs")
    page = person.follow(person.http.get(app.url(**more)))
    assert 'name="password"' in page.text
    assert 'name="pick"' in person.sign_in("anna", page=page).text
