# SPDX-License-Identifier: Apache-2.0
"""What all gateways see of the tiers' members, shared through the store, as the views that verdicts are made from.

Each gateway keeps two keys under its own lease: its votes, renewed every second, and the facts that its probes learnt,
renewed while something happens. Both go when the gateway does.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs

from ubisip.failover.action import MemberView
from ubisip.failover.coordination import Entry, Put, Store
from ubisip.failover.lease import Keys
from ubisip.failover.placement import BLIND, Sight, sight
from ubisip.failover.votes import domain_vote, vote
from ubisip.health.prober import Seen, Watch
from ubisip.parameters import thaw
from ubisip.schema import freeze

log = logging.getLogger(__name__)

HEARTBEAT = 1.0
"""Seconds after which votes are published again though nothing changed."""
STALE = 2.5
"""Seconds without a heartbeat after which a gateway's votes do not count."""
FACTS = 10.0
"""Seconds after which facts are published again while nothing happens; a second when something does."""

Votes = dict[str, dict[str, str]]
"""By tier and member."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one member as another gateway learnt them."""

    facts: Mapping[str, Any]
    learnt_at: float
    """By our monotonic clock, as well as we can know."""


@dataclass(slots=True)
class Peer:
    """Another gateway, as its keys tell."""

    name: str
    site: str = ""
    configuration: str = ""
    votes: Votes = field(default_factory=dict)
    votes_revision: int = 0
    votes_at: float = -math.inf
    """When we saw its votes renewed."""
    facts: dict[tuple[str, str], Facts] = field(default_factory=dict)
    facts_revision: int = 0


class Observations:
    """Our own observations and those of the others."""

    def __init__(
        self, name: str, site: str, domains: Sequence[str], configuration: str, tiers: Sequence[str], watch: Watch
    ) -> None:
        self.domains = tuple(dict.fromkeys(domains))
        self.peers: dict[str, Peer] = {}
        self.name = name
        self._site = site
        self._configuration = configuration
        self._tiers = tuple(tiers)
        self._watch = watch
        self._votes: Votes = {}
        self._votes_at = -math.inf
        self._facts_at = -math.inf
        self._lease = 0

    def excited(self, now: float) -> bool:
        """Something is happening: it is shared and read at a faster pace."""
        return any(self._watch.excited(tier, now) for tier in self._tiers)

    def doubt(self, now: float) -> str:
        """Why we distrust what we see ourselves; empty: we do not."""
        return self._watch.abstains(now)

    def votes(self, now: float) -> Votes:
        """Our own votes."""
        return {tier: {seen.target.name: vote(seen) for seen in self._watch.seen(tier, now)} for tier in self._tiers}

    def views(self, tier: str, now: float) -> tuple[MemberView, ...]:
        """The members of *tier*: our own state of each, the newest facts that anybody has, the votes of all."""
        return tuple(self._view(tier, seen, now) for seen in self._watch.seen(tier, now))

    def _view(self, tier: str, seen: Seen, now: float) -> MemberView:
        name = seen.target.name
        facts, learnt_at = seen.facts, seen.facts_at
        ballots: defaultdict[str, list[str]] = defaultdict(list)
        ballots[self._site].append(vote(seen))
        for peer in self.peers.values():
            if now - peer.votes_at <= STALE:
                ballots[peer.site].append(peer.votes.get(tier, {}).get(name, ""))
            theirs = peer.facts.get((tier, name))
            if theirs is not None and theirs.learnt_at > learnt_at:
                facts, learnt_at = theirs.facts, theirs.learnt_at
        votes = {domain: domain_vote(words) for domain, words in sorted(ballots.items())}
        return MemberView(
            seen.target, seen.state, seen.reason, facts, now - learnt_at, seen.problem, MappingProxyType(votes)
        )

    def sights(self, tiers: Collection[str], now: float) -> tuple[Sight, Sight]:
        """How much of *tiers* we see ourselves, and who sees most of the other gateways that live and have our file."""
        homes = {seen.target.site for tier in tiers for seen in self._watch.seen(tier, now)}
        others = (
            sight(peer.votes, tiers, elsewhere=peer.site not in homes)
            for peer in self.peers.values()
            if peer.configuration == self._configuration and now - peer.votes_at <= STALE
        )
        return sight(self.votes(now), tiers, elsewhere=self._site not in homes), max(others, default=BLIND)

    # Through the store

    async def share(self, store: Store, keys: Keys, lease: int, now: float) -> None:
        """Publish what is due.

        :raises StoreError, LeaseLost: as the store does.
        """
        puts = self._due(keys, lease, now)
        if puts:
            await store.commit([], puts)

    def _due(self, keys: Keys, lease: int, now: float) -> list[Put]:
        votes, puts = self.votes(now), []
        if votes != self._votes or now - self._votes_at >= HEARTBEAT or lease != self._lease:
            record = {"site": self._site, "configuration": self._configuration, "votes": votes}
            puts.append(Put(keys.seen + self.name, msgpack.packb(record), lease))
            self._votes, self._votes_at = votes, now
        if now - self._facts_at >= (HEARTBEAT if self.excited(now) else FACTS) or lease != self._lease:
            puts.append(Put(keys.facts + self.name, msgpack.packb(self._own_facts(now)), lease))
            self._facts_at = now
        self._lease = lease
        return puts

    def _own_facts(self, now: float) -> dict[str, Any]:
        return {
            tier: {
                seen.target.name: [now - seen.facts_at, thaw(seen.facts)]
                for seen in self._watch.seen(tier, now)
                if seen.facts
            }
            for tier in self._tiers
        }

    async def gather(self, store: Store, keys: Keys, now: float) -> None:
        """Read what the others published; whose keys are gone is gone.

        :raises StoreError: as the store does.
        """
        seen, facts = await store.range(keys.seen), await store.range(keys.facts)
        names = {entry.key.removeprefix(keys.seen) for entry in seen} - {self.name}
        self.peers = {name: self.peers.get(name) or Peer(name) for name in names}
        for entry in seen:
            self._taken(self._take_votes, entry.key.removeprefix(keys.seen), entry, now)
        for entry in facts:
            self._taken(self._take_facts, entry.key.removeprefix(keys.facts), entry, now)

    def _taken(self, take: Callable[[Peer, Entry, float], None], name: str, entry: Entry, now: float) -> None:
        """What a gateway of another version writes, and we do not understand, is as if it had said nothing."""
        peer = self.peers.get(name)
        if peer is None:
            return
        try:
            take(peer, entry, now)
        except (ValueError, KeyError, TypeError, AttributeError, msgpack.exceptions.UnpackException) as error:
            log.debug("what %s has published is not understood: %r", name, error)

    def _take_votes(self, peer: Peer, entry: Entry, now: float) -> None:
        if entry.modified == peer.votes_revision:
            return
        record = msgpack.unpackb(entry.value)
        peer.site, peer.configuration, peer.votes = record["site"], record["configuration"], record["votes"]
        peer.votes_revision, peer.votes_at = entry.modified, now

    def _take_facts(self, peer: Peer, entry: Entry, now: float) -> None:
        if entry.modified == peer.facts_revision:
            return
        peer.facts_revision = entry.modified
        record = msgpack.unpackb(entry.value, strict_map_key=False)
        peer.facts = {
            (tier, member): Facts(freeze(facts), now - age)
            for tier, members in record.items()
            for member, (age, facts) in members.items()
        }
