"""DIMSE as a user of others' services: C-STORE to send; C-FIND and C-GET, or C-MOVE where a peer only moves, to pull.

PS3.4 Annexes B and C: https://dicom.nema.org/medical/dicom/current/output/chtml/part04/ps3.4.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import imaging.dataset  # noqa: F401  # isort: skip - before pydicom, which it keeps from loading codecs
import pydicom
from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt

from imaging.attributes import EXPLICIT_LE, FRAME_MEDIA, IMPLICIT_LE
from imaging.blobs import Damaged
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, is_uid
from imaging.decoding import DecodingFailed
from imaging.index import Stored
from imaging.peers import (
    ALREADY_THERE,
    LOST,
    NO_CLASS,
    NO_SYNTAX,
    STORED,
    STUDY_KEYS,
    Asked,
    Found,
    Local,
    Plain,
    Refused,
    Taker,
    Unavailable,
    found,
)
from imaging.peers.associations import NO_ABSTRACT_SYNTAX, NothingTakenError, association
from imaging.peers.destinations import Destination

# PS3.4 C.3: the Study Root Query/Retrieve Information Model
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{last}" for last in "123")
_CONTEXTS = 120  # PS3.8 9.3.2.2: an association has at most 128 presentation contexts
_NATIVE = (EXPLICIT_LE, IMPLICIT_LE)
_SYNTAXES = (EXPLICIT_LE, IMPLICIT_LE, *FRAME_MEDIA)
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})  # PS3.4 Table B.2-1: stored all the same
_PENDING = (0xFF00, 0xFF01)
_AT_ONCE = 50
_CHUNK = 1024**2
# What studies are mostly made of, asked for where a peer does not tell: CT, MR, CR, DX, MG, US, NM, PT, XA, SC, SR, enhanced CT
_USUAL = tuple(
    f"1.2.840.10008.5.1.4.1.1.{last}" for last in ("2", "4", "1", "1.1", "1.2", "6.1", "20", "128", "12.1", "7", "88.22", "2.1")
)


class _NotAllError(Exception):
    """Some of what was asked for did not come."""


class Dimse:
    """A peer that speaks DIMSE. ``plain``: what is compressed for a peer that takes it uncompressed only, where we send."""

    def __init__(self, destination: Destination, plain: Plain | None = None) -> None:
        self._to, self._plain = destination, plain

    def close(self) -> None:
        """Each association is released when it has done its work."""

    # ------------------------------------------------------------ sending

    def store(self, rows: Iterable[Stored], local: Local) -> Iterator[tuple[Stored, int]]:
        """PS3.4 Annex B. As it is stored, where the peer takes that; else in a plain syntax."""
        for some in _by_contexts(rows):
            try:
                with association(self._to, [build_context(*pair) for pair in _proposed(some)]) as open_:
                    accepted = {_pair(c) for c in open_.accepted_contexts}
                    unknown = {str(c.abstract_syntax) for c in open_.rejected_contexts if c.result == NO_ABSTRACT_SYNTAX}
                    for row in some:
                        try:
                            with local(row) as path:
                                reason = _sent(open_, accepted, unknown, row, path, self._plain)
                        except (FileNotFoundError, Damaged):
                            reason = LOST
                        yield row, reason
            except NothingTakenError as nothing:
                for row in some:
                    yield row, NO_CLASS if row.sop_class in nothing.unknown else NO_SYNTAX

    # ------------------------------------------------------------ asking

    def studies(self, asked: Asked) -> list[Found]:
        keys = dict.fromkeys(STUDY_KEYS, "") | {"PatientID": asked.number, "PatientBirthDate": asked.born}
        try:
            with association(self._to, [build_context(FIND)]) as open_:
                return found(asked, _find(open_, "STUDY", keys))
        except NothingTakenError:
            raise Refused("The peer does not answer C-FIND.") from None

    # ------------------------------------------------------------ pulling

    def retrieve(self, study: str, held: frozenset[str], taker: Taker) -> None:
        try:
            self._retrieve(study, held, taker)
        except NothingTakenError:
            raise Refused("The peer does not give anything.") from None

    def _retrieve(self, study: str, held: frozenset[str], taker: Taker) -> None:
        """All syntaxes at once; of peers that do not find the right one among them, each by itself."""
        got: set[str] = set()
        for syntaxes in (_SYNTAXES, *((one,) for one in _SYNTAXES)):
            with association(self._to, [build_context(model) for model in (FIND, GET, MOVE)]) as open_:
                offered = {str(c.abstract_syntax) for c in open_.accepted_contexts}
                wanted, classes = _wanted(open_, study, held | got) if FIND in offered else ([_study(study)], set[str]())
                if GET not in offered:
                    self._move(open_, wanted, MOVE in offered, taker)
                    return
            with suppress(_NotAllError, NothingTakenError):
                if wanted:
                    self._get(wanted, classes, syntaxes, taker, got)
                return
        raise Refused("The peer did not send all of a study.")

    def _move(self, open_: Any, wanted: list[Dataset], offered: bool, taker: Taker) -> None:
        if not offered or not self._to.move_to:
            raise Refused("The peer gives nothing by C-GET, and is not told where to C-MOVE to.")
        taker.moved()
        try:
            for identifier in wanted:
                for status, _ in open_.send_c_move(identifier, self._to.move_to, MOVE):
                    _checked(status)
        except _NotAllError:
            raise Unavailable("it did not send all") from None

    def _get(self, wanted: list[Dataset], classes: set[str], syntaxes: Iterable[str], taker: Taker, got: set[str]) -> None:
        """PS3.4 C.4.3: what is asked for comes back on the same association. ``got`` tells what came. Errors: _NotAllError."""
        raised: list[Exception] = []

        def handle(event: Any) -> int:
            """Each is a file when it is answered. After a failure nothing more is taken."""
            try:
                if raised:
                    return OUT_OF_RESOURCES
                _received(event, taker)
            except Exception as error:
                raised.append(error)
                return OUT_OF_RESOURCES
            finally:
                _forget(event)
            got.add(str(event.request.AffectedSOPInstanceUID))
            return STORED

        some = [*syntaxes] if classes else [*syntaxes][: _CONTEXTS // len(_USUAL) - 1]
        pairs = [(class_, syntax) for class_ in sorted(classes) or _USUAL for syntax in some][: _CONTEXTS - 1]
        contexts = [build_context(GET), *(build_context(*pair) for pair in pairs)]
        roles = [build_role(class_, scp_role=True) for class_ in dict.fromkeys(class_ for class_, _ in pairs)]
        with association(self._to, contexts, roles, [(evt.EVT_C_STORE, handle)]) as open_:
            for identifier in wanted:
                for status, _ in open_.send_c_get(identifier, GET):
                    if raised:
                        raise raised[0]
                    _checked(status)


def _proposed(rows: list[Stored]) -> list[tuple[str, str]]:
    """(class, syntax), each a context of its own, so that the peer cannot choose another one; the stored ones first."""
    stored = dict.fromkeys((row.sop_class, row.transfer_syntax) for row in rows)
    other = {(class_, plain) for class_, _ in stored for plain in _NATIVE}
    return [*stored, *sorted(other - stored.keys())]


def _by_contexts(rows: Iterable[Stored]) -> Iterator[list[Stored]]:
    """As many at once as an association has contexts for."""
    some: list[Stored] = []
    pairs: dict[tuple[str, str], Stored] = {}
    for row in rows:
        pair = row.sop_class, row.transfer_syntax
        if some and pair not in pairs and len(_proposed([*pairs.values(), row])) > _CONTEXTS:
            yield some
            some, pairs = [], {}
        pairs[pair] = row
        some.append(row)
    if some:
        yield some


def _pair(context: Any) -> tuple[str, str]:
    return str(context.abstract_syntax), str(context.transfer_syntax[0])


def _sent(
    association: Any, accepted: set[tuple[str, str]], unknown: set[str], row: Stored, path: Path, plain: Plain | None
) -> int:
    """STORED, or why not. Errors: Unavailable."""
    plainly = any((row.sop_class, syntax) in accepted for syntax in _NATIVE)
    try:
        if (row.sop_class, row.transfer_syntax) in accepted and _says(path) == (row.sop_class, row.uid):
            status = association.send_c_store(path)
        elif (row.sop_class, row.transfer_syntax) in accepted or (row.transfer_syntax in _NATIVE and plainly):
            status = association.send_c_store(pydicom.dcmread(path))
        elif plain is not None and plainly:
            status = association.send_c_store(pydicom.dcmread(BytesIO(plain(row, path))))
        else:
            return NO_CLASS if row.sop_class in unknown else NO_SYNTAX
    except DecodingFailed:
        return NO_SYNTAX
    except RuntimeError:
        raise Unavailable("it broke off") from None
    except (AttributeError, ValueError):
        return CANNOT_UNDERSTAND  # its file meta do not fit its data set
    if "Status" not in status:
        raise Unavailable("it broke off")
    code = int(status.Status)
    return STORED if code in _WARNINGS or code in ALREADY_THERE else code


def _says(path: Path) -> tuple[str, str]:
    """Class and instance in a file's meta information, by which it would be announced: not always what is in its data set."""
    meta = pydicom.filereader.read_file_meta_info(path)
    return str(meta.get("MediaStorageSOPClassUID", "")), str(meta.get("MediaStorageSOPInstanceUID", ""))


