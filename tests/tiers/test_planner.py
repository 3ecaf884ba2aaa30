# SPDX-License-Identifier: Apache-2.0
"""Observed facts -> verdict -> plan, as rows of a table: for tiers whose members are alike, and for the planner.

A row's members are ``name@SITE:STATE`` with one vote for each of PA2, PA5 and W: ``u`` up, ``d`` down, ``-`` abstains.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ubisip.failover.action import Check, Context, MemberView, Proof, Refusal, Situation, Step
from ubisip.failover.plan import Plan
from ubisip.failover.planner import Standing, plan
from ubisip.failover.verdict import POOL, Policy, Verdict, pool
from ubisip.failover.votes import ABSTAIN, DOWN, UP, domain_vote, needed, objections, vote
from ubisip.health.machine import State
from ubisip.health.probe import Target
from ubisip.health.prober import Seen

WORDS = {"u": UP, "d": DOWN, "-": ABSTAIN}
SITES = ("PA2", "PA5", "W")
STATES = {"up": State.UP, "down": State.DOWN, "falling": State.FALLING, "rising": State.RISING, "held": State.HELD}
STATES |= {"unknown": State.UNKNOWN, "degraded": State.DEGRADED}


def view(text: str) -> MemberView:
    """``w1@PA2:down ddu``."""
    who, _, votes = text.partition(" ")
    name, _, rest = who.partition("@")
    site, _, state = rest.partition(":")
    ballots = {domain: WORDS[letter] for domain, letter in zip(SITES, votes, strict=False)}
    return MemberView(Target("t", name, site, "x"), STATES[state], "why", votes=ballots)


def views(text: str) -> list[MemberView]:
    return [view(one.strip()) for one in text.split(",")]


@pytest.mark.parametrize(
    ("members", "code", "about"),
    [
        ("a@PA2:up, b@PA5:up", "healthy", ""),
        ("a@PA2:falling, b@PA5:up", "healthy", ""),
        ("a@PA2:down, b@PA5:up", "member-down", "a"),
        ("a@PA2:up, b@PA5:down", "member-down", "b"),
        ("a@PA2:held, b@PA5:up", "member-down", "a"),
        ("a@PA2:rising, b@PA5:up", "member-down", "a"),
        ("a@PA2:down, b@PA5:down", "all-down", "a b"),
        ("a@PA2:down, b@PA5:held", "all-down", "a b"),
        ("a@PA2:down, b@PA5:falling", "member-down", "a"),
        ("a@PA2:unknown, b@PA5:unknown", "unknown", ""),
        ("a@PA2:unknown, b@PA5:up", "healthy", ""),
        ("a@PA2:unknown, b@PA5:down", "member-down", "b"),
        ("a@PA2:degraded, b@PA5:up", "degraded", "a"),
        ("a@PA2:degraded, b@PA5:down", "member-down", "b"),
        ("a@PA2:down, b@PA5:down, c@PA5:up", "member-down", "a b"),
        ("a@PA2:degraded, b@PA5:degraded", "degraded", "a b"),
        ("a@PA2:down", "all-down", "a"),
        ("a@PA2:up", "healthy", ""),
    ],
)
def test_the_verdict_on_members_that_are_alike(members: str, code: str, about: str) -> None:
    verdict = pool(views(members), 0.0)
    assert (verdict.code, " ".join(verdict.accused)) == (code, about)
    assert code in POOL.codes
    if about:
        assert all(any(name in why for why in verdict.why) for name in verdict.accused)


@pytest.mark.parametrize("states", list(itertools.product(STATES, repeat=3)), ids="-".join)
def test_any_three_states_have_a_verdict_that_accuses_only_those_who_do_not_serve(states: Sequence[str]) -> None:
    members = [view(f"{name}@PA2:{state}") for name, state in zip("abc", states, strict=True)]
    verdict = pool(members, 0.0)
    assert verdict.code in POOL.codes
    serving = {one.target.name for one in members if one.state in (State.UP, State.FALLING, State.UNKNOWN)}
    assert not serving & set(verdict.accused)
    if verdict.code == "healthy":
        assert not verdict.accused


@pytest.mark.parametrize(
    ("ballots", "word"),
    [
        ("", ABSTAIN), ("u", UP), ("d", DOWN), ("-", ABSTAIN), ("ud", ABSTAIN), ("uud", UP), ("ddu", DOWN),
        ("d--", DOWN), ("u--", UP), ("dd", DOWN), ("udud", ABSTAIN),
    ],
)  # fmt: skip
def test_the_vote_of_a_domain_is_the_majority_of_those_who_do_not_abstain(ballots: str, word: str) -> None:
    assert domain_vote(WORDS[letter] for letter in ballots) == word


@pytest.mark.parametrize(
    ("state", "abstains", "word"),
    [
        ("up", False, UP), ("degraded", False, UP), ("down", False, DOWN), ("held", False, DOWN),
        ("falling", False, ABSTAIN), ("rising", False, ABSTAIN), ("unknown", False, ABSTAIN),
        ("up", True, ABSTAIN), ("down", True, ABSTAIN),
    ],
)  # fmt: skip
def test_the_vote_of_an_observer(state: str, abstains: bool, word: str) -> None:
    assert vote(Seen(Target("t", "a", "PA2", "x"), STATES[state], "", {}, 0.0, "", abstains)) == word


@pytest.mark.parametrize(("domains", "number"), [(1, 1), (2, 2), (3, 2), (5, 2)])
def test_how_many_domains_must_agree(domains: int, number: int) -> None:
    assert needed(domains) == number


BALLOTS = ["".join(letters) for letters in itertools.product("ud-", repeat=3)]


@pytest.mark.parametrize("proof", list(Proof))
@pytest.mark.parametrize("ballots", BALLOTS)
def test_votes_of_three_domains_on_one_member(ballots: str, proof: Proof) -> None:
    """Two say down and none says up, or nothing global is done: whatever else they say."""
    it = Situation("t", "k", (view(f"a@PA2:down {ballots}"),), "member-down", domains=SITES, accused=("a",))
    carried = ballots.count("d") >= 2 and "u" not in ballots
    assert (not objections(it, proof)) == (carried or proof is Proof.R)


@pytest.mark.parametrize("ballots", BALLOTS)
@pytest.mark.parametrize("count", [1, 2])
def test_votes_where_there_are_fewer_domains(ballots: str, count: int) -> None:
    ballots = ballots[:count]
    members = (view(f"a@PA2:down {ballots}"),)
    it = Situation("t", "k", members, "member-down", domains=SITES[:count], accused=("a",))
    assert (not objections(it, Proof.S)) == (ballots == "d" * count)


@pytest.mark.parametrize(
    ("members", "accused", "carried"),
    [
        ("a@PA2:down dd-, b@PA5:down dd-", "a b", True),
        ("a@PA2:down dd-, b@PA5:down d--", "a b", False),
        ("a@PA2:down dd-, b@PA5:up uuu", "a", True),
        ("a@PA2:up uuu, b@PA5:up uuu", "", True),
        ("a@PA2:up u--, b@PA5:up u--", "", False),
        ("a@PA2:up u--, b@PA5:up -u-", "", True),
        ("a@PA2:up uuu, b@PA5:degraded uuu", "b", True),
        ("a@PA2:falling d--, b@PA5:up uuu", "a", False),
        ("a@PA2:unknown ---, b@PA5:unknown ---", "", False),
    ],
)
def test_votes_on_several_members(members: str, accused: str, carried: bool) -> None:
    it = Situation("t", "k", tuple(views(members)), "x", domains=SITES, accused=tuple(accused.split()))
    assert (not objections(it, Proof.G)) == carried


# The planner


@dataclass
class Planning:
    """An action that plans what it was made with."""

    answer: tuple[Step, ...] | Refusal

    def plan(self, situation: Situation, before: Sequence[Step]) -> Sequence[Step] | Refusal:
        if isinstance(self.answer, Refusal):
            return self.answer
        return tuple(replace(step, target=situation.wanted or f"after {len(before)}") for step in self.answer)

    async def precheck(self, step: Step, context: Context) -> Check:
        raise AssertionError("planning is pure")

    async def apply(self, step: Step, context: Context) -> Mapping[str, Any]:
        raise AssertionError("planning is pure")

    async def verify(self, step: Step, context: Context) -> Check:
        raise AssertionError("planning is pure")

    async def compensate(self, step: Step, context: Context) -> None:
        raise AssertionError("planning is pure")

    async def close(self) -> None:
        """It has nothing."""


ACTIONS = {
    "local": Planning((Step("", "drain", "", Proof.R),)),
    "global": Planning((Step("", "switch", "", Proof.G),)),
    "promote": Planning((Step("", "fence", "", Proof.S), Step("", "promote", "", Proof.S, final=True))),
    "swap": Planning((Step("", "swap", "", Proof.S),)),
    "never": Planning(Refusal(("no candidate", "and no fence"))),
    "idle": Planning(()),
}
DEAD = Situation("t", "k", tuple(views("a@PA2:down dd-, b@PA5:up uuu")), "dead", domains=SITES, accused=("a",))
WELL = Situation("t", "k", tuple(views("a@PA2:up uuu, b@PA5:up uuu")), "healthy", domains=SITES)
DB = Policy(
    lambda members, now: Verdict("healthy"),
    {"healthy": "", "dead": "", "alone": ""},
    lost=frozenset({"dead", "alone"}),
    fallback="dead",
    substitutes={"promote": "swap"},
)
LEADS = Standing(epoch=7, now=1000.0)


def made(
    rules: Mapping[str, Sequence[str]], situation: Situation = DEAD, standing: Standing = LEADS, policy: Policy = DB
) -> Plan | Refusal:
    return plan("p-1", situation, rules, policy, ACTIONS, standing)


def outcome(answer: Plan | Refusal) -> str:
    """The steps of a plan; of a refusal, its reasons."""
    if isinstance(answer, Refusal):
        return "no: " + "; ".join(answer.reasons)
    return " ".join(f"{step.action}.{step.do}" for step in answer.steps)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["promote"], "promote.fence promote.promote"),
        (["promote", "local", "global"], "promote.fence promote.promote local.drain global.switch"),
        (["local", "promote"], "local.drain promote.fence promote.promote"),
        (["promote", "idle"], "promote.fence promote.promote"),
        (["idle"], "no: the actions of on_dead find nothing to do"),
        (["never"], "no: never: no candidate; never: and no fence"),
        (["promote", "never"], "no: never: no candidate; never: and no fence"),
        ([], "no: no rule on_dead in [tiers.t]"),
    ],
)
def test_a_rule_becomes_the_steps_of_its_actions_in_its_order(names: list[str], expected: str) -> None:
    assert outcome(made({"dead": names})) == expected


def test_a_later_action_sees_the_steps_of_the_earlier() -> None:
    answer = made({"dead": ["promote", "local"]})
    assert isinstance(answer, Plan) and answer.steps[-1].target == "after 2"


def test_a_plan_carries_what_it_was_made_from() -> None:
    answer = made({"dead": ["promote"]})
    assert isinstance(answer, Plan)
    assert (answer.id, answer.tier, answer.cause, answer.epoch, answer.situation) == ("p-1", "t", "dead", 7, DEAD)
    assert answer.proof is Proof.S and answer.has_return


SPLIT = replace(DEAD, members=tuple(views("a@PA2:down d-u, b@PA5:up uuu")))
STANDINGS: dict[str, tuple[Standing, str]] = {
    "leads": (LEADS, ""),
    "follows": (replace(LEADS, epoch=0, no_lease="x leads"), "x leads"),
    "nobody": (replace(LEADS, epoch=0, no_lease="no answer", alone=True), "no answer"),
    "paused": (replace(LEADS, paused="alice"), "automatic action is paused by alice"),
    "asks": (replace(LEADS, mode="ask"), "the tier's mode is ask: it waits for `ubisip failover t`"),
    "observes": (replace(LEADS, mode="observe"), "the tier's mode is observe"),
    "misfit": (replace(LEADS, misfits=("b has server id 1",)), "the file and the members differ: b has server id 1"),
    "busy": (replace(LEADS, busy="q"), "plan q is not finished"),
    "here": (replace(LEADS, busy_here="q"), "plan q is not finished"),
    "cool": (replace(LEADS, cool_until=1100.0), "the last plan succeeded"),
    "cool after G": (replace(LEADS, cool_until=1100.0, cooled_by=Proof.G), "the last plan succeeded"),
}
OVERRIDDEN = {"paused", "asks", "observes", "cool", "cool after G", "misfit"}
"""What an operator's command overrides."""
FREE_FOR_LOCAL = {"nobody", "busy", "cool", "cool after G", "misfit"}
"""What does not hold back what is local and reversible."""
FREE_FOR_PROMOTION = {"cool after G"}


