# SPDX-License-Identifier: Apache-2.0
"""What the observations of a tier's members amount to: pure functions from views to a verdict (DESIGN sections 7, 9).

A kind's :class:`Policy` is found by the entry-point group ``ubisip.policies``; kinds without one have :data:`POOL`,
which knows members that are alike. Databases have testimony of replicas and a policy of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ubisip.failover.action import MemberView
from ubisip.health.machine import State

HEALTHY = "healthy"
DEGRADED = "degraded"
MEMBER_DOWN = "member-down"
ALL_DOWN = "all-down"
UNKNOWN = "unknown"

SWITCHOVER = "switchover"
"""Event of an operator's failover where the verdict has no rule of its own: ``on_switchover``."""
FAILBACK = "failback"
"""Event of an operator's failback: ``on_failback``."""

GONE = frozenset({State.DOWN, State.HELD, State.RISING})
"""States in which a member is not counted on."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is the matter with a tier."""

    code: str
    """Stable, with dashes: ``healthy``, ``dead-primary``... The rule ``on_dead_primary`` answers to it."""
    member: str = ""
    """The member that it is about; empty: none in particular."""
    why: tuple[str, ...] = ()
    """The facts behind it, a sentence each."""
    others: tuple[str, ...] = ()
    """Further members that it is about."""

    @property
    def accused(self) -> tuple[str, ...]:
        """All members that it is about."""
        return ((self.member,) if self.member else ()) + self.others

    @property
    def case(self) -> tuple[str, ...]:
        """What makes it the same matter as before, whatever has become of the facts."""
        return (self.code, *self.accused)


Judge = Callable[[Sequence[MemberView], float], Verdict]


@dataclass(frozen=True, slots=True)
class Policy:
    """How tiers of one kind are judged."""

    verdict: Judge
    """From the members' views and the seconds of the monotonic clock; pure."""
    codes: Mapping[str, str]
    """Every code that it may give, with a sentence for people."""
    healthy: frozenset[str] = frozenset({HEALTHY})
    """The codes in which nothing needs to be told."""
    lost: frozenset[str] = frozenset({MEMBER_DOWN, ALL_DOWN})
    """The codes in which an operator who asks for a failover means what their rules do; else a switchover is meant."""
    fallback: str = ""
    """The code whose rule stands in for one of ``lost`` that has none, and for ``on_switchover``, see below."""
    substitutes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Actions that the rule of ``fallback`` has as ``on_switchover``, by those that they stand for
    (``{"mariadb-promote": "mariadb-switchover"}``); empty: a file without ``on_switchover`` has no switchover."""
    alike: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Codes that the rule of another code answers to where the file has none of their own."""
    acts_at_members: bool = False
    """Its plans act at the members themselves, from the gateway that leads: that should be one that reaches them."""
    rules: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    """Rules by event that hold where the file has none: the actions they name are there without being named in it."""

    def rule(self, code: str, rules: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """The actions for *code*: by the file's *rules*, else by those of the kind; none: nothing is to be done."""
        for event in (event_of(code), event_of(self.alike.get(code, code))):
            if event in rules:
                return rules[event]
        return self.rules.get(event_of(code), ())


def event_of(code: str) -> str:
    """The name in a rule: ``dead-primary`` is ``dead_primary`` in ``on_dead_primary``."""
    return code.replace("-", "_")


def pool(members: Sequence[MemberView], _now: float) -> Verdict:
    """The verdict on members that are alike: web servers, resolvers, providers."""
    known = [one for one in members if one.state is not State.UNKNOWN]
    gone = [one for one in known if one.state in GONE]
    why = tuple(_sentence(one) for one in members if one.state not in (State.UP, State.FALLING))
    names = tuple(one.target.name for one in gone)
    if not known:
        return Verdict(UNKNOWN, why=why)
    if names:
        return Verdict(ALL_DOWN if len(gone) == len(members) else MEMBER_DOWN, names[0], why, names[1:])
    weak = tuple(one.target.name for one in known if one.state is State.DEGRADED)
    return Verdict(DEGRADED, weak[0], why, weak[1:]) if weak else Verdict(HEALTHY, why=why)


def _sentence(one: MemberView) -> str:
    text = f"{one.target.name} ({one.target.site}) is {one.state.value}"
    return text + (f": {one.problem or one.reason}" if one.problem or one.reason else "")


POOL = Policy(
    pool,
    MappingProxyType(
        {
            HEALTHY: "every member that is known serves",
            DEGRADED: "some members answer slowly or with warnings",
            MEMBER_DOWN: "some members do not serve",
            ALL_DOWN: "no member serves",
            UNKNOWN: "no member has answered yet",
        }
    ),
)
