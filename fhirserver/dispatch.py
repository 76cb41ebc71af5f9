"""ROUTES, and the one road that every interaction takes: access before, the interaction, commit with audit after.

https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from fhirserver import access, audit, bundle, capability, interactions
from fhirserver.definitions import Operation, ResourceType
from fhirserver.errors import BadRequest, Conflict, Duplicate, Forbidden, MethodNotAllowed, NotFound, Unauthorized
from fhirserver.messages import Context, Note, Reply, Request
from fhirserver.operations import OPERATIONS, PLAIN_WRITES, parameters
from fhirserver.search.reference import relative
from fhirserver.versions import Changes

RETRIES = 20


@dataclass(frozen=True, slots=True)
class Route:
    """An interaction by method and path. ``{type}``, ``{id}``, ``{version}``, ``{operation}`` are one segment each."""

    method: str
    path: str
    interaction: str

    def pattern(self) -> re.Pattern[str]:
        text = re.escape(self.path).replace(r"\{", "{").replace(r"\}", "}").replace(r"\$", "[$]")
        return re.compile(re.sub(r"\{(\w+)\}", lambda m: rf"(?P<{m[1]}>[A-Za-z0-9\-.]+)", text))


ROUTES = (
    Route("GET", "metadata", "capabilities"),
    Route("POST", "", "bundle"),
    Route("GET", "{type}", "search-type"),
    Route("POST", "{type}/_search", "search-type"),
    Route("POST", "{type}", "create"),
    Route("GET", "{type}/{id}", "read"),
    Route("PUT", "{type}/{id}", "update"),
    Route("DELETE", "{type}/{id}", "delete"),
    Route("GET", "{type}/{id}/_history", "history-instance"),
    Route("GET", "{type}/{id}/_history/{version}", "vread"),
    Route("POST", "{type}/${operation}", "operation"),
    Route("GET", "{type}/${operation}", "operation"),
    Route("POST", "{type}/{id}/${operation}", "operation"),
    Route("GET", "{type}/{id}/${operation}", "operation"),
)
_PATTERNS = [(route, route.pattern()) for route in ROUTES]
_BY_METHOD = {route.method: [row for row in _PATTERNS if row[0].method == route.method] for route in ROUTES}

Handler = Callable[..., Reply]
HANDLERS: dict[str, Handler] = {
    "read": interactions.read,
    "vread": interactions.vread,
    "history-instance": interactions.history,
    "search-type": interactions.search,
    "create": interactions.create,
    "update": interactions.update,
    "delete": interactions.delete,
}
_WRITES = frozenset({"create", "update", "delete"})


@dataclass(frozen=True, slots=True)
class Call:
    """A request matched to its interaction."""

    interaction: str
    type: ResourceType | None = None
    arguments: tuple[str, ...] = ()
    operation: Operation | None = None

    @property
    def code(self) -> str:
        return self.operation.code if self.operation else ""

    @property
    def writes(self) -> bool:
        return self.interaction in _WRITES or (self.operation is not None and self.operation.affects_state)


def matched(ctx: Context, request: Request) -> Call:
    """Errors: 404 for a path or type that is not served, 405 for a method that the path does not have."""
    rows = _BY_METHOD.get(request.method, ())
    route, match = next(((route, m) for route, pattern in rows if (m := pattern.fullmatch(request.path))), (None, None))
    if route is None or match is None:
        if not any(pattern.fullmatch(request.path) for _, pattern in _PATTERNS):
            raise NotFound("There is nothing at this path.")
        raise MethodNotAllowed(f"This path does not have the method {request.method}.")
    groups = match.groupdict()
    if "type" not in groups:
        return Call(route.interaction)
    type_ = ctx.store.types.get(groups["type"])
    if type_ is None:
        raise NotFound("This resource type is not served here.")
    arguments = tuple(groups[name] for name in ("id", "version") if groups.get(name))
    if route.interaction == "operation":
        return Call("operation", type_, arguments, _operation(type_, groups["operation"], bool(arguments), request.method))
    return Call(route.interaction, type_, arguments)


def _operation(type_: ResourceType, code: str, instance: bool, method: str) -> Operation:
    level = "instance" if instance else "type"
    for operation in OPERATIONS:
        if (operation.type, operation.code, operation.level) == (type_.name, code, level):
            if method == "GET" and operation.affects_state:
                raise MethodNotAllowed(f"${code} changes state: use POST.")
            return operation
    raise NotFound(f"{type_.name} has no operation ${code[:40]} at this level.")


def dispatch(ctx: Context, request: Request) -> Reply:
    """The whole of one interaction. A write is planned, then committed by compare-and-set; where another request was
    faster it is planned again on what is there now, so ``If-Match`` answers 412 and a claim has one winner."""
    call = matched(ctx, request)
    if call.interaction == "capabilities":
        return Reply(200, capability.statement(ctx))
    try:
        if call.interaction == "bundle":
            access.authenticated(ctx.principal)
            return bundle.process(ctx, request, bundle.Road(dispatch, perform, retried, acts))
        _require(ctx, call)
        if call.writes:
            return retried(ctx, call.interaction, call.code, lambda fresh: perform(fresh, request, call))
        if call.type is not None and call.type.name == "AuditEvent":
            audit.materialise(ctx.store)
        reply = perform(ctx, request, call)
    except (Unauthorized, Forbidden):
        ctx.note(Note(ctx.principal, call.interaction, ctx.now, "4", operation=call.code))
        raise
    ctx.note(Note(ctx.principal, call.interaction, ctx.now, "0", reply.touched, urlencode(request.query), call.code))
    return reply


def retried(ctx: Context, interaction: str, operation: str, plan: Callable[[Context], Reply]) -> Reply:
    """Plan and commit, again where a compare-and-set lost."""
    for left in reversed(range(RETRIES)):
        fresh = replace(ctx, changes=Changes())
        reply = plan(fresh)
        if not fresh.changes:  # nothing new, and yet something was told
            ctx.note(Note(ctx.principal, interaction, ctx.now, "0", reply.touched, operation=operation))
            return reply
        audit.record(fresh, interaction, operation)
        try:
            ctx.store.commit(fresh.changes)
        except Conflict:
            if not left:
                raise
            time.sleep(random.uniform(0, 0.02))  # noqa: S311 - so that writers do not meet again
        except Duplicate:
            if left < RETRIES - 1:
                raise
        else:
            return reply
    raise AssertionError("unreachable")


def acts(request: Request) -> bool:
    """Whether a POST is an act of the workflow: it looks at what the plain ones create."""
    return request.method == "POST" and ("$" in request.path or request.path == "Task")


def perform(ctx: Context, request: Request, call: Call | None = None) -> Reply:
    """Read, or plan a write into ``ctx.changes``; commits nothing."""
    if call is None:
        call = matched(ctx, request)
        _require(ctx, call)
    if call.operation is not None:
        return _operate(ctx, request, call)
    if call.type is None:
        raise BadRequest("This interaction cannot stand here.")
    if call.interaction in _WRITES and call.type.insert_only:
        raise MethodNotAllowed(f"A {call.type.name} is written by the server alone.")
    handler = PLAIN_WRITES.get((call.interaction, call.type.name), HANDLERS.get(call.interaction))
    if handler is None:
        raise BadRequest("This interaction cannot stand here.")
    return handler(ctx, request, call.type, *call.arguments)


def _operate(ctx: Context, request: Request, call: Call) -> Reply:
    operation = call.operation
    assert operation is not None
    inputs = parameters.read(operation, request)
    _references(ctx, operation, inputs)
    result: Any = operation.handler(ctx, request, {"id": call.arguments[0]} | inputs if call.arguments else inputs)
    return parameters.answer(operation, result, lambda written: access.shows(ctx, written))


def _references(ctx: Context, operation: Operation, inputs: dict[str, Any]) -> None:
    """What a caller names is what the caller can see; a hidden resource is answered like a missing one."""
    named = [name for name in inputs if any(p.name == name and p.type == "Reference" for p in operation.inputs)]
    access.resolvable(ctx, [("Parameters", {name: inputs[name]}) for name in named])
    inputs |= {name: relative(inputs[name], ctx.base) for name in named}


def _require(ctx: Context, call: Call) -> None:
    if call.type is None:
        raise BadRequest("This interaction cannot stand here.")
    if call.operation is not None:
        letter = "u" if call.operation.affects_state else "r" if call.operation.level == "instance" else "s"
    else:
        letter = access.LETTERS[call.interaction]
    access.require(ctx.principal, call.type.name, letter)
