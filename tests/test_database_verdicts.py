# SPDX-License-Identifier: Apache-2.0
"""Facts -> verdict -> plan for database tiers, as tables (the words are those of tiers/mariadb_cases.py).

The plan column: ``promote NAME``, ``rejoin NAME...``, ``ackers +NAME -NAME``; ``-`` when no rule is asked; a text in
quotes must stand in the refusal.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tiers.mariadb_cases import NAMES, ballots, member, rows, tier

from ubisip.failover.action import Action, MemberView, Refusal, Situation, Step
from ubisip.failover.actions.mariadb_ackers import AckersAction
from ubisip.failover.actions.mariadb_promote import PromoteAction
from ubisip.failover.actions.mariadb_rejoin import RejoinAction
from ubisip.failover.actions.mariadb_switchover import SwitchoverAction
from ubisip.failover.database import CODES, POLICY
from ubisip.failover.plan import Plan, new_journal, pack, unpack
from ubisip.failover.planner import Standing, plan

ACTIONS: dict[str, Action] = {
    "mariadb-promote": PromoteAction({}),
    "mariadb-switchover": SwitchoverAction({}),
    "mariadb-rejoin": RejoinAction({}),
    "mariadb-ackers": AckersAction({}),
}
RULES = {"dead_primary": ("mariadb-promote",)}
"""What the example of the documentation has; the rest is by the kind's own rules."""

TESTIMONY = """
# primary  replicas            votes  verdict                                  plan
# All is well, or nearly
up       | ok ok ok            -    healthy                                  -
up       | ok ok ok            UUU  healthy                                  -
fall     | ok ok ok            -    suspect-primary                          -
slow     | ok ok ok            -    suspect-primary                          -
slow     | still still still   -    suspect-primary                          -
full     | ok ok ok            -    suspect-primary                          -
full     | conn conn conn      -    suspect-primary                          -
new      | new new new         -    unknown                                  -
never    | new new new         -    unknown                                  -
barred   | ok ok ok            -    unknown                                  -
barred   | conn conn conn      -    unknown                                  -
# Dead: all who are reached say so
down     | conn conn conn      -    dead-primary                             promote db-pa2-2
down     | cut cut cut         -    dead-primary                             promote db-pa2-2
down     | still still still   -    dead-primary                             promote db-pa2-2
mute     | still still still   -    dead-primary                             promote db-pa2-2
mute     | conn still cut      -    dead-primary                             promote db-pa2-2
down     | gone conn conn      -    dead-primary                             promote db-pa5-1
down     | stop conn conn      -    dead-primary                             promote db-pa2-2
down     | 1236 conn conn      -    dead-primary                             promote db-pa2-2
never    | conn conn conn      -    dead-primary                             "write barrier"
down     | conn conn conn      DDD  dead-primary                             promote db-pa2-2
down     | conn conn conn      -DD  dead-primary                             promote db-pa2-2
down     | lost conn conn      -DD  dead-primary                             promote db-pa5-1
down     | lost conn conn      D-D  dead-primary                             promote db-pa5-1
down     | conn conn conn      D    dead-primary                             promote db-pa2-2
down     | conn conn conn      DD   dead-primary                             promote db-pa2-2
rising   | conn conn conn      -    all-replicas-not-replicating             -
rising   | ok ok ok            -    healthy                                  -
held     | conn conn conn      -    dead-primary                             promote db-pa2-2
flapping | ok ok ok            -    healthy                                  -
flapping+ro | 1236 1236 1236   -    no-primary                               promote db-pa2-1
# Not reached, but alive
down     | ok ok ok            -    unreachable-primary                      -
mute     | ok ok ok            -    unreachable-primary                      -
down     | ok conn conn        -    unreachable-primary                      -
down     | conn ok conn        -    unreachable-primary                      -
down     | conn conn ok        -    unreachable-primary                      -
down     | conn conn pause     -    unreachable-primary                      -
down     | conn conn calm      -    unreachable-primary                      -
down     | gone gone ok        -    unreachable-primary                      -
down     | stop stop ok        -    unreachable-primary                      -
down     | ok ok ok            DDD  unreachable-primary                      -
down     | lag lag lag         -    unreachable-primary-with-lagging-replicas -
mute     | conn conn lag       -    unreachable-primary-with-lagging-replicas -
down     | lag ok conn         -    unreachable-primary                      -
# Not down for enough failure domains
down     | conn conn conn      D--  unreachable-primary                      -
down     | conn conn conn      DU-  unreachable-primary                      -
down     | conn conn conn      DDU  unreachable-primary                      -
down     | conn conn conn      UDD  unreachable-primary                      -
down     | conn conn conn      D-   unreachable-primary                      -
down     | ok conn conn        DUU  unreachable-primary                      -
# Nobody can testify
down     | gone gone gone      -    dead-primary-without-witnesses           -
down     | stop stop stop      -    dead-primary-without-witnesses           -
down     | 1236 1236 1236      -    dead-primary-without-witnesses           -
down     | stop gone 1236      -    dead-primary-without-witnesses           -
mute     | lost lost lost      -    dead-primary-without-witnesses           -
down     | new new new         -    dead-primary-without-witnesses           -
down     | late late late      -    dead-primary                             promote db-pa2-2
# Read-only: all have restarted, or somebody has closed it
ro       | ok ok ok            -    no-primary                               promote db-pa2-1
ro       | conn conn conn      -    no-primary                               promote db-pa2-1
ro       | ahead ok ok         -    no-primary                               promote db-pa2-2
ro       | stop stop stop      -    no-primary                               promote db-pa2-1
"""

