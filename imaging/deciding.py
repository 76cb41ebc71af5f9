"""What people decided about what was set aside of a study: it stays aside, or takes the place of what is shown.

Until all images of a study that becomes another patient's are replaced, and its record has followed, nobody is shown any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

from imaging import dataset
from imaging.blobs import Blobs, Damaged
from imaging.dataset import Refused
from imaging.index import HEARD, Index, Row
from imaging.study import named

_OFTEN = 50  # instances after which it is told that a move goes on


class Outdated(Exception):
    """More was set aside than the decision is about."""


class DecidedOtherwise(Exception):
    """What this Task is about was decided already, and that is being done."""


class PartlyResent(Exception):
    """Only some of a study's instances were sent again for another patient: to show those would mix two patients."""


class Unreadable(Exception):
    """A file that was set aside is not there, or not whole."""


def decided(
    owner: str, study: str, replace: bool, task: str, is_about: Callable[[str], bool], blobs: Blobs, index: Index, now: int
) -> None:  # fmt: skip
    """What was set aside of a study takes the place of what is shown, or stays aside; nothing is deleted. Idempotent.

    ``task``: the decision's name. ``is_about``: whether it is about all that ``named`` names. Where the study is another
    patient's then, the record has yet to follow. Errors: Outdated, DecidedOtherwise, PartlyResent, Unreadable.
    """
    begun = index.taken_up(owner, study)  # a decision that was cut off goes on with what it began with
    if any(row["task"] != task for row in begun):
        raise DecidedOtherwise  # one after the other
    rows = begun or index.aside(owner, study)
    if rows and not begun and not is_about(named(row["digest"] for row in rows)):
        raise Outdated
    if replace and rows:
        try:
            _check(owner, study, rows, blobs, index)
        except (PartlyResent, Unreadable):
            if begun and not index.moved(owner, study):  # nothing was moved yet
                _release(owner, study, rows, task, index)
            raise
    if not index.decide(owner, study, task, replace):
        raise DecidedOtherwise
    if replace and rows:
        _replace(owner, study, rows, task, blobs, index, now)
    else:
        index.leave_aside(rows)
        index.mark(owner, study, now)


def resumed(owner: str, study: str, blobs: Blobs, index: Index, now: int) -> None:
    """A move that was cut off goes on; where nothing was replaced yet and it cannot be done any more, people are asked again."""
    rows = index.taken_up(owner, study)
    try:
        if rows and not index.moved(owner, study):
            _whole(owner, study, rows, index)
    except PartlyResent:
        _release(owner, study, rows, rows[0]["task"], index)
        index.mark(owner, study, now)
        return
    _replaced(owner, study, rows, blobs, index, now)


def _release(owner: str, study: str, rows: list[Row], task: str, index: Index) -> None:
    """It is not decided about."""
    index.take_up(rows, None)
    index.undecide(owner, study, task)
    index.moving(owner, study, 0)


def _check(owner: str, study: str, rows: list[Row], blobs: Blobs, index: Index) -> None:
    """Before anything is done. Errors: PartlyResent, Unreadable."""
    _whole(owner, study, rows, index)
    for row in rows:
        try:
            with blobs.local(row["digest"]) as path:
                instance = dataset.parse(path, row.get("charset"))
        except (FileNotFoundError, Damaged, Refused):
            raise Unreadable from None
        # It comes to be in a study of its own, which may be another patient's.
        if instance.study != study and index.patient(owner, instance.study) not in (None, row["patient"]):
            raise PartlyResent


def _replace(owner: str, study: str, rows: list[Row], task: str, blobs: Blobs, index: Index, now: int) -> None:
    away = {row["patient"] for row in rows} != {index.patient(owner, study)} or index.moved(owner, study)
    index.moving(owner, study, now, hides=away)  # first, so that whoever finds it cut off goes on with what was taken up
    index.take_up(rows, task)
    if away:
        sleep(HEARD)  # then every process hides it, and takes nothing more for the former patient
        try:
            _whole(owner, study, rows, index)
        except PartlyResent:
            _release(owner, study, rows, task, index)
            raise
    _replaced(owner, study, rows, blobs, index, now)


def _replaced(owner: str, study: str, rows: list[Row], blobs: Blobs, index: Index, now: int) -> None:
    concerned = {study}
    for n, row in enumerate(rows):
        with blobs.local(row["digest"]) as path:
            instance = dataset.parse(path, row.get("charset"))
        if instance.study != study and not index.takes(owner, instance.study, row["patient"]):
            index.take_up([row], None)  # that study has become another patient's meanwhile: people are asked again
            continue
        index.replace(owner, instance, row["digest"], row["size"])
        concerned.add(instance.study)
        if n % _OFTEN == 0:
            index.still_moving(owner, study)
    index.expel(owner, study)
    index.moving(owner, study, 0)
    for uid in concerned:
        index.mark(owner, uid, now)


def _whole(owner: str, study: str, rows: list[Row], index: Index) -> None:
    """Errors: PartlyResent."""
    patients = {row["patient"] for row in rows}
    if patients == {index.patient(owner, study)}:
        return
    resent = {row["uid"] for row in rows}
    if len(patients) > 1 or any(one.uid not in resent for one in index.stored(owner, study)):
        raise PartlyResent
