"""Where ``fhirserver store`` puts files: into this installation, or by STOW-RS to any DICOMweb server.

PS3.18 section 10.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from auth.principal import Principal
from fhirserver.app import Installation
from fhirserver.errors import FHIRError
from imaging import media, multipart, stow
from imaging.blobs import PIECE, Away
from imaging.dataset import Refused
from imaging.media import Found, Head, MediaError, Reader
from imaging.parallel import parallel
from imaging.stow import SetAside

STORED, THERE, WARNED, REFUSED = "stored", "already there", "stored with a warning", "refused"
SKIPPED, DIRECTORY = "not DICOM", "DICOMDIR"
_TOGETHER, _BYTES = 50, 32 * 1024**2  # files and bytes in a request
_TRIES = 6
_AGAIN = (429, 500, 502, 503, 504)
# PS3.18 Table I.2-2
_REASONS = {
    0x0110: "processing failure",
    0x0111: "other bytes are stored under its UID",
    0x0122: "its SOP class is not taken",
    0x0124: "not authorized",
    0xA700: "out of resources",
    0xA900: "its data set does not match",
    0xC000: "it cannot be understood",
    0xC122: "its transfer syntax is not taken",
}


class Stopped(RuntimeError):
    """No use in going on: why, in words. What was stored stays, and is passed quickly when the command is given again."""


@dataclass(frozen=True, slots=True)
class Result:
    found: Found
    what: str
    reason: str = ""
    study: str = ""  # to be noted in the audit


class Local:
    """Into the installation, through the code that STOW-RS goes through, beside its running server too."""

    def __init__(self, installation: Installation, organization: str) -> None:
        self._installation = installation
        self._principal = Principal("fhirserver store", organization)
        self._known = set[str]()
        installation.images.index.prepare()
        installation.refresh()

    def results(self, found: Iterable[Found]) -> Iterator[Result]:
        """Errors: Stopped."""
        studies = set[str]()
        try:
            for _, result in parallel(self._result, found, 4):
                studies |= {result.study} - {""}
                if len(studies) >= 100:
                    self._note(studies)
                yield result
        finally:
            self._note(studies)
            self._installation.store_audit()

    def _note(self, studies: set[str]) -> None:
        if studies:
            rows = [(self._principal.organization, uid) for uid in sorted(studies)]
            self._installation.images.note(self._principal, "stow", rows, "")
            studies.clear()

    def _result(self, found: Found) -> Result:
        try:
            with media.opened(found) as file:
                start = file.read(media.HEAD)
                head = media.head(start)
                if passed := _passed(head):
                    return Result(found, passed)
                if found.size > self._installation.settings.max_part_bytes:
                    return Result(found, REFUSED, f"an instance may hold {self._installation.settings.max_part_bytes} bytes")
                return self._stored(found, head, start, file)
        except MediaError as error:
            return Result(found, REFUSED, str(error))
        except FHIRError as error:
            raise Stopped(error.diagnostics) from None
        except Away as error:
            raise Stopped(str(error)) from None

    def _stored(self, found: Found, head: Head, start: bytes, file: Reader) -> Result:
        installation, owner = self._installation, self._principal.organization
        installation.room.require()
        incoming = installation.images.blobs.receive()
        try:
            incoming.write(start)
            while chunk := file.read(PIECE):
                incoming.write(chunk)
            row = installation.images.index.instances.find_one({"_id": f"{owner}|{head.uid}"}, {"digest": 1})
            there = row is not None and row["digest"] == incoming.digest
            stored = stow.store(incoming, owner, installation.images.blobs, installation.images.index, None)
        finally:
            incoming.discard()
        if isinstance(stored, Refused):
            return Result(found, REFUSED, stored.text)
        if not there or stored.study not in self._known:  # what was cut off before may not have been told
            self._known.add(stored.study)
            installation.images.arrivals.arrived(self._principal, owner, stored.study)
        if isinstance(stored, SetAside):
            return Result(found, WARNED, stored.text, stored.study)
        return Result(found, THERE if there else STORED, study=stored.study)


def _passed(head: Head) -> str:
    return DIRECTORY if head.directory else "" if head.dicom else SKIPPED


class Remote:
    """By STOW-RS, some files a request; a request that was cut off is sent again."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None, wait: float = 1.0) -> None:
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/dicom+json"}
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=120, transport=transport)
        self._wait = wait

    def results(self, found: Iterable[Found]) -> Iterator[Result]:
        """Errors: Stopped."""
        with self._client, tempfile.TemporaryDirectory(prefix="fhirserver-store-") as folder:
            self._reached()
            passed = list[Result]()
            batches = self._batches(found, Path(folder), passed)
            for _, results in parallel(self._sent, batches, 2):
                yield from passed
                passed.clear()
                yield from results
            yield from passed

    def _reached(self) -> None:
        """Told before a long body is sent, which may not live to see the answer."""
        reply = self._tried(lambda: self._client.get("/studies", params={"StudyInstanceUID": "0.0", "limit": "1"}))
        if reply.status_code == 401:
            raise Stopped("the token is unknown or expired")

    def _batches(self, found: Iterable[Found], folder: Path, passed: list[Result]) -> Iterator[list[_Part]]:
        batch, size = list[_Part](), 0
        for one in found:
            try:
                with media.opened(one) as file:
                    head = media.head(start := file.read(media.HEAD))
                    if what := _passed(head):
                        passed.append(Result(one, what))
                        continue
                    part = _Part(one, head.uid, one.path)
                    if one.entry:  # unfolded before it is sent: it may turn out to be broken
                        part = replace(part, path=folder / uuid.uuid4().hex, temporary=True)
                        with open(part.path, "xb") as out:
                            out.write(start)
                            while chunk := file.read(PIECE):
                                out.write(chunk)
            except MediaError as error:
                passed.append(Result(one, REFUSED, str(error)))
                continue
            if batch and (len(batch) == _TOGETHER or size + one.size > _BYTES):
                yield batch
                batch, size = [], 0
            batch.append(part)
            size += one.size
        if batch:
            yield batch

    def _sent(self, batch: list[_Part]) -> list[Result]:
        try:
            return self._answered(batch)
        finally:
            for part in batch:
                if part.temporary:
                    part.path.unlink(missing_ok=True)

    def _answered(self, batch: list[_Part]) -> list[Result]:
        """Those of a request that is too large, or has a file that shrank meanwhile, in two."""
        try:
            reply = self._tried(lambda: self._post(batch))
            if reply.status_code in (200, 202, 409):
                return _told(batch, reply)
            refusal = f"the server answers {reply.status_code}"
            if reply.status_code not in (400, 413):
                raise Stopped(refusal)
        except MediaError as error:
            refusal = str(error)
        if len(batch) == 1:
            return [Result(batch[0].found, REFUSED, refusal)]
        half = len(batch) // 2
        return self._answered(batch[:half]) + self._answered(batch[half:])

    def _post(self, batch: list[_Part]) -> httpx.Response:
        boundary = multipart.new_boundary()
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        sizes = [part.path.stat().st_size for part in batch]
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(sum(len(head) + size + 2 for size in sizes) + len(boundary) + 6),
        }

        def body() -> Iterator[bytes]:
            for part, size in zip(batch, sizes, strict=True):
                yield head
                with open(part.path, "rb") as file:
                    while size and (chunk := file.read(min(PIECE, size))):
                        size -= len(chunk)
                        yield chunk
                if size:
                    raise MediaError("it shrank while it was sent")
                yield b"\r\n"
            yield f"--{boundary}--\r\n".encode()

        return self._client.post("/studies", content=body(), headers=headers)

    def _tried(self, ask: Any) -> httpx.Response:
        for number in range(_TRIES):
            last = number == _TRIES - 1
            try:
                reply: httpx.Response = ask()
                if reply.status_code not in _AGAIN:
                    return reply
                why, wait = f"answers {reply.status_code}", reply.headers.get("retry-after", "")
            except httpx.TransportError as error:
                why, wait = f"cannot be reached ({type(error).__name__})", ""
            if last:
                break
            time.sleep(min(60.0, float(wait)) if wait.isdigit() else self._wait * 2**number)
        raise Stopped(f"the server {why}; give the same command again later, and it goes on")


