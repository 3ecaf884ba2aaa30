# SPDX-License-Identifier: Apache-2.0
"""The planner: what is to be done now, or why it may not be. One pure function, for earnest, dry runs and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ubisip.failover.action import Action, Proof, Refusal, Situation, Step
from ubisip.failover.plan import Plan, highest
from ubisip.failover.verdict import FAILBACK, SWITCHOVER, Policy, event_of
from ubisip.failover.votes import objections

COOL_DOWN = 600.0
"""Seconds after a plan of class G or S that succeeded in which no other of its tier starts by itself."""

Rules = Mapping[str, Sequence[str]]
"""Names of actions by event, as in the file: ``dead_primary``, not ``on_dead_primary``."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the controller stands, the facts of the tier aside."""

    epoch: int = 0
    """Of the lease; 0: we do not hold it."""
    no_lease: str = ""
    """Why we do not."""
    alone: bool = False
    """The store does not answer, so nobody leads: what is local is done by each for itself."""
    mode: str = "automatic"
    paused: str = ""
    """Who paused automatic action; empty: nobody."""
    busy: str = ""
    """The plan of class G or S that runs now: one at a time on the platform."""
    busy_here: str = ""
    """The plan of this tier that runs now."""
    misfits: tuple[str, ...] = ()
    """Members that are not what the file says, a sentence each."""
    cool_until: float = 0.0
    """Seconds since the epoch."""
    cooled_by: Proof = Proof.S
    """Class of the plan that succeeded: one of class G holds back its like, never a promotion."""
    now: float = 0.0
    """Seconds since the epoch."""
    asked_by: str = ""
    """The operator who asks; empty: nobody does."""


def plan(
    identity: str,
    situation: Situation,
    rules: Rules,
    policy: Policy,
    actions: Mapping[str, Action],
    standing: Standing,
) -> Plan | Refusal:
    """The plan for *situation*, or all reasons against it; *actions* are by their names in the rules."""
    cause, names = rule_for(situation, rules, policy)
    if not names and not situation.request and situation.verdict in policy.healthy:
        return Refusal((f"the tier is {situation.verdict}: nothing is called for",))
    if not names:
        return Refusal((f"no rule on_{event_of(cause)} in [tiers.{situation.tier}]",))
    steps, reasons = _steps(names, situation, actions)
    if not steps and not reasons:
        return Refusal((f"the actions of on_{event_of(cause)} find nothing to do",))
    reasons += _against(steps, situation, standing)
    if reasons:
        return Refusal(tuple(reasons), tuple(steps))
    return Plan(identity, situation.tier, cause, standing.epoch, tuple(steps), situation, standing.asked_by)


def rule_for(situation: Situation, rules: Rules, policy: Policy) -> tuple[str, Sequence[str]]:
    """The rule that *situation* calls for: its code and its actions, none when the file has no such rule."""
    own = policy.rule(situation.verdict, rules)
    if not situation.request:
        return situation.verdict, own
    if situation.request == "failover" and situation.verdict in policy.lost:
        if own or not policy.fallback:
            return situation.verdict, own
        return policy.fallback, rules.get(event_of(policy.fallback), ())
    wishes = (FAILBACK, SWITCHOVER) if situation.request == FAILBACK else (SWITCHOVER,)
    for wish in wishes:
        if wish in rules:
            return wish, rules[wish]
    return wishes[0], _substituted(rules, policy)


def _substituted(rules: Rules, policy: Policy) -> Sequence[str]:
    if not policy.substitutes:
        return ()
    return [policy.substitutes.get(name, name) for name in rules.get(event_of(policy.fallback), ())]


def _steps(names: Sequence[str], situation: Situation, actions: Mapping[str, Action]) -> tuple[list[Step], list[str]]:
    """The steps of the named actions, and why some have none."""
    steps: list[Step] = []
    reasons: list[str] = []
    for name in names:
        answer = actions[name].plan(situation, tuple(steps))
        if isinstance(answer, Refusal):
            reasons += [f"{name}: {reason}" for reason in answer.reasons]
        else:
            steps += [replace(step, action=step.action or name) for step in answer]
    return steps, reasons


def _against(steps: Sequence[Step], situation: Situation, standing: Standing) -> list[str]:
    """Why *steps* may not be taken now."""
    proof = highest(steps)
    reasons = []
    busy = standing.busy_here or (standing.busy if proof is not Proof.R else "")
    if busy:
        reasons.append(f"plan {busy} is not finished")
    if not standing.epoch and not (proof is Proof.R and standing.alone):
        reasons.append(standing.no_lease or "another gateway leads")
    if not standing.asked_by:
        reasons += _against_by_itself(proof, situation, standing)
    return reasons


def _against_by_itself(proof: Proof, situation: Situation, standing: Standing) -> list[str]:
    """What holds automatic action back and an operator's command overrides."""
    reasons = []
    if standing.mode == "observe":
        reasons.append("the tier's mode is observe")
    if standing.mode == "ask":
        reasons.append(f"the tier's mode is ask: it waits for `ubisip failover {situation.tier}`")
    if proof is not Proof.R:
        reasons += [f"the file and the members differ: {text}" for text in standing.misfits]
    if standing.paused:
        reasons.append(f"automatic action is paused by {standing.paused}")
    held = proof is Proof.G or (proof is Proof.S and standing.cooled_by is Proof.S)
    if held and standing.now < standing.cool_until:
        left = standing.cool_until - standing.now
        reasons.append(
            f"the last plan succeeded less than {COOL_DOWN:.0f} s ago: for {left:.0f} s more it waits for"
            f" `ubisip failover {situation.tier}`"
        )
    return reasons + objections(situation, proof)
