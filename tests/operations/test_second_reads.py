"""$request-second-read and $submit-second-read: who reads it too, what they see, and what waits for them."""

from __future__ import annotations

import pytest
from conftest import assert_outcome
from operations_conftest import out, parameters, reader_rows
from unchanged import unchanged

BLEEDING = {
    "resourceType": "Questionnaire",
    "url": "https://hospital.example/bleeding",
    "status": "active",
    "item": [
        {"linkId": "bleeding", "text": "Bleeding", "type": "boolean", "required": True},
        {"linkId": "size", "text": "Size", "type": "decimal"},
        {"linkId": "impression", "text": "Impression", "type": "text", "required": True},
    ],
}


def role(name):
    return {"reference": f"PractitionerRole/centre-{name}-hospital"}


def post(client, task, operation, headers=None, **inputs):
    return client.post(f"Task/{task['id']}/${operation}", json=parameters(**inputs), headers=headers or {})


def business(network, t0):
    return network.get(f"Task/{t0['id']}")["businessStatus"]["coding"][0]["code"]


def inputs(task, kind):
    rows = [row for row in task.get("input", ()) if row["type"]["coding"][0]["code"] == kind]
    return [value for row in rows for name, value in row.items() if name.startswith("value")]


def said(draft, *, bleeding, impression="i", size=None):
    rows = [{"linkId": "bleeding", "answer": [{"valueBoolean": bleeding}]}]
    rows += [{"linkId": "size", "answer": [{"valueDecimal": size}]}] if size is not None else []
    return draft | {"item": [*rows, {"linkId": "impression", "answer": [{"valueString": impression}]}]}


def sign(client, report, response):
    return client.post(f"DiagnosticReport/{report['id']}/$sign", json=parameters(attest=True, response=response))


@pytest.fixture(scope="module")
def asked(network):
    """A template with coded answers, by which two readers can be seen to agree; and two more who may read it."""
    assert network.hospital.post("Questionnaire", json=BLEEDING).status_code == 201
    for name in ("gina", "hugo"):
        for row in reader_rows(name):
            assert network.centre.put(f"{row['resourceType']}/{row['id']}", json=row).status_code == 201

    def dispatch(**more):
        order = network.ordered()
        network.images(order)
        body = parameters(destination="central", **more)
        body["parameter"].append({"name": "reportTemplate", "valueCanonical": BLEEDING["url"]})
        t0 = network.hospital.post(f"ServiceRequest/{order['id']}/$dispatch", json=body).json()
        return order, t0

    return dispatch


def open_(network, name, attempt):
    client = network.reader(name)
    assert post(client, attempt, "claim", start=True).status_code == 200
    return client, out(post(client, attempt, "start-report"))


@pytest.fixture
def first(network, asked):
    """anna reads: (T0, attempt, anna, what she opened)."""
    _, t0 = asked()
    attempt = network.assigned(t0)
    return (t0, attempt, *open_(network, "anna", attempt))


# ---------------------------------------------------------------- second readings


@pytest.mark.parametrize("kind", ["independent", "sequential", "over-read"])
def test_nothing_is_signed_while_a_second_reading_is_open_and_agreement_opens_the_way(network, first, kind):
    t0, attempt, anna, opened = first
    second = post(anna, attempt, "request-second-read", kind=kind, recipient=role("bela")).json()
    assert (second["status"], second["owner"], second["partOf"]) == (
        "requested",
        role("bela"),
        [{"reference": f"Task/{t0['id']}"}],
    )
    assert inputs(second, "blind") == [True]
    assert business(network, t0) == "awaiting-second-read"
    good = said(opened["draft"], bleeding=True, size=5.0)
    with unchanged(network.server):
        assert_outcome(sign(anna, opened["report"], good), 409, "conflict")
        assert_outcome(post(anna, attempt, "request-second-read", kind=kind), 409, "duplicate")  # one at a time
        assert_outcome(post(network.reader("gina"), second, "claim", start=True), 409, "lock-error")
    bela, theirs = open_(network, "bela", second)
    assert set(theirs) == {"draft"}  # no report of its own
    with unchanged(network.server):
        assert_outcome(sign(anna, opened["report"], good), 409, "conflict")
        for other in (anna, network.centre, network.reader("gina")):
            assert_outcome(
                post(other, second, "submit-second-read", response=said(theirs["draft"], bleeding=True)), 403, "forbidden"
            )
        assert_outcome(post(network.hospital, second, "submit-second-read"), 404, "not-found")
        assert_outcome(post(bela, second, "submit-second-read"), 422, "required")  # the contract is theirs too
        assert_outcome(post(bela, second, "submit-second-read", {"If-Match": 'W/"1"'}), 412, "conflict")
        assert_outcome(post(anna, attempt, "submit-second-read", response=good), 422, "business-rule")
    result = post(bela, second, "submit-second-read", response=said(theirs["draft"], bleeding=True, size=5))
    assert out_task(result)["status"] == "completed"
    assert business(network, t0) == "reading"
    with unchanged(network.server):
        assert_outcome(post(bela, second, "submit-second-read"), 409, "conflict")
    assert sign(anna, opened["report"], good).status_code == 200  # 5 and 5.0 are one answer


