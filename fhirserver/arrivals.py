"""Between the archive and the record: which studies a caller may see, and when an arrived study is brought up to date.

DICOM has no end-of-study signal: a study is complete after so many quiet seconds, or when it is told.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from auth.principal import Principal
from fhirserver import access, revising, studies, work
from fhirserver.dispatch import retried
from fhirserver.errors import FHIRError, Unavailable
from fhirserver.messages import Context, Reply
from fhirserver.moments import milliseconds
from fhirserver.store import Store, translated
from imaging.index import Index

log = logging.getLogger("fhirserver.arrivals")

_AT_MOST_EVERY = 1.0  # seconds
_MARKED, _HELD, _AGAIN = 1_000, 2_000, 30_000  # milliseconds
_MOST, _FEW = 10_000, 20  # studies
_BELIEVED = timedelta(seconds=0.9)  # "a revoked grant stops working within one second on every worker"
_SHARE = 20  # of the time at most one part of so many is spent on a study that still arrives


Row = tuple[str, str]  # owner and StudyInstanceUID


@dataclass(frozen=True, slots=True)
class _Sight:
    """What was seen, when, and at which turn of the store."""

    at: datetime
    turn: int
    rows: set[Row]


class Arrivals:
    """What the archive is given. ``new_context`` acts for a facility; ``after`` is told of each study that was brought up to date,
    again where a crash came between."""

    def __init__(
        self, store: Store, index: Index, new_context: Callable[[str], Context], clock: Callable[[], datetime], quiet: float,
        resume: Callable[[str, str], None], after: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self._resume, self._after = resume, after
        self._store, self._index, self._new_context, self._clock, self._quiet = store, index, new_context, clock, quiet
        self._next: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}  # when it was marked, in milliseconds
        self._lock = threading.Lock()
        self._sights: dict[tuple[Principal, str, tuple[Row, ...]], _Sight] = {}

    def see(self, principal: Principal, letter: str, rows: list[Row]) -> set[Row]:
        """A study is visible exactly when its ImagingStudy is, by the letter of what is asked.

        It is asked frame by frame, and search by search as a viewer opens: the answer is remembered as long as a token is believed, or until this process
        writes or shares an ImagingStudy."""
        asked = principal, letter, tuple(rows)
        if len(rows) > _FEW:
            return self._seen(*asked)
        now, turn = self._clock(), self._store.turn("ImagingStudy")
        known = self._sights.get(asked)
        if known is not None and known.turn == turn and timedelta(0) <= now - known.at < _BELIEVED:
            return known.rows
        seen = self._seen(*asked)
        if len(self._sights) > _MOST:
            self._sights.clear()
        if seen:  # what is not seen may be there the next moment, by another process
            self._sights[asked] = _Sight(now, turn, seen)
        return seen

    def _seen(self, principal: Principal, letter: str, rows: Iterable[Row]) -> set[Row]:
        keys = {f"{owner}|UID|urn:oid:{uid}": (owner, uid) for owner, uid in rows}
        visible = access.visible(principal, self._store.types["ImagingStudy"], letter)
        return {keys[key] for key in self._store.business_keys("ImagingStudy", list(keys), visible) if key in keys}

    def arrived(self, principal: Principal, owner: str, uid: str, quiet: float | None = None) -> None:
        """Mark the study; bring its ImagingStudy up to date at once, but no more than once a second."""
        self._mark(owner, uid, quiet, None)
        if self._due((owner, uid)):
            self._tried(owner, uid, complete=False)

    def arriving(self, principal: Principal, owner: str, uid: str, quiet: float | None = None) -> None:
        """As ``arrived``, where more is expected until ``left``: a mark holds for some seconds, and is made once a second. The
        first one brings its ImagingStudy up to date; then that is left to ``settle``."""
        now, marked = milliseconds(self._clock()), self._held.get((owner, uid), 0)
        if 0 <= now - marked < _MARKED:
            return
        if len(self._held) > _MOST:
            self._held.clear()
        self._mark(owner, uid, quiet, now + _HELD)
        self._held[owner, uid] = now
        if not 0 <= now - marked <= _HELD and self._due((owner, uid)):
            self._tried(owner, uid, complete=False)

    def left(self, owner: str, uid: str) -> None:
        """Nothing more of the study is expected from here."""
        marked = self._held.pop((owner, uid), None)
        if marked is not None:
            with translated():
                self._index.let_go(owner, uid, marked + _HELD)

    def _mark(self, owner: str, uid: str, quiet: float | None, held: int | None) -> None:
        with translated():
            self._index.mark(owner, uid, milliseconds(self._clock()), None if quiet is None else int(quiet * 1000), held)

    def _due(self, key: tuple[str, str]) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._next.get(key, 0.0) > now:
                return False
            self._next = {k: t for k, t in self._next.items() if t > now} | {key: now + _AT_MOST_EVERY}
            return True

    def update(self, owner: str, uid: str, *, complete: bool) -> None:
        begun = milliseconds(self._clock())
        with translated():
            found = self._index.study(owner, uid)
            if found is None and self._index.cut_off(owner, uid):
                self._resume(owner, uid)
                found = self._index.study(owner, uid)
            if found is None:
                self._index.defer(owner, uid, begun + _MARKED)  # it is being moved
                return
        study, revision = found

        def plan(ctx: Context) -> Reply:
            reply = studies.arrived(ctx, study, complete)
            if study.moved and reply.touched:  # people decided that its images are another patient's
                [(reference, *_)] = reply.touched
                followed = work.item(ctx, reference)
                revising.unfounded(ctx, owner, reference.partition("/")[2], followed.data["subject"] if followed else None)
            return reply

        followed = bool(retried(self._new_context(owner), "update", "arrived", plan).touched)
        self._after(owner, uid)
        with translated():
            self._index.settle(owner, uid, revision, begun, complete=complete, followed=followed)

    def settle(self) -> None:
        """Studies of new orders, what came since the last update, and studies that have been quiet long enough."""
        rows = self._store.registers.orders_to_match()
        with translated():
            self._index.again({(owner, number) for row in rows for owner, number in row["orders"]})
            now = milliseconds(self._clock())
            dirty = self._index.dirty(now)
            quiet = self._index.waiting(now, int(self._quiet * 1000))
        if rows:
            self._store.registers.orders_matched(rows)
        for owner, uid in quiet:
            self._tried(owner, uid, complete=True)
        for owner, uid in dirty:
            if (owner, uid) not in quiet and self._next.get((owner, uid), 0.0) < time.monotonic() + _AT_MOST_EVERY:
                self._tried(owner, uid, complete=False)

    def _tried(self, owner: str, uid: str, *, complete: bool) -> None:
        """One study that cannot be brought up to date does not hold up the others."""
        begun = time.thread_time()
        try:
            self.update(owner, uid, complete=complete)
            if (rest := _SHARE * (time.thread_time() - begun)) > _AT_MOST_EVERY:
                with self._lock:
                    self._next[owner, uid] = time.monotonic() + rest
        except Unavailable:
            raise
        except Exception as error:  # the bytes are stored all the same; a later pass tries again
            with translated():
                self._index.defer(owner, uid, milliseconds(self._clock()) + _AGAIN)
            where = "" if isinstance(error, FHIRError) else "\n" + "".join(traceback.format_tb(error.__traceback__))
            log.error("A study of %s could not be brought up to date: %s%s", owner, type(error).__name__, where)
