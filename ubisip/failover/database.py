# SPDX-License-Identifier: Apache-2.0
"""What is the matter with a tier of MariaDB servers: pure functions from views to a verdict (DESIGN section 9).

That we do not reach a primary is no proof that it is dead. Its replicas testify: each tells whether the stream from it
still moves. Only when every replica that we reach says that it has stopped, and there is one, is the primary dead; a
primary that any replica still hears is ``unreachable-primary``, and nothing is done to it.

Who the rightful primary is stands in the data themselves: each promotion writes its *reign*, a row that is replicated
like any other, so a server that comes back from the dead is known by the older reign that it believes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ubisip.failover import gtid
from ubisip.failover.action import MemberView
from ubisip.failover.verdict import DEGRADED, HEALTHY, UNKNOWN, Policy, Verdict
from ubisip.health.machine import State

DEAD_PRIMARY = "dead-primary"
UNREACHABLE_PRIMARY = "unreachable-primary"
UNREACHABLE_LAGGING = "unreachable-primary-with-lagging-replicas"
DEAD_WITHOUT_WITNESSES = "dead-primary-without-witnesses"
SUSPECT_PRIMARY = "suspect-primary"
NO_PRIMARY = "no-primary"
TWO_PRIMARIES = "two-primaries"
OLD_PRIMARY_RETURNED = "old-primary-returned"
ERRANT_MEMBER = "errant-member"
LOCKED_SEMI_SYNC = "locked-semi-sync"
ALL_REPLICAS_STOPPED = "all-replicas-not-replicating"
REPLICA_DOWN = "replica-down"
REPLICA_STOPPED = "replica-not-replicating"
LAGGING_REPLICA = "lagging-replica"

FRESH = 3.0
"""Seconds. Older facts are no testimony: what they tell may have changed since."""
SILENCE = 1.2
"""Seconds without a transaction or heartbeat after which a replica testifies that its source is gone."""
HEARTBEATS = 2.4
"""The same in heartbeat periods, where these are longer than half a second."""
LOCKED = 3.0
"""Seconds that a write must have waited for its acknowledgement before writes are said to be locked."""
LAG = 30.0
"""Seconds behind from which a replica is no candidate while there is another."""
QUORUM = 2
"""Failure domains that must find a primary down, where there are so many."""
CONNECTION_ERRORS = frozenset({1158, 1159, 1160, 1161, 1189, 2002, 2003, 2005, 2006, 2013, 2026, 2055})
"""Errors of an IO thread that say: the source is not there. Others (1236, 1045...) are answers of a living one."""
ANSWERING = frozenset({State.UP, State.DEGRADED, State.RISING})
"""Its last answer was one."""

CODES: Mapping[str, str] = MappingProxyType(
    {
        HEALTHY: "one primary serves and all replicas follow it",
        DEGRADED: "one primary serves, but no replica of another site acknowledges its writes",
        DEAD_PRIMARY: "the primary is down and every replica that is reached says so too",
        UNREACHABLE_PRIMARY: "the primary is not reached from here, but lives: replicas or other sites still hear it",
        UNREACHABLE_LAGGING: "the primary is not reached, replicas still hear it but lag: it is saturated, not dead",
        DEAD_WITHOUT_WITNESSES: "the primary is down and no replica can testify: a human must decide",
        SUSPECT_PRIMARY: "the primary fails, but not yet long enough to be called down",
        NO_PRIMARY: "no member is writable",
        TWO_PRIMARIES: "two members are writable and neither is known to be the rightful primary",
        OLD_PRIMARY_RETURNED: "a former primary, or a replica of one, is back and does not follow the present one",
        ERRANT_MEMBER: "a member has transactions of its own, or lacks some, and must be rebuilt: it is quarantined",
        LOCKED_SEMI_SYNC: "writes wait for an acknowledgement that does not come",
        ALL_REPLICAS_STOPPED: "the primary serves, but no replica follows it",
        REPLICA_DOWN: "a replica is down",
        REPLICA_STOPPED: "a replica does not follow the primary",
        LAGGING_REPLICA: "a replica lags behind the primary",
        UNKNOWN: "too little is known: no member has told its role yet",
    }
)


def judge(members: Sequence[MemberView], _now: float) -> Verdict:
    """The verdict on a database tier."""
    if not any(one.facts for one in members):
        return Verdict(UNKNOWN, why=tuple(map(sentence, members)))
    rightful = _rightful(members)
    if len(rightful) > 1:
        return _rivals(members, rightful)
    if rightful:
        return _reigned(members, rightful[0])
    return _leaderless(members)


def speaks(one: MemberView) -> bool:
    """Whether it answers now: what it says of itself and of others can be believed."""
    if not one.facts:
        return False
    return one.facts_age <= FRESH if one.state in ANSWERING else _flaps(one)


def _flaps(one: MemberView) -> bool:
    """It is held back for its flapping, and answers all the same."""
    return one.state is State.HELD and bool(one.facts) and one.facts_age <= SILENCE


def is_down(one: MemberView) -> bool:
    """Whether enough failure domains find it down and none up; our own view alone where it is the only one."""
    if _flaps(one):
        return False
    if not one.votes:
        return one.state in (State.DOWN, State.HELD)
    votes = list(one.votes.values())
    return votes.count("down") >= min(QUORUM, len(votes)) and "up" not in votes


def sentence(one: MemberView) -> str:
    """One member, for people."""
    text = f"{one.target.name} ({one.target.site}) is {one.state.value}"
    if one.problem or one.reason:
        text += f": {one.problem or one.reason}"
    found = ", ".join(f"{site} {vote}" for site, vote in one.votes.items())
    return text + (f" [{found}]" if len(one.votes) > 1 else "")


# Who is primary


def _rightful(members: Sequence[MemberView]) -> list[MemberView]:
    """The writable members that the newest reign names, or that believe in it: what each says was read at another
    moment, so a replica may know of a new reign before the primary was seen to."""
    newest = max(members, key=lambda one: int(fact(one, "reign", 0)))
    reign, name = fact(newest, "reign", 0), fact(newest, "reigning", "")
    writable = [one for one in members if speaks(one) and not one.facts["read_only"]]
    return [one for one in writable if one.facts["reign"] == reign or one.target.name == name]


def primary_of(members: Sequence[MemberView]) -> MemberView | None:
    """The rightful primary that serves; None: there is none, or it cannot be told which of two."""
    rightful = _rightful(members)
    followed = [one for one in rightful if any(testimony(other, one)[0] == "alive" for other in members)]
    found = rightful if len(rightful) == 1 else followed
    return found[0] if len(found) == 1 else None


def fact(one: MemberView, name: str, default: Any) -> Any:
    return one.facts.get(name, default)


def follows(one: MemberView, source: MemberView) -> bool:
    """Whether *one* is set to replicate from *source*, by its address or, behind another name, by its server id."""
    if not fact(one, "source", ""):
        return False
    if one.facts["source"] == source.target.address:
        return True
    return bool(source.facts) and one.facts["source_id"] == source.facts["server_id"] != 0


def _rivals(members: Sequence[MemberView], rightful: Sequence[MemberView]) -> Verdict:
    """Two writable members of one reign: who is followed is the primary, when only one is."""
    primary = primary_of(members)
    if primary is not None:
        return _returned([one for one in rightful if one is not primary], primary, ())
    names = [one.target.name for one in rightful]
    why = (f"{' and '.join(names)} are writable and of the same reign", *map(sentence, rightful))
    return Verdict(TWO_PRIMARIES, names[0], why, tuple(names[1:]))


def lost_primary(members: Sequence[MemberView]) -> MemberView | None:
    """The member that was primary, when no rightful one is writable: whom the newest reign names, else whom the
    others follow, else who was last seen writable."""
    newest = max(members, key=lambda one: fact(one, "reign", 0))
    named = [one for one in members if one.target.name == fact(newest, "reigning", "")]
    if named and not any(follows(named[0], other) for other in members):
        return named[0]
    followers = {one.target.name: sum(follows(other, one) for other in members) for one in members}
    best = max(members, key=lambda one: followers[one.target.name])
    if followers[best.target.name]:
        return best
    last = [one for one in members if one.facts and not one.facts["read_only"]]
    return last[0] if len(last) == 1 else None


# Without a writable primary


def _leaderless(members: Sequence[MemberView]) -> Verdict:
    lost = lost_primary(members)
    if lost is None:
        return Verdict(NO_PRIMARY, why=("no member is writable nor known to have been", *map(sentence, members)))
    if is_down(lost):
        return _down(members, lost)
    if speaks(lost):
        why = (f"{lost.target.name} was primary and is read-only", *map(sentence, members))
        return Verdict(NO_PRIMARY, lost.target.name, why)
    return _not_reached(members, lost)


def _down(members: Sequence[MemberView], lost: MemberView) -> Verdict:
    """It is down by all that we see; now the replicas' word."""
    words = [(one, *testimony(one, lost)) for one in members if one is not lost]
    why = (sentence(lost), *(f"{one.target.name}: {text}" for one, _, text in words))
    name = lost.target.name
    if any(vote == "alive" for _, vote, _ in words):
        lagging = all(_lags(one) for one, vote, _ in words if vote == "alive")
        return Verdict(UNREACHABLE_LAGGING if lagging else UNREACHABLE_PRIMARY, name, why)
    if any(vote == "dead" for _, vote, _ in words):
        return Verdict(DEAD_PRIMARY, name, why)
    return Verdict(DEAD_WITHOUT_WITNESSES, name, why)


