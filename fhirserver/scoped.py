"""What a token's scopes leave of a resource type: query parts and the patient in context, compiled once to parts of the index.

https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from auth.scopes import Scope
from fhirserver import r4
from fhirserver.definitions import ResourceType
from fhirserver.errors import FHIRError
from fhirserver.search.parameters import parameters
from fhirserver.search.query import parse
from fhirserver.versions import Part, Withheld

# Nobody's record: of these a patient/ scope that names them (or *) reads what the user may read.
DIRECTORY = frozenset({
    "Organization", "OrganizationAffiliation", "Practitioner", "PractitionerRole", "Location", "Endpoint", "HealthcareService",
    "Medication", "Substance", "Questionnaire", "ValueSet", "CodeSystem", "StructureDefinition", "SearchParameter",
    "OperationDefinition", "CapabilityStatement", "PlanDefinition", "ActivityDefinition",
})  # fmt: skip
# One of them may tell of several patients: of those an app for one patient is told nothing.
_OF_SEVERAL = frozenset({"AuditEvent", "Provenance"})
# In a compartment by their subject, they may name other patients too.
_LISTING = frozenset({"List"})
_READING = frozenset("rs")
_WHOLE = Part()


@lru_cache(4096)
def parts(
    scopes: tuple[Scope, ...], patient: str | None, myself: str | None, type_: ResourceType, letters: str
) -> tuple[Part, ...] | None:
    """Which resources of the type some of these letters reach; None: every one; none: no scope is about the type.

    ``myself`` is the Practitioner that the token may read as its own user.
    """
    found: dict[Part, None] = {}
    for scope in scopes:
        if scope.concerns(type_.name, letters):
            part = _part(scope, patient, type_, frozenset(letters) & frozenset(scope.letters))
            if part == _WHOLE:
                return None
            if part is not None:
                found[part] = None
    if myself and type_.name == "Practitioner" and "r" in letters:
        found[Part(id=myself)] = None
    return tuple(found)


def _part(scope: Scope, patient: str | None, type_: ResourceType, letters: frozenset[str]) -> Part | None:
    named = {value for name, value in scope.query if name == "_id"}
    if named:  # a principal that was confined to some records
        rest = replace(scope, query=tuple(pair for pair in scope.query if pair[0] != "_id"))
        part = _part(rest, patient, type_, letters)
        return replace(part, id=next(iter(named))) if part and len({*named, part.id} - {None}) == 1 else None
    tags = query_tags(scope, type_)
    if tags is None or (scope.level == "patient" and patient is None):
        return None
    if scope.level != "patient":
        return Part(tags)
    if type_.name == "Patient":
        return Part(tags, id=patient)
    reference = f"Patient/{patient}"
    if r4.compartment_parameters("Patient", type_.name):
        return Part(tags, compartment=reference, alone=type_.name in _OF_SEVERAL)
    if code := _about_a_patient(type_):
        return Part((*tags, frozenset({f"{code}={reference}"})))
    return Part(tags) if type_.name in DIRECTORY and letters <= _READING else None


def _about_a_patient(type_: ResourceType) -> str | None:
    """The parameter by which a type outside the compartment says whose it is, such as Task's ``patient``."""
    served = parameters(type_)
    named = (served[code] for code in ("patient", "subject") if code in served)
    return next((p.code for p in named if p.kind == "reference" and (p.targets is None or "Patient" in p.targets)), None)


@lru_cache(1024)
def withheld(patients: frozenset[str], type_: ResourceType) -> Withheld:
    """What of the type is these patients' record."""
    ids = frozenset(one.partition("/")[2] for one in patients) if type_.name == "Patient" else frozenset()
    code = None if r4.compartment_parameters("Patient", type_.name) else _about_a_patient(type_)
    tags = frozenset(f"{code}={one}" for one in patients) if code else frozenset()
    told = bool(code) or bool(r4.compartment_parameters("Patient", type_.name)) or type_.name in (*DIRECTORY, "Patient")
    words = frozenset() if told and type_.name not in _LISTING else frozenset(one.partition("/")[2] for one in patients)
    return Withheld(ids, patients, tags, words)


def query_tags(scope: Scope, type_: ResourceType) -> tuple[frozenset[str], ...] | None:
    """The query part as sets of tags, of each of which a resource has one; None where it is nothing that tags can say."""
    if not scope.query:
        return ()
    try:
        clauses = parse(type_, scope.query).clauses
    except FHIRError:
        return None
    found = [clause.tags for clause in clauses]
    if len(found) != len(scope.query) or any(tags is None for tags in found):
        return None
    return tuple(frozenset(tags or ()) for tags in found)


def grantable(scope: Scope, types: dict[str, ResourceType]) -> bool:
    """Whether the scope is about something that is served here, in a way that can be enforced."""
    if scope.type == "*":
        return True
    return scope.type in types and query_tags(scope, types[scope.type]) is not None