CANDIDATES = """
# Who has received most comes first
down     | conn conn+ahead conn          -  dead-primary   promote db-pa5-1
down     | conn conn conn+ahead          -  dead-primary   promote db-pa5-2
down     | conn+behind conn conn         -  dead-primary   promote db-pa5-1
down     | conn+behind conn+behind conn  -  dead-primary   promote db-pa5-2
down     | conn+ahead conn conn          -  dead-primary   promote db-pa2-2
# then who has applied most
down     | conn+unapplied conn conn      -  dead-primary   promote db-pa5-1
down     | conn+unapplied conn+unapplied conn  -  dead-primary  promote db-pa5-2
down     | conn+unapplied conn+ahead+unapplied conn  -  dead-primary  promote db-pa5-1
# then who lags least; who is late on purpose comes last, unless he alone has all
down     | conn+lag conn conn            -  dead-primary   promote db-pa5-1
down     | conn+delay conn conn          -  dead-primary   promote db-pa5-1
down     | conn+delay conn+delay conn    -  dead-primary   promote db-pa5-2
down     | conn+behind conn+delay conn+behind  -  dead-primary  promote db-pa5-1
# Never: transactions of its own
down     | conn+errant conn conn         -  dead-primary   promote db-pa5-1
down     | conn conn+errant conn         -  dead-primary   promote db-pa2-2
down     | conn+errant conn+errant conn  -  dead-primary   promote db-pa5-2
down     | conn+errant conn+errant conn+errant  -  dead-primary  "transactions of its own"
down     | gone conn+errant conn+errant  -  dead-primary   "transactions of its own"
# Never: somebody that others cannot follow, or that we may not touch
down     | conn+poor conn conn           -  dead-primary   promote db-pa5-1
down     | conn+nolog conn conn          -  dead-primary   promote db-pa5-1
down     | conn+domain conn conn         -  dead-primary   promote db-pa5-1
down     | conn+newer conn conn          -  dead-primary   promote db-pa5-1
down     | conn+older conn conn          -  dead-primary   promote db-pa2-2
down     | conn conn+older conn          -  dead-primary   promote db-pa5-1
down     | conn+many conn conn           -  dead-primary   promote db-pa5-1
down     | conn+sqlerr conn conn         -  dead-primary   promote db-pa5-1
down     | conn+poor conn+poor conn+poor -  dead-primary   "RELOAD"
down     | conn+nolog conn+nolog conn+nolog  -  dead-primary  "binary log"
down     | conn+domain conn+nolog conn+many  -  dead-primary  "gtid_domain_id"
down     | conn+sqlerr conn+sqlerr conn+sqlerr  -  dead-primary  "Duplicate entry"
# The write barrier: whoever could have acknowledged must be among us
down     | conn gone conn                -  dead-primary   "db-pa5-1 is not reached"
down     | conn conn gone                -  dead-primary   "db-pa5-2 is not reached"
down     | conn gone gone                -  dead-primary   "some may be lost"
down     | gone conn conn                -  dead-primary   promote db-pa5-1
down     | conn conn+unmark conn         -  dead-primary   promote db-pa2-2
down     | conn gone+unmark conn         -  dead-primary   promote db-pa2-2
down     | conn conn+unmark conn+unmark  -  dead-primary   "some may be lost"
down     | conn+mark conn+unmark conn+unmark  -  dead-primary  promote db-pa2-2
down     | gone+mark conn+unmark conn+unmark  -  dead-primary  "db-pa2-2 is not reached"
down+async | conn conn conn              -  dead-primary   "without waiting"
forgotten | conn conn conn               -  dead-primary   "1000 s old"
down+hasty | conn conn conn              -  dead-primary   "10000 ms"
down+unacked | conn gone conn            -  dead-primary   promote db-pa2-2
"""

