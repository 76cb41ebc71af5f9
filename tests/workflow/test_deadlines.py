"""Agreements, working calendars and deadlines: pure. A day on which the clock is changed has 23 or 25 hours."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.workflow import agreement, deadlines
from fhirserver.workflow.agreement import DEFAULT, Term
from fhirserver.workflow.calendars import Calendar

WARSAW = Calendar("Europe/Warsaw", country="PL")
ROUND_THE_CLOCK = Calendar(
    "Europe/Warsaw", dict.fromkeys(("mon", "tue", "wed", "thu", "fri", "sat", "sun"), ("00:00", "24:00"))
)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


MOMENTS = st.integers(0, 4 * 365 * 86_400).map(lambda s: utc("2024-01-01T00:00") + timedelta(seconds=s))


@pytest.mark.parametrize(("priority", "hours"), [("stat", 1), ("asap", 4), ("urgent", 24), ("routine", 72)])
def test_without_an_agreement_the_defaults_hold(priority, hours):
    start = utc("2026-11-24T12:00")
    assert deadlines.due(DEFAULT, DEFAULT.term(priority), start) - start == timedelta(hours=hours)


def test_stroke_and_trauma_are_due_in_half_an_hour():
    assert DEFAULT.term("stat", frozenset({"230690007"})).minutes == 30
    assert DEFAULT.term("stat", frozenset({"I63.9"})).minutes == 30
    assert DEFAULT.term("urgent", frozenset({"I63.9"})).minutes == 24 * 60


@pytest.mark.parametrize(
    ("start", "hours", "end"),
    [
        ("2026-11-24T09:00", 2, "2026-11-24T11:00"),  # a Tuesday, 10:00 in Warsaw
        ("2026-11-24T14:00", 2, "2026-11-25T08:00"),  # an hour before the office closes, and one of the next day
        ("2026-11-27T14:30", 1, "2026-11-30T07:30"),  # over a weekend
        ("2026-11-10T14:00", 2, "2026-11-12T08:00"),  # over Independence Day
        ("2026-10-23T13:00", 8, "2026-10-26T14:00"),  # a Friday in summer time to a Monday in winter time
        ("2026-03-27T14:00", 8, "2026-03-30T13:00"),  # and back
        ("2026-12-24T10:00", 16, "2026-12-29T15:00"),  # Christmas Eve is free in Poland since 2025
    ],
)
def test_working_time_is_the_facilitys_own_clock_and_holidays(start, hours, end):
    term = Term(hours * 60, working=True)
    assert deadlines.due(agreement.Agreement(calendar=WARSAW), term, utc(start)) == utc(end)


def test_a_day_of_25_hours_has_25_hours_of_working_time():
    low, high = utc("2026-10-24T22:00"), utc("2026-10-25T23:00")  # midnight to midnight in Warsaw
    assert ROUND_THE_CLOCK.elapsed(low, high) == timedelta(hours=25)
    assert ROUND_THE_CLOCK.elapsed(utc("2026-03-28T23:00"), utc("2026-03-29T22:00")) == timedelta(hours=23)


@given(MOMENTS, st.integers(1, 60 * 24 * 20))
def test_what_was_advanced_has_elapsed(start, minutes):
    for calendar in (WARSAW, ROUND_THE_CLOCK):
        end = calendar.advanced(start, timedelta(minutes=minutes))
        assert calendar.elapsed(start, end) == timedelta(minutes=minutes)


@given(MOMENTS, st.integers(1, 60 * 24 * 5), st.booleans())
def test_the_steps_of_the_ladder_are_in_order_and_the_hundredth_percent_is_the_deadline(start, minutes, working):
    terms, term = agreement.Agreement(calendar=WARSAW), Term(minutes, working, (50, 80, 100))
    end = deadlines.due(terms, term, start)
    found = deadlines.steps(WARSAW, term, start, end)
    assert found == sorted(found)
    assert start <= found[0]
    assert abs(found[-1] - end) < timedelta(milliseconds=1)


@given(MOMENTS, st.integers(1, 60 * 24 * 3), st.integers(0, 60 * 24 * 3), st.booleans())
def test_a_pause_makes_the_deadline_later_by_the_time_that_the_clock_stood(start, minutes, stood, working):
    terms, term = agreement.Agreement(calendar=WARSAW), Term(minutes, working)
    end = deadlines.due(terms, term, start)
    now = start + timedelta(minutes=stood)
    later = deadlines.resumed(terms, term, end, start, now)
    if working:
        assert WARSAW.elapsed(end, later) == WARSAW.elapsed(start, now)
    else:
        assert later - end == now - start


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ({"terms": {"stat": {"minutes": 0}}}, "minutes"),
        ({"terms": {"stat": {"minutes": 60, "within": 5}}}, "within"),
        ({"terms": {"cito": {"minutes": 60}}}, "cito"),
        ({"urgencies": {"cito": "now"}}, "now"),
        ({"calendar": {"timeZone": "Mars/Olympus"}}, "no time zone"),
        ({"calendar": {"country": "XX"}}, "no country"),
        ({"calendar": {"hours": {"mon": ["16:00", "08:00"]}}}, "from an earlier to a later"),
        ({"calendar": {"hours": {"mon": ["8", "16:00"]}}}, "no time of day"),
        ({"calendar": {"hours": {}}}, "one day at least"),
        ({"clock": "whenever"}, "whenever"),
        ({"unknown": 1}, "unknown"),
        ([], "object"),
    ],
)
def test_what_is_not_understood_of_an_agreement_is_named(content, wrong):
    with pytest.raises(ValueError, match=wrong):
        agreement.parsed(json.dumps(content).encode())


def test_the_facilitys_own_words_for_urgency():
    terms = agreement.parsed(b'{"urgencies": {"cito": "stat", "pilne": "urgent"}}')
    assert terms.urgency(frozenset({"CITO", "pilne"})) == "stat"
    assert terms.urgency(frozenset({"zwykle"})) is None


@pytest.mark.parametrize(
    ("when", "band"),
    [
        ("2026-11-24T09:00", "day"),
        ("2026-11-24T18:30", "night"),
        ("2026-11-28T09:00", "weekend"),
        ("2026-11-11T09:00", "holiday"),
    ],
)
def test_time_bands_are_the_wall_clocks(when, band):
    assert WARSAW.band(utc(when)) == band
