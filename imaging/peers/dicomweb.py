"""DICOMweb as a user of others' services: STOW-RS to send; QIDO-RS and WADO-RS to pull. Streamed both ways.

PS3.18: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/PS3.18.html
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from auth.keys import client_assertion
from imaging import multipart
from imaging.attributes import BY_NAME
from imaging.blobs import Damaged, Incoming
from imaging.dataset import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, is_uid
from imaging.index import Stored
from imaging.peers import ALREADY_THERE, LOST, STORED, STUDY_KEYS, Asked, Found, Local, Refused, Taker, Unavailable, found
from imaging.peers.destinations import Destination, context

logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines hold URLs, and a QIDO's URL holds a patient's number
logging.getLogger("httpcore").setLevel(logging.WARNING)

JSON, DICOM = "application/dicom+json", "application/dicom"
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_AT_ONCE, _BYTES_AT_ONCE = 50, 64 * 1024**2  # instances and bytes in one STOW
_CHUNK = 1024**2
_MAX_JSON = 16 * 1024**2
_EARLY = 30.0  # seconds before its end a token is not used any more
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Web:
    """A peer that speaks DICOMweb."""

    def __init__(self, destination: Destination) -> None:
        self._to = destination
        verify: Any = context(destination) if destination.ca or destination.cert else True
        plain = {"Accept-Encoding": "identity"}  # nothing that swells on the way in
        self._client = httpx.Client(verify=verify, timeout=_TIMEOUT, follow_redirects=False, headers=plain)
        self._token, self._until = "", 0.0

    def close(self) -> None:
        self._client.close()

    # ------------------------------------------------------------ sending

    def store(self, rows: Iterable[Stored], local: Local) -> Iterator[tuple[Stored, int]]:
        """PS3.18 10.5. Some in a request; where a request is refused as a whole, each by itself."""
        for some in _portions(rows):
            told = self._tried(some, local)
            if told is None:
                for row in some:
                    yield row, (self._tried([row], local) or {}).get(row.uid, CANNOT_UNDERSTAND)
            else:
                for row in some:
                    yield row, told.get(row.uid, CANNOT_UNDERSTAND)

    def _tried(self, rows: list[Stored], local: Local) -> dict[str, int] | None:
        """What became of each; None where several were refused together, or the file of one is not here."""
        try:
            return self._stow(rows, local)
        except (FileNotFoundError, Damaged):
            return {rows[0].uid: LOST} if len(rows) == 1 else None

    def _stow(self, rows: list[Stored], local: Local) -> dict[str, int] | None:
        """Errors: Unavailable, FileNotFoundError, Damaged."""
        boundary = multipart.new_boundary()
        head, tail = f"--{boundary}\r\nContent-Type: {DICOM}\r\n\r\n".encode(), f"--{boundary}--\r\n".encode()
        size = sum(len(head) + row.size + 2 for row in rows) + len(tail)

        def body() -> Iterator[bytes]:
            for row in rows:
                yield head
                with local(row) as path, open(path, "rb") as file:
                    while chunk := file.read(_CHUNK):
                        yield chunk
                yield b"\r\n"
            yield tail

        headers = {
            "Content-Type": f'multipart/related; type="{DICOM}"; boundary={boundary}',
            "Content-Length": str(size),
            "Accept": JSON,
        }
        with self._asked("POST", "/studies", headers, content=body()) as answer:
            if answer.status_code in (400, 413):
                return None if len(rows) > 1 else {row.uid: _REFUSED[answer.status_code] for row in rows}
            if answer.status_code not in (200, 202, 409):
                raise _failure(answer.status_code)
            if answer.status_code != 200:
                return _outcomes(_json(answer))
            told = _outcomes(_json(answer, None))  # "all stored" is in the status already, whatever the body says of it
            return {row.uid: told.get(row.uid, STORED) for row in rows}

    # ------------------------------------------------------------ asking

    def studies(self, asked: Asked) -> list[Found]:
        """PS3.18 10.6."""
        query = {"PatientID": asked.number, "PatientBirthDate": asked.born, "includefield": "IssuerOfPatientID"}
        return found(asked, (_row(one, STUDY_KEYS) for one in self._searched("/studies", query)))

    def _searched(self, path: str, query: dict[str, str]) -> list[Any]:
        with self._asked("GET", path, {"Accept": JSON}, params=query) as answer:
            if answer.status_code == 204:
                return []
            if answer.status_code != 200:
                raise _failure(answer.status_code)
            told = _json(answer)
            return told if isinstance(told, list) else []

    # ------------------------------------------------------------ pulling

    def retrieve(self, study: str, held: frozenset[str], taker: Taker) -> None:
        """PS3.18 10.4: the study at once; where some of it is held, the others one by one."""
        if not held:
            self._pulled(f"/studies/{study}", taker)
            return
        keys = ("SeriesInstanceUID", "SOPInstanceUID")
        for one in self._searched(f"/studies/{study}/instances", {"includefield": "SeriesInstanceUID"}):
            row = _row(one, keys)
            if row["SOPInstanceUID"] not in held and all(is_uid(uid) for uid in row.values()):
                where = f"/studies/{study}/series/{row['SeriesInstanceUID']}/instances/{row['SOPInstanceUID']}"
                self._pulled(where, taker)

    def _pulled(self, path: str, taker: Taker) -> None:
        accept = {"Accept": f'multipart/related; type="{DICOM}"; transfer-syntax=*'}
        with self._asked("GET", path, accept) as answer:
            if answer.status_code in (404, 410):
                raise Refused("The peer does not have the study any more, or does not show it.")
            if answer.status_code != 200:
                raise _failure(answer.status_code)
            media, given = multipart.parameters(answer.headers.get("content-type", ""))
            if media != "multipart/related" or not given.get("boundary"):
                raise Refused("The peer does not answer with multipart/related.")
            reader, open_ = multipart.Reader(given["boundary"]), list[Incoming]()
            try:
                for chunk in _whole(answer):
                    for event in reader.feed(chunk):
                        _part(event, open_, taker)
            except multipart.MultipartError:
                raise Refused("The peer's multipart body is broken.") from None
            finally:
                for incoming in open_:
                    incoming.discard()
            if not reader.complete:
                raise Unavailable("it broke off")

    # ------------------------------------------------------------ requests

    def _asked(self, method: str, path: str, headers: dict[str, str], **more: Any) -> _Answer:
        return _Answer(self._client, method, f"{self._to.url.rstrip('/')}{path}", headers | self._authorization(), more)

    def _authorization(self) -> dict[str, str]:
        """A static token, or one of OAuth 2.0: https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html"""
        secrets = self._to.secrets
        if "token" in secrets:
            return {"Authorization": f"Bearer {secrets['token']}"}
        if not self._to.token_url:
            return {}
        if time.monotonic() > self._until:
            self._token, seconds = self._issued()
            self._until = time.monotonic() + seconds - _EARLY
        return {"Authorization": f"Bearer {self._token}"}

    def _issued(self) -> tuple[str, float]:
        form, secrets = {"grant_type": "client_credentials"}, self._to.secrets
        form |= {"scope": self._to.scope} if self._to.scope else {}
        basic = httpx.BasicAuth(self._to.client_id, secrets["secret"]) if "secret" in secrets else None
        if "client_key" in secrets:
            now = int(time.time())
            claims = {"iss": self._to.client_id, "sub": self._to.client_id, "aud": self._to.token_url}
            claims |= {"exp": now + 240, "iat": now, "jti": uuid.uuid4().hex}  # type: ignore[dict-item]
            form |= {"client_assertion_type": _ASSERTION, "client_assertion": client_assertion(claims, secrets["client_key"])}
        try:
            answer = self._client.post(self._to.token_url, data=form, auth=basic)  # type: ignore[arg-type]
            told = answer.json() if answer.status_code == 200 else {}
            return str(told["access_token"]), float(told.get("expires_in", 300))
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            raise Unavailable("it gives no access token") from None


class _Answer:
    """A request whose answer is read as it comes. What goes wrong on the way is ``Unavailable``."""

    def __init__(self, client: httpx.Client, method: str, url: str, headers: dict[str, str], more: dict[str, Any]) -> None:
        self._stream = client.stream(method, url, headers=headers, **more)

    def __enter__(self) -> httpx.Response:
        try:
            return self._stream.__enter__()
        except httpx.HTTPError:
            raise Unavailable("it cannot be reached, or broke off") from None

    def __exit__(self, type_: Any, error: Any, trace: Any) -> None:
        self._stream.__exit__(type_, error, trace)
        if isinstance(error, httpx.HTTPError):
            raise Unavailable("it broke off") from None


_REFUSED = {400: CANNOT_UNDERSTAND, 413: OUT_OF_RESOURCES}


def _portions(rows: Iterable[Stored]) -> Iterator[list[Stored]]:
    some: list[Stored] = []
    for row in rows:
        if some and (len(some) == _AT_ONCE or sum(one.size for one in some) + row.size > _BYTES_AT_ONCE):
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def _failure(status: int) -> Exception:
    if status in (401, 403):
        return Unavailable("it does not let us in")
    return Unavailable(f"it answers {status}")


def _whole(answer: httpx.Response) -> Iterator[bytes]:
    try:
        yield from answer.iter_bytes()
    except httpx.HTTPError:
        raise Unavailable("it broke off") from None


_WANTED = object()


def _json(answer: httpx.Response, otherwise: Any = _WANTED) -> Any:
    """Errors: Unavailable for what is too large, and for what is no JSON where nothing is to be taken ``otherwise``."""
    body = b""
    for chunk in _whole(answer):
        body += chunk
        if len(body) > _MAX_JSON:
            raise Unavailable("its answer is too large")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        if otherwise is not _WANTED:
            return otherwise
        raise Unavailable("its answer is not JSON") from None


def _outcomes(told: Any) -> dict[str, int]:
    """PS3.18 Table I.1-1: UID -> STORED or the reason, of all that are named; what is not named was not stored."""
    outcomes: dict[str, int] = {}
    if isinstance(told, dict):
        for one in _items(told, "00081198"):
            reason = _value(one, "00081197")
            known = reason in ALREADY_THERE
            outcomes[str(_value(one, "00081155"))] = (
                STORED if known else int(reason) if isinstance(reason, int) else CANNOT_UNDERSTAND
            )
        outcomes |= {str(_value(one, "00081155")): STORED for one in _items(told, "00081199")}
    return outcomes


def _items(told: dict[str, Any], tag: str) -> list[Any]:
    element = told.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [one for one in values if isinstance(one, dict)] if isinstance(values, list) else []


def _value(item: Any, tag: str) -> Any:
    element = item.get(tag) if isinstance(item, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _row(one: Any, keywords: Iterable[str]) -> dict[str, str]:
    """Of DICOM JSON, PS3.18 Annex F."""
    row = {}
    for keyword in keywords:
        element = one.get(BY_NAME[keyword].tag) if isinstance(one, dict) else None
        values = element.get("Value") if isinstance(element, dict) else None
        row[keyword] = "\\".join(str(value) for value in values) if isinstance(values, list) else ""
    return row


def _part(event: multipart.Event, open_: list[Incoming], taker: Taker) -> None:
    if isinstance(event, multipart.PartBegins):
        open_.append(taker.receive())
    elif isinstance(event, multipart.PartData):
        taker.write(open_[-1], event.data)
    else:
        taker.take(open_.pop())
