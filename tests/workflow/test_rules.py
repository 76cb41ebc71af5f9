"""Matching, eligibility and ranking: pure functions."""

from __future__ import annotations

import base64
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from fhirserver.workflow import eligibility, policy, ranking
from fhirserver.workflow.eligibility import Licence, Load, Privilege, Reader, Reading, Shift, judge, within
from fhirserver.workflow.matching import Candidate, match

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
AT = int(NOW.timestamp() * 1000)
LICENSED = {"qualification": [{"code": {"text": "licence"}, "period": {"start": "2020"}}]}
POLISH = {"url": "urn:fhirserver:StructureDefinition:jurisdiction", "valueCode": "PL"}
ROLE = {"organization": {"reference": "Organization/h"}, "code": [{"coding": [{"code": "final"}]}]}
CT = Reading("h", ("CT",))


def modality(code):
    return {"specialty": [{"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code}]}]}


def facts(person, *roles, **members):
    rows = tuple(eligibility.privilege(f"PractitionerRole/r{number}", role) for number, role in enumerate(roles))
    licences, languages = eligibility.licences(person), eligibility.languages(person)
    return Reader("Practitioner/p", person.get("active", True), licences, rows, languages, **members)


@pytest.mark.parametrize(
    ("person", "role", "reading", "failed"),
    [
        (LICENSED, ROLE, CT, ()),
        (LICENSED, ROLE | modality("CT"), CT, ()),
        ({}, ROLE, CT, ("no-valid-licence",)),
        ({"qualification": [{"period": {"end": "2026-11-23"}}]}, ROLE, CT, ("no-valid-licence",)),
        ({"qualification": [{"period": {"end": "2026-11-24"}}]}, ROLE, CT, ()),
        (LICENSED | {"active": False}, ROLE, CT, ("no-valid-licence",)),
        (LICENSED, ROLE, Reading("h", jurisdiction="PL"), ()),
        ({"qualification": [{"extension": [POLISH]}]}, ROLE, Reading("h", jurisdiction="PL"), ()),
        ({"qualification": [{"extension": [POLISH]}]}, ROLE, Reading("h", jurisdiction="DE"), ("no-licence-in-jurisdiction",)),
        (LICENSED, ROLE | {"period": {"end": "2026-11-23"}}, CT, ("privilege-expired",)),
        (LICENSED, ROLE | {"active": False}, CT, ("no-privilege",)),
        (LICENSED, ROLE, Reading("other", ("CT",)), ("no-privilege",)),
        (LICENSED, ROLE, Reading("h", ("CT",), "preliminary"), ("no-read-type-privilege",)),
        (LICENSED, ROLE | modality("MR"), CT, ("no-modality-privilege",)),
        (LICENSED, ROLE | modality("CT"), Reading("h", ("CT", "PT")), ("no-modality-privilege",)),
        (LICENSED, ROLE, Reading("h", requesters=("Practitioner/p",)), ("conflict-of-interest",)),
        (LICENSED, ROLE, Reading("h", earlier_readers=("Practitioner/p",)), ("earlier-reader",)),
    ],
)
def test_each_hard_rule(person, role, reading, failed):
    verdict = judge(reading, facts(person, role), AT)
    assert verdict.failed == failed
    assert verdict.eligible == (not failed)


@pytest.mark.parametrize(
    ("covers", "priority", "exclusive", "failed"),
    [
        (("stat|other",), "stat", ("stat",), ("exclusive-cover",)),
        (("stat|h",), "stat", ("stat",), ()),
        (("routine|other",), "stat", ("stat",), ()),
        (("stat|other",), "routine", ("stat",), ()),
        (("stat|other",), "stat", (), ()),
    ],
)
def test_exclusive_cover_keeps_urgent_patients_of_two_facilities_apart(covers, priority, exclusive, failed):
    reading = Reading("h", priority=priority, exclusive=exclusive)
    assert judge(reading, facts(LICENSED, ROLE, load=Load(covers=covers)), AT).failed == failed


def test_language_is_a_soft_rule():
    person = LICENSED | {"communication": [{"coding": [{"code": "pl"}]}]}
    assert judge(Reading("h", language="de"), facts(person, ROLE), AT).soft == ("language",)
    assert judge(Reading("h", language="pl-PL"), facts(person, ROLE), AT).soft == ()


@pytest.mark.parametrize(
    ("shift", "soft"),
    [
        (None, ()),
        (Shift(on=True), ()),
        (Shift(), ("off-shift",)),
        (Shift(on=True, absent=True), ("absent",)),
        (Shift(absent=True), ("absent",)),
    ],
)
def test_the_roster_is_a_soft_rule_where_one_is_kept(shift, soft):
    assert judge(CT, facts(LICENSED, ROLE, shift=shift), AT).soft == soft


def test_of_the_privileges_that_fit_the_longest_counts_and_the_first_to_lapse_is_told():
    person = {"qualification": [{"period": {"end": "2027-06-30"}}]}
    short, long = ROLE | {"period": {"end": "2027-01-31"}}, ROLE | {"period": {"end": "2028-01-31"}}
    verdict = judge(CT, facts(person, short, long), AT)
    assert verdict.role == "PractitionerRole/r1"
    assert datetime.fromtimestamp(verdict.expires / 1000, timezone.utc).date().isoformat() == "2027-07-01"
    assert judge(CT, facts(LICENSED, ROLE), AT).expires is None


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


READERS = st.lists(
    st.builds(
        lambda n, licensed, expired, languages, now, stat, shift, prior: Reader(
            f"Practitioner/p{n}",
            licences=(Licence(),) if licensed else (),
            privileges=(Privilege(f"PractitionerRole/r{n}", "h", ("final",), high=AT - 1 if expired else 2**53),),
            languages=languages,
            load=Load(now + stat, stat, shift),
            prior=prior,
        ),
        st.integers(0, 99),
        st.booleans(),
        st.booleans(),
        st.sampled_from([(), ("pl",), ("de",)]),
        st.integers(0, 9),
        st.integers(0, 3),
        st.integers(0, 50),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda r: r.reference,
)
READINGS = st.builds(
    Reading,
    st.just("h"),
    priority=st.sampled_from(["stat", "asap", "urgent", "routine"]),
    language=st.sampled_from([None, "pl"]),
    due=st.one_of(st.none(), st.integers(AT - 10**7, AT + 10**8)),
)


@given(READINGS, READERS)
def test_nobody_ineligible_is_ever_ranked_above_somebody_eligible(reading, readers):
    found = ranking.candidates(reading, readers, policy.DEFAULT, AT)
    order = [c.verdict.eligible for c in found]
    assert order == sorted(order, reverse=True)
    again = ranking.candidates(reading, readers[::-1], policy.DEFAULT, AT)
    assert [c.reader.reference for c in found] == [c.reader.reference for c in again]
    assert all(0 <= c.score <= 1 for c in found)
    assert all(c.score == 0 for c in found if not c.verdict.eligible)


@given(READINGS, READERS)
def test_a_stored_decision_replays_to_the_same_result(reading, readers):
    found = ranking.candidates(reading, readers, policy.DEFAULT, AT)
    stored = ranking.decided("auto", "Practitioner/p", AT, policy.DEFAULT, reading, found).packed()
    assert ranking.same(ranking.unpacked(stored))


def test_a_decision_that_was_altered_does_not_replay():
    found = ranking.candidates(CT, [facts(LICENSED, ROLE), facts({}, ROLE)], policy.DEFAULT, AT)
    decision = ranking.decided("auto", "Practitioner/p", AT, policy.DEFAULT, CT, found)
    forged = structs.replace(decision.candidates[1], eligible=True, failed=())
    assert not ranking.same(structs.replace(decision, candidates=(decision.candidates[0], forged)))
    with pytest.raises(ValueError, match="no decision"):
        ranking.unpacked(base64.b64encode(b"nonsense").decode())


@pytest.mark.parametrize(
    ("better", "worse", "reading"),
    [
        ({"load": Load(1)}, {"load": Load(2)}, CT),
        ({"load": Load(4, 0)}, {"load": Load(3, 2)}, Reading("h", ("CT",), priority="stat")),
        ({"prior": True}, {}, CT),
        ({"load": Load(1, 0, 3)}, {"load": Load(1, 0, 30)}, CT),
    ],
)
def test_what_ranks_a_reader_higher(better, worse, reading):
    rows = [structs.replace(facts(LICENSED, ROLE, **worse), reference="Practitioner/a"), facts(LICENSED, ROLE, **better)]
    assert ranking.candidates(reading, rows, policy.DEFAULT, AT)[0].reader.reference == "Practitioner/p"


def test_a_sub_specialist_goes_before_others():
    neuro = ROLE | {"specialty": [{"coding": [{"system": "urn:x", "code": "neuro"}]}]}
    rows = [structs.replace(facts(LICENSED, ROLE), reference="Practitioner/a"), facts(LICENSED, neuro)]
    found = ranking.candidates(Reading("h", specialty=("neuro",)), rows, policy.DEFAULT, AT)
    assert [c.reader.reference for c in found] == ["Practitioner/p", "Practitioner/a"]


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
