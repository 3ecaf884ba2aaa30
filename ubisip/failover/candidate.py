# SPDX-License-Identifier: Apache-2.0
"""Who can be promoted to primary of a tier of MariaDB servers, or why nobody can: pure functions (DESIGN section 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ubisip.failover import gtid
from ubisip.failover.action import MemberView
from ubisip.failover.database import LAG, contents, fact, received, speaks
from ubisip.health.probes.mariadb import LONG_TIMEOUT

MEMORY = 900.0
"""Seconds. Who acknowledged the writes of a lost primary may have changed while we could not see it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The member to be promoted."""

    name: str
    received: str
    """The position that it must have applied before: every transaction that any reachable member has received."""
    followers: tuple[str, ...]
    """Who shall follow it: all that are reached and have no transactions of their own."""
    ackers: tuple[str, ...]
    """Who of them shall acknowledge its writes."""
    passed_over: Mapping[str, str]
    """Why the others were not chosen, by name."""


@dataclass(frozen=True, slots=True)
class NoChoice:
    """Nobody can be promoted safely."""

    reasons: tuple[str, ...]


def choose(members: Sequence[MemberView], lost: MemberView | None, wanted: str = "") -> Choice | NoChoice:
    """Who is to be promoted in place of *lost*, or why nobody can be.

    Who has received most comes first, since any other would lose what it lacks; then who has applied most, then who
    lags least, then the order of the file.
    """
    pool = [one for one in members if speaks(one) and (one is not lost or one.facts["read_only"])]
    refused = {one.target.name: reason for one in pool if (reason := unfit(one, pool, lost))}
    fit = [one for one in pool if one.target.name not in refused]
    doubts = unsafe(members, lost, wanted)
    if not fit or doubts:
        nobody = () if fit else ("no member can be promoted",)
        return NoChoice((*doubts, *nobody, *(f"{name}: {reason}" for name, reason in refused.items())))
    most = gtid.merge(received(one) for one in fit)
    best = min(fit, key=lambda one: _rank(one, most, wanted, members))
    if gtid.behind(gtid.position(received(best)), gtid.position(most)):
        return NoChoice((f"no member has all transactions: {best.target.name} lacks some that others have",))
    return _chosen(best, pool, lost, refused, wanted)


def _rank(
    one: MemberView, most: gtid.State, wanted: str, members: Sequence[MemberView]
) -> tuple[int, bool, bool, int, float, int]:
    reached = gtid.position(most)
    lag = one.facts["lag"] if one.facts["lag"] is not None else one.facts["delay"]
    return (
        gtid.behind(gtid.position(received(one)), reached),
        one.facts["delay"] > 0 or lag > LAG,
        one.target.name != wanted,
        gtid.behind(gtid.position(contents(one)), reached),
        float(lag),
        list(members).index(one),
    )


def _chosen(
    best: MemberView, pool: Sequence[MemberView], lost: MemberView | None, refused: dict[str, str], wanted: str
) -> Choice | NoChoice:
    if wanted and best.target.name != wanted:
        why = refused.get(wanted) or f"{best.target.name} has transactions that {wanted} lacks, or it is not reached"
        return NoChoice((f"{wanted} was asked for: {why}",))
    passed = {one.target.name: "ranks lower" for one in pool if one is not best} | refused
    followers = followers_of(best, pool, lost)
    names = tuple(one.target.name for one in followers)
    ackers = ackers_for(best, followers)
    return Choice(best.target.name, _target_position(best), names, ackers, MappingProxyType(passed))


def _target_position(best: MemberView) -> str:
    """The end of its relay log: the last id of each domain, in the form that MASTER_GTID_WAIT takes."""
    newest: dict[int, tuple[int, int]] = {}
    for (domain, server), sequence in received(best).items():
        newest[domain] = max(newest.get(domain, (0, 0)), (sequence, server))
    return ",".join(f"{domain}-{server}-{sequence}" for domain, (sequence, server) in sorted(newest.items()))


def followers_of(best: MemberView, pool: Sequence[MemberView], lost: MemberView | None) -> list[MemberView]:
    """Who of *pool* can follow *best*: who has transactions of its own is left alone."""
    others = [one for one in pool if one is not best]
    return [one for one in others if not _errant_candidate(one, [it for it in pool if it is not one], lost)]


def ackers_for(primary: MemberView, followers: Sequence[MemberView]) -> tuple[str, ...]:
    """Who shall acknowledge the writes of *primary*: the replicas of other sites; when none is reached, of its own."""
    able = [one for one in followers if not one.facts["sql_errno"]]
    far = tuple(one.target.name for one in able if one.target.site != primary.target.site)
    return far or tuple(one.target.name for one in able)


def unfit(one: MemberView, pool: Sequence[MemberView], lost: MemberView | None) -> str:
    """Why this member cannot be promoted; empty: it can."""
    facts = one.facts
    if facts["missing"]:
        return f"we lack rights there: {', '.join(facts['missing'])}"
    if not facts["read_only"] or not (facts["source"] or facts["io_pos"] or lost is None or one is lost):
        return "it follows nobody: what it has is not known to be the tier's"
    if facts["sources"] > 1:
        return "it replicates from several sources"
    if not facts["log_bin"] or not facts["log_slave_updates"]:
        return "it writes no binary log that others could follow"
    if facts["sql_errno"]:
        return f"its applier has stopped: {facts['sql_error']}"
    return _stands_out(one, pool, lost)


def _stands_out(one: MemberView, pool: Sequence[MemberView], lost: MemberView | None) -> str:
    others = [other for other in pool if other is not one]
    known = [lost] if lost is not None and lost.facts else []
    own = _errant_candidate(one, [*others, *known], lost)
    if own:
        return f"it has transactions of its own: {own}"
    domains = {other.facts["domain_id"] for other in [*others, *known]}
    if domains and one.facts["domain_id"] not in domains:
        return f"its gtid_domain_id {one.facts['domain_id']} is not that of the others"
    newer = [other.target.name for other in others if _release(one) > _release(other)]
    return f"its release {one.facts['version']} is newer than that of {', '.join(newer)}" if newer else ""


def _errant_candidate(one: MemberView, others: Sequence[MemberView], lost: MemberView | None) -> str:
    """Its own transactions; those of the lost primary are none: it merely received them first."""
    source = fact(lost, "server_id", one.facts["source_id"]) if lost is not None else one.facts["source_id"]
    known = gtid.merge(received(other) for other in others)
    return gtid.text(gtid.surplus(contents(one), known, ignore=source))


def _release(one: MemberView) -> tuple[int, int]:
    major, minor, *_ = str(one.facts["version"]).split(".")
    return int(major), int(minor)


def unsafe(members: Sequence[MemberView], lost: MemberView | None, wanted: str = "") -> tuple[str, ...]:
    """Why what the lost primary acknowledged might not be among us, or why it might acknowledge more.

    One acknowledgement releases a write, so *every* replica that could have given one must be with us: a write may be
    on it alone, and while it stands with the lost primary that one can go on. An operator who names the successor
    takes this upon himself.
    """
    if lost is None or speaks(lost) or wanted:
        return ()
    ackers = [one for one in members if one is not lost and fact(one, "acker", False)]
    attached = fact(lost, "attached", None)
    hidden = [
        one.target.name
        for one in ackers
        if not speaks(one) and (attached is None or fact(one, "server_id", 0) in attached)
    ]
    reasons = [f"{name} is not reached: it may hold, or still give, acknowledgements" for name in hidden]
    reasons += _no_barrier(lost)
    if not any(speaks(one) for one in ackers):
        reasons.append(f"no member that acknowledged writes of {lost.target.name} is reached: some may be lost")
    return tuple(reasons)


def _no_barrier(lost: MemberView) -> list[str]:
    """Why the lost primary may have acknowledged, or acknowledge, what nobody else has."""
    name, facts = lost.target.name, lost.facts
    if not facts:
        return [f"nothing is known of the write barrier of {name}: it was gone before we came"]
    if not facts["semisync_primary"]:
        return [f"{name} acknowledged writes without waiting for a replica: some may be lost"]
    if facts["semisync_timeout"] < LONG_TIMEOUT:
        return [f"{name} acknowledges alone after {facts['semisync_timeout']} ms without a replica"]
    if lost.facts_age > MEMORY:
        return [
            f"what is known of the write barrier of {name} is {lost.facts_age:.0f} s old: it may have changed since"
        ]
    return []