@pytest.mark.parametrize("votes", ["carry", "split"])
@pytest.mark.parametrize("asked", ["by nobody", "by alice"])
@pytest.mark.parametrize("action", ["local", "global", "promote"])
@pytest.mark.parametrize("where", list(STANDINGS))
def test_what_holds_a_plan_back(where: str, action: str, asked: str, votes: str) -> None:
    standing, reason = STANDINGS[where]
    situation = DEAD if votes == "carry" else SPLIT
    operator = asked == "by alice"
    answer = made({"dead": [action]}, situation, replace(standing, asked_by="alice" if operator else ""))
    expected = set()
    free = FREE_FOR_LOCAL if action == "local" else FREE_FOR_PROMOTION if action == "promote" else ()
    if reason and not (operator and where in OVERRIDDEN) and where not in free:
        expected.add(reason)
    if votes == "split" and not operator and action != "local":
        expected |= {"a must be down for 2 failure domains", "a is up for W"}
    if not expected:
        assert isinstance(answer, Plan)
        return
    assert isinstance(answer, Refusal) and answer.steps, "what would be done is told all the same"
    assert len(answer.reasons) == len(expected)
    assert all(any(reason.startswith(start) for reason in answer.reasons) for start in expected)


@pytest.mark.parametrize(
    ("rules", "situation", "request_", "expected"),
    [
        ({"dead": ["promote"]}, DEAD, "failover", "promote.fence promote.promote"),
        ({"dead": ["promote"]}, replace(DEAD, verdict="alone"), "failover", "promote.fence promote.promote"),
        ({"dead": ["promote"], "alone": ["local"]}, replace(DEAD, verdict="alone"), "failover", "local.drain"),
        ({"dead": ["promote"]}, WELL, "failover", "swap.swap"),
        ({"dead": ["promote", "local"]}, WELL, "failover", "swap.swap local.drain"),
        ({"dead": ["promote"], "switchover": ["global"]}, WELL, "failover", "global.switch"),
        ({"dead": ["promote"], "switchover": ["global"]}, WELL, "failback", "global.switch"),
        ({"dead": ["promote"], "failback": ["local"]}, WELL, "failback", "local.drain"),
        ({"dead": ["promote"], "failback": ["local"]}, WELL, "failover", "swap.swap"),
        ({}, WELL, "failover", "no: no rule on_switchover in [tiers.t]"),
        ({}, WELL, "failback", "no: no rule on_failback in [tiers.t]"),
        ({}, DEAD, "failover", "no: no rule on_dead in [tiers.t]"),
        ({"dead": ["promote"]}, WELL, "", "no: the tier is healthy: nothing is called for"),
        ({"healthy": ["local"]}, WELL, "", "local.drain"),
    ],
)
def test_which_rule_an_operators_wish_is(
    rules: Mapping[str, Sequence[str]], situation: Situation, request_: str, expected: str
) -> None:
    standing = replace(LEADS, asked_by="alice" if request_ else "")
    assert outcome(made(rules, replace(situation, request=request_), standing)) == expected


def test_the_member_that_an_operator_names_reaches_the_actions() -> None:
    answer = made(
        {"dead": ["promote"]}, replace(DEAD, request="failover", wanted="b"), replace(LEADS, asked_by="alice")
    )
    assert isinstance(answer, Plan) and {step.target for step in answer.steps} == {"b"}


def test_the_same_situation_gives_the_same_plan() -> None:
    assert made({"dead": ["promote", "local"]}) == made({"dead": ["promote", "local"]})
