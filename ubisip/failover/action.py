# SPDX-License-Identifier: Apache-2.0
"""What an action is: a pure part that plans its steps, and a part that takes one step (DESIGN section 9).

Actions are found by the entry-point group ``ubisip.actions``: the name stands in a tier's ``on_...`` rules, the object
is a factory ``(parameters: Mapping[str, Any]) -> Action`` (``[actions.NAME]`` of the file), which raises ValueError for
a parameter that it does not know.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from ubisip.health.machine import State
from ubisip.health.probe import NO_FACTS, Target

PRIMARY = "primary"
"""In what a step returns: the member that is primary from now on. Those that send clients there look for it."""


class Proof(enum.Enum):
    """The class of a step: what must be proven before it is taken."""

    R = "R"
    """Local and reversible: one observer suffices."""
    G = "G"
    """Global and reversible: two failure domains agree."""
    S = "S"
    """Stateful: quorum, the replicas' testimony, the lease, a fence, the safety checks."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member of a tier as it is known now, the observations of all sites taken together."""

    target: Target
    state: State
    """By the health machine, of our own observations."""
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)
    """Of the newest finding that had any."""
    facts_age: float = 0.0
    """Seconds since these were learnt."""
    problem: str = ""
    votes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """By failure domain (site of the observer): ``up``, ``down`` or ``abstain``."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from; the same value gives the same plan, in a dry run, in earnest, in a test."""

    tier: str
    kind: str
    members: tuple[MemberView, ...]
    verdict: str
    """A stable code such as ``healthy``, ``dead-primary``, ``unreachable-primary``; see ubisip.failover.verdict."""
    why: tuple[str, ...] = ()
    """The facts behind the verdict, a sentence each."""
    site: str = ""
    """Where the controller stands."""
    wanted: str = ""
    """The member that an operator named (``--to NAME``); empty: the action chooses."""
    domains: tuple[str, ...] = ()
    """All failure domains that have an observer."""
    accused: tuple[str, ...] = ()
    """The members that the verdict is about, the one in question first."""
    request: str = ""
    """What an operator asked for: ``failover`` or ``failback``; empty: the verdict itself asks."""

    def member(self, name: str) -> MemberView:
        """:raises KeyError: no member has this name."""
        for one in self.members:
            if one.target.name == name:
                return one
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do; plain values only, since it is journalled before it is done."""

    action: str
    """Name, in the rule, of the action that takes it; empty: the one that plans it."""
    do: str
    """What is done, in the action's words: ``fence``, ``promote``, ``drain``..."""
    target: str
    """The member, record, backend... that it is done to."""
    proof: Proof
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    deadline: float = 10.0
    """Seconds within which it must be done and verified."""
    final: bool = False
    """Point of no return: after it a plan is finished, before it compensated."""
    required: bool = True
    """When it fails, the plan fails; else the failure is told and the plan goes on (an alert, a stale proxy)."""

    def __str__(self) -> str:
        return f"{self.action} {self.do} {self.target}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing may be done: the reasons, a sentence each."""

    reasons: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    """What would be done were it not for them, as far as it can be told."""


@dataclass(frozen=True, slots=True)
class Check:
    """The answer of a precheck or a verification."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a step is taken under."""

    plan: str
    """Identity of the plan."""
    key: str
    """Identity of the step, the same when it is taken again after a crash: the key of its idempotency."""
    epoch: int
    """The fencing token: who sees a higher one refuses this one."""
    situation: Situation
    """The one that the plan was made from."""
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    """What the steps before returned, by ``str(step)``: the member that was chosen after positions were frozen..."""


class Action(Protocol):
    """One kind of action."""

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        """The steps for *situation*, those of the rule's actions named earlier being *before*. Pure: no I/O, no clock.

        A switchover or a failback asked for by an operator is planned the same way, by its own action.
        """

    async def precheck(self, step: Step, context: Context) -> Check:
        """Whether the step can be taken; changes nothing. It may find that it is done already (a resumed plan)."""

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        """Take it; taking it twice has the effect of once. What later steps need to know is returned, in plain values;
        ``changed`` false among them says that all was as wished already.

        :raises ActionError: it was not done.
        """

    async def verify(self, step: Step, context: Context) -> Check:
        """Whether what was wished for is so, looked at by another way than the one it was done by."""

    async def compensate(self, step: Step, context: Context) -> None:
        """Undo it, as far as it was done; only before the point of no return.

        :raises ActionError: it could not be undone.
        """

    async def close(self) -> None:
        """Give back connections."""


class ActionError(Exception):
    """A step was not done; the text says why, for the journal and for people. *retry*: it may work in a moment."""

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Notice:
    """What a sink tells people or programs."""

    key: str
    """The same for each repetition and for the resolution."""
    severity: str
    """``info``, ``warning`` or ``critical``."""
    title: str
    text: str
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    starts_at: float = 0.0
    """Seconds since the epoch."""
    ends_at: float | None = None
    """When it was resolved; None: not yet."""


class Sink(Protocol):
    """Where notices go: entry-point group ``ubisip.sinks``, a factory ``(parameters, state_dir) -> Sink``."""

    async def send(self, notice: Notice) -> None:
        """Deliver *notice* once; the caller repeats it until it is acknowledged or resolved.

        :raises ActionError: it was not delivered.
        """

    async def close(self) -> None:
        """Give back connections."""
