"""The operations, one file each: those of the standard, and the reading network's own."""

from fhirserver.definitions import Operation
from fhirserver.operations.access_log import ACCESS_LOG
from fhirserver.operations.acknowledge import ACKNOWLEDGE
from fhirserver.operations.acknowledge_receipt import ACKNOWLEDGE_RECEIPT
from fhirserver.operations.addend import ADDEND
from fhirserver.operations.adjudicate import ADJUDICATE
from fhirserver.operations.answer_consult import ANSWER_CONSULT
from fhirserver.operations.assign import ASSIGN
from fhirserver.operations.auto_assign import AUTO_ASSIGN
from fhirserver.operations.break_glass import BREAK_GLASS
from fhirserver.operations.candidates import CANDIDATES
from fhirserver.operations.check_eligibility import CHECK_ELIGIBILITY
from fhirserver.operations.claim import CLAIM
from fhirserver.operations.consult import CONSULT
from fhirserver.operations.correct import CORRECT
from fhirserver.operations.dispatch import DISPATCH
from fhirserver.operations.escalate import ESCALATE
from fhirserver.operations.evaluate_measure import EVALUATE_MEASURE
from fhirserver.operations.everything import PATIENT_EVERYTHING
from fhirserver.operations.fetch_priors import FETCH_PRIORS
from fhirserver.operations.forward import FORWARD
from fhirserver.operations.match import PATIENT_MATCH
from fhirserver.operations.meta import META, META_ADD, META_DELETE
from fhirserver.operations.notify_critical import NOTIFY_CRITICAL
from fhirserver.operations.prioritize import PRIORITIZE
from fhirserver.operations.priors import PRIORS
from fhirserver.operations.publish_preliminary import PUBLISH_PRELIMINARY
from fhirserver.operations.reconcile import RECONCILE
from fhirserver.operations.register import REGISTER
from fhirserver.operations.release import RELEASE
from fhirserver.operations.report_discrepancy import REPORT_DISCREPANCY
from fhirserver.operations.request_information import REQUEST_INFORMATION
from fhirserver.operations.request_second_read import REQUEST_SECOND_READ
from fhirserver.operations.resolve_discrepancy import RESOLVE_DISCREPANCY
from fhirserver.operations.respond import RESPOND
from fhirserver.operations.retract import RETRACT
from fhirserver.operations.sample_for_review import SAMPLE_FOR_REVIEW
from fhirserver.operations.sign import SIGN
from fhirserver.operations.start_report import START_REPORT
from fhirserver.operations.statement import STATEMENT
from fhirserver.operations.submit_review import SUBMIT_REVIEW
from fhirserver.operations.submit_second_read import SUBMIT_SECOND_READ
from fhirserver.operations.validate import VALIDATE
from fhirserver.operations.worklist import WORKLIST

OPERATIONS: tuple[Operation, ...] = (
    # intake, images, priors
    DISPATCH,
    REGISTER,
    RECONCILE,
    PRIORS,
    FETCH_PRIORS,
    # assignment
    CANDIDATES,
    ASSIGN,
    AUTO_ASSIGN,
    CLAIM,
    RELEASE,
    RESPOND,
    FORWARD,
    REQUEST_INFORMATION,
    CHECK_ELIGIBILITY,
    # urgency
    PRIORITIZE,
    ESCALATE,
    WORKLIST,
    # reporting
    START_REPORT,
    PUBLISH_PRELIMINARY,
    SIGN,
    ADDEND,
    CORRECT,
    RETRACT,
    ACKNOWLEDGE_RECEIPT,
    # second readings and consultation
    REQUEST_SECOND_READ,
    SUBMIT_SECOND_READ,
    CONSULT,
    ANSWER_CONSULT,
    # quality
    SAMPLE_FOR_REVIEW,
    SUBMIT_REVIEW,
    ADJUDICATE,
    REPORT_DISCREPANCY,
    RESOLVE_DISCREPANCY,
    # critical results
    NOTIFY_CRITICAL,
    ACKNOWLEDGE,
    # figures and money
    EVALUATE_MEASURE,
    STATEMENT,
    # the standard's, and access
    VALIDATE,
    META,
    META_ADD,
    META_DELETE,
    PATIENT_EVERYTHING,
    PATIENT_MATCH,
    BREAK_GLASS,
    ACCESS_LOG,
)
