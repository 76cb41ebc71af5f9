"""What the archive's two edges, DICOMweb and DIMSE, are given: its parts, and how they know access, audit and orders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from auth.principal import Principal
from imaging.blobs import Blobs
from imaging.decoding import Decoders
from imaging.index import Index

Studies = list[tuple[str, str]]  # (owner, StudyInstanceUID)


class Arrived(Protocol):
    """``quiet``: seconds without an instance after which a study of this source is complete, where it has its own."""

    def __call__(self, principal: Principal, owner: str, uid: str, quiet: float | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Archive:
    """``base``: the URL of /dicomweb. ``max_request``, ``max_part``: bytes.

    ``authenticate``: by the headers Authorization and Cookie. ``see``: which of these studies the caller may see, by SMART's letter r
    or s. ``arrived``: instances of (owner, study UID) were stored; ``arriving``: one was, and others may follow until ``left``. ``note``: what was read or stored, for the audit. ``unavailable``:
    whether an error means that the database is away. ``room``: whether the disk has any for another instance.
    """

    blobs: Blobs
    index: Index
    decoders: Decoders
    base: str
    max_request: int
    max_part: int
    authenticate: Callable[[str | None, str | None], Principal]
    see: Callable[[Principal, str, Studies], set[tuple[str, str]]]
    arrived: Arrived
    arriving: Arrived
    left: Callable[[str, str], None]
    note: Callable[[Principal, str, Studies, str], None]
    unavailable: Callable[[Exception], bool]
    room: Callable[[], bool]
