# SPDX-License-Identifier: Apache-2.0
"""``mariadb-ackers``: who acknowledges the primary's writes. Normally the replicas of the other site, so that what is
acknowledged outlives the primary's site.

When none of these is attached, writes wait. Then a replica of the primary's own site may stand in, but only once every
replica elsewhere has been told that it acknowledges no more, or is down for two failure domains: it lacks writes from
now on, and must not be promoted. A primary without any replica acknowledges alone until one is back.

The steps are of class R: writes wait meanwhile, perhaps just after a promotion, and none of them makes a second primary
possible. They take the lease all the same, as all that is done to a database does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ubisip.failover.action import PRIMARY, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.actions.mariadb_steps import Acker, MariadbAction, Release, Waiting
from ubisip.failover.database import LOCKED_SEMI_SYNC, QUORUM, follows, is_away, is_down, primary_of, speaks, testimony
from ubisip.failover.verdict import DEGRADED


class AckersAction(MariadbAction):
    """See the module."""

    KINDS = MappingProxyType({"acker": Acker(), "release": Release(), "waiting": Waiting()})
    LEAVES_PRIMARY = True

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        """See :class:`ubisip.failover.action.Action`."""
        primary = primary_of(situation.members)
        if primary is None or situation.verdict not in (LOCKED_SEMI_SYNC, DEGRADED):
            return Refusal((f"no change while the verdict is {situation.verdict}", *situation.why))
        others = [one for one in situation.members if one is not primary]
        far = [one for one in others if one.target.site != primary.target.site]
        near = [one for one in others if one.target.site == primary.target.site]
        if situation.verdict == LOCKED_SEMI_SYNC:
            return _stand_in(primary, near, far, len(situation.domains))
        return _restore(primary, near, far)


def _stand_in(
    primary: MemberView, near: Sequence[MemberView], far: Sequence[MemberView], domains: int
) -> list[Step] | Refusal:
    ackers = [one for one in (*near, *far) if one.facts.get("acker")]
    if any(testimony(one, primary)[0] == "alive" for one in ackers):
        return [_release(primary)]
    lately = [one.target.name for one in ackers if not is_away(one, primary)]
    if lately:
        return Refusal((f"{' and '.join(lately)} may be back in a moment",))
    hidden = [one.target.name for one in far if not speaks(one) and not _gone(one, domains)]
    if hidden:
        names = " and ".join(hidden)
        return Refusal((f"{names} cannot be told: it could still be promoted, without the writes from now on",))
    able = [one for one in near if _attached(one, primary)]
    off = [_step(one, primary, acker=False) for one in far if speaks(one) and one.facts["acker"]]
    if able:
        return [*off, _step(able[0], primary, acker=True), _release(primary)]
    if any(speaks(one) for one in (*near, *far)):
        return Refusal((f"no replica in {primary.target.site} follows {primary.target.name}",))
    return [_waiting(primary, waits=False)]


def _restore(primary: MemberView, near: Sequence[MemberView], far: Sequence[MemberView]) -> list[Step] | Refusal:
    """First those of the other site, then no more those of its own: never nobody."""
    able = [one for one in far or near if _attached(one, primary) and not one.facts["lag"]]
    if not able:
        return Refusal((f"no replica outside {primary.target.site} follows {primary.target.name} without lag",))
    steps = [_step(one, primary, acker=True) for one in able if not one.facts["acker"]]
    if not primary.facts["semisync_primary"]:
        steps.append(_waiting(primary, waits=True))
    surplus = near if far else ()
    return [*steps, *(_step(one, primary, acker=False) for one in surplus if speaks(one) and one.facts["acker"])]


def _gone(one: MemberView, domains: int) -> bool:
    """Down for two of the failure domains that there are: those that have not been heard do not make it fewer."""
    return is_down(one) and list(one.votes.values()).count("down") >= min(QUORUM, domains)


def _waiting(primary: MemberView, *, waits: bool) -> Step:
    return Step("", "waiting", primary.target.name, Proof.R, _arguments(primary, waits=waits))


def _release(primary: MemberView) -> Step:
    return Step("", "release", primary.target.name, Proof.R, _arguments(primary))


def _attached(one: MemberView, primary: MemberView) -> bool:
    return speaks(one) and follows(one, primary) and one.facts["io"] == "Yes" and one.facts["sql"] == "Yes"


def _step(one: MemberView, primary: MemberView, *, acker: bool) -> Step:
    return Step("", "acker", one.target.name, Proof.R, _arguments(primary, acker=acker, attached=acker))


def _arguments(primary: MemberView, **more: bool) -> Mapping[str, Any]:
    return MappingProxyType({PRIMARY: primary.target.name, **more})