def _study(study: str) -> Dataset:
    return _identifier("STUDY", {"StudyInstanceUID": study})


def _identifier(level: str, keys: dict[str, Any]) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


def _find(association: Any, level: str, keys: dict[str, Any]) -> list[dict[str, str]]:
    """Errors: Unavailable, Refused."""
    rows = []
    for status, answer in association.send_c_find(_identifier(level, keys), FIND):
        if _checked(status) and answer is not None:
            rows.append({keyword: _text(answer, keyword) for keyword in keys})
    return rows


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except Exception:  # a value that its VR does not allow
        return ""
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return "\\".join(str(part) for part in parts if part is not None)


def _wanted(association: Any, study: str, held: frozenset[str]) -> tuple[list[Dataset], set[str]]:
    """(what to ask for, the classes in it): series of which nothing is held whole, of others the instances that are missing."""
    wanted: list[Dataset] = []
    classes: set[str] = set()
    above = {"StudyInstanceUID": study}
    for series in _find(association, "SERIES", above | {"SeriesInstanceUID": ""}):
        within = above | {"SeriesInstanceUID": series["SeriesInstanceUID"]}
        rows = _find(association, "IMAGE", within | {"SOPInstanceUID": "", "SOPClassUID": ""})
        there = {row["SOPInstanceUID"] for row in rows}
        classes |= {row["SOPClassUID"] for row in rows if is_uid(row["SOPClassUID"])}
        if there & held:
            missing = sorted(there - held)
            for start in range(0, len(missing), _AT_ONCE):
                wanted.append(_identifier("IMAGE", within | {"SOPInstanceUID": missing[start : start + _AT_ONCE]}))
        else:
            wanted.append(_identifier("SERIES", within))
    return wanted, classes