def _not_reached(members: Sequence[MemberView], lost: MemberView) -> Verdict:
    """It does not speak, and is not down by enough failure domains."""
    name = lost.target.name
    down = [site for site, vote in lost.votes.items() if vote == "down"]
    if lost.state is State.UNKNOWN:
        return Verdict(UNKNOWN, name, (f"{name} has not told its role yet", *map(sentence, members)))
    if down or lost.state in (State.DOWN, State.HELD):
        needed = min(QUORUM, max(1, len(lost.votes)))
        seen = f"{len(down)} of {len(lost.votes)} failure domains find {name} down: {needed} must, and none find it up"
        return Verdict(UNREACHABLE_PRIMARY, name, (seen, sentence(lost)))
    return Verdict(SUSPECT_PRIMARY, name, (sentence(lost), f"its last facts are {lost.facts_age:.1f} s old"))


def testimony(one: MemberView, source: MemberView) -> tuple[str, str]:
    """What a member says of *source*: ``alive``, ``dead`` or ``abstains``, and why, for people."""
    if not speaks(one):
        return "abstains", f"is not reached ({one.problem or one.reason or one.state.value})"
    if not follows(one, source):
        return "abstains", f"does not follow {source.target.name}"
    silence = one.facts["stream_silence"] + one.facts_age
    if one.facts["io"] == "Yes":
        if silence <= max(SILENCE, HEARTBEATS * one.facts["heartbeat_period"]):
            return "alive", f"still receives from {source.target.name}"
        return "dead", f"has received nothing from {source.target.name} for {silence:.1f} s"
    if one.facts["io"] == "Connecting" or one.facts["io_errno"] in CONNECTION_ERRORS:
        return "dead", f"cannot connect to {source.target.name}"
    return "abstains", one.facts["io_error"] or "its replication was stopped by hand"


