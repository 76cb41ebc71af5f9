"""Binary in its own content type. https://hl7.org/fhir/R4/binary.html#rest"""

from __future__ import annotations

import base64

import pytest
from conftest import assert_outcome, patient

PDF = b"%PDF-1.7\n\x00\xff\x80 a report"
FHIR = {"Accept": "application/fhir+json"}


def test_what_is_sent_as_it_is_comes_back_as_it_is_and_as_a_resource(hospital):
    made = hospital.post("Binary", content=PDF, headers={"Content-Type": "application/pdf"})
    assert made.status_code == 201, made.text
    assert made.json()["resourceType"] == "Binary"
    path = f"Binary/{made.json()['id']}"
    for accept in ("*/*", "application/pdf", "image/png"):
        reply = hospital.get(path, headers={"Accept": accept})
        assert (reply.status_code, reply.headers["content-type"], reply.content) == (200, "application/pdf", PDF)
        assert reply.headers["etag"] == 'W/"1"'
    document = hospital.get(path, headers=FHIR).json()
    assert (document["contentType"], base64.b64decode(document["data"])) == ("application/pdf", PDF)
    assert hospital.get(f"{path}?_format=json").json() == document
    assert hospital.get(f"{path}/_history/1").content == PDF
    assert hospital.head(path, headers={"Accept": "*/*"}).headers["content-type"] == "application/pdf"


def test_it_is_replaced_as_it_is(hospital):
    id_ = hospital.post("Binary", content=PDF, headers={"Content-Type": "application/pdf"}).json()["id"]
    reply = hospital.put(
        f"Binary/{id_}", content=b"hello", headers={"Content-Type": "text/plain; charset=utf-8", "If-Match": 'W/"1"'}
    )
    assert (reply.status_code, reply.json()["meta"]["versionId"]) == (200, "2"), reply.text
    assert hospital.get(f"Binary/{id_}", headers={"Accept": "*/*"}).content == b"hello"


def test_a_page_of_another_is_no_page_of_ours(hospital):
    id_ = hospital.post("Binary", content=b"<script>alert(1)</script>", headers={"Content-Type": "text/html"}).json()["id"]
    headers = hospital.get(f"Binary/{id_}", headers={"Accept": "text/html"}).headers
    assert headers["content-disposition"] == "attachment"
    assert headers["content-security-policy"].startswith("sandbox")
    assert headers["x-content-type-options"] == "nosniff"


def test_its_security_context_is_a_header_both_ways(hospital, created):
    person = created(patient())
    headers = {"Content-Type": "image/png", "X-Security-Context": f"Patient/{person['id']}"}
    made = hospital.post("Binary", content=b"png", headers=headers)
    assert made.json()["securityContext"] == {"reference": f"Patient/{person['id']}"}
    assert (
        hospital.get(f"Binary/{made.json()['id']}", headers={"Accept": "*/*"}).headers["x-security-context"]
        == f"Patient/{person['id']}"
    )
    gone = hospital.post(
        "Binary", content=b"png", headers=headers | {"X-Security-Context": "Patient/11111111-1111-4111-8111-111111111111"}
    )
    assert_outcome(gone, 422, "not-found", "Binary.securityContext.reference")


@pytest.mark.parametrize("media", ["image", "a b/c", "text/<x>"])
def test_a_content_type_that_is_none(hospital, media):
    assert_outcome(hospital.post("Binary", content=b"x", headers={"Content-Type": media}), 415, "not-supported")


def test_errors_of_binary(hospital, office):
    id_ = hospital.post("Binary", content=PDF, headers={"Content-Type": "application/pdf"}).json()["id"]
    for path in (f"Binary/{id_}", f"Binary/{id_}/_history/1"):
        assert_outcome(office.get(path, headers={"Accept": "*/*"}), 404, "not-found")
    assert_outcome(
        hospital.post("Binary", content=bytes(9_000_000), headers={"Content-Type": "application/pdf"}), 413, "too-long"
    )
    assert_outcome(hospital.post("Patient", content=b"x", headers={"Content-Type": "application/pdf"}), 415, "not-supported")
    assert hospital.delete(f"Binary/{id_}").status_code == 204
    assert_outcome(hospital.get(f"Binary/{id_}", headers={"Accept": "*/*"}), 410, "deleted")


def test_a_stored_bundle_is_a_resource_like_others_to_elements(hospital):
    body = {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": "2026-01-01T00:00:00Z",
        "entry": [{"resource": patient()}],
    }
    id_ = hospital.post("Bundle", json=body).json()["id"]
    part = hospital.get(f"Bundle/{id_}?_elements=timestamp").json()
    assert set(part) == {"resourceType", "id", "meta", "type", "timestamp"}
    assert "entry" not in hospital.get(f"Bundle/{id_}?_summary=text").json()


def test_a_content_type_keeps_its_parameters(hospital):
    media = "text/plain; charset=iso-8859-2"
    made = hospital.post("Binary", content="żółw".encode("iso-8859-2"), headers={"Content-Type": media})
    assert made.json()["contentType"] == media
    reply = hospital.get(f"Binary/{made.json()['id']}", headers={"Accept": "*/*"})
    assert (reply.headers["content-type"], reply.content) == (media, "żółw".encode("iso-8859-2"))


def test_what_a_header_cannot_hold_is_in_none(hospital):
    body = {
        "resourceType": "Binary",
        "contentType": "text/plain",
        "data": "QQ==",
        "securityContext": {"reference": "http://evil/a\r\nSet-Cookie: x=y"},
    }
    made = hospital.post("Binary", json=body)
    if made.status_code == 201:
        reply = hospital.get(f"Binary/{made.json()['id']}", headers={"Accept": "*/*"})
        assert (reply.status_code, reply.headers.get("x-security-context"), reply.headers.get("set-cookie")) == (
            200,
            None,
            None,
        )
    absent = hospital.post(
        "Binary",
        json={
            "resourceType": "Binary",
            "_contentType": {"extension": [{"url": "urn:x", "valueCode": "unknown"}]},
            "data": "QQ==",
        },
    )
    assert absent.status_code == 201, absent.text
    reply = hospital.get(f"Binary/{absent.json()['id']}", headers={"Accept": "*/*"})
    assert (reply.content, reply.headers["content-type"]) == (b"A", "application/octet-stream")


def test_xml_is_not_acceptable_of_a_binary_either(hospital):
    id_ = hospital.post("Binary", content=PDF, headers={"Content-Type": "application/pdf"}).json()["id"]
    assert_outcome(hospital.get(f"Binary/{id_}", headers={"Accept": "application/fhir+xml"}), 406, "not-supported")
    assert_outcome(hospital.get(f"Binary/{id_}?_format=xml"), 406, "not-supported")
