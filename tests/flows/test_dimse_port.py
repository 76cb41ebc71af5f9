"""Of several processes one owns the DICOM port; when it dies another takes it."""

from __future__ import annotations

import psutil
from flows_conftest import Running, wait_until
from scu import CT, EXPLICIT, Caller, free_port


def owner(running: Running, port: int) -> list[int]:
    assert running.process is not None
    found = []
    for child in psutil.Process(running.process.pid).children(recursive=True):
        try:
            found += [child.pid for c in child.net_connections() if c.status == "LISTEN" and c.laddr.port == port]
        except psutil.Error:
            continue
    return found


def taken(port: int) -> bool:
    try:
        with Caller(port, contexts=((CT, EXPLICIT),)) as caller:
            return caller.rejected is None
    except OSError:
        return False


def test_one_worker_has_the_port_and_another_takes_it_over(tmp_path):
    port = free_port()
    running = Running(tmp_path, dimse_port=str(port))
    running.start(workers=2)
    try:
        assert "source CT1: hospital" in running.command("source", "add", "CT1", "--organization", "hospital")
        wait_until(lambda: taken(port))
        [first] = owner(running, port)
        psutil.Process(first).kill()
        wait_until(lambda: taken(port))
        [second] = owner(running, port)
        assert second != first
    finally:
        running.close()
