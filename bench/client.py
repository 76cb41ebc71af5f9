"""A small HTTP client for the bench: the standard library's, kept alive, so that the load costs less than what it measures."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

IDLE_SECONDS = 3


@dataclass
class Answer:
    status_code: int
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """One connection."""

    def __init__(self, base: str, authorization: str) -> None:
        parts = urlsplit(base)
        self._base = parts.path.rstrip("/")
        self._headers = {"Authorization": authorization}
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._used = time.monotonic()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, json: Any = None, content: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        return self._ask("POST", path, self._body(json, content), headers)

    def put(self, path: str, json: Any) -> Answer:
        return self._ask("PUT", path, self._body(json, None), None)

    @staticmethod
    def _body(value: Any, content: bytes | None) -> bytes:
        return content if content is not None else json.dumps(value).encode()

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None) -> Answer:
        target = path if path.startswith("/") else f"{self._base}/{path}"
        kind = {"Content-Type": "application/fhir+json"} if body is not None else {}
        if time.monotonic() - self._used > IDLE_SECONDS:  # the server is about to close it
            self._connection.close()
        self._connection.request(method, quote(target, safe="/?&=:|,.$_-%"), body, self._headers | kind | (headers or {}))
        answer = self._connection.getresponse()
        content = answer.read()
        self._used = time.monotonic()
        return Answer(answer.status, content)
