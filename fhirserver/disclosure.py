"""Whether a study may be sent to another archive.

Sending is a disclosure: by the facility itself, or as it agreed; and not where the patient forbids it, or whose it is is in doubt.
"""

from __future__ import annotations

from fhirserver import agreements, reconciling, work
from fhirserver.headers import birth_date
from fhirserver.messages import Context
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from fhirserver.workflow.matching import Candidate, match
from imaging.peers.destinations import Destination
from imaging.study import Study

_WHOSE = (reconciling.PATIENT_MISMATCH, reconciling.PATIENT_CHANGED)


def agreed(ctx: Context, facility: str, destination: Destination) -> bool:
    """Sending is a disclosure: by the facility itself, or by the centre as it agreed with the facility."""
    if destination.owner == facility:
        return True
    return destination.owner == ctx.home and agreements.between(ctx, facility, ctx.home).terms.images_sent_on


def may_send(ctx: Context, study: Item, destination: Destination) -> bool:
    """Not where the patient forbids it either: whoever the system belongs to, if that is not known, is a stranger."""
    patient = study.data.get("subject", {}).get("reference", "")
    allowed = destination.sends and agreed(ctx, study.stored.owner, destination)
    return allowed and patient not in ctx.withheld_from(destination.organization or "")


def study_of(ctx: Context, owner: str, uid: str) -> Item | None:
    rows = work.items(ctx, (owner,), "ImagingStudy", ("identifier", f"urn:dicom:uid|urn:oid:{uid}"))
    return rows[0] if rows else None


def disputed(ctx: Context, study: Item) -> bool:
    """Whether somebody has yet to say whose it is."""
    owner = study.stored.owner
    found = work.items(ctx, (owner,), "Task", ("focus", study.reference), ("code", f"{coding.TASK_TYPE}|reconcile"))
    return any(task.status in states.OPEN_TASK and reconciling.reason_of(task.data) in _WHOSE for task in found)


def misnamed(ctx: Context, study: Item, images: Study) -> bool:
    """Whether people moved it to another patient than its files name: who gets the files would file them under the wrong one."""
    number, born = images.attributes.get("PatientID", ""), birth_date(images)
    patient = work.item(ctx, study.data.get("subject", {}).get("reference", ""))
    if patient is None or not number:
        return False
    ids = frozenset(i["value"] for i in patient.data.get("identifier", ()) if "value" in i)
    one = Candidate("", patient.reference, ids, patient.data.get("birthDate"))
    return match(number, born, [one]).patient is None
