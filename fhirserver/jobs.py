"""Background work, leased: with several processes each piece runs in one of them at a time, and another takes over.

What runs is handed in by ``app``.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from fhirserver.errors import FHIRError
from fhirserver.metrics import JOBS
from fhirserver.store import Store

log = logging.getLogger("fhirserver.jobs")

_LEASE, _RENEW, _PATIENCE = 60.0, 15.0, 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Job:
    """``run`` every ``seconds`` where ``due``; ``shared``: in one process at a time."""

    name: str
    seconds: float
    run: Callable[[], object]
    shared: bool = True
    due: Callable[[], bool] = lambda: True


class Crew:
    """Pieces of work by name, several at a time, each in one process at a time: the lease is renewed while it is done."""

    def __init__(self, store: Store, kind: str, most: int) -> None:
        self._store, self._kind = store, kind
        self._holder, self.stopped, self._lock = uuid.uuid4().hex, threading.Event(), threading.Lock()
        self._most, self._busy = most, dict[str, threading.Thread]()

    def begin(self, name: str, run: Callable[[], object]) -> None:
        """Beside the others, unless it is being done; where as many are as may be, it is asked for again later."""
        with self._lock:
            if name in self._busy or len(self._busy) >= self._most or self.stopped.is_set():
                return
            thread = threading.Thread(target=self._run, args=(name, run), name=f"{self._kind}-{name}", daemon=True)
            self._busy[name] = thread
        thread.start()

    def stop(self) -> None:
        """Returns when what is being done has ended, which looks at ``stopped``, or after a while: its lease ends then too."""
        self.stopped.set()
        with self._lock:
            busy = list(self._busy.values())
        until = time.monotonic() + _PATIENCE
        for thread in busy:
            thread.join(max(0.0, until - time.monotonic()))

    @contextmanager
    def held(self, name: str) -> Iterator[Callable[[], bool] | None]:
        """Whether it is still ours to do, to be asked now and then; None where another process does it."""
        if not self._lease(name):
            yield None
            return
        lost, over = threading.Event(), threading.Event()

        def renew() -> None:
            while not over.wait(_RENEW):
                try:
                    if not self._lease(name):
                        lost.set()
                except FHIRError:  # the database is away; the lease has time left
                    log.warning("The lease on %s was not renewed", name)

        thread = threading.Thread(target=renew, name=f"lease-{name}", daemon=True)
        thread.start()
        try:
            yield lambda: not lost.is_set() and not self.stopped.is_set()
        finally:
            over.set()
            thread.join()
            self._release(name)

    def _lease(self, name: str) -> bool:
        return self._store.registers.lease(f"{self._kind} {name}", self._holder, _LEASE)

    def _release(self, name: str) -> None:
        """Another process need not wait for its end."""
        with suppress(FHIRError):
            self._store.registers.lease(f"{self._kind} {name}", self._holder, 0)

    def _run(self, name: str, run: Callable[[], object]) -> None:
        try:
            run()
            JOBS.labels(self._kind, "done").inc()
        except Exception as error:  # its message may hold what was sent
            JOBS.labels(self._kind, "again" if isinstance(error, FHIRError) else "failed").inc()
            where = "" if isinstance(error, FHIRError) else "\n" + "".join(traceback.format_tb(error.__traceback__))
            log.error("%s %s failed and will be tried again: %s%s", self._kind, name, type(error).__name__, where)
        finally:
            with self._lock:
                self._busy.pop(name, None)


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
