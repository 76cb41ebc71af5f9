"""Earlier studies that are fetched from other archives, for the Tasks of ``$fetch-priors`` whose source has a destination that may be
asked. What comes is the facility's, answers no order, and is named in the order's supportingInfo."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from fhirserver import agreements, telling, work
from fhirserver.dispatch import retried
from fhirserver.fetching import Fetch, Parts
from fhirserver.jobs import Crew
from fhirserver.messages import Context, Reply
from fhirserver.moments import milliseconds, span
from fhirserver.search.query import plain
from fhirserver.sending import backoff
from fhirserver.sharing import share_again
from fhirserver.store import Store, translated
from fhirserver.validation import Document
from fhirserver.versions import EVERYTHING
from fhirserver.work import Item
from fhirserver.workflow import coding, states
from imaging.peers import Refused, Unavailable
from imaging.peers.destinations import Destination, Destinations, Outage

log = logging.getLogger("fhirserver.pulling")

TRIES = 5  # some minutes, until who asked is told that the source cannot be reached
_SETTLED, _EVERY = 60.0, 0.5  # seconds for what a peer sends to our listener


class Pulling:
    """``new_context`` acts for a facility; ``reached`` is told of a destination that answers. Thread-safe."""

    def __init__(
        self, store: Store, destinations: Destinations, new_context: Callable[[str], Context], parts: Parts,
        reached: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._store, self._destinations, self._new_context, self.parts = store, destinations, new_context, parts
        self._clock, self._reached = parts.clock, reached
        self._crew = Crew(store, "pulling", 4)

    def stop(self) -> None:
        self._crew.stop()

    def step(self) -> None:
        """Begin with the Tasks that can be worked, beside those that are."""
        for task, destination in self.waiting():
            self._crew.begin(task.stored.id, partial(self.work, task.reference, destination))

    def waiting(self) -> list[tuple[Item, Destination]]:
        with translated():
            asked = [one for one in self._destinations.all() if one.queries]
        if not asked:
            return []
        query = plain(
            self._store.types["Task"],
            ("code", f"{coding.TASK_TYPE}|fetch-priors"), ("status", ",".join(sorted(states.OPEN_TASK - {"on-hold"}))),
            ("owner", ",".join(sorted({f"Organization/{one.organization}" for one in asked}))),
        )  # fmt: skip
        found = []
        for row in self._store.search(query, EVERYTHING, 200):
            ctx = self._new_context(row.owner)
            task = work.opened(ctx, row)
            destination = self._destination(ctx, task, asked)
            if destination is not None and (self._ready(destination) or self._late(task)):
                found.append((task, destination))
        return found

    def _destination(self, ctx: Context, task: Item, asked: list[Destination]) -> Destination | None:
        """Of whom is asked: the one at the endpoint that was named before others; of the facility's own, or as it agreed."""
        facility, source = task.stored.owner, work.organization(task.data.get("owner"))
        named = next((one for r in work.inputs(task.data, "endpoint") if (one := work.item(ctx, r.get("reference", "")))), None)
        address = named.data.get("address", "").rstrip("/") if named else None
        mine = [one for one in asked if one.organization == source and _agreed(ctx, facility, one)]
        return min(mine, key=lambda one: (one.url.rstrip("/") != address, one.owner != facility, one.name), default=None)

    def _ready(self, destination: Destination) -> bool:
        with translated():
            outage = self._destinations.outage(destination.name)
        return outage is None or outage.until <= milliseconds(self._clock())

    def _late(self, task: Item) -> bool:
        end = task.data.get("restriction", {}).get("period", {}).get("end")
        return end is not None and span(end)[1] <= milliseconds(self._clock())

    # ------------------------------------------------------------ one Task

    def work(self, reference: str, destination: Destination) -> None:
        """If no other process does."""
        with self._crew.held(reference.removeprefix("Task/")) as ours:
            stored = self._store.get("Task", reference.removeprefix("Task/"), EVERYTHING) if ours is not None else None
            if stored is None or ours is None:
                return
            ctx = self._new_context(stored.owner)
            task = work.opened(ctx, stored)
            if task.status not in states.OPEN_TASK:
                return
            order = work.item(ctx, task.data["focus"]["reference"])
            if order is None or order.status not in ("active", "on-hold"):
                self._end(ctx, reference, [], "The order is not active any more.")
                return
            if self._late(task):
                self._end(ctx, reference, [], "It was not answered in time.")
                return
            self._said(ctx, reference, [])
            one = Fetch(self.parts, ctx, task, order, destination, ours)
            try:
                one.run()
            except Unavailable as error:
                if ours():
                    self._out(ctx, task, destination, str(error), one.there)
                return
            except Refused as error:
                one.problem = str(error)
            self._reached(destination.name)
            if ours():
                self._end(ctx, reference, one.there, one.problem)

    def _said(self, ctx: Context, reference: str, there: list[str]) -> None:
        """It is being worked, and so much came until now."""

        def plan(ctx: Context) -> Reply:
            task = work.item(ctx, reference)
            if task is not None and task.status in states.OPEN_TASK and (there or task.status != "in-progress"):
                work.change(ctx, task, None, status="in-progress", **_output(task, there))
            return Reply(200)

        retried(ctx, "operation", "pull-priors", plan)

    def _out(self, ctx: Context, task: Item, to: Destination, reason: str, there: list[str]) -> None:
        with translated():
            before = self._destinations.outage(to.name)
            tries, now = before.tries + 1 if before else 1, milliseconds(self._clock())
            since = before.since if before else now
            self._destinations.failed(to.name, Outage(since, tries, now + int(backoff(tries) * 1000), reason))
        log.warning("%s was not reached (%d in a row): %s", to.name, tries, reason)
        if tries >= TRIES or self._late(task):
            self._end(ctx, task.reference, there, f"The source cannot be asked: {reason}.")
        elif there:
            self._said(ctx, task.reference, there)

    def _end(self, ctx: Context, reference: str, there: list[str], problem: str) -> None:
        """The Task is answered, and the order names what came; unless either was ended meanwhile."""

        def plan(ctx: Context) -> Reply:
            task = work.item(ctx, reference)
            if task is None or task.status not in states.OPEN_TASK:
                return Reply(200)
            told: Document = _output(task, there) | ({"statusReason": {"text": problem}} if problem else {})
            status = "completed" if told.get("output") else "failed"
            if status == "failed" and task.status != "in-progress":  # as the table says
                task = work.written(ctx, work.change(ctx, task, status="in-progress"))
            work.change(ctx, task, None, status=status, **told)
            order = work.item(ctx, task.data["focus"]["reference"])
            if order is not None and order.status in ("active", "on-hold"):
                _named(ctx, order, [row["valueReference"]["reference"] for row in told.get("output", ())])
            return Reply(200)

        retried(ctx, "operation", "pull-priors", plan)


