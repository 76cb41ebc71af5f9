"""The operations, one file each: those of the standard, and the reading network's own."""

from fhirserver.definitions import Operation
from fhirserver.operations.access_log import ACCESS_LOG
from fhirserver.operations.assign import ASSIGN
from fhirserver.operations.break_glass import BREAK_GLASS
from fhirserver.operations.claim import CLAIM
from fhirserver.operations.dispatch import DISPATCH
from fhirserver.operations.everything import PATIENT_EVERYTHING
from fhirserver.operations.match import PATIENT_MATCH
from fhirserver.operations.meta import META, META_ADD, META_DELETE
from fhirserver.operations.prioritize import PRIORITIZE
from fhirserver.operations.sign import SIGN
from fhirserver.operations.start_report import START_REPORT
from fhirserver.operations.validate import VALIDATE
from fhirserver.operations.worklist import WORKLIST

OPERATIONS: tuple[Operation, ...] = (
    DISPATCH,
    ASSIGN,
    CLAIM,
    PRIORITIZE,
    WORKLIST,
    START_REPORT,
    SIGN,
    VALIDATE,
    META,
    META_ADD,
    META_DELETE,
    PATIENT_EVERYTHING,
    PATIENT_MATCH,
    BREAK_GLASS,
    ACCESS_LOG,
)
