"""Apps, people and records that the tests of the authorization server share."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Server, patient
from people import PASSWORD, App, Person

CALLBACK = "https://app.example/callback"
SCOPE = "openid fhirUser offline_access launch/patient patient/Patient.rs patient/Observation.rs user/ServiceRequest.rs"


@pytest.fixture(scope="module")
def people(server: Server, as_: Any) -> dict[str, Any]:
    """A reader with a Practitioner, a clerk without, and two patients of their hospital."""
    admin = as_("hospital", user="root", roles=("administrator",), scope="user/*.cruds")
    made = admin.put(
        "Practitioner/hospital-anna", json={"resourceType": "Practitioner", "id": "hospital-anna", "name": [{"family": "Lis"}]}
    )
    assert made.status_code == 201, made.text
    server.auth.add_user("anna", ("reader",), "hospital-anna", "hospital", "Dr Anna Lis")
    server.auth.add_user("clerk", ("clerk",), None, "hospital")
    for name in ("anna", "clerk"):
        server.auth.people.set_password(name, PASSWORD)
    hospital = as_("hospital")
    rows = [hospital.post("Patient", json=patient(name=[{"family": family}])).json()["id"] for family in ("Nowak", "Żak")]
    server.auth.clients.add(
        "app", f"{SCOPE} online_access launch patient/*.rs patient/*.read", redirect_uris=(CALLBACK,), name="Growth charts",
        launch_uri="https://app.example/launch",
    )  # fmt: skip
    server.auth.clients.add(
        "server-app", f"{SCOPE} user/*.cruds", secret="app-secret", redirect_uris=(CALLBACK,), organization="hospital"
    )
    return {"patients": rows}


@pytest.fixture
def person(server: Server, people: Any) -> Person:
    return Person(server.app)


@pytest.fixture
def app(people: Any) -> App:
    return App("app", CALLBACK, SCOPE)