def _lags(one: MemberView) -> bool:
    return one.facts["lag"] is not None and one.facts["lag"] > LAG


# With a primary


def _reigned(members: Sequence[MemberView], primary: MemberView) -> Verdict:
    """What is to be told of a tier whose rightful primary serves, the most pressing first."""
    others = [one for one in members if one is not primary]
    speaking = [one for one in others if speaks(one)]
    strays = [one for one in speaking if _strays(one, primary, members)]
    errant = {one.target.name: own_transactions(one, [primary]) for one in speaking}
    back = [one for one in strays if _rejoins(one, errant[one.target.name])]
    locked = _locked(primary, others)
    if locked is not None:
        return locked
    if back:
        return _returned(back, primary, tuple(map(sentence, others)))
    return _doubled(primary, speaking) or _apart(primary, speaking) or _followers(primary, others, speaking)


def _apart(primary: MemberView, speaking: Sequence[MemberView]) -> Verdict | None:
    """Members that can never again be the same as the primary by replicating from it."""
    apart = {one.target.name: differs(one, primary) for one in speaking}
    guilty = [one for one in speaking if apart[one.target.name]]
    if not guilty:
        return None
    return _about(ERRANT_MEMBER, guilty, tuple(f"{_named(one)} {apart[one.target.name]}" for one in guilty))


