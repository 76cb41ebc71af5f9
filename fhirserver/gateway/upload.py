"""From the spool to the server, by STOW-RS over outbound HTTPS only; whatever is cut is taken up again.

PS3.18 section 10.5: https://dicom.nema.org/medical/dicom/current/output/chtml/part18/sect_10.5.html
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from auth.keys import client_assertion
from fhirserver.gateway.spool import Spool, Waiting
from imaging import multipart

log = logging.getLogger("fhirserver.gateway")

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTION_SECONDS = 120
_CHUNK = 256 * 1024
_MOST, _LARGEST = 32, 32 * 1024 * 1024  # of a request
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 120.0
_LONGEST_ASKED = 3600.0
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and how to prove who sends: a secret, or a private key (JWK or PEM). ``charset``: of data sets that name none."""

    studies: str
    token: str
    client: str
    secret: str | None
    key: str | None
    scope: str
    charset: str | None = None


class Tokens:
    """The access token, got when there is none that is good for another minute. Thread-safe."""

    def __init__(self, http: httpx.Client, target: Target) -> None:
        self._http, self._target = http, target
        self._lock = threading.Lock()
        self._token, self._until = "", 0.0

    def header(self) -> str:
        """Errors: httpx.HTTPError, and what ``Trouble`` tells."""
        with self._lock:
            if not self._token or time.monotonic() > self._until:
                self._token, seconds = self._asked()
                self._until = time.monotonic() + max(5.0, seconds - 60.0)
            return f"Bearer {self._token}"

    def forget(self, header: str) -> None:
        with self._lock:
            if header == f"Bearer {self._token}":
                self._token = ""

    def _asked(self) -> tuple[str, float]:
        target = self._target
        form = {"grant_type": "client_credentials", "scope": target.scope}
        basic: Any = httpx.USE_CLIENT_DEFAULT
        if target.key is not None:
            claims = {"iss": target.client, "sub": target.client, "aud": target.token, "jti": uuid.uuid4().hex}
            form["client_assertion_type"] = _ASSERTION_TYPE
            form["client_assertion"] = client_assertion(claims | {"exp": int(time.time()) + _ASSERTION_SECONDS}, target.key)
        else:
            basic = httpx.BasicAuth(target.client, target.secret or "")
        answer = self._http.post(target.token, data=form, auth=basic)
        body = _json(answer)
        if answer.status_code != 200 or not isinstance(body, dict) or not isinstance(body.get("access_token"), str):
            raise Trouble(f"no token: {answer.status_code}", answer.headers.get("retry-after"))
        return body["access_token"], float(body.get("expires_in") or 300)


class Trouble(Exception):
    """The server does not take anything now; ``after``: its Retry-After."""

    def __init__(self, what: str, after: str | None = None) -> None:
        super().__init__(what)
        self.what, self.after = what, after


