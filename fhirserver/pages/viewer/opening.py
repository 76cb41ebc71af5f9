"""What is to be shown: the studies of an order, a study or a report, asked for as the person or the app that wants to see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from auth.principal import Principal
from fhirserver.dispatch import dispatch
from fhirserver.errors import BadRequest, NotFound
from fhirserver.messages import Context, Request
from fhirserver.primitives import is_id
from fhirserver.search.reference import local, relative
from fhirserver.validation import Document, loads

KINDS = {"study": "ImagingStudy", "order": "ServiceRequest", "report": "DiagnosticReport"}
PRIOR = "prior"
_MOST = 20


class Opening:
    """``new_context`` acts for a principal; what it reads is in the audit trail as theirs."""

    def __init__(self, new_context: Callable[[Principal], Context]) -> None:
        self._new_context = new_context

    def studies(self, principal: Principal, asked: Iterable[tuple[str, str]]) -> tuple[list[Document], list[Document]]:
        """(studies to be shown, earlier ones that may be compared), of one ``study``, ``order`` or ``report``, and any ``prior``.

        Errors: 400, and what a read answers.
        """
        pairs = list(asked)
        named = [(KINDS[name], value) for name, value in pairs if name in KINDS]
        priors = [value for name, value in pairs if name == PRIOR]
        if len(named) != 1 or len(priors) > _MOST:
            raise BadRequest(f"Name one of {', '.join(KINDS)}, as Type/id, and {_MOST} times prior at most.")
        type_, reference = named[0]
        focus = self._read(principal, type_, reference)
        found = {"ImagingStudy": self._itself, "ServiceRequest": self._of_order, "DiagnosticReport": self._of_report}[type_](
            principal, focus
        )
        ids = {study["id"] for study in found}
        earlier = [self._read(principal, "ImagingStudy", prior) for prior in dict.fromkeys(priors)]
        return found, [study for study in earlier if study["id"] not in ids]

    def study(self, principal: Principal, id_: str) -> Document:
        return self._read(principal, "ImagingStudy", f"ImagingStudy/{id_}")

    def _itself(self, _: Principal, study: Document) -> list[Document]:
        return [study]

    def _of_order(self, principal: Principal, order: Document) -> list[Document]:
        context = self._new_context(principal)
        asked = (("basedon", f"ServiceRequest/{order['id']}"), ("_count", str(_MOST)), ("_sort", "started"))
        reply = dispatch(context, Request("GET", "ImagingStudy", asked))
        return [relative(entry["resource"], context.base) for entry in loads(reply.body).get("entry", ())]

    def _of_report(self, principal: Principal, report: Document) -> list[Document]:
        """Those that it names, else those of its order; what of them is hidden is left out."""
        found = [study for id_ in _named(report, "imagingStudy", "ImagingStudy") if (study := self._seen(principal, id_))]
        for order in () if found else _named(report, "basedOn", "ServiceRequest"):
            found += self._of_order(principal, {"id": order})
        return found

    def _seen(self, principal: Principal, id_: str) -> Document | None:
        try:
            return self.study(principal, id_)
        except NotFound:
            return None

    def _read(self, principal: Principal, type_: str, reference: str) -> Document:
        named, _, id_ = reference.partition("/")
        if named != type_ or not is_id(id_):
            raise NotFound(f"A {type_} is named as {type_}/id.")
        context = self._new_context(principal)
        found: Document = relative(loads(dispatch(context, Request("GET", reference)).body), context.base)
        return found


def uid(study: Document) -> str:
    """Its StudyInstanceUID; "" where it has none."""
    found: Any = (one.get("value", "") for one in study.get("identifier", ()) if one.get("system") == "urn:dicom:uid")
    return str(next(found, "")).removeprefix("urn:oid:")


def _named(resource: Document, member: str, type_: str) -> list[str]:
    targets = (local(one.get("reference", ""), "") for one in resource.get(member, ()))
    return [found[1] for found in targets if found and found[0] == type_]
