"""Matching, eligibility, ranking, deadlines and the report contract: pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.workflow import contract, deadlines, ranking
from fhirserver.workflow.eligibility import Reader, Reading, Verdict, judge, within
from fhirserver.workflow.matching import Candidate, match

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
LICENSED = {"qualification": [{"code": {"text": "licence"}, "period": {"start": "2020"}}]}
ROLE = {"organization": {"reference": "Organization/h"}, "code": [{"coding": [{"code": "final"}]}]}
CT = Reading("h", frozenset({"CT"}))


def modality(code):
    return {"specialty": [{"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code}]}]}


@pytest.mark.parametrize(
    ("person", "role", "reading", "failed"),
    [
        (LICENSED, ROLE, CT, ()),
        (LICENSED, ROLE | modality("CT"), CT, ()),
        ({}, ROLE, CT, ("no-valid-licence",)),
        ({"qualification": [{"period": {"end": "2026-11-23"}}]}, ROLE, CT, ("no-valid-licence",)),
        ({"qualification": [{"period": {"end": "2026-11-24"}}]}, ROLE, CT, ()),
        (LICENSED | {"active": False}, ROLE, CT, ("no-valid-licence",)),
        (LICENSED, ROLE | {"period": {"end": "2026-11-23"}}, CT, ("no-privilege",)),
        (LICENSED, ROLE | {"active": False}, CT, ("no-privilege",)),
        (LICENSED, ROLE, Reading("other", frozenset({"CT"})), ("no-privilege",)),
        (LICENSED, ROLE, Reading("h", frozenset({"CT"}), "preliminary"), ("no-privilege",)),
        (LICENSED, ROLE | modality("MR"), CT, ("no-modality-privilege",)),
        (LICENSED, ROLE, Reading("h", frozenset(), requesters=frozenset({"Practitioner/p"})), ("conflict-of-interest",)),
        (LICENSED, ROLE, Reading("h", frozenset(), earlier_readers=frozenset({"Practitioner/p"})), ("earlier-reader",)),
    ],
)
def test_each_hard_rule(person, role, reading, failed):
    verdict = judge(reading, Reader("Practitioner/p", person, (("PractitionerRole/r", role),)), NOW)
    assert verdict.failed == failed
    assert verdict.eligible == (not failed)


def test_language_is_a_soft_rule():
    person = LICENSED | {"communication": [{"coding": [{"code": "pl"}]}]}
    reader = Reader("Practitioner/p", person, (("PractitionerRole/r", ROLE),))
    assert judge(Reading("h", frozenset(), language="de"), reader, NOW).soft == ("language",)
    assert judge(Reading("h", frozenset(), language="pl-PL"), reader, NOW).soft == ()


@pytest.mark.parametrize(
    ("period", "inside"),
    [
        (None, True),
        ({"start": "2026"}, True),
        ({"end": "2026"}, True),
        ({"end": "2026-11"}, True),
        ({"end": "2026-10"}, False),
        ({"start": "2026-11-24T13:00:00Z"}, False),
        ({"end": "2026-11-24T13:00:00+02:00"}, False),
        ({"end": "2024-02"}, False),
    ],
)
def test_a_period_is_as_wide_as_it_is_imprecise(period, inside):
    assert within(period, NOW) is inside


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), max_size=8))
def test_nobody_ineligible_is_ever_ranked_above_somebody_eligible(rows):
    candidates = [
        ranking.Candidate(f"p{i}", Verdict(("x",) if bad else (), ("y",) if soft else ()), load)
        for i, (bad, soft, load) in enumerate(rows)
    ]
    order = [c.verdict.eligible for c in ranking.ranked(candidates)]
    assert order == sorted(order, reverse=True)
    assert ranking.ranked(candidates) == ranking.ranked(candidates[::-1])


@pytest.mark.parametrize(("priority", "hours"), [("stat", 1), ("asap", 4), ("urgent", 24), ("routine", 72)])
def test_deadlines_by_urgency(priority, hours):
    assert deadlines.due(priority, NOW) - NOW == timedelta(hours=hours)


def candidate(order, patient, ids, born=None):
    return Candidate(order, patient, frozenset(ids), born)


@pytest.mark.parametrize(
    ("patient_id", "born", "candidates", "orders", "conflicting"),
    [
        ("1", None, [], (), ()),
        ("1", None, [candidate("o", "p", ["1"])], ("o",), ()),
        ("1", "1970-01-01", [candidate("o", "p", ["1"], "1970-01-01")], ("o",), ()),
        ("1", "1970-01-01", [candidate("o", "p", ["1"], "1971-01-01")], (), ("o",)),
        ("1", "1970-01-01", [candidate("o", "p", ["1"], "1970")], ("o",), ()),
        ("2", None, [candidate("o", "p", ["1"])], (), ("o",)),
        ("", None, [candidate("o", "p", ["1"])], (), ("o",)),
        ("1", None, [candidate("o1", "p", ["1"]), candidate("o2", "p", ["1"])], ("o1", "o2"), ()),
        ("1", None, [candidate("o1", "p", ["1"]), candidate("o2", "q", ["1"])], (), ("o1", "o2")),
        ("1", None, [candidate("o1", "p", ["1"]), candidate("o2", "q", ["2"])], ("o1",), ("o2",)),
    ],
)
def test_a_study_answers_the_orders_whose_patient_agrees(patient_id, born, candidates, orders, conflicting):
    found = match(patient_id, born, candidates)
    assert (found.orders, found.conflicting) == (orders, conflicting)


TEMPLATE = {
    "item": [
        {
            "linkId": "g",
            "type": "group",
            "required": True,
            "text": "Group",
            "item": [{"linkId": "findings", "type": "text", "required": True, "text": "Findings"}],
        },
        {"linkId": "impression", "type": "text", "required": True, "text": "Impression"},
        {"linkId": "contrast", "type": "boolean"},
    ]
}


def item(link, *texts, **more):
    return {"linkId": link, "answer": [{"valueString": t} for t in texts]} | more


@pytest.mark.parametrize(
    ("items", "wrong"),
    [
        ([{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i")], []),
        ([item("impression", "i")], ["QuestionnaireResponse.item.where(linkId='g')"]),
        (
            [{"linkId": "g", "item": [item("findings", " ")]}, item("impression", "i")],
            ["QuestionnaireResponse.item[0].item.where(linkId='findings')"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}],
            ["QuestionnaireResponse.item.where(linkId='impression')", "QuestionnaireResponse.item"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f", "g")]}, item("impression", "i")],
            ["QuestionnaireResponse.item[0].item.where(linkId='findings')"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i"), item("other", "x")],
            ["QuestionnaireResponse.item[2]"],
        ),
        (
            [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i"), item("contrast", "x")],
            ["QuestionnaireResponse.item[2].answer"],
        ),
    ],
)
def test_each_contract_item_that_is_not_met_is_named(items, wrong):
    assert [issue.expression for issue in contract.failures(TEMPLATE, {"item": items}, None)] == wrong


def test_the_language_of_the_contract():
    response = {"language": "de", "item": [{"linkId": "g", "item": [item("findings", "f")]}, item("impression", "i")]}
    assert [i.expression for i in contract.failures(TEMPLATE, response, "pl")] == ["QuestionnaireResponse.language"]
    assert contract.failures(TEMPLATE, response, "de-AT") == []


def test_the_narrative_escapes_what_was_typed():
    from fhirserver.primitives import is_xhtml

    div = contract.narrative({"item": [item("impression", "<script>alert(1)</script> & more", text="A < B")]})
    assert "<script>" not in div
    assert is_xhtml(div)
