# SPDX-License-Identifier: Apache-2.0
"""Situations for the tests of actions, and a run of their plans by the real planner's and runner's rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ubisip.failover.action import (
    PRIMARY,
    Action,
    Check,
    Context,
    MemberView,
    Proof,
    Refusal,
    Situation,
    Step,
)
from ubisip.failover.plan import Journal, Plan, StepState
from ubisip.failover.runner import Runner
from ubisip.health.machine import State
from ubisip.health.probe import Target

SITES = {"1": "PA2", "2": "PA5"}


def member(name: str, address: str, state: State = State.UP, **facts: Any) -> MemberView:
    """A member; its site follows from its last character."""
    site = SITES.get(name[-1], "PA2")
    word = {State.UP: "up", State.DEGRADED: "up", State.DOWN: "down"}.get(state, "abstain")
    votes = {"PA2": word, "PA5": word}
    return MemberView(Target("tier", name, site, address), state, facts=facts, votes=votes)


def situation(*members: MemberView, kind: str = "http", **more: Any) -> Situation:
    """A tier as it is; who is down is accused."""
    accused = tuple(one.target.name for one in members if one.state is State.DOWN)
    values: dict[str, Any] = {"verdict": "member-down" if accused else "healthy", "accused": accused} | more
    return Situation("tier", kind, members, domains=("PA2", "PA5"), **values)


@dataclass
class Promote:
    """Stands for an action that makes *chosen* primary, and tells so only when it is done."""

    chosen: str
    steps: list[str] = field(default_factory=list)

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step]:
        return (Step("", "promote", "the best", Proof.S, final=True),)

    async def precheck(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        return {PRIMARY: self.chosen}

    async def verify(self, step: Step, context: Context) -> Check:
        return Check(True)

    async def compensate(self, step: Step, context: Context) -> None:
        self.steps.append("undone")

    async def close(self) -> None:
        """It has nothing."""


class Refuse(Promote):
    """A step that is never taken: the plan is undone because of it."""

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step]:
        return (Step("", "refuse", "everything", Proof.R),)

    async def precheck(self, step: Step, context: Context) -> Check:
        return Check(False, "no")


async def carried_out(it: Situation, actions: Mapping[str, Action], epoch: int = 7) -> Journal:
    """Plan and run; the journal of how it went."""
    steps: list[Step] = []
    for name, action in actions.items():
        found = action.plan(it, tuple(steps))
        assert not isinstance(found, Refusal), found
        steps += [replace(one, action=name) for one in found]
    journals = []

    async def write(journal: Journal) -> None:
        journals.append(journal)

    runner = Runner(actions, write, lambda: epoch)
    return await runner.run(Plan("plan-1", it.tier, it.verdict, epoch, tuple(steps), it))


def outcome(journal: Journal) -> list[tuple[str, StepState]]:
    """What became of each step."""
    return [(str(step), record.state) for step, record in zip(journal.plan.steps, journal.steps, strict=True)]