def _strays(one: MemberView, primary: MemberView, members: Sequence[MemberView]) -> bool:
    """It follows nobody, or a member that is not the primary."""
    others = [it for it in members if it is not primary and it is not one]
    return not one.facts["source"] or (not follows(one, primary) and any(follows(one, it) for it in others))


def _rejoins(one: MemberView, errant: str) -> bool:
    """A stray that something can be done about: it must be made read-only, it can follow, or what it has too much is
    not committed yet (waiting for an acknowledgement)."""
    return not one.facts["read_only"] or not errant or one.facts["waiting"] > 0


def _returned(back: Sequence[MemberView], primary: MemberView, why: tuple[str, ...]) -> Verdict:
    told = tuple(
        f"{one.target.name} is {'read-only' if one.facts['read_only'] else 'writable'}, follows"
        f" {one.facts['source'] or 'nobody'} and knows of reign {one.facts['reign']}; {primary.target.name} is primary,"
        f" reign {primary.facts['reign']}"
        for one in back
    )
    return _about(OLD_PRIMARY_RETURNED, back, told + why)


def _locked(primary: MemberView, others: Sequence[MemberView]) -> Verdict | None:
    """A write waits for longer than any living replica takes: none is attached, or one that is had received it before
    and does not acknowledge it again. How many the primary believes to be attached does not count: a cut cable leaves
    it with dead connections."""
    waits = primary.facts["waiting_for"] + primary.facts_age
    if not primary.facts["semisync_primary"] or not primary.facts["waiting"] or waits < LOCKED:
        return None
    ackers = [one for one in others if fact(one, "acker", False)]
    why = (
        f"{primary.facts['waiting']} writes wait on {primary.target.name}, for {waits:.1f} s already",
        *(f"{one.target.name}: {testimony(one, primary)[1]}" for one in ackers),
    )
    return Verdict(LOCKED_SEMI_SYNC, primary.target.name, why)


def is_away(one: MemberView, primary: MemberView) -> bool:
    """A replica that has not heard of *primary* for a while, by its own word, or is down itself."""
    if not speaks(one):
        return is_down(one)
    return testimony(one, primary)[0] != "alive" and one.facts["stream_silence"] + one.facts_age >= LOCKED


def _followers(primary: MemberView, others: Sequence[MemberView], speaking: Sequence[MemberView]) -> Verdict:
    stopped = [one for one in speaking if not _runs(one, primary)]
    if others and len(stopped) == len(others):
        return _about(ALL_REPLICAS_STOPPED, stopped, tuple(map(_state_of_replication, stopped)))
    gone = [one for one in others if not speaks(one) and one.state is not State.UNKNOWN]
    if gone:
        return _about(REPLICA_DOWN, gone, tuple(map(sentence, gone)))
    if stopped:
        return _about(REPLICA_STOPPED, stopped, tuple(map(_state_of_replication, stopped)))
    lagging = [one for one in speaking if _lags(one)]
    if lagging:
        return _about(LAGGING_REPLICA, lagging, tuple(f"{_named(one)} lags {one.facts['lag']} s" for one in lagging))
    return _acknowledged(primary, others, speaking)