@dataclass(frozen=True, slots=True)
class _Part:
    """``uid``: what its head says; the server answers by it."""

    found: Found
    uid: str
    path: Path
    temporary: bool = False


def _told(batch: list[_Part], reply: httpx.Response) -> list[Result]:
    """PS3.18 Table I.1-1: what is not said to be stored is not."""
    body = dict[str, Any]()
    with suppress(ValueError):
        body = reply.json() or {}
    stored = {_value(row, "00081155"): _value(row, "00081196") for row in body.get("00081199", {}).get("Value", ())}
    failed = {_value(row, "00081155"): _value(row, "00081197") for row in body.get("00081198", {}).get("Value", ())}
    others = [_value(row, "00081197") for row in body.get("0008119A", {}).get("Value", ())]
    unnamed = others[0] if others else None
    return [
        Result(part.found, REFUSED, _reason(failed.get(part.uid, unnamed)))
        if part.uid in failed or part.uid not in stored
        else Result(part.found, WARNED, f"the server's warning is {stored[part.uid]:#06x}")
        if isinstance(stored[part.uid], int)
        else Result(part.found, STORED)
        for part in batch
    ]


def _value(row: Any, tag: str) -> Any:
    return (row.get(tag, {}).get("Value") or [None])[0]


def _reason(code: Any) -> str:
    if not isinstance(code, int):
        return "the server does not say why"
    return f"{_REASONS.get(code, 'failure')} ({code:#06x})"
