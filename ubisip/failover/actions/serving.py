# SPDX-License-Identifier: Apache-2.0
"""Which members clients are to be sent to: shared by the actions that turn a proxy or a name to them.

Pure. What a plan knows goes into the step's arguments as plain values; what only a step before can tell (the member
that was promoted) and what is only seen on the spot (whom clients are sent to now) is added when the step is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from ubisip.failover.action import PRIMARY, ActionError, Context, MemberView, Proof, Refusal, Situation, Step
from ubisip.health.machine import State

Serve = Literal["auto", "primary", "first", "all"]
"""Who serves: the primary; the first that can, in the order of the file; all that can; by the kind of the tier."""

WITH_PRIMARY = frozenset({"mariadb", "postgresql", "redis"})
"""Kinds of which one member is primary."""
ABLE = frozenset({State.UP, State.DEGRADED, State.FALLING})
"""States in which a member that the verdict is not about can serve."""


def arguments_for(situation: Situation, before: Sequence[Step], serve: Serve) -> dict[str, Any] | Refusal:
    """What is known of whom to serve by: ``serve``, ``able``, ``unknown``, ``primary`` (empty: a step before tells).

    Who is unknown because it does not let us look stays as it is; while one has not been asked yet, nothing is done.
    """
    how = serve if serve != "auto" else "primary" if situation.kind in WITH_PRIMARY else "all"
    able = [one.target.name for one in situation.members if can_serve(one, situation)]
    if situation.wanted:
        able.sort(key=lambda name: name != situation.wanted)
    if how == "primary":
        primary = _promised(situation, before) or _own_primary(situation, able)
        if not primary and not before:
            return Refusal((f"no member of {situation.tier} is known to be primary",))
        return {"serve": how, "primary": primary, "able": able, "unknown": []}
    unknown = [one for one in situation.members if one.state is State.UNKNOWN]
    if waiting := [one.target.name for one in unknown if not one.problem]:
        return Refusal((f"nothing is known yet of {', '.join(waiting)}",))
    if not able:
        # Whoever sends clients nowhere gains nothing: the last choice stands, as some of them may still get through.
        return Refusal((f"no member of {situation.tier} can serve",))
    return {"serve": how, "primary": "", "able": able, "unknown": [one.target.name for one in unknown]}


def can_serve(one: MemberView, situation: Situation) -> bool:
    """It is well, as far as is known, and neither accused nor, by an operator's word, to be left."""
    return one.state in ABLE and one.target.name not in situation.accused


def _promised(situation: Situation, before: Sequence[Step]) -> str:
    """The member that the steps before promise to make primary, if they can name it already."""
    names = {one.target.name for one in situation.members}
    for step in reversed(before):
        promised = step.arguments.get(PRIMARY) or (step.target if step.do == "promote" else "")
        if promised in names:
            return str(promised)
    return ""


def _own_primary(situation: Situation, able: Collection[str]) -> str:
    """The member that says of itself that it is primary, when there is exactly one."""
    found = [one.target.name for one in situation.members if one.facts.get("role") == PRIMARY]
    found = [name for name in found if name in able]
    return found[0] if len(found) == 1 else ""


def serving(step: Step, context: Context, now_serving: Collection[str], failback: bool) -> list[str]:
    """The members to serve, never none; *now_serving* are those to whom clients are sent now.

    :raises ActionError: no step before has told who is primary.
    """
    arguments = step.arguments
    if arguments["serve"] == "primary":
        return [_told(step, context)]
    able = list(arguments["able"])
    stays = [name for name in (*able, *arguments["unknown"]) if name in now_serving]
    if arguments["serve"] == "all":
        return [*able, *(name for name in stays if name not in able)]
    leaves = context.situation.wanted or context.situation.request == "failback"
    return stays[:1] if stays and not failback and not leaves else able[:1]


def _told(step: Step, context: Context) -> str:
    for result in reversed(list(context.results.values())):
        if result.get(PRIMARY):
            return str(result[PRIMARY])
    if step.arguments[PRIMARY]:
        return str(step.arguments[PRIMARY])
    raise ActionError("no step before has told which member is primary now")


def is_required(before: Sequence[Step]) -> bool:
    """Whether the plan stands and falls with turning clients: not when a database has been promoted before."""
    return all(step.proof is not Proof.S for step in before)


def address_of(context: Context, member: str, given: Mapping[str, Any]) -> str:
    """The address of a member: the one *given* for it, else its own.

    :raises ActionError: the tier has no such member.
    """
    try:
        return str(given.get(member) or context.situation.member(member).target.address)
    except KeyError:
        raise ActionError(f"the tier {context.situation.tier} has no member {member}") from None
