"""Task: the work on an order. Adds ``due``, the deadline, which R4's ``period`` (executionPeriod) is not, and ``timer``.

https://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType, SearchParam, never
from fhirserver.workflow import coding, states


def _open_work(task: dict[str, Any]) -> list[str]:
    """I1: an order has one open coordination Task of one placer, and that one open attempt of each kind."""
    if task["status"] not in states.OPEN_TASK:
        return []
    kinds = coding.codes(task.get("code"), coding.TASK_TYPE)
    if "coordinate" in kinds:
        return [f"coordinate|{task.get('focus', {}).get('reference')}"]
    return [f"{kind}|{task['partOf'][0].get('reference')}" for kind in sorted(kinds & states.ATTEMPTS) if task.get("partOf")]


def _told(task: dict[str, Any], kind: str) -> list[str]:
    """What Task.input says of one kind, as text."""
    rows = (row for row in task.get("input", ()) if kind in coding.codes(row.get("type"), coding.TASK_TYPE))
    values = (value for row in rows for name, value in row.items() if name.startswith("value"))
    return [str(value.get("reference", "")) if isinstance(value, dict) else str(value) for value in values]


def _counted(task: dict[str, Any]) -> list[str]:
    """By which worklists are narrowed; and whose load an attempt is: while it is open of what urgency and for which facility,
    then that it was done."""
    tags = [f"~{kind}={value}" for kind in ("modality", "facility", "region") for value in _told(task, kind)]
    if coding.codes(task.get("code"), coding.TASK_TYPE) & states.ATTEMPTS:
        for reader in _told(task, "reader"):
            if task["status"] in states.OPEN_TASK:
                facility = next(iter(_told(task, "facility")), "")
                tags += [f"~load={reader}", f"~load.of={reader}|{task.get('priority', 'routine')}|{facility}"]
            elif task["status"] == "completed":
                tags.append(f"~done={reader}")
    return tags


def _queues(task: dict[str, Any]) -> list[str]:
    """The worklists that it waits in while it is open, each of somebody."""
    if task["status"] not in states.OPEN_TASK:
        return []
    kinds = coding.codes(task.get("code"), coding.TASK_TYPE)
    owner = task.get("owner", {}).get("reference", "")
    asked_by = task.get("requester", {}).get("reference", "")
    if "coordinate" in kinds:
        return [f"dispatch|{owner}", f"facility|{asked_by}"]
    if kinds & states.ATTEMPTS:
        return [f"{'pool' if owner.startswith('Organization/') else 'mine'}|{owner}", f"team|{asked_by}"]
    if "acknowledge" in kinds:
        return [f"critical|{owner}", f"critical|{asked_by}"]
    if kinds & {"peer-review", "adjudicate"}:
        return [f"peer-review|{owner}"]
    return [f"mine|{owner}"] if kinds and owner else []


TASK = ResourceType(
    "Task",
    search=(
        SearchParam("due", "date", "Task.restriction.period.end", url="urn:fhirserver:SearchParameter:Task-due"),
        # When the server is to look at it next: a lease, a level of the ladder, the end of a shift.
        SearchParam(
            "timer", "date", f"Task.extension('{coding.TIMER}').value", url="urn:fhirserver:SearchParameter:Task-timer"
        ),
    ),
    sorts=("authored-on", "due", "priority"),
    ranks={"priority": states.PRIORITY_RANKS},
    unique=_open_work,
    derived=_counted,
    queues=_queues,
    rules=(states.status_rule("Task"),),
    deletable=never,
)