def out_task(reply):
    assert reply.status_code == 200, reply.text
    return next(row["resource"] for row in reply.json()["parameter"] if row["name"] == "task")


def differing(reply):
    return [row["valueString"] for row in reply.json()["parameter"] if row["name"] == "differing"]


def test_a_disagreement_is_named_and_the_arbiter_decides_it(network, first):
    """The first reader signs what the arbiter found, or does not sign."""
    _, attempt, anna, opened = first
    with unchanged(network.server):  # there is nothing to arbitrate yet
        assert_outcome(post(anna, attempt, "request-second-read", kind="arbitration"), 409, "conflict")
    second = post(anna, attempt, "request-second-read", kind="independent", recipient=role("bela")).json()
    bela, theirs = open_(network, "bela", second)
    assert post(bela, second, "submit-second-read", response=said(theirs["draft"], bleeding=False)).status_code == 200
    mine = said(opened["draft"], bleeding=True)
    with unchanged(network.server):
        issues = assert_outcome(sign(anna, opened["report"], mine), 409, "conflict")
        assert issues[0]["expression"] == ["QuestionnaireResponse.item.where(linkId='bleeding')"]
        for name in ("anna", "bela"):  # who has read it does not judge it
            reply = post(anna, attempt, "request-second-read", kind="arbitration", recipient=role(name))
            assert_outcome(reply, 422, "business-rule")
    arbitration = post(anna, attempt, "request-second-read", kind="arbitration", recipient=role("gina")).json()
    assert inputs(arbitration, "blind") == [False]
    gina, hers = open_(network, "gina", arbitration)
    with unchanged(network.server):
        assert_outcome(sign(anna, opened["report"], said(opened["draft"], bleeding=False)), 409, "conflict")
    assert post(gina, arbitration, "submit-second-read", response=said(hers["draft"], bleeding=True, size=2)).status_code == 200
    with unchanged(network.server):
        assert_outcome(sign(anna, opened["report"], mine), 409, "conflict")  # without the size that the arbiter gave
    assert sign(anna, opened["report"], said(opened["draft"], bleeding=True, size=2)).status_code == 200


@pytest.mark.parametrize(("bleeding", "agreement", "names"), [(False, None, ["bleeding"]), (True, False, [])])
def test_a_second_reader_who_disagrees_with_what_is_out_opens_arbitration(network, first, bleeding, agreement, names):
    """With the preliminary report's coded answers, or in their own words."""
    t0, _, anna, opened = first
    body = parameters(response=said(opened["draft"], bleeding=True))
    assert anna.post(f"DiagnosticReport/{opened['report']['id']}/$publish-preliminary", json=body).status_code == 200
    second = post(network.centre, t0, "request-second-read", kind="over-read", recipient=role("bela")).json()
    bela, theirs = open_(network, "bela", second)
    more = {} if agreement is None else {"agreement": agreement}
    result = post(bela, second, "submit-second-read", response=said(theirs["draft"], bleeding=bleeding), **more)
    assert differing(result) == names
    [arbitration] = [a for a in network.attempts(t0) if a["code"]["coding"][1]["code"] == "arbitration"]
    assert (arbitration["status"], arbitration["owner"]) == ("requested", {"reference": "Organization/centre"})
    with unchanged(network.server):
        issues = assert_outcome(post(bela, arbitration, "claim", start=True), 403, "forbidden")
    assert issues[0]["details"]["coding"][0]["code"] == "earlier-reader"
    gina, hers = open_(network, "gina", arbitration)
    assert post(gina, arbitration, "submit-second-read", response=said(hers["draft"], bleeding=True)).status_code == 200


