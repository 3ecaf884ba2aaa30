# SPDX-License-Identifier: Apache-2.0
"""``mariadb-rejoin``: a former primary is back; it becomes a replica, or is left alone when it has writes of its own.

It only ever takes from a server what it must not have: being writable. So one observer suffices.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from ubisip.failover.action import PRIMARY, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.actions.mariadb_steps import Join, MariadbAction, Quiet
from ubisip.failover.database import OLD_PRIMARY_RETURNED, primary_of


class RejoinAction(MariadbAction):
    """See the module."""

    KINDS = MappingProxyType({"quiet": Quiet(), "join": Join()})
    LEAVES_PRIMARY = True

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        """See :class:`ubisip.failover.action.Action`."""
        primary = primary_of(situation.members)
        if situation.verdict != OLD_PRIMARY_RETURNED or primary is None:
            return Refusal((f"nobody has come back: the verdict is {situation.verdict}", *situation.why))
        one_site = len({one.target.site for one in situation.members}) == 1
        backs = [situation.member(name) for name in situation.accused]
        return [step for back in backs for step in self._steps(back, primary, one_site)]

    def _steps(self, back: MemberView, primary: MemberView, one_site: bool) -> list[Step]:
        acker = one_site or back.target.site != primary.target.site
        arguments = MappingProxyType({PRIMARY: primary.target.name, "acker": acker})
        deadline = self.setting.parameters.catch_up
        return [
            Step("", "quiet", back.target.name, Proof.R, arguments, deadline=deadline),
            Step("", "join", back.target.name, Proof.R, arguments),
        ]
