"""Background work, leased: with several processes each piece runs in one of them at a time, and another takes over.

What runs is handed in by ``app``.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from fhirserver.errors import FHIRError
from fhirserver.metrics import JOBS
from fhirserver.store import Store

log = logging.getLogger("fhirserver.jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """``run`` every ``seconds`` where ``due``; ``shared``: in one process at a time."""

    name: str
    seconds: float
    run: Callable[[], object]
    shared: bool = True
    due: Callable[[], bool] = lambda: True


class Jobs:
    """One thread a job, until ``stop``."""

    def __init__(self, store: Store, jobs: tuple[Job, ...]) -> None:
        self._store = store
        self._holder = uuid.uuid4().hex
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(job,), name=f"job-{job.name}", daemon=True) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when what runs has ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _loop(self, job: Job) -> None:
        while not self._stop.wait(job.seconds):
            try:
                if job.due() and (
                    not job.shared or self._store.registers.lease(job.name, self._holder, max(30.0, 3 * job.seconds))
                ):
                    job.run()
                    JOBS.labels(job.name, "done").inc()
            except FHIRError as error:
                JOBS.labels(job.name, "again").inc()
                log.warning("Job %s will be tried again: %s", job.name, type(error).__name__)
            except Exception:
                JOBS.labels(job.name, "failed").inc()
                log.exception("Job %s failed; it will be tried again", job.name)
