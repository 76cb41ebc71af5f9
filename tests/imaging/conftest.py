"""Real DICOM files, those that pydicom and pydicom-data carry; nothing is fetched."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from conftest import BASE
from files import sample
from starlette.testclient import TestClient


def multipart(*parts: bytes, types: list[str] | None = None) -> tuple[bytes, dict[str, str]]:
    boundary = uuid.uuid4().hex
    kinds = types or ["application/dicom"] * len(parts)
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {k}\r\n\r\n".encode() + p + b"\r\n" for k, p in zip(kinds, parts, strict=True)
    )
    return body + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'
    }


@pytest.fixture(scope="session")
def samples() -> Callable[[str], bytes]:
    """A file by name, as bytes."""
    return sample


@pytest.fixture(scope="module")
def web(server: Any) -> Callable[..., TestClient]:
    def make(organization: str = "hospital", **token: Any) -> TestClient:
        headers = {"Authorization": f"Bearer {server.token(organization, **token)}"}
        return TestClient(server.app, base_url=f"{BASE}/dicomweb/", headers=headers)

    return make


@pytest.fixture(scope="module")
def stow(web: Callable[..., TestClient]) -> Callable[..., Any]:
    def send(*parts: bytes, organization: str = "hospital", path: str = "studies", types: list[str] | None = None) -> Any:
        body, headers = multipart(*parts, types=types)
        return web(organization).post(path, content=body, headers=headers)

    return send
