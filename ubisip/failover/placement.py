# SPDX-License-Identifier: Apache-2.0
"""Who should lead: a gateway that sees the databases (DESIGN section 9). Pure; times are monotonic seconds.

Some plans act at the members themselves: what a leader cannot reach it can neither judge by its own word nor mend. So a
leader that finds fewer of them up than another gateway does gives its lease up, and whoever sees fewer bids later. A
member that is dead is seen by nobody and makes no difference; nor does a difference that is over within a moment,
since one observer is always the first to find something.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ubisip.failover.votes import UP

HOLD = 1.0
"""Seconds that another must have seen more before the lease is given up for it: two observers ask half a second apart,
and tell each other within half a second."""
FINISH = 10.0
"""The same while a plan runs: it may be able to end. One that cannot is taken up by who leads next, who can."""
RESPITE = 30.0
"""Seconds from one giving up to the next: whom it was given up for may be unable to lead."""


@dataclass(frozen=True, slots=True, order=True)
class Sight:
    """How much one gateway sees; the greater should lead."""

    members: int
    """Members that it finds up, of the tiers whose plans act at their members."""
    elsewhere: bool = False
    """It stands at a site without such members. When all see the same, it should lead: the loss of a site with
    databases then does not cost the lease as well."""


def sight(votes: Mapping[str, Mapping[str, str]], tiers: Collection[str], *, elsewhere: bool = False) -> Sight:
    """What *votes*, by tier and member, amount to; only *tiers* count."""
    return Sight(sum(word == UP for tier in tiers for word in votes.get(tier, {}).values()), elsewhere)


BLIND = Sight(0)
"""Of a gateway that sees nothing, or is not there."""


@dataclass(slots=True)
class Placement:
    """Whether a gateway that leads should go on, turn by turn."""

    since: float = math.inf
    """Since when another one has seen more."""
    given_up_at: float = -math.inf

    def gives_up(self, own: Sight, best: Sight, now: float, *, leads: bool, busy: bool) -> bool:
        """Whether the lease is to be given up at *now*, *best* being the sight of who sees most of the others.

        *busy*: a plan runs. To stand elsewhere alone is no reason: nothing is moved while nothing is wrong.
        """
        if not leads or best.members <= own.members:
            self.since = math.inf
            return False
        self.since = min(self.since, now)
        if now - self.since < (FINISH if busy else HOLD) or now - self.given_up_at < RESPITE:
            return False
        self.given_up_at = now
        return True
