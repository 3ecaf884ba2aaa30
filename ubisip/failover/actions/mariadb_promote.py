# SPDX-License-Identifier: Apache-2.0
"""``mariadb-promote``: the primary is gone, a replica takes its place, and nothing acknowledged is lost.

What proves it safe is the write barrier: a primary acknowledges nothing without an acknowledging replica, and all of
these have been stopped before one of them is promoted. A fence command, where there is one, ends the old one as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from ubisip.failover.action import PRIMARY, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.actions.mariadb_steps import (
    CatchUp,
    Fence,
    Freeze,
    MariadbAction,
    Open,
    Promote,
    Reign,
    Repoint,
    find,
)
from ubisip.failover.candidate import Choice, NoChoice, choose
from ubisip.failover.database import DEAD_PRIMARY, DEAD_WITHOUT_WITNESSES, NO_PRIMARY, speaks


class PromoteAction(MariadbAction):
    """See the module."""

    KINDS = MappingProxyType(
        {
            "fence": Fence(),
            "freeze": Freeze(),
            "catch-up": CatchUp(),
            "promote": Promote(),
            "repoint": Repoint(),
            "open": Open(),
            "reign": Reign(),
        }
    )

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        """See :class:`ubisip.failover.action.Action`."""
        by_hand = situation.verdict == DEAD_WITHOUT_WITNESSES and bool(situation.request)
        if situation.verdict not in (DEAD_PRIMARY, NO_PRIMARY) and not by_hand:
            return Refusal((f"nobody is promoted while the verdict is {situation.verdict}", *situation.why))
        lost = find(situation, situation.accused[0]) if situation.accused else None
        choice = choose(situation.members, lost, situation.wanted)
        if isinstance(choice, NoChoice):
            return Refusal(choice.reasons)
        return self._steps(situation, lost, choice)

    def _steps(self, situation: Situation, lost: MemberView | None, choice: Choice) -> list[Step]:
        name = lost.target.name if lost else ""
        steps = takeover(choice.name, name, self.setting.parameters.catch_up)
        freeze = Step("", "freeze", situation.tier, Proof.S, MappingProxyType({"lost": name}))
        if lost is None or speaks(lost) or not self.setting.parameters.fence:
            return [freeze, *steps]
        deadline = self.setting.parameters.fence_timeout + 1.0
        return [Step("", "fence", name, Proof.S, deadline=deadline, required=False), freeze, *steps]


def takeover(candidate: str, lost: str, patience: float) -> list[Step]:
    """What follows once the positions stand still."""
    arguments = MappingProxyType({"lost": lost, PRIMARY: candidate})
    return [
        Step("", "catch-up", candidate, Proof.S, arguments, deadline=patience + 5.0),
        Step("", "promote", candidate, Proof.S, arguments),
        Step("", "repoint", candidate, Proof.S, arguments),
        Step("", "open", candidate, Proof.S, arguments, deadline=20.0, final=True),
        Step("", "reign", candidate, Proof.S, arguments),
    ]
