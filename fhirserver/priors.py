"""A patient's earlier studies and reports, the most relevant first; and which of another facility's may be shown.

Another facility's appear only where both records bear one national number and one birth date, and there is a legal basis; else
that facility is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhirserver import agreements, countries, work
from fhirserver.messages import Context
from fhirserver.moments import milliseconds, span
from fhirserver.search.query import tagged
from fhirserver.search.reference import relative
from fhirserver.validation import Document, loads
from fhirserver.versions import EVERYTHING, Stored
from fhirserver.work import Item
from fhirserver.workflow import coding, states

_YEAR = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Prior:
    """A study, the reports on it, whose it is, and how relevant: between 0 and 1."""

    study: Item
    reports: tuple[Item, ...]
    score: float


def ranked(
    ctx: Context,
    patients: Iterable[tuple[str, str]],
    released: Iterable[Item],
    wanted: tuple[set[str], set[str]],
    without: set[str],
    since: int = 0,
) -> list[Prior]:
    """Of these (patient, facility), and what was ``released``: the same region before the same modality before the more
    recent. ``wanted`` are modalities and regions; ``without`` are the studies that are to be read now."""
    rows = list(released)
    reports = [one for one in rows if one.stored.type == "DiagnosticReport"]
    studies = {one.reference: one for one in rows if one.stored.type == "ImagingStudy"}
    for patient, facility in patients:
        reports += work.items(ctx, _makers(ctx, facility), "DiagnosticReport", ("subject", patient))
        of_patient = work.items(ctx, (facility,), "ImagingStudy", ("subject", patient), ("status", "available"))
        studies |= {study.reference: study for study in of_patient}
    published = {r.reference: r for r in reports if r.status in states.PUBLISHED}
    found = []
    for study in studies.values():
        if study.reference not in without and _when(study) >= since:
            about = tuple(r for r in published.values() if study.reference in _studies(r))
            found.append(Prior(study, about, _score(ctx, study, wanted)))
    return sorted(found, key=lambda one: (-one.score, -_when(one.study), one.study.stored.id))


def released(ctx: Context, order: Item) -> list[Item]:
    """What other facilities released for this order, when they were asked."""
    asked = (("focus", order.reference), ("code", f"{coding.TASK_TYPE}|fetch-priors"), ("status", "completed"))
    tasks = work.items(ctx, (order.stored.owner,), "Task", *asked)
    rows = (row.get("valueReference", {}).get("reference", "") for task in tasks for row in task.data.get("output", ()))
    return [one for one in (work.item(ctx, reference) for reference in rows) if one is not None]


def _makers(ctx: Context, facility: str) -> tuple[str, ...]:
    """Whose reports on the facility's patients there may be: its own, and those of the centres that read for it."""
    return tuple(dict.fromkeys((facility, ctx.home, ctx.principal.organization)))


def _studies(report: Item) -> set[str]:
    return {one.get("reference", "") for one in report.data.get("imagingStudy", ())}


def _when(study: Item) -> int:
    return span(study.data["started"])[0] if "started" in study.data else 0


def _score(ctx: Context, study: Item, wanted: tuple[set[str], set[str]]) -> float:
    modalities, regions = wanted
    same_region = bool(regions & regions_of(study.data))
    same_modality = bool(modalities & work.modalities([study]))
    age = max(0, milliseconds(ctx.now) - _when(study)) / _YEAR
    return round((2 * same_region + same_modality + 1 / (1 + age)) / 4, 4)


def regions_of(study: Document) -> set[str]:
    """The body parts of a study's series."""
    sites = (series.get("bodySite", {}) for series in study.get("series", ()))
    return {value.casefold() for site in sites for value in (site.get("code"), site.get("display")) if value}


# ---------------------------------------------------------------- other facilities


def elsewhere(ctx: Context, patient: Item) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """((patient, facility) that may be shown, those whose facility has to be asked): the same national number and birth date;
    a legal basis is that both have agreed to share with each other through the centre, and the patient does not forbid it."""
    number, born = national(patient.data), patient.data.get("birthDate")
    if number is None or not born or len(born) != 10:
        return [], []
    asked = tagged(ctx.store.types["Patient"], f"identifier={number[0]}|{number[1]}")
    shown: list[tuple[str, str]] = []
    asking: list[tuple[str, str]] = []
    for row in ctx.store.search(asked, EVERYTHING, 50):
        data = relative(loads(row.json), ctx.base)
        if row.owner == patient.stored.owner or data.get("birthDate") != born or national(data) != number:
            continue
        (shown if _basis(ctx, row, patient.stored.owner) else asking).append((row.reference, row.owner))
    return shown, asking


def national(patient: Document) -> tuple[str, str] | None:
    """A personal number that is verified by its check digits when it is written."""
    for row in patient.get("identifier", ()):
        known = countries.NUMBERS.get(row.get("system", ""))
        if known and known.personal and row.get("use") not in ("old", "temp") and row.get("value"):
            return row["system"], row["value"]
    return None


def _basis(ctx: Context, other: Stored, facility: str) -> bool:
    reader = ctx.principal.organization
    if other.reference in ctx.withheld_from(facility) or other.reference in ctx.withheld_from(reader):
        return False
    return all(agreements.between(ctx, one, ctx.home).terms.priors_shared for one in (other.owner, facility))
