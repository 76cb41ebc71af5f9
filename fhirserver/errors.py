"""What can go wrong, each class with its wire code.

FHIRError
├── BadRequest 400            Unsupported 400      TooCostly 400
├── Unauthorized 401
├── Forbidden 403             InsufficientScope 403
├── NotFound 404              NoSuchReference 422
├── MethodNotAllowed 405      NotAcceptable 406     UnsupportedMediaType 415
├── Conflict 409              LockError 409         Duplicate 409
├── Gone 410
├── PreconditionFailed 412    TooLarge 413
├── Invalid 422               BusinessRule 422
├── Unavailable 503
└── InsufficientStorage 507

An error names what is wrong and where; never a patient's data.
https://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Issue:
    """One line of an OperationOutcome; ``expression`` is a FHIRPath."""

    code: str
    diagnostics: str
    expression: str | None = None
    severity: str = "error"
    details: tuple[str, str] | None = None

    def document(self) -> dict[str, Any]:
        row: dict[str, Any] = {"severity": self.severity, "code": self.code}
        if self.details:
            row["details"] = {"coding": [{"system": self.details[0], "code": self.details[1]}]}
        row["diagnostics"] = self.diagnostics
        if self.expression:
            row["expression"] = [self.expression]
        return row


@dataclass
class FHIRError(Exception):
    """Base of all errors that reach a client: ``status`` and issue ``code`` stand on the class."""

    diagnostics: str = ""
    expression: str | None = None
    details: tuple[str, str] | None = None
    issues: list[Issue] = field(default_factory=list)
    status: ClassVar[int] = 500
    code: ClassVar[str] = "exception"
    headers: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        super().__init__(self.diagnostics)
        if not self.issues:
            self.issues = [Issue(self.code, self.diagnostics, self.expression, details=self.details)]

    def outcome(self) -> dict[str, Any]:
        return outcome(self.issues)

    def at(self, prefix: str) -> FHIRError:
        """The same error, told as being at ``prefix`` (a Bundle entry)."""
        moved = [Issue(i.code, i.diagnostics, _below(prefix, i.expression), i.severity, i.details) for i in self.issues]
        return type(self)(self.diagnostics, self.expression, self.details, moved)


def _below(prefix: str, expression: str | None) -> str:
    """``Patient.gender`` of an entry is ``Bundle.entry[1].resource.gender``."""
    _, _, rest = (expression or "").partition(".")
    return f"{prefix}.resource.{rest}" if rest else f"{prefix}.resource" if expression else prefix


def outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [issue.document() for issue in issues]}


class BadRequest(FHIRError):
    status, code = 400, "invalid"


class Unsupported(FHIRError):
    status, code = 400, "not-supported"


class TooCostly(FHIRError):
    status, code = 400, "too-costly"


class Unauthorized(FHIRError):
    status, code = 401, "login"
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="fhir"'}


class InvalidToken(Unauthorized):
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="fhir", error="invalid_token"'}


class Forbidden(FHIRError):
    status, code = 403, "forbidden"


class InsufficientScope(Forbidden):
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="fhir", error="insufficient_scope"'}


class NotFound(FHIRError):
    """Missing, or hidden from this caller: the two are told in the same words."""

    status, code = 404, "not-found"


class MethodNotAllowed(FHIRError):
    status, code = 405, "not-supported"


class NotAcceptable(FHIRError):
    status, code = 406, "not-supported"


class Conflict(FHIRError):
    status, code = 409, "conflict"


class LockError(FHIRError):
    status, code = 409, "lock-error"


class Duplicate(FHIRError):
    status, code = 409, "duplicate"


class Gone(FHIRError):
    status, code = 410, "deleted"


class PreconditionFailed(FHIRError):
    status, code = 412, "conflict"


class TooLarge(FHIRError):
    status, code = 413, "too-long"


class UnsupportedMediaType(FHIRError):
    status, code = 415, "not-supported"


class Invalid(FHIRError):
    """The resource breaks the standard's structure or a rule of its type; every problem is an issue."""

    status, code = 422, "invalid"


class NoSuchReference(FHIRError):
    """A reference to nothing, or to something hidden from the writer."""

    status, code = 422, "not-found"


class BusinessRule(FHIRError):
    status, code = 422, "business-rule"


class Unavailable(FHIRError):
    status, code = 503, "transient"
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


class InsufficientStorage(FHIRError):
    """The disk is full. Nothing was changed; when there is room again, it works again."""

    status, code = 507, "no-store"
