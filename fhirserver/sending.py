"""Studies that are sent on: which rule sends a complete study where, whether it may be sent there, and the work on the queue.

The queue follows from the study and is made again whenever it is brought up to date, so a crash between the two loses nothing. A
destination that cannot be reached is tried again after seconds, then minutes, then each hour; after some tries its facilities are told
by a Task, and what a peer refuses for good is told at once. Nothing is given up silently.
"""

from __future__ import annotations

import logging
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import datetime
from functools import partial
from pathlib import Path

from auth.principal import Principal
from fhirserver import audit, errors, metrics, priors, work
from fhirserver.disclosure import agreed, disputed, may_send, misnamed, study_of
from fhirserver.dispatch import retried
from fhirserver.errors import FHIRError
from fhirserver.interactions import put
from fhirserver.jobs import Crew
from fhirserver.messages import Context, Line, Reply
from fhirserver.moments import milliseconds
from fhirserver.store import Store, translated
from fhirserver.validation import Document, built
from fhirserver.versions import EVERYTHING, Grant
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from imaging.attributes import EXPLICIT_LE
from imaging.blobs import Away, Blobs
from imaging.dataset import OUT_OF_RESOURCES
from imaging.decoding import Decoders
from imaging.index import Index, Stored
from imaging.peers import LOST, STORED, Peer, Plain, Unavailable
from imaging.peers.deliveries import Deliveries, Delivery
from imaging.peers.destinations import Destination, Destinations, Outage
from imaging.peers.dicomweb import Web
from imaging.peers.dimse import Dimse

log = logging.getLogger("fhirserver.sending")

TRIES = 10  # an hour and a half, about, until people are told
_FIRST, _LONGEST, _HOLD = 5.0, 3600.0, 60.0  # seconds
_OUTAGE = 3  # failures in a row that are the destination's, and not of what was sent
_BROKE = "its delivery failed here; the log says where"


def peer(destination: Destination, plain: Plain | None = None) -> Peer:
    return Dimse(destination, plain) if destination.kind == "dimse" else Web(destination)