def _output(task: Item, there: list[str]) -> Document:
    """Task.output with these studies among what came before."""
    rows = task.data.get("output", [])
    known = {row.get("valueReference", {}).get("reference") for row in rows}
    rows = [*rows, *(work.entry("study", {"reference": one}) for one in there if one not in known)]
    return {"output": rows} if rows else {}


def _agreed(ctx: Context, facility: str, destination: Destination) -> bool:
    """By what the facility itself configured; by what the centre or the source did where both have agreed to share priors."""
    if destination.owner == facility:
        return True
    both = [one for one in (facility, destination.organization) if one]
    known = destination.owner in (ctx.home, destination.organization)
    return known and all(agreements.between(ctx, one, ctx.home).terms.priors_shared for one in both)


def _named(ctx: Context, order: Item, studies: list[str]) -> None:
    """The order names them, who reads it may see them, and is told."""
    before = order.data.get("supportingInfo", [])
    known = {one.get("reference") for one in before}
    fresh = [{"reference": one} for one in dict.fromkeys(studies) if one not in known]
    if not fresh:
        return
    document = order.data | {"supportingInfo": [*before, *fresh]}
    work.save(ctx, order, document)
    share_again(ctx, Item(order.stored, document))
    t0 = work.coordination(ctx, order)
    if t0 is not None:
        telling.tell_owner(ctx, t0, order.reference, ["supportingInfo"])
