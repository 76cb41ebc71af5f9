"""Images are opened for people: the pass in the browser's cookie, one-time codes for apps, the plain page, OHIF's files.

The pass opens the studies that it is for and nothing else, for as long as what it comes of lasts.
"""

from __future__ import annotations

import io
import json
import logging
import re
from datetime import datetime, timedelta, timezone
from html import unescape
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from conftest import BASE, order, patient
from people import PASSWORD, Person
from starlette.testclient import TestClient
from test_restrictions import actor, consent
from test_stow import changed, uid

from fhirserver.pages.viewer import installing, plain
from fhirserver.pages.viewer.ohif import Dist


@pytest.fixture(scope="module")
def case(server, as_, hospital, office, stow, samples):
    """Three studies of one patient, of which one answers an order and is on a report; one of another patient; one of the office."""
    admin = as_("hospital", user="root", roles=("administrator",), scope="user/*.cruds")
    row = {"resourceType": "Practitioner", "id": "hospital-anna", "name": [{"family": "Lis"}]}
    assert admin.put("Practitioner/hospital-anna", json=row).status_code == 201
    for name, practitioner, organization in (("anna", "hospital-anna", "hospital"), ("olga", None, "office")):
        server.auth.add_user(name, ("clerk",), practitioner, organization)
        server.auth.people.set_password(name, PASSWORD)
    found = {}

    def made(name, client, **members):
        data = changed(
            samples(members.pop("file", "CT_small.dcm")),
            StudyInstanceUID=uid(),
            SeriesInstanceUID=uid(),
            SOPInstanceUID=uid(),
            **members,
        )
        assert stow(data, organization="office" if client is office else "hospital").status_code == 200
        told = str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).StudyInstanceUID)
        [entry] = client.get(f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{told}").json()["entry"]
        found[name], found[f"{name}-uid"] = f"ImagingStudy/{entry['resource']['id']}", told
        return entry["resource"]

    born = {"PatientID": "P-7", "PatientBirthDate": "19700502", "PatientName": "Nowak^Jan"}
    whose = patient(identifier=[{"system": "urn:mrn", "value": "P-7"}], birthDate="1970-05-02")
    found["patient"] = f"Patient/{hospital.post('Patient', json=whose).json()['id']}"
    asked = order(found["patient"], identifier=[{"system": "urn:acsn", "value": "A-7"}])
    found["order"] = f"ServiceRequest/{hospital.post('ServiceRequest', json=asked).json()['id']}"
    made("ct", hospital, AccessionNumber="A-7", StudyDescription="CT <b>head</b>", SeriesDescription="Axial & thin", **born)
    made("prior", hospital, AccessionNumber="A-6", **born)
    made("third", hospital, AccessionNumber="A-5", **born)
    made(
        "other",
        hospital,
        PatientID="P-8",
        PatientName="Żak^Ewa",
        SpecificCharacterSet="ISO_IR 192",
        AccessionNumber="A-8",
        file="emri_small.dcm",
    )
    made("office", office, PatientID="P-7", AccessionNumber="A-7")
    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"text": "CT"},
        "subject": {"reference": found["patient"]},
    }
    named = report | {"imagingStudy": [{"reference": found["ct"]}]}
    found["report"] = f"DiagnosticReport/{hospital.post('DiagnosticReport', json=named).json()['id']}"
    by_order = report | {"basedOn": [{"reference": found["order"]}]}
    found["report-of-order"] = f"DiagnosticReport/{hospital.post('DiagnosticReport', json=by_order).json()['id']}"
    return found


@pytest.fixture
def anna(server, case):
    """At a browser, signed in."""
    person = Person(server.app)
    person.sign_in("anna")
    return person


def handle(reply) -> str:
    """Of the pass that the browser is given."""
    for text in reply.headers.get_list("set-cookie"):
        for name, morsel in SimpleCookie(text).items():
            if name == "viewer" and morsel["path"] == "/dicomweb":
                return morsel.value
    raise AssertionError(reply.headers.get_list("set-cookie"))


def opened(person, what: str, **more: str):
    """A person opens something: the answer, which leads to the page with the images."""
    kind = {"ImagingStudy": "study", "ServiceRequest": "order", "DiagnosticReport": "report"}[what.partition("/")[0]]
    return person.http.get("/viewer", params={kind: what} | more)


def images(server, held: str, path: str, method: str = "GET", **headers: str):
    """What the archive answers to this cookie alone."""
    browser = TestClient(server.app, base_url=BASE)
    return browser.request(method, f"/dicomweb/{path}", headers={"Cookie": f"viewer={held}", **headers})


def readable(server, held: str, case) -> set[str]:
    """Which of the studies the cookie opens: by their metadata and by search alike."""
    names = ("ct", "prior", "third", "other", "office")
    read = {name for name in names if images(server, held, f"studies/{case[f'{name}-uid']}/metadata").status_code == 200}
    reply = images(server, held, "studies")
    found = {row["0020000D"]["Value"][0] for row in reply.json()} if reply.status_code == 200 else set()
    assert found == {case[f"{name}-uid"] for name in read}
    return read


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize("what", ["ct", "order", "report", "report-of-order"])
def test_a_signed_in_person_opens_a_study_an_order_or_a_report(server, anna, case, what):
    reply = opened(anna, case[what])
    assert (reply.status_code, reply.headers["location"]) == (303, f"/viewer/plain/{case['ct'].partition('/')[2]}")
    assert readable(server, handle(reply), case) == {"ct"}