class Uploads:
    """Some connections that send what waits, until ``stop``."""

    def __init__(self, spool: Spool, http: httpx.Client, target: Target, connections: int) -> None:
        self._spool, self._http, self._target = spool, http, target
        self._tokens = Tokens(http, target)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._failures, self._not_before = 0, 0.0
        self.sent, self.sent_bytes, self.trouble = 0, 0, ""
        self._lately: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._threads = [threading.Thread(target=self._run, name=f"upload-{n}", daemon=True) for n in range(connections)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float = 10.0) -> None:
        self._stopping.set()
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def rate(self, seconds: float = 60.0) -> float:
        """Instances a second, lately."""
        since = time.monotonic() - seconds
        with self._lock:
            return sum(count for when, count in self._lately if when > since) / seconds

    # ------------------------------------------------------------ sending

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause = self._not_before - time.monotonic()
            if pause > 0:
                self._stopping.wait(min(pause, 1.0))
                continue
            batch = self._spool.take(1 if self._failures else _MOST, _LARGEST, 0.5)
            if batch:
                self._tried(batch)

    def _tried(self, batch: list[Waiting]) -> None:
        try:
            self._send(batch)
        except Trouble as trouble:
            self._spool.again(batch)
            self._pause(trouble.what, trouble.after)
        except httpx.HTTPError as error:
            self._spool.again(batch)
            self._pause(f"the server cannot be reached ({type(error).__name__})")
        except Exception as error:  # our own fault: nothing of it is lost
            self._spool.again(batch, alone=True, later=True)
            log.error("Unexpected %s", type(error).__name__, exc_info=True)

    def _send(self, batch: list[Waiting]) -> None:
        authorization, boundary = self._tokens.header(), multipart.new_boundary()
        said = f'; charset="{self._target.charset}"' if self._target.charset else ""
        heads = f"--{boundary}\r\nContent-Type: application/dicom{said}\r\n\r\n"
        length = sum(len(heads) + entry.size + 2 for entry in batch) + len(boundary) + 6
        headers = {
            "Authorization": authorization,
            "Accept": "application/dicom+json",
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(length),
        }
        answer = self._http.post(self._target.studies, content=_body(batch, boundary, heads), headers=headers)
        if answer.status_code == 401:
            self._tokens.forget(authorization)
        self._judged(batch, answer)

    def _judged(self, batch: list[Waiting], answer: httpx.Response) -> None:
        """Only an answer that names an instance settles it; whatever stands between us and the server may answer too. Error: Trouble."""
        body, status = _json(answer), answer.status_code
        ours = isinstance(body, dict)
        if status in (200, 202, 409) and ours:
            self._settled(batch, body)
        elif status in (400, 413, 415) and ours:
            if len(batch) > 1:
                self._spool.again(batch, alone=True)
            else:
                self._refuse(batch[0], f"{status} {str(body.get('message', ''))[:200]}")
        elif status == 500:
            self._spool.again(batch, alone=True, later=len(batch) == 1)
        else:
            raise Trouble(f"the server answered {status}", answer.headers.get("retry-after"))

    def _settled(self, batch: list[Waiting], body: dict[str, Any]) -> None:
        stored, failed = _referenced(body, "00081199"), _referenced(body, "00081198")
        unnamed = _reasons(body)
        later, left = [], []
        for entry in batch:
            reason = failed.get(entry.uid)
            if reason is None and entry.uid in stored:
                self._delivered(entry)
            elif reason is None and len(batch) == 1 and unnamed:
                self._refuse(entry, f"failure reason {unnamed[0]:04X}")
            elif reason is None:
                left.append(entry)
            elif reason in _OUT_OF_RESOURCES:
                later.append(entry)
            else:
                self._refuse(entry, f"failure reason {reason:04X}")
        self._spool.again(left, alone=True, later=len(batch) == 1)
        self._spool.again(later)
        if later:
            raise Trouble("the server has no room")
        if stored:
            self._failures, self.trouble = 0, ""

    def _delivered(self, entry: Waiting) -> None:
        self._spool.delivered(entry)
        with self._lock:
            self.sent += 1
            self.sent_bytes += entry.size
            self._lately.append((time.monotonic(), 1))

    def _refuse(self, entry: Waiting, reason: str) -> None:
        log.warning("The server refused an instance (%s); it is in the folder refused", reason)
        self._spool.refuse(entry, reason)

    def _pause(self, what: str, after: str | None = None) -> None:
        """All connections wait: twice as long each time, never at the same moment as other gateways, and as the server asks."""
        with self._lock:
            if time.monotonic() < self._not_before:  # another connection met the same
                return
            if what != self.trouble:
                log.warning("Not sent: %s; trying again", what)
            self.trouble = what
            pause = min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311
            self._failures = min(self._failures + 1, 16)
            self._not_before = time.monotonic() + max(pause, _asked_for(after))


def _body(batch: list[Waiting], boundary: str, head: str) -> Iterator[bytes]:
    for entry in batch:
        yield head.encode()
        with open(entry.path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _items(body: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    found = body.get(tag)
    items = found.get("Value") if isinstance(found, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _first(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") if isinstance(item.get(tag), dict) else None
    return values[0] if isinstance(values, list) and values else None


def _referenced(body: dict[str, Any], sequence: str) -> dict[str, int]:
    """SOP Instance UID -> Failure Reason, 0 where none is told."""
    found = {}
    for item in _items(body, sequence):
        uid, reason = _first(item, "00081155"), _first(item, "00081197")
        if isinstance(uid, str):
            found[uid] = reason if isinstance(reason, int) else 0
    return found


def _reasons(body: dict[str, Any]) -> list[int]:
    """Of parts that could not be named: Other Failures Sequence."""
    return [r for item in _items(body, "0008119A") if isinstance(r := _first(item, "00081197"), int)]


def _asked_for(after: str | None) -> float:
    """Seconds, of a Retry-After in either of its forms: RFC 9110 section 10.2.3."""
    if not after:
        return 0.0
    try:
        seconds = float(after) if after.strip().isdigit() else parsedate_to_datetime(after).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_ASKED)