def backoff(tries: int) -> float:
    """Seconds until the next one: twice as long each time, up to an hour, and not all at the same moment."""
    return min(_LONGEST, _FIRST * 2.0 ** min(tries - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311


class Sending:
    """``new_context`` acts for a facility; ``note`` appends to the audit trail. Thread-safe."""

    def __init__(
        self, store: Store, index: Index, blobs: Blobs, destinations: Destinations, deliveries: Deliveries,
        decoders: Decoders, new_context: Callable[[str], Context], note: Callable[[Line], None], clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self._store, self._index, self._blobs, self._decoders = store, index, blobs, decoders
        self._destinations, self._deliveries = destinations, deliveries
        self._new_context, self._note, self._clock = new_context, note, clock
        self._crew = Crew(store, "sending", 8)

    def stop(self) -> None:
        """Returns when what is being sent has ended, which is after the instance that is on its way."""
        self._crew.stop()

    # ------------------------------------------------------------ into the queue

    def consider(self, owner: str, uid: str) -> None:
        """A study was brought up to date: where it is complete, it goes where the rules say."""
        with translated():
            rules = self._destinations.current_rules()
        ctx = self._new_context(owner) if rules else None
        study = study_of(ctx, owner, uid) if ctx else None
        if ctx is None or study is None or study.status != "available" or coding.pulled(study.data):
            return
        orders = [one for reference in work.based_on(study.data) if (one := work.item(ctx, reference))]
        priorities = {one.data.get("priority", "routine") for one in orders if one.status in ("active", "on-hold", "completed")}
        facts = ({m["code"] for m in study.data.get("modality", ()) if "code" in m}, priors.regions_of(study.data), priorities)
        rank = min((states.PRIORITY_RANKS[one] for one in priorities), default=len(states.PRIORITY_RANKS))
        for name in dict.fromkeys(rule.destination for rule in rules if rule.fits(owner, *facts)):
            with translated():
                destination = self._destinations.get(name)
            if destination is None or not may_send(ctx, study, destination):
                if destination is not None and not agreed(ctx, owner, destination):
                    log.warning("A rule sends studies of %s to %s, which was not agreed: they stay", owner, name)
                continue
            with translated():
                self._deliveries.want(name, owner, uid, rank, milliseconds(self._clock()))

    # ------------------------------------------------------------ out of it

    def step(self) -> None:
        """Begin with each destination for which something is due, beside those that are being sent to."""
        now = milliseconds(self._clock())
        with translated():
            due = self._deliveries.with_something_due(self._destinations.ready(now), now)
        for name in due:
            self._crew.begin(name, partial(self.send, name))

    def send(self, name: str) -> None:
        """All that is due for one destination, if no other process is sending to it."""
        with translated():
            destination = self._destinations.get(name)
        if destination is None or not destination.sends:
            return
        with self._crew.held(name) as ours, closing(peer(destination, self._plain)) as speaking:
            while ours is not None and ours():
                with translated():
                    due = self._deliveries.due(name, milliseconds(self._clock()), 1)
                if not due or not self._tried(destination, speaking, due[0], ours):
                    return

    def _tried(self, destination: Destination, speaking: Peer, delivery: Delivery, ours: Callable[[], bool]) -> bool:
        """Whether to go on with the next one."""
        try:
            reached = self._delivered(destination, speaking, delivery, ours)
        except Unavailable as error:
            with translated():
                self._out(destination, delivery, str(error))
            return False
        except Away as error:  # nothing of ours can be read: it is tried again, and nobody's failure
            raise errors.Unavailable(str(error)) from None
        except FHIRError:
            raise
        except Exception as error:  # ours: it does not hold up the others
            log.error(
                "A study of %s was not sent to %s: %s\n%s",
                delivery.owner, destination.name, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)),
            )  # fmt: skip
            with translated():
                self._later(destination, delivery, _BROKE)
            return True
        if reached:
            self.back(destination.name)
        return True

    def _delivered(self, destination: Destination, speaking: Peer, delivery: Delivery, ours: Callable[[], bool]) -> bool:
        """Send what is missing; whether the peer was asked at all. Errors: Unavailable."""
        ctx = self._new_context(delivery.owner)
        study = study_of(ctx, delivery.owner, delivery.study)
        with translated():
            if study is None or study.status != "available" or not may_send(ctx, study, destination):
                self._deliveries.withdraw(delivery)
                return False
            found = self._index.study(delivery.owner, delivery.study)
            if found is None or found[0].moved:
                self._deliveries.hold(delivery, "it is being moved to another patient", self._in(_HOLD))
                return False
            if misnamed(ctx, study, found[0]):
                self._given_up(ctx, destination, delivery, study, "its files name another patient than its record")
                return False
            if disputed(ctx, study):
                self._deliveries.hold(delivery, "its patient is in doubt", self._in(_HOLD))
                return False
            there = self._deliveries.arrived(delivery)
            missing = [r for r in self._index.stored(delivery.owner, delivery.study) if there.get(r.uid) != r.digest]
        if missing:
            who = Principal("sending", destination.owner)
            self._note(Line(who, audit.EXPORT, self._clock(), "0", (study.stored.touched,), operation=destination.name))
        refused: Counter[int] = Counter()
        for row, reason in speaking.store(missing, self._local):
            if reason == STORED:
                with translated():
                    self._deliveries.note(delivery, row.uid, row.digest)
            else:
                refused[reason] += 1
            if not ours():
                return True
        with translated():
            self._ended(ctx, destination, delivery, study, refused)
        return bool(missing)

    def _ended(self, ctx: Context, to: Destination, delivery: Delivery, study: Item, refused: Counter[int]) -> None:
        if not refused:
            self._deliveries.finish(delivery)
            return
        reason = ", ".join(_said(code, count) for code, count in sorted(refused.items()))
        if all(code >> 8 == OUT_OF_RESOURCES >> 8 for code in refused) and delivery.tries + 1 < TRIES:
            self._deliveries.postpone(delivery, reason, self._in(backoff(delivery.tries + 1)))
            return
        self._given_up(ctx, to, delivery, study, reason)

    def _plain(self, row: Stored, path: Path) -> bytes:
        return self._decoders.call("transcoded", str(path), EXPLICIT_LE, name=row.digest)

    def _local(self, row: Stored) -> AbstractContextManager[Path]:
        return self._blobs.local(row.digest)

    # ------------------------------------------------------------ when it fails

    def _later(self, to: Destination, delivery: Delivery, reason: str) -> None:
        if delivery.tries + 1 < TRIES:
            self._deliveries.postpone(delivery, reason, self._in(backoff(delivery.tries + 1)))
            return
        ctx = self._new_context(delivery.owner)
        study = study_of(ctx, delivery.owner, delivery.study)
        self._given_up(ctx, to, delivery, study, reason)

    def _given_up(self, ctx: Context, to: Destination, delivery: Delivery, study: Item | None, reason: str) -> None:
        """The Task first: after a crash between the two it is there, and is not made again."""
        text = f"Images were not delivered to {to.name}: {reason}. They are sent again when somebody says so."
        which = ("delivery", delivery.id, str(delivery.asked))
        self._told(ctx, to, which, text, study.reference if study else f"Organization/{delivery.owner}")
        self._deliveries.fail(delivery, reason)
        log.warning("A study of %s was not delivered to %s: %s", delivery.owner, to.name, reason)

    def _out(self, to: Destination, delivery: Delivery, reason: str) -> None:
        """The destination could not be reached, or broke off: all that is for it waits."""
        before = self._destinations.outage(to.name)
        tries = before.tries + 1 if before else 1
        since = before.since if before else milliseconds(self._clock())
        self._destinations.failed(to.name, Outage(since, tries, self._in(backoff(tries)), reason))
        log.warning("%s was not reached (%d in a row): %s", to.name, tries, reason)
        if tries < _OUTAGE:
            self._later(to, delivery, reason)
        else:
            self._deliveries.postpone(delivery, reason, self._in(backoff(delivery.tries + 1)))
        if tries >= TRIES:
            for facility, count in Counter(one.owner for one in self._deliveries.waiting(to.name)).items():
                text = f"Images cannot be delivered to {to.name}: {reason}. {count} studies wait; it is tried again each hour."
                self._told(
                    self._new_context(facility), to, ("outage", to.name, facility, str(since)), text, f"Organization/{facility}"
                )

    def back(self, name: str) -> None:
        """A destination answers: what waited for that goes at once, and what people were told of is over."""
        with translated():
            before = self._destinations.outage(name)
            if before is None:
                return
            self._destinations.reached(name)
            if before.tries >= _OUTAGE:
                self._deliveries.hurry(name, milliseconds(self._clock()))
            facilities = self._deliveries.owners(name) if before.tries >= TRIES else []
        for facility in facilities:
            self._over(facility, ("outage", name, facility, str(before.since)))

    def _told(self, ctx: Context, to: Destination, which: tuple[str, ...], text: str, focus: str) -> None:
        """A Task for the facility, seen by who configured the destination; one for each time that it happens."""
        id_, facility = ctx.derived_id("deliver", *which), ctx.principal.organization

        def plan(ctx: Context) -> Reply:
            if ctx.store.get("Task", id_, EVERYTHING) is None:
                document: Document = {
                    "resourceType": "Task",
                    "status": "requested",
                    "intent": "order",
                    "code": coding.concept(coding.TASK_TYPE, "deliver"),
                    "description": text,
                    "focus": {"reference": focus},
                    "authoredOn": work.timestamp(ctx.now),
                    "lastModified": work.timestamp(ctx.now),
                    "requester": {"reference": f"Organization/{to.owner}"},
                    "owner": {"reference": f"Organization/{facility}"},
                }
                made = put(ctx, ctx.store.types["Task"], built(document), id_, None, "POST")
                made.grants += [Grant(made.reference, f"org/{to.owner}").document()] if to.owner != facility else []
            return Reply(200)

        retried(ctx, "operation", "deliver", plan)

    def _over(self, facility: str, which: tuple[str, ...]) -> None:
        """What people were told of has ended by itself."""

        def plan(ctx: Context) -> Reply:
            task = work.item(ctx, f"Task/{ctx.derived_id('deliver', *which)}")
            if task is not None and task.status in states.OPEN_TASK:
                work.change(ctx, task, status="completed")
            return Reply(200)

        retried(self._new_context(facility), "operation", "deliver", plan)

    # ------------------------------------------------------------ figures

    def gauges(self) -> Iterator[metrics.Gauge]:
        now = milliseconds(self._clock())
        with translated():
            names = self._destinations.names()
            rows = {name: self._deliveries.figures(name) for name in names}
            outages = {name: self._destinations.outage(name) for name in names}
        for state, text in _FIGURES.items():
            yield f"fhirserver_deliveries_{state}", text, "destination", [(n, float(row[state])) for n, row in rows.items()]
        ages = [(name, (now - row["oldest"]) / 1000 if row["oldest"] else 0.0) for name, row in rows.items()]
        yield "fhirserver_deliveries_oldest_seconds", "How long the oldest study waits to be sent", "destination", ages
        out = [(name, (now - outage.since) / 1000 if outage else 0.0) for name, outage in outages.items()]
        yield "fhirserver_destination_unreachable_seconds", "For how long a destination was not reached", "destination", out

    def _in(self, seconds: float) -> int:
        return milliseconds(self._clock()) + int(seconds * 1000)


def _said(code: int, count: int) -> str:
    return f"{count} not found here" if code == LOST else f"{count} refused with {code:04X}"


_FIGURES = {
    "waiting": "Studies that wait to be sent",
    "sent": "Studies that were sent whole",
    "failed": "Studies that the destination refused, or that were given up",
}
