# SPDX-License-Identifier: Apache-2.0
"""``mariadb-switchover``: the primary hands over to a replica, both alive: an operator's failover or failback."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from ubisip.failover.action import Check, Context, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.actions.mariadb_promote import takeover
from ubisip.failover.actions.mariadb_steps import (
    CatchUp,
    Close,
    MariadbAction,
    Open,
    Promote,
    Reign,
    Repoint,
    still_primary,
)
from ubisip.failover.candidate import NoChoice, choose
from ubisip.failover.database import follows, primary_of


class SwitchoverAction(MariadbAction):
    """See the module."""

    KINDS = MappingProxyType(
        {
            "close": Close(),
            "catch-up": CatchUp(),
            "promote": Promote(),
            "repoint": Repoint(),
            "open": Open(),
            "reign": Reign(),
        }
    )

    async def precheck(self, step: Step, context: Context) -> Check:
        """See :class:`ubisip.failover.action.Action`."""
        check = await super().precheck(step, context)
        return await still_primary(step.target, context) if check.ok and step.do == "close" else check

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        """See :class:`ubisip.failover.action.Action`."""
        primary = primary_of(situation.members)
        if primary is None:
            return Refusal(("there is no primary that could hand over", *situation.why))
        wanted = situation.wanted or (_first(situation) if situation.request == "failback" else "")
        if wanted == primary.target.name:
            return Refusal((f"{wanted} is primary already",))
        candidates = [one for one in situation.members if one is not primary and follows(one, primary)]
        choice = choose(candidates, None, wanted)
        if isinstance(choice, NoChoice):
            return Refusal(choice.reasons)
        return self._steps(primary, choice.name)

    def _steps(self, primary: MemberView, candidate: str) -> list[Step]:
        name, parameters = primary.target.name, self.setting.parameters
        arguments = MappingProxyType({"wanted": candidate})
        close = Step("", "close", name, Proof.S, arguments, deadline=parameters.close + 5.0)
        # Writers wait meanwhile: who has not caught up within this time stays a replica.
        patience = min(parameters.catch_up, parameters.close)
        return [close, *takeover(candidate, name, patience)]


def _first(situation: Situation) -> str:
    """The member that the file names first: where a failback goes."""
    return situation.members[0].target.name