def test_the_same_reader_reads_it_once(network, first):
    t0, attempt, anna, _ = first
    with unchanged(network.server):
        for who, named in ((anna, role("anna")), (network.centre, {"reference": "Practitioner/centre-anna"})):
            reply = post(who, attempt, "request-second-read", kind="independent", recipient=named)
            assert assert_outcome(reply, 422, "business-rule")[0]["details"]["coding"][0]["code"] == "earlier-reader"
        for name, failed in (
            ("carl", "privilege-expired"),
            ("dora", "no-modality-privilege"),
            ("fred", "no-read-type-privilege"),
        ):
            reply = post(anna, attempt, "request-second-read", kind="independent", recipient=role(name))
            assert assert_outcome(reply, 422, "business-rule")[0]["details"]["coding"][0]["code"] == failed
        reply = post(anna, attempt, "request-second-read", kind="independent", recipient={"reference": "Organization/centre"})
        assert_outcome(reply, 422, "value")
        assert_outcome(post(anna, attempt, "request-second-read", kind="triple"), 422, "invalid")
        assert_outcome(post(network.reader("bela"), attempt, "request-second-read", kind="independent"), 403, "forbidden")
        assert_outcome(post(network.hospital, t0, "request-second-read", kind="independent"), 403, "forbidden")
        assert_outcome(post(network.office, t0, "request-second-read", kind="independent"), 404, "not-found")
        assert_outcome(post(anna, attempt, "request-second-read", {"If-Match": 'W/"1"'}, kind="independent"), 412, "conflict")
    pooled = post(network.centre, t0, "request-second-read", kind="independent").json()
    with unchanged(network.server):
        issues = assert_outcome(post(anna, pooled, "claim"), 403, "forbidden")
        assert issues[0]["details"]["coding"][0]["code"] == "earlier-reader"


def test_a_closed_reading_is_not_read_a_second_time(network):
    _, t0, _ = network.signed()
    with unchanged(network.server):
        assert_outcome(post(network.centre, t0, "request-second-read", kind="independent"), 409, "conflict")


@pytest.mark.parametrize("blind", [True, False])
def test_a_blind_second_reader_does_not_see_what_the_first_has_written(network, first, blind):
    """Whatever they ask for; where it is not blind the first reader shows it by asking."""
    t0, attempt, anna, opened = first
    secret = "subdural-haematoma-on-the-left"
    draft = said(opened["draft"], bleeding=True, impression=secret)
    assert anna.put(f"QuestionnaireResponse/{draft['id']}", json=draft).status_code == 200
    second = post(anna, attempt, "request-second-read", kind="sequential", recipient=role("bela"), blind=blind).json()
    assert any(secret in text for text in inputs(second, "draft-text")) is not blind
    bela, theirs = open_(network, "bela", second)
    assert not any("answer" in item for item in theirs["draft"]["item"])
    order = attempt["focus"]["reference"]
    paths = [
        f"QuestionnaireResponse/{draft['id']}", f"QuestionnaireResponse/{draft['id']}/_history", f"QuestionnaireResponse?based-on={order}",
        f"QuestionnaireResponse?_id={draft['id']}", f"DiagnosticReport/{opened['report']['id']}", f"Task/{attempt['id']}",
        f"{attempt['for']['reference']}/$everything", f"Task/{second['id']}", "_history?_count=1000", f"Task?part-of=Task/{t0['id']}",
    ]  # fmt: skip
    leaked = {path for path in paths if secret in bela.get(path).text}
    shown = {f"Task/{second['id']}", f"Task?part-of=Task/{t0['id']}", "_history?_count=1000"}
    assert leaked == (set() if blind else shown)


def test_a_double_reading_is_in_the_pool_twice_for_two(network, asked):
    _, t0 = asked(readType="double")
    network.pool_ = network.centre.put(f"Task/{t0['id']}", json=network.get(f"Task/{t0['id']}") | {"status": "accepted"})
    kinds = {a["code"]["coding"][1]["code"]: a for a in network.attempts(t0)}
    assert set(kinds) == {"read", "second-read"}
    anna, opened = open_(network, "anna", kinds["read"])
    with unchanged(network.server):
        assert_outcome(post(anna, kinds["second-read"], "claim", start=True), 403, "forbidden")
        assert_outcome(sign(anna, opened["report"], said(opened["draft"], bleeding=True)), 409, "conflict")
    bela, theirs = open_(network, "bela", kinds["second-read"])
    assert (
        post(bela, kinds["second-read"], "submit-second-read", response=said(theirs["draft"], bleeding=True)).status_code == 200
    )
    assert sign(anna, opened["report"], said(opened["draft"], bleeding=True)).status_code == 200
