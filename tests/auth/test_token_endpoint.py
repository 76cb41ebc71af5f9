"""https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html"""

from __future__ import annotations

import logging
import time
import uuid

import pytest
from conftest import BASE
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.testclient import TestClient

GRANT = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def http(server):
    server.auth.clients.add("ehr", "system/*.rs", secret="s3cret:with%", organization="hospital")
    return TestClient(server.app, base_url=BASE)


def test_a_secret_buys_a_token_for_registered_scopes(http):
    reply = http.post("/auth/token", data=GRANT, auth=("ehr", "s3cret:with%"))
    body = reply.json()
    assert reply.status_code == 200
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 300, "system/Patient.rs")
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["pragma"] == "no-cache"
    assert http.get("/fhir/Patient", headers={"Authorization": f"Bearer {body['access_token']}"}).status_code == 200


def test_scopes_are_narrowed_to_the_registration(http):
    asked = GRANT | {"scope": "system/Patient.cruds system/Patient.s patient/Patient.rs openid"}
    assert http.post("/auth/token", data=asked, auth=("ehr", "s3cret:with%")).json()["scope"] == "system/Patient.s"


@pytest.mark.parametrize(
    ("form", "auth", "status", "error"),
    [
        (GRANT, ("ehr", "wrong"), 401, "invalid_client"),
        (GRANT, ("nobody", "x"), 401, "invalid_client"),
        (GRANT, None, 401, "invalid_client"),
        (GRANT | {"scope": "system/*.cruds"}, ("ehr", "s3cret:with%"), 400, "invalid_scope"),
        ({"grant_type": "client_credentials"}, ("ehr", "s3cret:with%"), 400, "invalid_scope"),
        (GRANT | {"grant_type": "password"}, ("ehr", "s3cret:with%"), 400, "unsupported_grant_type"),
        ({}, ("ehr", "s3cret:with%"), 400, "unsupported_grant_type"),
    ],
)
def test_errors_are_oauths(http, form, auth, status, error):
    reply = http.post("/auth/token", data=form, **({"auth": auth} if auth else {}))
    assert (reply.status_code, reply.json()["error"]) == (status, error)


def test_a_repeated_parameter_is_refused(http):
    body = "grant_type=client_credentials&scope=system/Patient.rs&scope=system/Patient.r"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = http.post("/auth/token", content=body, headers=headers, auth=("ehr", "s3cret:with%"))
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


KEYS = {
    "ES384": ECKey.generate_key("P-384", {"kid": "ec", "alg": "ES384"}),
    "RS384": RSAKey.generate_key(2048, {"kid": "rsa", "alg": "RS384"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "p256"}),
}


@pytest.fixture(scope="module")
def signing(server):
    jwks = {"keys": [key.as_dict(private=False) for key in KEYS.values()]}
    server.auth.clients.add("backend", "system/*.rs", jwks=jwks, organization="hospital")


def assertion(alg: str, headers=None, **changed):
    key = KEYS[alg]
    claims = {
        "iss": "backend",
        "sub": "backend",
        "aud": f"{BASE}/auth/token",
        "exp": int(time.time()) + 60,
        "jti": uuid.uuid4().hex,
    }
    return jwt.encode({"alg": alg, "kid": key.kid} | (headers or {}), claims | changed, key, algorithms=[alg])


@pytest.mark.parametrize("alg", ["ES384", "RS384"])
@pytest.mark.parametrize("audience", [f"{BASE}/auth/token", BASE])
def test_private_key_jwt_with_smarts_algorithms(http, signing, alg, audience):
    form = GRANT | {"client_assertion_type": ASSERTION, "client_assertion": assertion(alg, aud=audience)}
    reply = http.post("/auth/token", data=form)
    assert reply.status_code == 200, reply.text


def test_an_assertion_is_used_once(http, signing):
    form = GRANT | {"client_assertion_type": ASSERTION, "client_assertion": assertion("ES384")}
    assert http.post("/auth/token", data=form).status_code == 200
    assert http.post("/auth/token", data=form).json()["error"] == "invalid_client"


@pytest.mark.parametrize(
    ("alg", "changed"),
    [
        ("ES256", {}),
        ("ES384", {"exp": int(time.time()) - 60}),
        ("ES384", {"exp": int(time.time()) + 3600}),
        ("ES384", {"exp": "soon"}),
        ("ES384", {"aud": "https://elsewhere.example/token"}),
        ("ES384", {"aud": [f"{BASE}/auth/token", "https://elsewhere.example"]}),
        ("ES384", {"iss": "ehr"}),
        ("ES384", {"sub": "ehr"}),
        ("ES384", {"jti": ""}),
        ("ES384", {"jti": 7}),
    ],
)
def test_an_assertion_that_is_not_right_is_refused(http, signing, alg, changed):
    form = GRANT | {"client_assertion_type": ASSERTION, "client_assertion": assertion(alg, **changed)}
    reply = http.post("/auth/token", data=form)
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("sent", ["", "a.b.c", "a.bnVsbA.c", "x" * 5000])
def test_what_is_no_assertion_is_refused(http, signing, sent):
    reply = http.post("/auth/token", data=GRANT | {"client_assertion_type": ASSERTION, "client_assertion": sent})
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")


def test_no_token_or_secret_reaches_the_log(http, caplog):
    with caplog.at_level(logging.DEBUG):
        body = http.post("/auth/token", data=GRANT, auth=("ehr", "s3cret:with%")).json()
    assert body["access_token"] not in caplog.text
    assert "s3cret" not in caplog.text


def test_discovery_is_open_and_names_the_token_endpoint(http):
    for path in ("/.well-known/smart-configuration", "/fhir/.well-known/smart-configuration"):
        found = http.get(path).json()
        assert found["token_endpoint"] == f"{BASE}/auth/token"
        assert found["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
