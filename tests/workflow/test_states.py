"""Lifecycles are tables: every cell is walked."""

from __future__ import annotations

import itertools

import pytest

from fhirserver import r4
from fhirserver.workflow import states

VALUE_SETS = {"ServiceRequest": "request-status", "Task": "task-status", "DiagnosticReport": "diagnostic-report-status"}


@pytest.mark.parametrize("kind", sorted(states.TABLES))
def test_the_table_knows_every_status_of_the_standard(kind):
    codes = r4.structure(kind).elements["status"].codes
    table = states.TABLES[kind]
    assert {status for status in table if status} == codes
    assert all(following <= codes for following in table.values())


@pytest.mark.parametrize("kind", sorted(states.TABLES))
def test_every_cell_is_allowed_or_refused_with_its_place(kind):
    table = states.TABLES[kind]
    for old, new in itertools.product(table, [status for status in table if status]):
        issues = states.transition(kind, old, new)
        assert (issues == []) == (old == new or new in table[old]), (old, new)
        for issue in issues:
            assert issue.expression == f"{kind}.status"
            assert new in issue.diagnostics


def test_nothing_leaves_entered_in_error():
    assert all(table["entered-in-error"] == frozenset() for table in states.TABLES.values())


def test_a_report_only_moves_forward():
    """I4: no path leads from a published status back to an unpublished one."""
    published = {"final", "amended", "corrected", "appended"}
    for status in published:
        assert states.DIAGNOSTIC_REPORT[status] <= published | {"entered-in-error"}
    assert "registered" not in states.DIAGNOSTIC_REPORT["preliminary"]


def test_a_closed_task_never_opens_again():
    for status in ("rejected", "cancelled", "failed", "completed"):
        assert not states.TASK[status] & states.OPEN_TASK


@pytest.mark.parametrize(
    ("status", "ended"),
    [("requested", "cancelled"), ("accepted", "cancelled"), ("in-progress", "failed"), ("on-hold", "failed")],
)
def test_a_release_after_the_start_is_a_failure(status, ended):
    assert states.released(status) == ended
    assert states.allowed("Task", status, ended)
