"""What other archives, spoken to over DIMSE or DICOMweb, have in common: what they are asked, what they answer, how they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imaging.blobs import Incoming
from imaging.index import Stored

# PS3.4 Annex C and PS3.18 10.6: what is told of a study that is found
STUDY_KEYS = ("PatientID", "PatientBirthDate", "IssuerOfPatientID", "StudyInstanceUID", "StudyDate", "ModalitiesInStudy")
STORED = 0
# "Duplicate SOP Instance": what we send was sent before, and the answer was lost; 45070 is how Azure's service says it.
ALREADY_THERE = frozenset({0x0111, 45070})
NO_CLASS, NO_SYNTAX = 0x0122, 0xC122
LOST = -1  # its file is not here, or not whole


class Unavailable(Exception):
    """The peer cannot be reached, does not let us in, broke off, or is full: later it may be otherwise. The text is for people
    and the log, so it names neither a patient nor a study."""


class Refused(Exception):
    """What is asked cannot be had from this peer, now or later."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A patient, by the number and birth date (YYYYMMDD) by which the peer has to know them; ``issuer`` where it is known."""

    number: str
    born: str
    issuer: str | None = None

    def is_(self, number: str, born: str, issuer: str = "") -> bool:
        """Whether a header is this patient's: both have to agree, and the issuer where both sides name one."""
        return (number.strip(), born.strip()) == (self.number, self.born) and issuer.strip() in (
            "",
            self.issuer or issuer.strip(),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A study at a peer."""

    uid: str
    date: str
    modalities: frozenset[str]


class Taker(Protocol):
    """Where received instances go, within bounds: what these raise ends the retrieval."""

    def moved(self) -> None:
        """The peer is about to send them to our own listener."""

    def receive(self) -> Incoming: ...

    def write(self, incoming: Incoming, chunk: bytes) -> None: ...

    def take(self, incoming: Incoming) -> None:
        """It is all there: it is kept or discarded."""


# The file of an instance for as long as it is read. Errors: FileNotFoundError, Damaged.
Local = Callable[[Stored], AbstractContextManager[Path]]
# An instance's file in Explicit VR Little Endian, uncompressed. Error: DecodingFailed.
Plain = Callable[[Stored, Path], bytes]


class Peer(Protocol):
    def close(self) -> None: ...

    def store(self, rows: Iterable[Stored], local: Local) -> Iterator[tuple[Stored, int]]:
        """Send them; each with STORED or why not, as it is answered. Errors: Unavailable."""

    def studies(self, asked: Asked) -> list[Found]:
        """The patient's, and nobody else's: what comes back has to agree. Errors: Unavailable, Refused."""

    def retrieve(self, study: str, held: frozenset[str], taker: Taker) -> None:
        """Instances of a study that are not ``held`` yet. Errors: Unavailable, Refused, and what ``taker`` raises."""


def found(asked: Asked, rows: Iterable[dict[str, str]]) -> list[Found]:
    """Of the answers those that are about this patient, the newest first."""
    mine = {
        row["StudyInstanceUID"]: Found(
            row["StudyInstanceUID"], row.get("StudyDate", ""), frozenset(row.get("ModalitiesInStudy", "").split("\\")) - {""}
        )
        for row in rows
        if row.get("StudyInstanceUID")
        and asked.is_(row.get("PatientID", ""), row.get("PatientBirthDate", ""), row.get("IssuerOfPatientID", ""))
    }
    return sorted(mine.values(), key=lambda one: (one.date, one.uid), reverse=True)
