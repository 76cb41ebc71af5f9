"""Task: the work on an order. Adds ``due``, the deadline, which R4's ``period`` (executionPeriod) is not.

https://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from typing import Any

from fhirserver.definitions import ResourceType, SearchParam, never
from fhirserver.workflow import coding, states


def _open_work(task: dict[str, Any]) -> list[str]:
    """I1: an order has one open coordination Task, and that one open attempt."""
    if task["status"] not in states.OPEN_TASK:
        return []
    kinds = coding.codes(task.get("code"), coding.TASK_TYPE)
    if "coordinate" in kinds:
        return [f"coordinate|{task.get('focus', {}).get('reference')}"]
    return [f"read|{task['partOf'][0].get('reference')}"] if "read" in kinds and task.get("partOf") else []


TASK = ResourceType(
    "Task",
    search=(SearchParam("due", "date", "Task.restriction.period.end", url="urn:fhirserver:SearchParameter:Task-due"),),
    sorts=("authored-on", "due", "priority"),
    ranks={"priority": states.PRIORITY_RANKS},
    unique=_open_work,
    rules=(states.status_rule("Task"),),
    deletable=never,
)
