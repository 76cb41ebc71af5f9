"""Task: the work on an order. Adds ``due``, the deadline, which R4's ``period`` (executionPeriod) is not.

https://hl7.org/fhir/R4/task.html
"""

from __future__ import annotations

from fhirserver.definitions import ResourceType, SearchParam
from fhirserver.workflow import states

TASK = ResourceType(
    "Task",
    search=(SearchParam("due", "date", "Task.restriction.period.end", url="urn:fhirserver:SearchParameter:Task-due"),),
    sorts=("authored-on", "due", "priority"),
    ranks={"priority": states.PRIORITY_RANKS},
    rules=(states.status_rule("Task"),),
    deletable=False,
)
