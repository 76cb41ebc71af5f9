"""Search parameters that administrators add and change: every process learns of them, and one indexes what is there.

A parameter is refused until all resources of its type are indexed with it. An entry carries the stamp of how it was made, so
that a pass over a type is done when it finds no other stamp; it starts when no process makes the old one any more, goes on
where it was interrupted, and is made once more a minute later, for what a stalled writer may have left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fhirserver.definitions import Progress, ResourceType, SearchParam
from fhirserver.errors import FHIRError, TooLarge, Unavailable
from fhirserver.operations.plain_writes import SEARCH_PARAMETERS
from fhirserver.search import custom
from fhirserver.search.index import index, schema
from fhirserver.search.query import plain
from fhirserver.search.reference import relative
from fhirserver.store import Store
from fhirserver.validation import loads
from fhirserver.versions import owned_by

log = logging.getLogger("fhirserver.reindex")

State = dict[str, Any]
_FRESH, _KNOWN_EVERYWHERE, _AGAIN = 2.0, 3.0, 60.0  # seconds
_BATCH, _MOST = 500, 1000
_DONE = " done"  # no id


class Definitions:
    """What this process knows of the parameters that were added; ``store.types`` has them."""

    def __init__(self, store: Store, home: str) -> None:
        self._store, self._home = store, home
        self._lock = threading.Lock()
        self._signal, self._read = -1, float("-inf")
        self._states: dict[str, State] = {}

    def refresh(self) -> None:
        """Every second; and by a request where that did not happen, so that nothing is indexed by what was long ago."""
        with self._lock:
            signal, states = self._store.registers.signal(SEARCH_PARAMETERS), self._store.registers.reindexing()
            if signal != self._signal or _ready(states) != _ready(self._states):
                self._serve(self._added() if signal or states else {}, states)
            self._signal, self._states, self._read = signal, states, time.monotonic()
            for name, state in states.items():
                for progress in self._store.types[name].pending.values() if name in self._store.types else ():
                    progress.done, progress.total = state["count"], max(state["total"], state["count"])

    @property
    def states(self) -> dict[str, State]:
        """How far each indexing was when this process last looked."""
        return self._states

    def current(self) -> None:
        """Fresh enough, unless another thread is seeing to that."""
        if time.monotonic() - self._read > _FRESH and not self._lock.locked():
            self.refresh()

    def _added(self) -> dict[str, tuple[SearchParam, ...]]:
        """Type -> the active parameters."""
        rows = self._store.search(plain(self._store.types["SearchParameter"]), owned_by(self._home), _MOST)
        found: dict[str, tuple[SearchParam, ...]] = {}
        for document in (loads(row.json) for row in reversed(rows)):  # where there is no room for all, the older ones stay
            for base in document["base"]:
                if base in self._store.types and custom.served(document, base):
                    found[base] = (*found.get(base, ()), custom.declared(document, base))
        return {base: self._fitting(self._store.types[base], params) for base, params in found.items()}

    def _fitting(self, type_: ResourceType, params: tuple[SearchParam, ...]) -> tuple[SearchParam, ...]:
        kept = custom.fitting(type_, params)
        if kept != params:
            log.error("%s has no room for the indexes of %s", type_.name, ", ".join(p.code for p in params if p not in kept))
        return kept

    def _serve(self, added: dict[str, tuple[SearchParam, ...]], states: dict[str, State]) -> None:
        for name, type_ in list(self._store.types.items()):
            params = tuple(sorted(added.get(name, ()), key=lambda param: param.code))
            ready = states.get(name, {}).get("ready", ())
            pending = {p.code: Progress(0, self._store.size(name)) for p in params if _key(p) not in ready}
            if params != type_.custom or pending.keys() != type_.pending.keys():
                self._store.types[name] = replace(custom.extended(type_, params), pending=pending)


def _key(param: SearchParam) -> str:
    """One that was away and is there again is another: what was written meanwhile does not have it."""
    return f"{param.code}|{param.version}"


def _has_all(state: State, type_: ResourceType) -> bool:
    return {_key(param) for param in type_.custom} <= set(state["ready"])


def _ready(states: dict[str, State]) -> dict[str, list[str]]:
    return {name: state["ready"] for name, state in states.items()}


class Reindexing:
    """The work itself, by one process at a time. ``clock`` is in seconds."""

    def __init__(self, store: Store, definitions: Definitions, base: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._definitions, self._base, self._clock = store, definitions, base, clock
        self._looked = False

    def due(self) -> bool:
        """Whether there may be anything to do, by what this process knows: it costs no query."""
        states, now = self._definitions.states, self._clock()
        added = {name for name, type_ in self._store.types.items() if type_.custom}
        return (
            not self._looked
            or not added <= states.keys()
            or any(self._open(name, state, now) for name, state in states.items())
        )

    def _open(self, name: str, state: State, now: float) -> bool:
        type_ = self._store.types.get(name)
        if type_ is None:
            return False
        again = bool(type_.custom) and not state["again"] and now - state["since"] > _AGAIN
        return again or bool(state["after"] != _DONE or state["stamp"] != schema(type_)) or not _has_all(state, type_)

    def step(self, seconds: float = 5.0) -> bool:
        """Some of what is to do, for about so long. Whether anything is left."""
        self._definitions.refresh()
        states, until, left = self._store.registers.reindexing(), time.monotonic() + seconds, False
        for name in self._concerned(states):
            type_ = self._store.types[name]
            state = states.get(name) or _state(type_)
            if state["stamp"] != schema(type_) or (state["after"] == _DONE and not _has_all(state, type_)):
                state = _state(type_) | {"ready": [key for key in state["ready"] if key in map(_key, type_.custom)]}
            try:
                left = self._one(type_, state, until) or left
            except Unavailable:
                raise
            except FHIRError as error:  # one type's trouble is not the others'
                log.error("%s cannot be indexed again: %s", name, type(error).__name__)
        self._looked = True  # at each type that has resources: it, or its state, is there now
        self._definitions.refresh()
        return left

    def _concerned(self, states: dict[str, State]) -> list[str]:
        """Types with parameters of their own, now or before; and each that has resources, when a process first looks."""
        kept = () if self._looked else self._store.kept()
        named = {name for name, type_ in self._store.types.items() if type_.custom} | states.keys() | set(kept)
        return [name for name in sorted(named) if name in self._store.types]

    def _one(self, type_: ResourceType, state: State, until: float) -> bool:
        now = self._clock()
        if state["after"] == _DONE:
            return self._once_more(type_, state, now)
        if not state["since"]:
            state |= {"since": now, "total": self._store.size(type_.name)}
            self._store.registers.set_reindexing(type_.name, state)
        if type_.custom and now - state["since"] < _KNOWN_EVERYWHERE:
            return True
        if state["after"] == "":
            self._store.add_indexes(type_)
        while time.monotonic() < until:
            state = self._batch(type_, state)
            self._store.registers.set_reindexing(type_.name, state)
            if state["after"] == _DONE:
                return False
        return True

    def _once_more(self, type_: ResourceType, state: State, now: float) -> bool:
        if not state["again"] and type_.custom and now - state["since"] > _AGAIN:
            self._store.registers.set_reindexing(type_.name, state | {"after": "", "count": 0, "again": True})
        return False

    def progress(self) -> dict[str, Progress]:
        """Of the types that are being indexed."""
        states = self._store.registers.reindexing().items()
        return {name: Progress(state["count"], state["total"]) for name, state in states if state["after"] != _DONE}

    def _batch(self, type_: ResourceType, state: State) -> State:
        missed = 0
        rows, last = self._store.stale(type_.name, schema(type_), state["after"], _BATCH)
        for row in rows:
            try:
                entries = index(type_, relative(loads(row["json"]), self._base), self._base)
            except (FHIRError, ValueError, TypeError, KeyError, AttributeError):
                log.error("%s/%s cannot be indexed; it keeps its entries", type_.name, row["_id"])
                continue
            try:
                missed += not self._store.index_again(type_.name, row, entries)
            except TooLarge:
                log.error(
                    "%s/%s does not fit into the database with its entries; it keeps those it has", type_.name, row["_id"]
                )
        state = state | {"missed": state["missed"] + missed}
        if last is None and state["missed"]:  # changed while they were looked at: once more from the start
            return state | {"after": "", "count": 0, "missed": 0}
        if last is not None:
            return state | {"after": last, "count": state["count"] + _BATCH, "changed": state["changed"] + len(rows)}
        if state["changed"]:
            log.info("%s: %d resources were indexed again", type_.name, state["changed"])
        finished = {"after": _DONE, "count": state["total"], "since": self._clock(), "changed": 0}
        return state | finished | {"ready": [_key(param) for param in type_.custom]}


def _state(type_: ResourceType) -> State:
    """``ready`` are the parameters that all resources are indexed with; ``after`` is the last id that was looked at."""
    return {
        "stamp": schema(type_), "ready": [], "after": "", "count": 0, "total": 0, "changed": 0, "since": 0.0, "again": False,
        "missed": 0,
    }  # fmt: skip