REIGNS = """
# After a failover to db-pa2-2, reign 7; the first column is the primary of before
gone     | now f2 f2                     -  replica-down            -
joined   | now f2 f2                     -  healthy                 -
joined   | early f2 f2                   -  healthy                 -
gone     | early f2 f2                   -  replica-down            -
alone    | now f2 f2                     -  old-primary-returned    rejoin db-pa2-1
writable | now f2 f2                     -  old-primary-returned    rejoin db-pa2-1
tail     | now f2 f2                     -  old-primary-returned    rejoin db-pa2-1
alone+r7 | now f2 f2                     -  old-primary-returned    rejoin db-pa2-1
joined   | now ok+r7 f2                  -  old-primary-returned    rejoin db-pa5-1
writable | now ok f2                     -  old-primary-returned    rejoin db-pa2-1 db-pa5-1
# It has transactions of its own and is quiet: nothing is done to it
errant+alone | now f2 f2                 -  errant-member           -
# Another member has been made writable by hand, in the same reign
up       | writable ok ok                -  old-primary-returned    rejoin db-pa2-2
up       | writable alone alone          -  two-primaries           -
up       | writable still still          -  two-primaries           -
# A primary of an older reign is none, however alone it is
writable | down+now f2+conn f2+conn      -  dead-primary            promote db-pa5-1
writable | down+now f2 f2                -  unreachable-primary     -
joined   | down+now f2+conn f2+conn      -  unreachable-primary     -
joined+conn | down+now f2+conn f2+conn   -  dead-primary            promote db-pa2-1
gone     | down+now f2+conn f2+conn      -  dead-primary            promote db-pa5-1
# The new primary has restarted read-only
gone     | now+ro f2 f2                  -  no-primary              promote db-pa2-2
# Members that are not as they should be
up       | errant ok ok                  -  errant-member           -
up       | holed ok ok                   -  errant-member           -
up       | gone ok ok                    -  replica-down            -
up       | gone gone gone                -  replica-down            -
up       | stop ok ok                    -  replica-not-replicating -
up       | 1236 ok ok                    -  replica-not-replicating -
up       | sqlerr ok ok                  -  replica-not-replicating -
up       | stop stop stop                -  all-replicas-not-replicating  -
up       | lag ok ok                     -  lagging-replica         -
# Acknowledgements
locked   | ok away away                  -  locked-semi-sync        ackers -db-pa5-1 -db-pa5-2 +db-pa2-2 release
stuck    | ok away away                  -  locked-semi-sync        ackers -db-pa5-1 -db-pa5-2 +db-pa2-2 release
stuck    | ok away ok                    -  locked-semi-sync        ackers release
stuck    | ok ok ok                      -  locked-semi-sync        ackers release
stuck    | ok conn conn                  -  locked-semi-sync        "may be back in a moment"
busy     | ok ok ok                      -  healthy                 -
busy     | ok away away                  -  replica-not-replicating -
locked   | ok hidden away                -  locked-semi-sync        "may be back in a moment"
locked   | ok gone away                  -  locked-semi-sync        ackers -db-pa5-2 +db-pa2-2 release
locked   | ok gone gone                  -  locked-semi-sync        ackers +db-pa2-2 release
locked   | gone away away                -  locked-semi-sync        "no replica in PA2"
locked   | gone gone gone                -  locked-semi-sync        ackers alone
locked   | errant away away              -  locked-semi-sync        ackers -db-pa5-1 -db-pa5-2 +db-pa2-2 release
up       | mark ok+unmark ok+unmark      -  degraded                ackers +db-pa5-1 +db-pa5-2 -db-pa2-2
up       | mark ok ok                    -  degraded                ackers -db-pa2-2
up       | ok ok+unmark ok+unmark        -  degraded                ackers +db-pa5-1 +db-pa5-2
up       | mark gone+unmark gone+unmark  -  replica-down            -
up       | mark lag+unmark ok+unmark     -  lagging-replica         -
up       | mark+errant ok ok             -  degraded                ackers -db-pa2-2
async    | ok ok ok                      -  degraded                ackers waits
async    | ok ok+unmark ok+unmark        -  degraded                ackers +db-pa5-1 +db-pa5-2 waits
async    | ok gone gone                  -  replica-down            -
"""