def _doubled(primary: MemberView, speaking: Sequence[MemberView]) -> Verdict | None:
    """Its own site acknowledges although the other one does: those that stood in are not needed any more."""
    ackers = [one for one in speaking if one.facts["acker"] and _runs(one, primary)]
    near = [one for one in ackers if one.target.site == primary.target.site]
    if not near or len(near) == len(ackers):
        return None
    why = f"{_named(near[0])} acknowledges writes of its own site: they could be lost with {primary.target.site}"
    return Verdict(DEGRADED, primary.target.name, (why,), tuple(one.target.name for one in near))


def _acknowledged(primary: MemberView, others: Sequence[MemberView], speaking: Sequence[MemberView]) -> Verdict:
    """The write barrier: whether what the primary acknowledges outlives it, and its site."""
    name, site = primary.target.name, primary.target.site
    if others and not primary.facts["semisync_primary"]:
        return Verdict(DEGRADED, name, (f"{name} acknowledges writes that no replica has: semi-sync is off",))
    if len({one.target.site for one in others} | {site}) == 1:
        return Verdict(HEALTHY, name)
    if not any(one.facts["acker"] and one.target.site != site for one in speaking):
        return Verdict(DEGRADED, name, (f"no replica outside {site} acknowledges the writes of {name}",))
    return Verdict(HEALTHY, name)


def _runs(one: MemberView, primary: MemberView) -> bool:
    return follows(one, primary) and one.facts["io"] == "Yes" and one.facts["sql"] == "Yes"


def _state_of_replication(one: MemberView) -> str:
    text = one.facts["sql_error"] or one.facts["io_error"] or "is stopped"
    return f"{_named(one)}: replication from {one.facts['source'] or 'nobody'}: {text}"


def _named(one: MemberView) -> str:
    return f"{one.target.name} ({one.target.site})"


def _about(code: str, members: Sequence[MemberView], why: tuple[str, ...]) -> Verdict:
    return Verdict(code, members[0].target.name, why, tuple(one.target.name for one in members[1:]))


# Transactions


def contents(one: MemberView) -> dict[tuple[int, int], int]:
    """All transactions that it has applied."""
    return gtid.merge((gtid.parse_state(one.facts["binlog_state"]), gtid.parse_state(one.facts["slave_pos"])))


def received(one: MemberView) -> dict[tuple[int, int], int]:
    """All transactions that it has, applied or only in its relay log."""
    return gtid.merge((contents(one), gtid.parse_state(one.facts["io_pos"])))


def own_transactions(one: MemberView, others: Sequence[MemberView]) -> str:
    """Transactions that *one* has and none of *others* has ever had; empty: none.

    Those of a server that writes now are left out: its newest ones are on their way to the others.
    """
    known = gtid.merge(received(other) for other in others)
    writing = {other.facts["server_id"] for other in others if not other.facts["read_only"]}
    found = gtid.surplus(contents(one), known)
    return gtid.text({key: sequence for key, sequence in found.items() if key[1] not in writing})


def differs(one: MemberView, primary: MemberView) -> str:
    """Why *one* can never again be the same as *primary* by replicating from it; empty: it can."""
    own = own_transactions(one, [primary])
    if own:
        return f"has transactions of its own: {own}"
    missing = gtid.holes(contents(one), contents(primary))
    return f"has gone past transactions that it lacks: {gtid.text(missing)}" if missing else ""


POLICY = Policy(
    judge,
    CODES,
    healthy=frozenset({HEALTHY, SUSPECT_PRIMARY}),
    lost=frozenset({DEAD_PRIMARY, DEAD_WITHOUT_WITNESSES, NO_PRIMARY, UNREACHABLE_PRIMARY, UNREACHABLE_LAGGING}),
    fallback=DEAD_PRIMARY,
    substitutes=MappingProxyType({"mariadb-promote": "mariadb-switchover"}),
    alike=MappingProxyType({NO_PRIMARY: DEAD_PRIMARY}),
    acts_at_members=True,
    rules=MappingProxyType(
        {
            "old_primary_returned": ("mariadb-rejoin",),
            "locked_semi_sync": ("mariadb-ackers",),
            "degraded": ("mariadb-ackers",),
        }
    ),
)