def test_who_is_not_signed_in_comes_to_the_images_by_way_of_the_sign_in(server, case):
    person = Person(server.app)
    reply = person.http.get("/viewer", params={"study": case["ct"]})
    assert (reply.status_code, urlsplit(reply.headers["location"]).path) == (303, "/auth/login")
    assert not [text for text in reply.headers.get_list("set-cookie") if text.startswith("viewer=")]
    page = person.sign_in("anna", page=person.follow(reply))
    assert page.status_code == 200
    assert urlsplit(str(page.url)).path == f"/viewer/plain/{case['ct'].partition('/')[2]}"


def test_the_cookie_is_for_the_archive_alone_and_for_no_script_and_no_other_site(anna, case):
    reply = opened(anna, case["ct"])
    told = [SimpleCookie(text)["viewer"] for text in reply.headers.get_list("set-cookie") if text.startswith("viewer=")]
    marks = {one["path"]: (one["httponly"], one["samesite"], one["max-age"], one["secure"]) for one in told}
    assert marks == {"/dicomweb": (True, "Strict", "28800", ""), "/viewer/plain": (True, "Lax", "28800", "")}
    assert len({one.value for one in told}) == 1


def test_where_there_is_tls_the_cookie_never_goes_without(server):
    from auth.passes import Passes

    passes = Passes(server.auth, secure=True)
    assert (
        passes.set_cookie("x", "/dicomweb")
        == "__Secure-viewer=x; Path=/dicomweb; Max-Age=28800; HttpOnly; SameSite=Strict; Secure"
    )


@pytest.mark.parametrize("asked", [
    {"study": "office"}, {"study": "ImagingStudy/nothing"}, {"study": "order"}, {"order": "ct"}, {"report": "order"}, {}, {"study": "patient"},
    {"study": "ct", "order": "order"}, {"study": "ImagingStudy/../x"}, {"study": "ct", "prior": "office"}, {"study": "ImagingStudy"},
])  # fmt: skip
def test_what_is_hidden_or_nothing_opens_nothing(anna, case, asked):
    reply = anna.http.get("/viewer", params={name: case.get(value, value) for name, value in asked.items()})
    assert reply.status_code == 404
    assert "There are no images here that you may see." in reply.text
    assert not [text for text in reply.headers.get_list("set-cookie") if text.startswith("viewer=")]


def test_an_order_whose_images_have_not_arrived_says_so(anna, hospital, case):
    waiting = hospital.post("ServiceRequest", json=order(case["patient"])).json()["id"]
    reply = opened(anna, f"ServiceRequest/{waiting}")
    assert reply.status_code == 404
    assert "The images have not arrived yet." in reply.text


def test_priors_are_granted_by_name_and_others_of_the_patient_are_not(server, anna, case):
    held = handle(opened(anna, case["ct"], prior=case["prior"]))
    assert readable(server, held, case) == {"ct", "prior"}
    by_patient = images(server, held, "studies?00100020=P-7").json()
    assert {row["0020000D"]["Value"][0] for row in by_patient} == {case["ct-uid"], case["prior-uid"]}


def test_a_second_window_does_not_close_the_first_and_nobody_elses_comes_along(server, anna, case):
    opened(anna, case["ct"])
    assert readable(server, handle(opened(anna, case["other"])), case) == {"ct", "other"}
    again = Person(server.app)
    again.sign_in("anna")
    assert readable(server, handle(opened(again, case["third"])), case) == {"third"}


def test_a_pass_is_for_the_last_few_that_were_opened(server, case, kept):
    origin = "session:none"
    for number in range(60):
        server.auth.passes.add(origin, [f"ImagingStudy/{number}"])
    held = server.auth.passes.add(origin, ["ImagingStudy/30"])
    records = [one["what"] for one in server.auth.passes.get(held)["records"]]
    assert records == [f"ImagingStudy/{number}" for number in (*(n for n in range(10, 60) if n != 30), 30)]


# ---------------------------------------------------------------- what the cookie does not do


