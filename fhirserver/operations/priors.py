"""ServiceRequest/[id]/$priors: the patient's earlier studies and reports, the most relevant first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver import access, priors, roster, work
from fhirserver.definitions import Operation, Parameter
from fhirserver.errors import Conflict, Forbidden, Invalid
from fhirserver.messages import Context, Reply, Request
from fhirserver.moments import span
from fhirserver.priors import Prior
from fhirserver.validation import Document, dumps, instant
from fhirserver.versions import Stored
from fhirserver.work import Item

_MOST, _DEFAULT = 100, 20


def operate(ctx: Context, request: Request, inputs: Mapping[str, Any]) -> Reply:
    order = work.visible_item(ctx, "ServiceRequest", inputs["id"])
    treating(ctx, order)
    most = inputs.get("max", _DEFAULT)
    if not 1 <= most <= _MOST:
        raise Invalid(f"max is from 1 to {_MOST}.", "Parameters.parameter")
    patient = work.item(ctx, order.data["subject"].get("reference", ""))
    if patient is None:
        raise Conflict("The patient of this order was deleted.")
    here = work.answering(ctx, order)
    modalities = {one["code"] for one in inputs["modality"] if "code" in one} or work.modalities(here)
    named = {text.casefold() for one in inputs["bodyRegion"] for text in (one.get("code"), one.get("display")) if text}
    regions = named or {region for study in here for region in priors.regions_of(study.data)}
    patients = [(patient.reference, order.stored.owner)]
    if inputs.get("includeExternal", True):
        patients += priors.elsewhere(ctx, patient)[0]
    since = span(inputs["since"])[0] if "since" in inputs else 0
    released = priors.released(ctx, order)
    found = priors.ranked(ctx, patients, released, (modalities, regions), {study.reference for study in here}, since)
    return _answer(ctx, found[:most], order)


def treating(ctx: Context, order: Item) -> None:
    """The facility's own people, and who reads the order now. Errors: 403."""
    if order.stored.owner == ctx.principal.organization:
        return
    roster.require_role(ctx, "reader", "trainee", "dispatcher")
    t0 = work.coordination(ctx, order)
    chain = work.chain(ctx, t0) if t0 else []
    if ctx.principal.organization not in {work.organization(one.data["owner"]) for one in chain}:
        raise Forbidden("Earlier examinations are shown to who reads the order now.")


def _answer(ctx: Context, found: list[Prior], order: Item) -> Reply:
    """https://hl7.org/fhir/R4/bundle.html: studies are the matches, their reports come along. They are shown for this order,
    whoever else may read them; what the token's scopes do not reach is left out."""
    entries, shown = [], []
    reaches = {
        type_: access.includable(ctx.principal, ctx.store.types[type_]) for type_ in ("ImagingStudy", "DiagnosticReport")
    }
    for prior in found:
        rows = [(prior.study, "match"), *((report, "include") for report in prior.reports)]
        for row, mode in rows:
            if reaches[row.stored.type] is not None:
                search: Document = {"mode": mode} | ({"score": prior.score} if mode == "match" else {})
                entries.append(_entry(ctx, row.stored, search))
                shown.append(row.stored)
    head: Document = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(ctx.now), "total": len(found)}
    head["link"] = [{"relation": "self", "url": f"{ctx.base}/{order.reference}/$priors"}]
    body = dumps(head)[:-1] + (f',"entry":[{",".join(entries)}]' if entries else "") + "}"
    return Reply(200, body, touched=tuple(one.touched for one in shown))


def _entry(ctx: Context, stored: Stored, search: Document) -> str:
    return f'{{"fullUrl":"{ctx.base}/{stored.reference}","resource":{stored.json},"search":{dumps(search)}}}'


PRIORS = Operation(
    code="priors",
    type="ServiceRequest",
    levels=("instance",),
    title="Relevant earlier studies and reports",
    affects_state=False,
    inputs=(
        Parameter("bodyRegion", "Coding", max="*"),
        Parameter("modality", "Coding", max="*"),
        Parameter("since", "date"),
        Parameter("max", "integer", documentation=f"1 to {_MOST}, default {_DEFAULT}"),
        Parameter(
            "includeExternal", "boolean", documentation="default true: other facilities' too, where there is a legal basis"
        ),
    ),
    outputs=(Parameter("return", "Bundle", 1),),
    handler=operate,
    description="By the facility, or who reads the order now. Same region, same modality, the more recent first. 403; 404.",
)