def _checked(status: Dataset) -> bool:
    """Whether more is to come. Errors: Unavailable, Refused, _NotAllError."""
    if "Status" not in status:
        raise Unavailable("it broke off")
    code = int(status.Status)
    if code in _PENDING:
        return True
    if code in (0xB000, 0xA702):  # sub-operations failed
        raise _NotAllError
    if code >> 8 == 0xA7:
        raise Unavailable("it is out of resources")
    if code != 0:
        raise Refused(f"The peer answers with the DIMSE status {code:04X}.")
    return False


def _received(event: Any, taker: Taker) -> None:
    """A file: the meta information that says how it came, and the data set as it came."""
    incoming = taker.receive()
    try:
        for chunk in _chunks(event):
            taker.write(incoming, chunk)
    except BaseException:
        incoming.discard()
        raise
    taker.take(incoming)


def _chunks(event: Any) -> Iterator[bytes]:
    """From memory, or from where it was spooled."""
    spooled = getattr(event.request, "_dataset_file", None)
    if spooled is None:
        yield event.encoded_dataset()
        return
    spooled.close()
    with open(spooled.name, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _forget(event: Any) -> None:
    if spooled := getattr(event.request, "_dataset_file", None):
        spooled.close()
        Path(spooled.name).unlink(missing_ok=True)
