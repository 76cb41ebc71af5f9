"""Key sets that clients publish: fetched over https (or from this machine), bounded in time and size, kept for a while.

https://hl7.org/fhir/smart-app-launch/STU2.2/client-confidential-asymmetric.html
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from auth.keys import public_keys

_TIMEOUT = 5
_MAX_BYTES = 64 * 1024
_KEEP = 300.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class KeySets:
    """URL -> key set."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._opener = urllib.request.build_opener(_NoRedirect)

    def get(self, url: str) -> dict[str, Any] | None:
        """None where the URL is not acceptable or gives no key set."""
        kept = self._kept.get(url)
        if kept and kept[0] > time.monotonic():
            return kept[1]
        try:
            found = fetch(url, self._opener)
        except (OSError, ValueError):
            return None
        self._kept[url] = (time.monotonic() + _KEEP, found)
        return found


def fetch(url: str, opener: urllib.request.OpenerDirector) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        raise ValueError("a key set is fetched over https")
    with opener.open(url, timeout=_TIMEOUT) as answer:
        body = answer.read(_MAX_BYTES + 1)
    if len(body) > _MAX_BYTES:
        raise ValueError("the key set is too large")
    return public_keys(json.loads(body))