def test_the_cookie_reads_no_other_study(server, anna, case):
    held = handle(opened(anna, case["ct"]))
    nowhere = images(server, held, "studies/1.2.3/metadata")
    for name in ("prior", "third", "other", "office"):
        for path in ("", "/metadata", "/rendered", "/thumbnail"):
            reply = images(server, held, f"studies/{case[f'{name}-uid']}{path}")
            assert (reply.status_code, reply.content) == (404, nowhere.content), (name, path)
        assert images(server, held, f"studies/{case[f'{name}-uid']}/series").status_code == 204
        assert images(server, held, f"studies?StudyInstanceUID={case[f'{name}-uid']}").status_code == 204


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_cookie_stores_and_deletes_nothing(server, anna, case, samples, method):
    held = handle(opened(anna, case["ct"]))
    for path in ("studies", f"studies/{case['ct-uid']}"):
        browser = TestClient(server.app, base_url=BASE)
        headers = {"Cookie": f"viewer={held}", "Content-Type": "application/dicom"}
        reply = browser.request(method, f"/dicomweb/{path}", headers=headers, content=samples("MR_small.dcm"))
        assert reply.status_code in (401, 404, 405)
    assert images(server, held, "studies?PatientID=4MR1").status_code == 204


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_request_that_another_sites_page_makes_goes_without_the_cookie(server, anna, case, site):
    held = handle(opened(anna, case["ct"]))
    path = f"studies/{case['ct-uid']}/metadata"
    assert images(server, held, path, **{"Sec-Fetch-Site": site}).status_code == 401
    assert images(server, held, path, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert images(server, held, path, **{"Sec-Fetch-Site": "none"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/fhir/Patient", "/fhir/{ct}", "/fhir/metadata/x", "/auth/apps", "/viewer?study={ct}", "/fhir/{ct}/$everything"]
)
def test_the_cookie_is_nothing_elsewhere(server, anna, case, path):
    browser = TestClient(server.app, base_url=BASE, follow_redirects=False)
    reply = browser.get(path.format(**case), headers={"Cookie": f"viewer={handle(opened(anna, case['ct']))}"})
    assert reply.status_code in (303, 401, 404)
    assert "location" not in reply.headers or reply.headers["location"].startswith("/auth/login")


def test_the_handle_is_no_token_and_a_token_is_no_handle(server, anna, case):
    held = handle(opened(anna, case["ct"]))
    browser = TestClient(server.app, base_url=BASE)
    for root in ("/dicomweb/studies", "/fhir/ImagingStudy"):
        assert browser.get(root, headers={"Authorization": f"Bearer {held}"}).status_code == 401
    assert images(server, server.token("hospital"), "studies").status_code == 401
    assert images(server, "", "studies").status_code == images(server, "x" * 5000, "studies").status_code == 401


def test_a_token_goes_before_the_cookie(server, anna, case):
    held = handle(opened(anna, case["ct"]))
    wrong = images(server, held, f"studies/{case['ct-uid']}/metadata", Authorization="Bearer wrong")
    assert wrong.status_code == 401


# ---------------------------------------------------------------- how long it lasts


def set_back(collection, **moved: float) -> None:
    """Times that are kept, as they would be after so many seconds."""
    for row in list(collection.find({})):
        past = {name: row[name] - timedelta(seconds=by) for name, by in moved.items() if name in row}
        if "records" in row and "until" in moved and isinstance(row["records"][0], dict):
            past["records"] = [one | {"until": one["until"] - timedelta(seconds=moved["until"])} for one in row["records"]]
        collection.update_one({"_id": row["_id"]}, {"$set": past})


@pytest.fixture
def kept(server):
    """The database, and what every process would forget within a second."""
    database = server.client[server.name]
    server.installation.passes._known.clear()
    yield database
    for name in ("auth_passes", "auth_pass_codes"):
        database[name].delete_many({})
    server.installation.passes._known.clear()


def test_the_cookie_ends_with_the_session(server, anna, case, kept):
    held = handle(opened(anna, case["ct"]))
    assert readable(server, held, case) == {"ct"}
    anna.submit(anna.http.get("/auth/apps"), "/auth/logout")
    server.installation.passes._known.clear()
    assert images(server, held, f"studies/{case['ct-uid']}/metadata").status_code == 401


def test_the_cookie_ends_when_the_person_is_locked_out(server, case, kept):
    server.auth.add_user("leaves", ("clerk",), None, "hospital")
    server.auth.people.set_password("leaves", PASSWORD)
    person = Person(server.app)
    person.sign_in("leaves")
    held = handle(opened(person, case["ct"]))
    assert readable(server, held, case) == {"ct"}
    server.auth.disable_user("leaves")
    server.installation.passes._known.clear()
    assert images(server, held, "studies").status_code == 401


@pytest.mark.parametrize(("collection", "moved", "status"), [
    ("auth_passes", {"used": 1700}, 200), ("auth_passes", {"used": 1801}, 401), ("auth_passes", {"until": 8 * 3600 - 60}, 200),
    ("auth_passes", {"until": 8 * 3600 + 1}, 401), ("auth_sessions", {"expires": 8 * 3600 + 1}, 401), ("auth_sessions", {"seen": 3601}, 401),
])  # fmt: skip
def test_it_lasts_half_an_hour_after_it_was_used_and_eight_hours_at_most(server, anna, case, kept, collection, moved, status):
    held = handle(opened(anna, case["ct"]))
    set_back(kept[collection], **moved)
    assert images(server, held, "studies").status_code == status


def test_to_look_at_images_keeps_the_person_signed_in(server, anna, case, kept):
    held = handle(opened(anna, case["ct"]))
    set_back(kept["auth_passes"], used=1700)
    set_back(kept["auth_sessions"], seen=3500)
    assert images(server, held, "studies").status_code == 200
    [session] = [
        row for row in kept["auth_sessions"].find({}) if f"session:{row['_id']}" == kept["auth_passes"].find_one({})["origin"]
    ]
    seen = session["seen"].replace(tzinfo=timezone.utc)
    assert datetime.now(timezone.utc) - seen < timedelta(minutes=1)


def test_a_patient_who_withholds_the_record_withholds_images_that_are_open(server, anna, hospital, case):
    held = handle(opened(anna, case["other"]))
    assert "other" in readable(server, held, case)
    whose = hospital.get(case["other"]).json()["subject"]["reference"]
    made = hospital.post("Consent", json=consent(whose, {"actor": [actor("Practitioner/hospital-anna")]}))
    assert made.status_code == 201, made.text
    server.installation.restrictions.refresh()
    server.wait(seconds=2)
    assert images(server, held, f"studies/{case['other-uid']}/metadata").status_code == 404
    assert opened(anna, case["other"]).status_code == 404
    page = anna.follow(anna.http.get(f"/viewer/plain/{case['other'].partition('/')[2]}"))
    assert (page.status_code, "Ewa" in page.text) == (404, False)
    assert hospital.delete(f"Consent/{made.json()['id']}").status_code in (200, 204)
    server.installation.restrictions.refresh()
    server.wait(seconds=2)


# ---------------------------------------------------------------- apps


def asked(server, token: str | None, body, **headers: str):
    sent = {"Authorization": f"Bearer {token}"} if token else {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return TestClient(server.app, base_url=BASE).post("/viewer/open", content=content, headers=sent | headers)


def came(server, url: str):
    """Somebody's browser is sent to the URL."""
    return TestClient(server.app, base_url=BASE, follow_redirects=False).get(url.removeprefix(BASE))


@pytest.mark.parametrize(("body", "read"), [
    ({"study": "ct"}, {"ct"}), ({"order": "order"}, {"ct"}), ({"report": "report"}, {"ct"}), ({"study": "ct", "priors": ["prior"]}, {"ct", "prior"}),
])  # fmt: skip
def test_an_app_gets_a_link_that_opens_the_study_in_a_browser_once(server, case, kept, body, read):
    named = {name: [case[one] for one in value] if isinstance(value, list) else case[value] for name, value in body.items()}
    reply = asked(
        server, server.token("hospital", scope="user/*.rs", user="anna", roles=("clerk",), practitioner="hospital-anna"), named
    )
    assert (reply.status_code, reply.json()["expires_in"]) == (200, 60)
    url = reply.json()["url"]
    assert re.fullmatch(rf"{BASE}/viewer/[A-Za-z0-9_-]{{43}}", url)
    first, second = came(server, url), came(server, url)
    assert first.status_code == 303
    assert urlsplit(first.headers["location"]).path == f"/viewer/plain/{case['ct'].partition('/')[2]}"
    assert readable(server, handle(first), case) == read
    assert second.status_code == 404
    assert "This link was used already" in second.text
    assert "viewer=" not in str(second.headers)


def test_to_look_whether_a_link_is_there_does_not_use_it_up(server, case, kept):
    url = asked(server, server.token("hospital"), {"study": case["ct"]}).json()["url"]
    head = TestClient(server.app, base_url=BASE, follow_redirects=False).head(url)
    assert (head.status_code, "viewer=" in str(head.headers)) == (404, False)
    assert came(server, url).status_code == 303


def test_an_app_in_a_browser_asks_for_a_link_from_its_own_origin_alone(server, case):
    server.auth.clients.add("web-app", "patient/*.rs", redirect_uris=("https://app.example/callback",))
    server.auth.clients._origins = (0.0, frozenset())
    told = {}
    for origin in ("https://app.example", "https://elsewhere.example"):
        reply = asked(server, server.token("hospital"), {"study": case["ct"]}, Origin=origin)
        told[origin] = reply.headers.get("access-control-allow-origin"), reply.headers.get("access-control-allow-credentials")
    assert told == {"https://app.example": ("https://app.example", None), "https://elsewhere.example": (None, None)}
    page = TestClient(server.app, base_url=BASE).get("/viewer", headers={"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in page.headers


def test_a_link_that_is_a_minute_old_or_made_up_opens_nothing(server, case, kept):
    url = asked(server, server.token("hospital"), {"study": case["ct"]}).json()["url"]
    set_back(kept["auth_pass_codes"], expires=61)
    for one in (url, f"{BASE}/viewer/{'x' * 43}", f"{BASE}/viewer/open"):
        reply = came(server, one)
        assert (reply.status_code, "viewer=" in str(reply.headers)) in ((404, False), (405, False)), one


@pytest.mark.parametrize("redeemed", [False, True])
def test_what_comes_of_a_token_ends_with_the_token(server, case, kept, redeemed):
    token = server.token("hospital")
    url = asked(server, token, {"study": case["ct"]}).json()["url"]
    held = handle(came(server, url)) if redeemed else ""
    if redeemed:
        assert readable(server, held, case) == {"ct"}
    server.auth.forget(token)
    server.installation.passes._known.clear()
    if redeemed:
        assert images(server, held, "studies").status_code == 401
    else:
        assert came(server, url).status_code == 404


@pytest.mark.parametrize(("scope", "what", "status"), [
    ("patient/*.rs", "ct", 200), ("patient/ImagingStudy.r", "ct", 200), ("patient/*.rs", "other", 404), ("patient/Patient.rs", "ct", 403),
    ("user/Observation.rs", "ct", 403), ("system/ImagingStudy.r", "other", 200), ("system/ImagingStudy.s", "ct", 403),
    ("system/ImagingStudy.rs?status=cancelled", "ct", 404), ("system/*.cruds", "office", 404), ("system/ImagingStudy.r", "order", 403),
])  # fmt: skip
def test_a_link_opens_no_more_than_the_tokens_scopes_reach(server, case, kept, scope, what, status):
    token = server.token(
        "hospital", scope=scope, patient=case["patient"].partition("/")[2] if scope.startswith("patient") else None
    )
    kind = "order" if what == "order" else "study"
    reply = asked(server, token, {kind: case[what]})
    assert reply.status_code == status, reply.text
    if status == 200:
        assert readable(server, handle(came(server, reply.json()["url"])), case) == {what}
    else:
        assert case[f"{what}-uid" if kind == "study" else what] not in reply.text


def test_a_link_is_given_to_tokens_alone(server, anna, case):
    assert asked(server, None, {"study": case["ct"]}).status_code == 401
    assert asked(server, "wrong", {"study": case["ct"]}).status_code == 401
    signed_in = anna.http.post("/viewer/open", content=json.dumps({"study": case["ct"]}))
    assert (signed_in.status_code, signed_in.headers["cache-control"]) == (401, "no-store")
    cookie = asked(server, None, {"study": case["ct"]}, Cookie=f"viewer={handle(opened(anna, case['ct']))}")
    assert cookie.status_code == 401


@pytest.mark.parametrize(("body", "status"), [
    (b"", 400), (b"[]", 400), (b"{", 400), ({}, 400), ({"study": 7}, 400), ({"study": None}, 400), ({"patient": "Patient/1"}, 400),
    ({"study": "ct", "priors": "prior"}, 400), ({"study": "ct", "priors": [1]}, 400), (b'{"study": "' + b"x" * 20_000 + b'"}', 413),
    ({"study": "ct", "order": "order"}, 400), ({"study": "ct", "priors": ["ImagingStudy/x"] * 21}, 400), (b"\xff\xfe", 400),
])  # fmt: skip
def test_what_asks_for_no_link_gets_none(server, case, body, status):
    named = {k: case.get(v, v) if isinstance(v, str) else v for k, v in body.items()} if isinstance(body, dict) else body
    reply = asked(server, server.token("hospital"), named)
    assert (reply.status_code, list(reply.json())) == (status, ["message"])


# ---------------------------------------------------------------- secrets, audit


def test_no_url_no_log_and_no_field_of_the_database_holds_what_opens_images(server, anna, case, caplog):
    with caplog.at_level(logging.DEBUG):
        reply = opened(anna, case["ct"])
        url = asked(server, server.token("hospital"), {"study": case["ct"]}).json()["url"]
        second = came(server, url)
        held = [handle(reply), handle(second)]
        page = anna.follow(reply)
        for one in held:
            images(server, one, "studies")
    stored = "".join(
        str(row) for name in ("auth_passes", "auth_pass_codes") for row in server.client[server.name][name].find({})
    )
    for secret in (*held, url.rpartition("/")[2]):
        assert secret not in stored
        assert secret not in caplog.text.replace(f"HTTP Request: GET {url}", "")  # the test's own browser tells where it goes
        assert secret not in page.text
    for one in (reply, second):
        assert not any(secret in one.headers["location"] for secret in held)
        assert (one.headers["referrer-policy"], one.headers["cache-control"]) == ("no-referrer", "no-store")


def test_to_open_and_to_look_are_the_persons_reads_in_the_audit(server, anna, hospital, case):
    held = handle(opened(anna, case["third"]))
    images(server, held, f"studies/{case['third-uid']}/metadata")
    server.installation.store_audit()
    events = [entry["resource"] for entry in hospital.get(f"AuditEvent?entity={case['third']}&_count=100").json()["entry"]]
    read = {one["subtype"][-1]["code"]: one["agent"][0]["who"] for one in events if one["agent"][0]["who"].get("reference")}
    assert {"read", "wado"} <= set(read)
    assert {who["reference"] for who in read.values()} == {"Practitioner/hospital-anna"}
    assert {who["display"] for who in read.values()} == {"anna@pages"}


# ---------------------------------------------------------------- the plain page


def page_of(person, case, what: str, **query: str):
    opened(person, case[what])
    return person.http.get(f"/viewer/plain/{case[what].partition('/')[2]}", params=query)


def test_the_plain_page_shows_whose_images_they_are_and_where(anna, case):
    reply = page_of(anna, case, "ct")
    assert reply.status_code == 200
    text = unescape(re.sub(r"<[^>]*>", " ", reply.text))
    for said in (
        "Nowak, Jan",
        "born 1970-05-02",
        "P-7",
        "CT <b>head</b>",
        "Axial & thin",
        "1 / 1",
        "not for diagnosis",
        "not installed",
    ):
        assert said in text, said
    assert "<b>head" not in reply.text
    [shown] = re.findall(r'<img id="image" src="([^"]+)"', reply.text)
    assert re.fullmatch(rf"/dicomweb/studies/{case['ct-uid']}/series/[0-9.]+/instances/[0-9.]+/rendered", shown)
    thumbnails = re.findall(r'<img src="([^"]+)"', reply.text)
    assert thumbnails == [shown.replace("/rendered", "/thumbnail")]


def test_the_plain_page_speaks_polish(anna, case):
    reply = page_of(anna, case, "ct", lang="pl")
    assert '<html lang="pl">' in reply.text
    for said in ("ur. 1970-05-02", "obrazy: 1", "nie do diagnozy", "tkanki miękkie", "Poprzedni obraz"):
        assert said in reply.text, said


@pytest.mark.parametrize(("chosen", "window"), [
    (None, None), ("stored", None), ("brain", "40,80,linear"), ("lung", "-600,1500,linear"), ("bone", "400,1800,linear"), ("<script>", None),
])  # fmt: skip
def test_a_window_is_asked_of_the_archive(anna, case, chosen, window):
    reply = page_of(anna, case, "ct", **({"window": chosen} if chosen else {}))
    [shown] = re.findall(r'<img id="image" src="([^"]+)"', reply.text)
    assert parse_qs(urlsplit(unescape(shown)).query).get("window") == ([window] if window else None)
    assert "<script>" not in reply.text


@pytest.mark.parametrize(("image", "frame"), [("0", 1), ("4", 5), ("9", 10), ("99", 10), ("-1", 1), ("x", 1), ("9" * 30, 1)])
def test_a_frame_is_an_image(anna, case, image, frame):
    reply = page_of(anna, case, "other", image=image)
    assert f"{frame} / 10" in reply.text
    assert re.search(rf'id="image" src="[^"]+/frames/{frame}/rendered"', reply.text)
    links = {
        rel: parse_qs(urlsplit(unescape(href)).query)["image"][0]
        for rel, href in re.findall(r'rel="(prev|next)" href="([^"]+)"', reply.text)
    }
    assert links == {"prev": str(max(frame - 2, 0)), "next": str(min(frame, 9))}


def test_the_plain_page_is_for_who_has_opened_it(server, anna, case):
    id_ = case["prior"].partition("/")[2]
    reply = anna.http.get(f"/viewer/plain/{id_}")
    assert (reply.status_code, reply.headers["location"]) == (303, f"/viewer?study=ImagingStudy%2F{id_}&plain=1")
    assert anna.follow(reply).status_code == 200, "she may, and is brought back"
    stranger = Person(server.app)
    assert urlsplit(str(stranger.follow(stranger.http.get(f"/viewer/plain/{id_}")).url)).path == "/auth/login"
    olga = Person(server.app)
    olga.sign_in("olga")
    refused = olga.follow(olga.http.get(f"/viewer/plain/{id_}"))
    assert (refused.status_code, "Nowak" in refused.text) == (404, False)


def test_studies_that_were_opened_together_lead_to_each_other(anna, case):
    reply = anna.follow(opened(anna, case["ct"], prior=case["prior"]))
    [link] = re.findall(r'class="other" href="([^"]+)"', reply.text)
    assert urlsplit(unescape(link)).path == f"/viewer/plain/{case['prior'].partition('/')[2]}"
    assert case["ct"].partition("/")[2] in unescape(link)
    named = anna.http.get(
        f"/viewer/plain/{case['ct'].partition('/')[2]}", params={"also": f"{case['office'].partition('/')[2]},x"}
    )
    assert 'class="other"' not in named.text


@pytest.mark.parametrize("rows", [
    [], [{}], [{"00200011": {"Value": []}}], [{"00280010": {"Value": [1]}, "00280008": {"Value": ["x"]}, "0020000D": {"Value": ["1/../2?#"]}}],
    [{"00100010": {"Value": [{"Ideographic": "山田"}]}, "00100030": {"Value": ["1970"]}}],
])  # fmt: skip
def test_headers_that_lack_or_lie_make_a_page_all_the_same(rows):
    study = plain.study(rows, "/dicomweb")
    assert (study is None) == (not rows)
    for series in study.series if study else ():
        assert all(
            one.path.startswith("/dicomweb/studies/") and "?" not in one.path and "/../" not in one.path
            for one in series.pictures
        )


# ---------------------------------------------------------------- OHIF's files


INDEX = """<!doctype html><html><head><meta content="/assets/x.png"><script>window.PUBLIC_URL="/"</script><link rel="manifest" href="/manifest.json">
<script rel="preload" as="script" src="/app-config.js"></script><script rel="preload" type="module" src="/init-service-worker.js"></script>
<script defer src="/app.bundle.0f6159c501addfe9.js"></script><link href="/app.bundle.css" rel="stylesheet"></head></html>"""
FILES = {
    "index.html": INDEX.encode(),
    "app-config.js": b"theirs",
    "app.bundle.0f6159c501addfe9.js": b'run(); __webpack_require__.p = "/";' + b" " * 2000,
    "app.bundle.css": b"a { src: url(/x.woff2) }",
    "0ddf166f7a343eda.wasm": b"\0asm",
    "assets/x.png": b"png",
}


@pytest.fixture
def ohif(server, tmp_path, monkeypatch):
    """A viewer of a few files, installed from a package."""
    package = packed(tmp_path / "viewer.tgz", {f"package/dist/{name}": content for name, content in FILES.items()})
    monkeypatch.setattr(installing, "INTEGRITY", package[1])
    data = server.settings.data_dir
    installing.install(data, package[0], lambda _: None)
    yield TestClient(server.app, base_url=BASE, follow_redirects=False)
    (installing.folder(data) / ".complete").unlink()


def packed(path, files: dict[str, bytes], links: dict[str, str] | None = None):
    import base64
    import hashlib
    import tarfile

    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path, "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_where_ohif_is_installed_the_images_open_in_it(server, ohif, anna, case):
    reply = opened(anna, case["ct"], prior=case["prior"])
    assert reply.headers["location"] == f"/ohif/viewer?StudyInstanceUIDs={case['ct-uid']}"
    assert readable(server, handle(reply), case) == {"ct", "prior"}
    assert opened(anna, case["ct"], plain="1").headers["location"].startswith("/viewer/plain/")


def test_the_page_of_ohif_runs_its_own_scripts_alone(ohif):
    replies = [ohif.get("/ohif/viewer?StudyInstanceUIDs=1.2"), ohif.get("/ohif/viewer")]
    nonces = []
    for reply in replies:
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        [nonce] = re.findall(r"'nonce-([^']+)'", policy["script-src"])
        nonces.append(nonce)
        assert policy == {
            "default-src": "'none'", "script-src": f"'self' 'nonce-{nonce}' 'wasm-unsafe-eval'", "worker-src": "'self' blob:",
            "style-src": "'self' 'unsafe-inline'", "img-src": "'self' data: blob:", "font-src": "'self' data:",
            "connect-src": "'self' blob: data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'self'",
        }  # fmt: skip
        assert set(re.findall(r"<script ([^ >]+)", reply.text)) == {f'nonce="{nonce}"'}
        assert reply.headers["cache-control"] == "no-store"
        assert 'window.PUBLIC_URL="/ohif/"' in reply.text
        assert 'src="/ohif/app.bundle.0f6159c501addfe9.js"' in reply.text
        assert "service-worker" not in reply.text
    assert nonces[0] != nonces[1]


def test_the_files_of_ohif_are_told_as_what_they_are_and_kept(ohif):
    script = ohif.get("/ohif/app.bundle.0f6159c501addfe9.js")
    assert (script.headers["content-type"], script.headers["content-encoding"]) == ("text/javascript; charset=utf-8", "gzip")
    assert b'p = "/"' not in script.content
    assert ohif.get("/ohif/app.bundle.0f6159c501addfe9.js", headers={"Accept-Encoding": "identity"}).content == script.content
    wasm = ohif.get("/ohif/0ddf166f7a343eda.wasm")
    assert (wasm.headers["content-type"], wasm.content) == ("application/wasm", b"\0asm")
    for hashed in (script, wasm):
        assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    style = ohif.get("/ohif/app.bundle.css")
    assert (style.headers["cache-control"], style.text) == ("no-cache", "a { src: url(x.woff2) }")
    assert ohif.get("/ohif/app.bundle.css", headers={"If-None-Match": style.headers["etag"]}).status_code == 304
    for reply in (
        script,
        wasm,
        style,
        ohif.get("/ohif/viewer"),
        ohif.get("/ohif/app-config.js"),
        ohif.get("/ohif/assets/x.png"),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        isolation = [reply.headers[f"cross-origin-{name}"] for name in ("opener-policy", "embedder-policy", "resource-policy")]
        assert isolation == ["same-origin", "require-corp", "same-origin"]


def test_the_configuration_names_our_archive_and_no_other(ohif, tmp_path):
    text = ohif.get("/ohif/app-config.js").text
    config = json.loads(text[text.index("{") : text.index("\n};") + 2])
    [source] = config["dataSources"]
    assert {source["configuration"][name] for name in ("wadoUriRoot", "qidoRoot", "wadoRoot")} == {"/dicomweb"}
    assert config["routerBasename"] == "/ohif"
    for widened in (
        "dicomjson",
        "dicomwebproxy",
        "dicomlocal",
        "dangerouslyUseDynamicConfig",
        "customizationUrlPrefixes",
        "://",
    ):
        assert widened not in text, widened
    below = Dist(tmp_path, "/network/north")
    assert '"qidoRoot": "/network/north/dicomweb"' in below.configuration
    assert '"routerBasename": "/network/north/ohif"' in below.configuration
    assert below.url(["1.2", "3.4"]) == "/network/north/ohif/viewer?StudyInstanceUIDs=1.2,3.4"


@pytest.mark.parametrize("path", [
    "../run.json", "..%2f..%2frun.json", "%2e%2e/%2e%2e/demo.json", "assets/../../../lock", "....//lock", "..\\lock", "assets/%00", "/etc/passwd",
    "app.bundle.0f6159c501addfe9.js.gz", ".complete", "index.html", "no/such/place", "%c0%ae%c0%ae/lock",
])  # fmt: skip
def test_a_path_that_is_no_file_is_a_place_in_the_application(server, ohif, path):
    (server.settings.data_dir / "lock").write_text("secret of the folder")
    reply = ohif.get(f"/ohif/{path}")
    assert reply.status_code in (200, 404)
    assert "secret of the folder" not in reply.text
    if str(reply.url).startswith(f"{BASE}/ohif/"):
        assert (reply.status_code, reply.text.startswith("<!doctype html>")) == (200, True)


def test_where_ohif_is_not_installed_its_place_says_so(server):
    browser = TestClient(server.app, base_url=BASE, follow_redirects=False)
    reply = browser.get("/ohif/viewer?StudyInstanceUIDs=1.2")
    assert reply.status_code == 404
    assert "The diagnostic viewer is not installed on this server." in reply.text
    assert browser.get("/ohif/").status_code == 200
    assert browser.get("/ohif").headers["location"] == "/ohif/"


def test_every_page_has_its_policy(server, ohif, anna, case):
    pages = [
        page_of(anna, case, "ct"),
        anna.http.get("/viewer?study=x"),
        anna.http.get("/ohif/"),
        anna.http.get("/viewer/nothing"),
    ]
    pages += [ohif.get("/ohif/viewer"), ohif.get("/ohif/app-config.js")]
    for reply in pages:
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; "), reply.url
        assert "unsafe-eval" not in policy.replace("wasm-unsafe-eval", "")
        assert "frame-ancestors" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
    for name in re.findall(r"/viewer/static/[\w.-]+", pages[0].text):
        assert anna.http.get(name).status_code == 200
    assert anna.http.get("/viewer/static/plain.css").status_code == 404


# ---------------------------------------------------------------- installing


def test_a_package_is_installed_once_and_then_nothing_is_fetched(tmp_path, monkeypatch):
    files = {f"package/dist/{name}": content for name, content in FILES.items()}
    files |= {
        "package/dist/ort/big.wasm": b"x",
        "package/dist/app.js.map": b"x",
        "package/dist/sw.js": b"x",
        "package/package.json": b"{}",
    }
    package, integrity = packed(tmp_path / "p.tgz", files, {"package/dist/link": "/etc/passwd"})
    monkeypatch.setattr(installing, "INTEGRITY", integrity)
    said: list[str] = []
    installing.install(tmp_path / "data", package, said.append)
    there = {
        str(path.relative_to(installing.folder(tmp_path / "data")))
        for path in installing.folder(tmp_path / "data").rglob("*")
        if path.is_file()
    }
    assert there == {*FILES, ".complete", "app.bundle.0f6159c501addfe9.js.gz"}
    monkeypatch.setenv("PATH", "")
    installing.install(tmp_path / "data", None, said.append)
    assert "is there" in said[-1]
    assert [path.name for path in (tmp_path / "data" / "cache").iterdir()] == [installing.folder(tmp_path / "data").name]


@pytest.mark.parametrize("name", ["package/dist/../../../evil", "/package/dist/evil", "package/dist/a\\..\\evil", "../evil"])
def test_a_package_that_leads_out_of_its_folder_is_not_installed(tmp_path, monkeypatch, name):
    package, integrity = packed(tmp_path / "p.tgz", {"package/dist/index.html": b"x", name: b"evil"})
    monkeypatch.setattr(installing, "INTEGRITY", integrity)
    with pytest.raises(RuntimeError, match="leads out"):
        installing.install(tmp_path / "data", package, lambda _: None)
    assert not installing.installed(tmp_path / "data")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil"]


def test_a_package_that_is_another_is_not_installed(tmp_path):
    package, _ = packed(tmp_path / "p.tgz", {"package/dist/index.html": b"x"})
    with pytest.raises(RuntimeError, match="sha512"):
        installing.install(tmp_path / "data", package, lambda _: None)
    assert not installing.installed(tmp_path / "data")


def test_a_package_that_is_too_much_is_not_installed(tmp_path, monkeypatch):
    package, integrity = packed(tmp_path / "p.tgz", {f"package/dist/{n}": b"" for n in range(3)})
    monkeypatch.setattr(installing, "INTEGRITY", integrity)
    monkeypatch.setattr(installing, "_MOST_FILES", 2)
    with pytest.raises(RuntimeError, match="more than a viewer"):
        installing.install(tmp_path / "data", package, lambda _: None)


def test_without_npm_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"npm is not installed; or give the file of @ohif/app@3\.13\.2"):
        installing.install(tmp_path / "data", None, lambda _: None)


def test_an_npm_that_reaches_nothing_is_told_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(RuntimeError, match=r"npm could not fetch @ohif/app@3\.13\.2: npm error network"):
        installing.install(tmp_path / "data", None, lambda _: None)
