"""What apps are launched on: the context of a record, and what a person chooses from in a picker.

Asked as the person, through ``dispatch``: what they may not see they cannot launch on, and the audit trail knows of it.
https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html#launch-context-arrives-with-your-access_token
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auth.principal import Principal
from auth.records import MOST_CHOICES, Access, Choice
from auth.scopes import CONTEXTS
from fhirserver.dispatch import dispatch
from fhirserver.errors import FHIRError
from fhirserver.messages import Context, Request
from fhirserver.primitives import is_id
from fhirserver.search.reference import local, relative
from fhirserver.validation import Document, loads

NewContext = Callable[[Principal], Context]
# what of other types belongs to the same case: (its type, the parameter by which it refers to the focus)
_REFERRING = {
    "ServiceRequest": (("ImagingStudy", "basedon"), ("DiagnosticReport", "based-on")),
    "ImagingStudy": (("DiagnosticReport", "media-study"),),
}
_REFERRED = {
    "DiagnosticReport": ("basedOn", "imagingStudy"),
    "ImagingStudy": ("basedOn",),
    "Encounter": (),
    "ServiceRequest": (),
}


class Launching:
    """``new_context`` acts for a principal."""

    def __init__(self, new_context: NewContext) -> None:
        self._new_context = new_context

    def context(self, principal: Principal, reference: str) -> dict[str, Any] | None:
        """patient, encounter, fhirContext and a title; None where the person may not see it."""
        focus = self._read(principal, reference)
        if focus is None:
            return None
        type_ = focus["resourceType"]
        if type_ == "Patient":
            return {"patient": focus["id"], "title": _person(focus)}
        patient = _target(focus.get("subject"), "Patient")
        found: dict[str, Any] = {"title": _titled(focus)}
        if patient and (person := self._read(principal, f"Patient/{patient}")):
            found |= {"patient": patient, "title": f"{_titled(focus)} — {_person(person)}"}
        encounter = focus["id"] if type_ == "Encounter" else _target(focus.get("encounter"), "Encounter")
        if encounter and self._read(principal, f"Encounter/{encounter}"):
            found["encounter"] = encounter
        about = [] if type_ == "Encounter" else [reference, *self._beside(principal, focus)]
        return found | {"fhirContext": [{"reference": one} for one in dict.fromkeys(about)]}

    def _beside(self, principal: Principal, focus: Document) -> list[str]:
        """The order, studies and reports of the same case, as far as the person may see them."""
        named = [
            one.get("reference", "") for member in _REFERRED.get(focus["resourceType"], ()) for one in focus.get(member, ())
        ]
        visible = [
            one for one in named if one.partition("/")[0] in ("ServiceRequest", "ImagingStudy") and self._read(principal, one)
        ]
        for type_, parameter in _REFERRING.get(focus["resourceType"], ()):
            if parameter == "media-study":
                orders = [one for one in visible if one.startswith("ServiceRequest/")]
                rows = self._search(principal, type_, ("based-on", ",".join(orders))) if orders else []
            else:
                rows = self._search(principal, type_, (parameter, f"{focus['resourceType']}/{focus['id']}"))
            visible += [f"{type_}/{row['id']}" for row in rows]
        return visible

    def choices(self, principal: Principal, type_: str, words: str, patient: str | None) -> list[Choice]:
        """The newest first; patients by name or number, the rest of the patient who was chosen."""
        if type_ == "Patient":
            parameter = "identifier" if any(c.isdigit() for c in words) else "name"
            rows = self._search(principal, type_, *([(parameter, words.replace(",", " "))] if words else []))
            return [Choice(f"Patient/{row['id']}", _person(row), _numbers(row)) for row in rows]
        rows = self._search(principal, type_, *([("subject", f"Patient/{patient}")] if patient else []))
        return [Choice(f"{type_}/{row['id']}", _titled(row), _detail(row)) for row in rows]

    def accesses(self, principal: Principal, patient: str) -> tuple[str, list[Access]] | None:
        """A patient's title, and who saw their record; None where it is not told to this person."""
        found = self._read(principal, f"Patient/{patient}")
        if found is None:
            return None
        try:
            reply = dispatch(self._new_context(principal), Request("GET", f"Patient/{patient}/$access-log"))
        except FHIRError:
            return None
        return _person(found), [_access(row["part"]) for row in loads(reply.body).get("parameter", ())]

    def _read(self, principal: Principal, reference: str) -> Document | None:
        """A resource that an app can be launched on; None for anything else."""
        type_, _, id_ = reference.partition("/")
        if type_ not in CONTEXTS.values() or not is_id(id_):
            return None
        try:
            context = self._new_context(principal)
            found: Document = relative(loads(dispatch(context, Request("GET", reference)).body), context.base)
        except FHIRError:
            return None
        return found

    def _search(self, principal: Principal, type_: str, *pairs: tuple[str, str]) -> list[Document]:
        asked = (*pairs, ("_count", str(MOST_CHOICES)), ("_sort", "-_lastUpdated"))
        try:
            context = self._new_context(principal)
            reply = dispatch(context, Request("GET", type_, asked))
        except FHIRError:  # of words that no search takes nothing is found
            return []
        return [relative(entry["resource"], context.base) for entry in loads(reply.body).get("entry", ())]


def _target(reference: Any, type_: str) -> str | None:
    """The id that a reference is to, without a version."""
    found = local(reference.get("reference", ""), "") if isinstance(reference, dict) else None
    return found[1] if found and found[0] == type_ else None


def _person(patient: Document) -> str:
    name: Document = next(iter(patient.get("name", ())), {})
    text = name.get("text") or " ".join([*name.get("given", ()), name.get("family", "")]).strip()
    return " · ".join(part for part in (text or patient["id"], patient.get("birthDate", "")) if part)


def _numbers(patient: Document) -> str:
    return ", ".join(one["value"] for one in patient.get("identifier", ()) if "value" in one)


def _titled(row: Document) -> str:
    code = (
        row.get("code") or next(iter(row.get("type", ())), {})
        if isinstance(row.get("type", []), list)
        else row.get("code") or {}
    )
    coded: Any = code if isinstance(code, dict) else {}
    shown = coded.get("text") or next((c.get("display") or c.get("code") for c in coded.get("coding", ())), None)
    modalities = "/".join(c.get("code", "") for c in row.get("modality", ()) if isinstance(c, dict))
    said = row.get("description") or shown or row["resourceType"]
    return said if said.startswith(modalities) else f"{modalities} {said}"


def _detail(row: Document) -> str:
    period = row.get("period", {}).get("start") if isinstance(row.get("period"), dict) else None
    when = row.get("started") or row.get("effectiveDateTime") or row.get("issued") or row.get("authoredOn") or period or ""
    return " · ".join(part for part in (when[:16].replace("T", " "), row.get("status", "")) if part)


def _access(parts: list[Document]) -> Access:
    said = {part["name"]: part for part in parts}
    who = said.get("person", {}).get("valueReference", {}).get("display") or said.get("system", {}).get("valueString", "")
    return Access(
        when=said["when"]["valueInstant"][:19].replace("T", " "),
        organization=said.get("organization", {}).get("valueReference", {}).get("display", ""),
        who=who,
        what=said["what"]["valueCode"],
        kinds=tuple(part["valueCode"] for part in parts if part["name"] == "category"),
        emergency="emergency" in said,
        refused="refused" in said,
    )
