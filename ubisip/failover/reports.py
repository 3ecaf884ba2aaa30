# SPDX-License-Identifier: Apache-2.0
"""What people are told of tiers, plans and a gateway that cannot lead: the notices of a controller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ubisip.failover.action import MemberView, Notice, Proof, Situation
from ubisip.failover.notices import Notices
from ubisip.failover.plan import Journal, Progress
from ubisip.failover.verdict import Policy, Verdict


def plan_key(situation: Situation) -> str:
    """The key of the notice on plans for *situation*: one for all that are tried for the same matter."""
    return f"plan/{situation.tier}/{situation.request or situation.verdict}"


class Reports:
    """Opens and settles *notices*; *wall* gives the seconds since the epoch."""

    def __init__(self, notices: Notices, wall: Callable[[], float]) -> None:
        self._notices = notices
        self._wall = wall

    def silence(self, tier: str) -> None:
        """Another gateway speaks of *tier*."""
        self._notices.drop(f"tier/{tier}/")
        self._notices.drop(f"plan/{tier}/")

    def healthy(self, tier: str, verdict: Verdict, *, plans_too: bool) -> None:
        """Nothing is the matter with it any more; *plans_too*: nor is there anything left to say of its plans."""
        text = f"tier {tier} is {verdict.code}"
        self._notices.settle(f"tier/{tier}/verdict", text, self._wall())
        if plans_too:
            self._notices.settle(f"plan/{tier}/", text, self._wall())

    def verdict(self, tier: str, verdict: Verdict, policy: Policy, against: Sequence[str]) -> None:
        """What is the matter with it, and why nothing is done about it."""
        reasons = (f"not acted upon: {reason}" for reason in against)
        text = "; ".join((policy.codes.get(verdict.code, verdict.code), *verdict.why, *reasons))
        severity = "critical" if verdict.code in policy.lost else "warning"
        labels = {"tier": tier, "verdict": verdict.code}
        news = (*verdict.case, *against)
        self._tell(f"tier/{tier}/verdict", severity, f"tier {tier}: {verdict.code}", text, labels, news)

    def problems(self, tier: str, views: Sequence[MemberView], misfits: Mapping[str, Sequence[str]]) -> None:
        """What an operator must mend at its members."""
        for one in views:
            member, key = one.target.name, f"tier/{tier}/problem/{one.target.name}"
            problem = one.problem or "; ".join(misfits.get(member, ()))
            if problem:
                labels = {"tier": tier, "member": member}
                self._tell(key, "warning", f"tier {tier}: a problem with {member}", problem, labels, (problem,))
            else:
                self._notices.settle(key, f"{member} is without it", self._wall())

    def plan(self, journal: Journal) -> None:
        """A plan began, was taken up, or ended."""
        it = journal.plan
        severity = "critical" if it.proof is Proof.S or journal.progress is Progress.INCOMPLETE else "warning"
        steps = "; ".join(f"{step}: {record.state.value}" for step, record in zip(it.steps, journal.steps, strict=True))
        reason = f": {journal.reason}" if journal.reason else ""
        text = f"{journal.progress.value}{reason}. Steps: {steps}. Why: {'; '.join(it.situation.why)}"
        labels = {"tier": it.tier, "plan": it.id, "progress": journal.progress.value}
        title = f"tier {it.tier}: plan for {it.cause}"
        self._tell(plan_key(it.situation), severity, title, text, labels, (text,))

    def ourselves(self, name: str, *, store: str, configuration: str) -> None:
        """Why the gateway *name* cannot lead; empty: it can."""
        for what, problem in (("store", store), ("configuration", configuration)):
            key = f"gateway/{name}/{what}"
            if problem:
                text = f"{problem}: nothing global or stateful is done from here"
                title = f"gateway {name} cannot lead"
                self._tell(key, "critical", title, text, {"gateway": name}, (what,))
            else:
                self._notices.settle(key, "it can again", self._wall())

    def _tell(
        self, key: str, severity: str, title: str, text: str, labels: Mapping[str, str], news: Sequence[str]
    ) -> None:
        self._notices.tell(Notice(key, severity, title, text, labels, self._wall()), news)
