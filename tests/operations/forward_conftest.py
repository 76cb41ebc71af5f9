"""Three centres: a hospital orders of the centre, which passes on to the far centre, which passes on to the third."""

from __future__ import annotations

import pytest
from operations_conftest import READ_TYPE, REASON, parameters
from valid_calls import affiliated, agreed, centre_named

TERMS = {"subcontracting": True, "countries": ["PL"], "retentionDays": 30}
POLISH = {"address": [{"country": "PL"}]}


def to(name: str) -> dict:
    return {"reference": f"Organization/{name}"}


def forward(client, task, name: str, **inputs):
    body = parameters(organization=to(name), **({"reason": REASON} | inputs))
    return client.post(f"Task/{task['id']}/$forward", json=body)


def business(task) -> str:
    return task["businessStatus"]["coding"][0]["code"]


def read(client, path) -> dict:
    reply = client.get(path)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


@pytest.fixture(scope="module")
def far(network):
    client = centre_named(network, "far", **POLISH)
    affiliated(network, "centre", "far")
    agreed(network.centre, "hospital", **TERMS)
    for kind in ("Practitioner", "PractitionerRole"):
        body = {
            "resourceType": kind, "id": f"far-lena{'-hospital' if kind == 'PractitionerRole' else ''}",
            **({"name": [{"family": "Lena"}], "qualification": [{"code": {"text": "licence"}}]} if kind == "Practitioner" else {}),
            **({"practitioner": {"reference": "Practitioner/far-lena"}, "organization": to("hospital"),
                "code": [{"coding": [{"system": READ_TYPE, "code": "final"}]}]} if kind == "PractitionerRole" else {}),
        }  # fmt: skip
        assert client.put(f"{kind}/{body['id']}", json=body).status_code == 201
    return client


@pytest.fixture(scope="module")
def third(network, far):
    client = centre_named(network, "third", **POLISH)
    affiliated(network, "far", "third")
    return client


@pytest.fixture(scope="module")
def lena(network, far):
    return network.as_("far", scope="user/*.cruds", user="lena", roles=("reader",), practitioner="far-lena")


@pytest.fixture
def chained(network, far, third):
    """(order, T0, the far centre's, the third's)"""
    asked, t0 = network.dispatched()
    first = forward(network.centre, t0, "far")
    assert first.status_code == 200, first.text
    second = forward(far, first.json(), "third")
    assert second.status_code == 200, second.text
    return asked, t0, first.json(), second.json()


@pytest.fixture
def reading_there(network, far, lena):
    """(order, T0, the far centre's, Lena's reading in progress there)"""
    asked, t0 = network.dispatched()
    child = forward(network.centre, t0, "far").json()
    assert far.post(f"Task/{child['id']}/$respond", json=parameters(response="accept")).status_code == 200
    [attempt] = [e["resource"] for e in read(far, f"Task?part-of=Task/{child['id']}")["entry"]]
    started = lena.post(f"Task/{attempt['id']}/$claim", json=parameters(start=True))
    assert started.status_code == 200, started.text
    return asked, t0, child, started.json()
