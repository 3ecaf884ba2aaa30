# SPDX-License-Identifier: Apache-2.0
"""One tier as the controller runs it, and what it remembers of it from turn to turn. Times are monotonic seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ubisip.failover.action import MemberView, Proof, Refusal, Situation
from ubisip.failover.inspection import misfits
from ubisip.failover.plan import Journal, Plan, Progress, plain_member
from ubisip.failover.planner import Rules
from ubisip.failover.runner import ORPHANED
from ubisip.failover.verdict import UNKNOWN, Policy, Verdict

BACK_OFF = 5.0
"""Seconds before a plan that failed is made again; they double."""
LONGEST = 60.0
"""Seconds at most between such plans: local ones are tried for ever."""
TRIES = 3
"""Plans of class G or S that are tried for one matter before a person is asked."""


@dataclass(frozen=True, slots=True)
class TierSetup:
    """What the file says."""

    name: str
    kind: str
    mode: str
    rules: Rules
    policy: Policy


@dataclass(slots=True)
class TierState:
    """What the controller remembers."""

    setup: TierSetup
    views: tuple[MemberView, ...] = ()
    """The members as they are in this turn."""
    verdict: Verdict = field(default_factory=lambda: Verdict(UNKNOWN))
    since: float = -math.inf
    """When the verdict became this one."""
    answer: Plan | Refusal | None = None
    """What would be done now, or why not; None: nothing is called for."""
    case: tuple[str, ...] = ()
    """The matter that plans were made for."""
    tries: int = 0
    """Plans for it that failed."""
    given_up: bool = False
    """They were too many: a person is asked."""
    not_before: float = -math.inf
    settled: bool = False
    """A plan for it has succeeded."""
    cool_until: float = 0.0
    """Seconds since the epoch."""
    cooled_by: Proof = Proof.S
    """Class of the plan whose success it was."""

    @property
    def misfits(self) -> dict[str, tuple[str, ...]]:
        """By member, what is not as the file says, a sentence each."""
        return misfits({one.target.name: one.facts for one in self.views})

    def turn_to(self, case: tuple[str, ...]) -> None:
        """The matter is *case* now: what was tried for another one does not count."""
        if self.case != case:
            self.case, self.settled = case, False
            self.try_again()

    def try_again(self) -> None:
        """As if no plan had failed."""
        self.tries, self.given_up, self.not_before = 0, False, -math.inf

    def remember(self, journal: Journal, now: float) -> None:
        """Whether the matter is settled by a plan that has ended, or when to try again."""
        if journal.progress is Progress.DONE:
            self.settled = True
            return
        self.tries += 1
        stuck = journal.progress is Progress.INCOMPLETE or self.tries >= TRIES
        self.given_up = stuck and journal.plan.proof is not Proof.R
        if journal.reason != ORPHANED:  # then it did not fail itself: it is made anew at once
            self.not_before = now + min(LONGEST, BACK_OFF * 2 ** (self.tries - 1))

    def situation(self, site: str, domains: Sequence[str], request: str = "", wanted: str = "") -> Situation:
        """All that a plan is made from, seen from *site*; what an operator asks for, if one does."""
        it, verdict = self.setup, self.verdict
        return Situation(
            tier=it.name,
            kind=it.kind,
            members=self.views,
            verdict=verdict.code,
            why=verdict.why,
            site=site,
            wanted=wanted,
            domains=tuple(domains),
            accused=verdict.accused,
            request=request,
        )

    def plain(self, now: float, wall: float) -> dict[str, Any]:
        """For people, in plain values; *wall* in seconds since the epoch."""
        it = self.setup
        return {
            "name": it.name,
            "kind": it.kind,
            "mode": it.mode,
            "verdict": self.verdict.code,
            "about": list(self.verdict.accused),
            "why": list(self.verdict.why),
            "healthy": self.verdict.code in it.policy.healthy,
            "since": round(now - self.since, 3) if self.since > -math.inf else None,
            "cool_down": max(0.0, round(self.cool_until - wall, 3)),
            "misfits": [text for texts in self.misfits.values() for text in texts],
            "members": [plain_member(one) for one in self.views],
        }
