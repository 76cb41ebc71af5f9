"""The custom operations, one file each, and the plain writes that are the same acts said in FHIR."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fhirserver.definitions import Operation
from fhirserver.messages import Reply
from fhirserver.operations.assign import ASSIGN
from fhirserver.operations.claim import CLAIM
from fhirserver.operations.dispatch import DISPATCH, task_create
from fhirserver.operations.plain_writes import (
    order_create,
    order_update,
    report_create,
    report_update,
    response_create,
    response_update,
    study_create,
    study_update,
)
from fhirserver.operations.prioritize import PRIORITIZE
from fhirserver.operations.sign import SIGN
from fhirserver.operations.start_report import START_REPORT
from fhirserver.operations.task_status import task_update
from fhirserver.operations.worklist import WORKLIST

OPERATIONS: tuple[Operation, ...] = (DISPATCH, ASSIGN, CLAIM, PRIORITIZE, WORKLIST, START_REPORT, SIGN)

PLAIN_WRITES: Mapping[tuple[str, str], Callable[..., Reply]] = {
    ("create", "Task"): task_create,
    ("update", "Task"): task_update,
    ("create", "ServiceRequest"): order_create,
    ("update", "ServiceRequest"): order_update,
    ("create", "ImagingStudy"): study_create,
    ("update", "ImagingStudy"): study_update,
    ("create", "QuestionnaireResponse"): response_create,
    ("update", "QuestionnaireResponse"): response_update,
    ("create", "DiagnosticReport"): report_create,
    ("update", "DiagnosticReport"): report_update,
}