def situation(members: Sequence[MemberView], wanted: str = "", request: str = "") -> Situation:
    verdict = POLICY.verdict(members, 0.0)
    domains = tuple(members[0].votes) or ("PA2",)
    return Situation(
        "database",
        "mariadb",
        tuple(members),
        verdict.code,
        verdict.why,
        "PA2",
        wanted,
        domains,
        verdict.accused,
        request,
    )


def planned(it: Situation) -> Plan | Refusal:
    standing = Standing(epoch=9, asked_by="somebody" if it.request else "")
    return plan("p", it, RULES, POLICY, ACTIONS, standing)


def words_of(made: Plan) -> str:
    """A plan in the words of the tables."""
    action = made.steps[0].action.removeprefix("mariadb-")
    if action == "ackers":
        return " ".join([action, *map(word_of, made.steps)])
    step = {"promote": "promote", "switchover": "promote", "rejoin": "join"}[action]
    return " ".join([action, *(it.target for it in made.steps if it.do == step)])


def word_of(step: Step) -> str:
    """One step of ``mariadb-ackers``."""
    if step.do == "release":
        return "release"
    if step.do == "waiting":
        return "waits" if step.arguments["waits"] else "alone"
    return f"{'+' if step.arguments['acker'] else '-'}{step.target}"


@pytest.mark.parametrize("row", rows(TESTIMONY) + rows(CANDIDATES) + rows(REIGNS), ids="  ".join)
def test_facts_make_a_verdict_and_a_plan(row: Sequence[str]) -> None:
    text, votes, code, wanted = fields(row)
    it = situation(tier(text, votes))
    assert it.verdict == code, it.why
    made = planned(it)
    if wanted == "-":
        assert isinstance(made, Refusal), words_of(made)
        assert "no rule" in made.reasons[0] or "nothing is called for" in made.reasons[0]
    elif wanted.startswith('"'):
        assert isinstance(made, Refusal), words_of(made)
        assert wanted.strip('"') in " ".join(made.reasons)
    else:
        assert isinstance(made, Plan), made
        assert words_of(made) == wanted


def fields(row: Sequence[str]) -> tuple[str, str, str, str]:
    """Of a row: the tier, the votes, the verdict, the plan."""
    joined = " ".join(row)
    quoted = joined[joined.index('"') :] if '"' in joined else ""
    words = joined.removesuffix(quoted).split()
    at = next(index for index, word in enumerate(words) if set(word) <= set("DU-") and words[index + 1] in CODES)
    plan_words = quoted or " ".join(words[at + 2 :])
    return " ".join(words[:at]), words[at].strip() if words[at] != "-" else "", words[at + 1], plan_words


VOICES = {
    "ok": "alive",
    "pause": "alive",
    "conn": "dead",
    "cut": "dead",
    "still": "dead",
    "stop": "",
    "gone": "",
    "1236": "",
}


@pytest.mark.parametrize("words", list(itertools.product(VOICES, repeat=3)), ids=" ".join)
def test_the_replicas_testimony_decides(words: Sequence[str]) -> None:
    """Any that still hears it: alive; else any that says dead: dead; else nobody can tell."""
    voices = {VOICES[word] for word in words}
    code = (
        "unreachable-primary" if "alive" in voices
        else "dead-primary" if "dead" in voices
        else "dead-primary-without-witnesses"
    )  # fmt: skip
    assert situation(tier(f"down | {' '.join(words)}")).verdict == code


@pytest.mark.parametrize("votes", ["".join(it) for it in itertools.product("DU-", repeat=3)])
def test_two_failure_domains_must_find_it_down_and_none_up(votes: str) -> None:
    it = situation(tier("down | conn conn conn", votes))
    dead = votes.count("D") >= 2 and "U" not in votes
    assert (it.verdict == "dead-primary") is dead
    assert isinstance(planned(it), Plan) is dead


@pytest.mark.parametrize("word", ["full", "barred", "slow", "fall", "rising", "new", "up"])
def test_nobody_is_promoted_while_the_primary_is_not_down(word: str) -> None:
    """All connections taken, a wrong password, a first failure: none of them is a death, whatever the replicas say."""
    for replicas in ("ok ok ok", "conn conn conn", "still still still", "gone gone gone", "stop stop stop"):
        it = situation(tier(f"{word} | {replicas}"))
        assert it.verdict not in ("dead-primary", "dead-primary-without-witnesses", "no-primary"), it
        assert not isinstance(PromoteAction({}).plan(it, ()), list)


