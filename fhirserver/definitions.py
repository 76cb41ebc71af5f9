"""What a declaration is: a resource type's additions to the standard, a search parameter, an operation.

Routes, indexes, /metadata and docs are computed from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fhirserver.errors import Issue

if TYPE_CHECKING:
    from fhirserver.messages import Context, Request

Document = dict[str, Any]
# (old, new) -> what is wrong with the change; old is None on create
Rule = Callable[[Document | None, Document], "list[Issue]"]


def never(_: Document) -> bool:
    """Of what is part of the record."""
    return False


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a composite: its kind, the expression from the composite's element, and the parameter's URL."""

    kind: str
    expression: str
    targets: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class SearchParam:
    """A search parameter, the standard's or ours; ``aliases`` are other spellings that partners send; ``version`` is that of
    the resource that declares it, where an administrator did."""

    code: str
    kind: str
    expression: str
    targets: tuple[str, ...] | None = None
    url: str = ""
    aliases: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    version: str = ""


@dataclass(slots=True)
class Progress:
    """How far an indexing is: it moves."""

    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        return f"{min(self.done, self.total):,} of {self.total:,}"


@dataclass(frozen=True, slots=True, eq=False)
class ResourceType:
    """What a type adds to the standard. ``base_keys`` says who reads a resource besides those it is shared with;
    ``unique`` names business keys that one organisation may use once; ``sorts`` are the parameters offered for _sort;
    ``writers`` are the roles in which people write it (systems act for their organisation);
    ``left_out`` are the standard's parameters that are not served, each with its reason;
    ``custom`` are parameters that administrators added, ``pending`` those of them that are not indexed yet;
    ``referrers`` are the (type, parameter) whose existence forbids a delete;
    ``derived`` are tags of our own that the server counts by; ``queues`` are the worklists that a resource waits in."""

    name: str
    search: tuple[SearchParam, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    sorts: tuple[str, ...] = ()
    ranks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    base_keys: Callable[[str, Document], list[str]] = lambda owner, _: [f"org/{owner}"]
    unique: Callable[[Document], list[str]] = lambda _: []
    derived: Callable[[Document], list[str]] = lambda _: []
    queues: Callable[[Document], list[str]] | None = None
    deletable: Callable[[Document], bool] = lambda _: True
    insert_only: bool = False
    writers: tuple[str, ...] = ()
    referrers: tuple[tuple[str, str], ...] = ()
    custom: tuple[SearchParam, ...] = ()
    pending: Mapping[str, Progress] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parameter:
    """An operation's parameter, in or out; ``as_sent``: a resource that the operation itself checks; of ``parts`` the type is
    empty; ``targets``: the types that a Reference may be to, none: any.

    https://hl7.org/fhir/R4/operationdefinition.html
    """

    name: str
    type: str
    min: int = 0
    max: str = "1"
    documentation: str = ""
    as_sent: bool = False
    parts: tuple[Parameter, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation: where it is called, what goes in and out, and the function that does it.

    ``levels`` are of system, type, instance; the type ``Resource`` is every type; ``standard``: R4 defines it;
    ``free``: at type level it is about what is sent alone, and needs no scope; ``own_reach``: it looks itself whether its
    caller reaches what it is called on."""

    code: str
    type: str
    levels: tuple[str, ...]
    title: str
    affects_state: bool
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    handler: Callable[[Context, Request, Mapping[str, Any]], Any]
    description: str = ""
    standard: bool = False
    free: bool = False
    own_reach: bool = False

    @property
    def id(self) -> str:
        return f"{self.type}-{self.code}"

    def url(self, base: str) -> str:
        """Its canonical URL: HL7's for what R4 defines."""
        return f"{'http://hl7.org/fhir' if self.standard else base}/OperationDefinition/{self.id}"

    def concerns(self, type_: str) -> bool:
        return self.type in (type_, "Resource")
