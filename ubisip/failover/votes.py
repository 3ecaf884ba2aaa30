# SPDX-License-Identifier: Apache-2.0
"""Votes by failure domain: what must agree before something is done (DESIGN section 9).

A domain is a site with an observer: a gateway. Its vote is the majority of its observers that do not abstain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ubisip.failover.action import MemberView, Proof, Situation
from ubisip.health.machine import State
from ubisip.health.prober import Seen

UP = "up"
DOWN = "down"
ABSTAIN = "abstain"

_OF_STATE: Mapping[State, str] = {
    State.UP: UP,
    State.DEGRADED: UP,
    State.DOWN: DOWN,
    State.HELD: DOWN,
}


def vote(seen: Seen) -> str:
    """One observer's vote on one member; what is changing is not voted on yet."""
    return ABSTAIN if seen.abstains else _OF_STATE.get(seen.state, ABSTAIN)


def domain_vote(votes: Iterable[str]) -> str:
    """The vote of a domain from those of its observers; as many on each side: it abstains."""
    votes = list(votes)
    up, down = votes.count(UP), votes.count(DOWN)
    return ABSTAIN if up == down else UP if up > down else DOWN


def needed(domains: int) -> int:
    """Domains that must agree on what is global or stateful: two, or the one that there is."""
    return min(2, domains)


def objections(situation: Situation, proof: Proof) -> list[str]:
    """Why the votes do not carry a plan of class *proof*: a sentence each; empty: they do.

    The members that the verdict is about must be down for enough domains and up for none; where it is about nobody,
    enough domains must see the tier at all.
    """
    if proof is Proof.R:
        return []
    wanted = needed(len(situation.domains))
    lost = [one for one in map(situation.member, situation.accused) if one.state not in (State.UP, State.DEGRADED)]
    if lost:
        return [text for one in lost for text in _against(one, wanted)]
    seeing = {domain for one in situation.members for domain, word in one.votes.items() if word != ABSTAIN}
    if len(seeing) >= wanted:
        return []
    return [f"{wanted} failure domains must see the tier, {_names(seeing)} does"]


def _against(member: MemberView, wanted: int) -> list[str]:
    by_word = {word: sorted(domain for domain, it in member.votes.items() if it == word) for word in (UP, DOWN)}
    reasons = []
    if len(by_word[DOWN]) < wanted:
        text = f"{member.target.name} must be down for {wanted} failure domains, it is for {_names(by_word[DOWN])}"
        reasons.append(text)
    if by_word[UP]:
        reasons.append(f"{member.target.name} is up for {_names(by_word[UP])}")
    return reasons


def _names(domains: Iterable[str]) -> str:
    return " and ".join(sorted(domains)) or "none"