@pytest.mark.parametrize(
    "words", list(itertools.product(["conn", "conn+errant", "conn+ahead", "gone"], repeat=3)), ids=" ".join
)
def test_who_is_chosen_lacks_nothing_that_any_reached_member_has(words: Sequence[str]) -> None:
    """And has nothing of its own; an acker that is not reached forbids any choice."""
    made = planned(situation(tier(f"down | {' '.join(words)}")))
    if not isinstance(made, Plan):
        reached = [word for word in words if word != "gone"]
        assert "gone" in words[1:] or all("errant" in word for word in reached), made
        return
    chosen = words[NAMES.index(words_of(made).removeprefix("promote ")) - 1]
    assert chosen in ("conn", "conn+ahead")
    assert chosen == "conn+ahead" or "conn+ahead" not in words


def test_what_is_asked_for_is_promoted_or_the_reason_is_told() -> None:
    asked = situation(tier("down | conn conn conn"), wanted="db-pa5-2", request="failover")
    made = planned(asked)
    assert isinstance(made, Plan) and words_of(made) == "promote db-pa5-2"
    behind = planned(situation(tier("down | conn conn conn+behind"), wanted="db-pa5-2", request="failover"))
    assert isinstance(behind, Refusal) and "db-pa5-2 was asked for" in behind.reasons[0]
    errant = planned(situation(tier("down | conn conn conn+errant"), wanted="db-pa5-2", request="failover"))
    assert isinstance(errant, Refusal) and "transactions of its own" in errant.reasons[0]


def test_an_operator_may_promote_without_witnesses_and_without_an_acker() -> None:
    """He has looked himself; but not while the primary is known to live."""
    alone = planned(situation(tier("down | stop gone gone"), wanted="db-pa2-2", request="failover"))
    assert isinstance(alone, Plan) and words_of(alone) == "promote db-pa2-2"
    alive = planned(situation(tier("down | ok conn conn"), wanted="db-pa5-1", request="failover"))
    assert isinstance(alive, Refusal) and "nobody is promoted" in alive.reasons[0]


@pytest.mark.parametrize(
    ("text", "wanted", "request_", "expected"),
    [
        ("up | ok ok ok", "", "failover", "switchover db-pa2-2"),
        ("up | ok ok ok", "db-pa5-2", "failover", "switchover db-pa5-2"),
        ("up | lag ok ok", "", "failover", "switchover db-pa5-1"),
        ("up | errant ok ok", "", "failover", "switchover db-pa5-1"),
        ("up | gone gone ok", "", "failover", "switchover db-pa5-2"),
        ("joined | now f2 f2", "", "failback", "switchover db-pa2-1"),
        ("joined | now f2 f2", "db-pa5-1", "failback", "switchover db-pa5-1"),
        ("up | ok ok ok", "db-pa2-1", "failover", '"db-pa2-1 is primary already"'),
        ("up | ok ok ok", "", "failback", '"db-pa2-1 is primary already"'),
        ("up | ok ok+sqlerr ok", "db-pa5-1", "failover", '"db-pa5-1 was asked for"'),
        ("up | gone ok ok", "db-pa2-2", "failover", '"db-pa2-2 was asked for"'),
        ("up | gone gone gone", "", "failover", '"no member can be promoted"'),
        ("gone | now f2 f2", "", "failback", '"db-pa2-1 was asked for"'),
    ],
)
def test_a_switchover_is_planned_or_refused(text: str, wanted: str, request_: str, expected: str) -> None:
    made = planned(situation(tier(text), wanted, request_))
    if expected.startswith('"'):
        assert isinstance(made, Refusal) and expected.strip('"') in " ".join(made.reasons), made
    else:
        assert isinstance(made, Plan), made
        assert words_of(made) == expected


def test_the_same_facts_from_the_journal_make_the_same_plan() -> None:
    made = planned(situation(tier("down | conn+errant conn conn+ahead", "DD-")))
    assert isinstance(made, Plan)
    known = {
        ("database", name): replace(member(number).target, parameters={"tls": "on"})
        for number, name in enumerate(NAMES)
    }
    again = unpack(pack(new_journal(made, 1.0)), known)
    assert planned(again.plan.situation) == made
    assert all(one.target.parameters == {"tls": "on"} for one in again.plan.situation.members)


def test_every_code_has_a_sentence_and_every_rule_of_the_kind_a_code() -> None:
    assert all(CODES.values())
    codes = {code.replace("-", "_") for code in CODES}
    assert set(POLICY.rules) <= codes
    assert ballots("DU-") == {"PA2": "down", "PA5": "up", "W": "abstain"}
