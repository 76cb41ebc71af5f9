"""A started server, spoken to over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from started import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("running"), study_quiet_seconds="1")
    running.start()
    yield running
    running.close()


def wait_until(check: Any, seconds: float = 20) -> Any:
    """The first true answer of ``check``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not so within {seconds} seconds")


__all__ = ["Running", "running", "wait_until"]
