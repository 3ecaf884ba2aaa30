# SPDX-License-Identifier: Apache-2.0
"""The lease: who leads, under which epoch, and until when it may believe so (DESIGN section 9).

The key ``leader`` is made by a transaction that finds it absent, under a lease that ends by itself; its creation
revision is the epoch, the fencing token of every step. Whoever holds it stops believing so a second before the store
would take it away, by its own monotonic clock from when its last good renewal was *sent*: it never acts on a lease
that is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs

from ubisip.failover.coordination import Compare, LeaseLost, Put, Store, StoreError

log = logging.getLogger(__name__)

TTL = 6.0
RENEW = 2.0
MARGIN = 1.0
"""Seconds by which the holder stops before the store does."""
CAMPAIGN = 0.5
"""Seconds between looks at who leads, and tries to."""
PATIENCE = 2.0
"""Seconds that a free lease is left to a gateway that sees more than we do."""

NOT_ASKED = "the store has not answered yet"

Fingerprint = Mapping[str, str]
"""What two controllers must have in common: a hash of the value, by its path in the file."""


class Keys:
    """The keys of one platform."""

    def __init__(self, platform: str) -> None:
        root = f"/ubisip/{platform}/"
        self.leader = f"{root}leader"
        self.config = f"{root}config"
        self.pause = f"{root}pause"
        self.plans = f"{root}plan/"
        self.seen = f"{root}seen/"
        self.facts = f"{root}facts/"
        self.cool = f"{root}cool/"


@dataclass(frozen=True, slots=True)
class Member:
    """A controller, as it presents itself to the others."""

    name: str
    site: str
    gateways: int
    """How many gateways the file has: more than half of them decide which file it is."""
    fingerprint: Fingerprint


def differences(mine: Fingerprint, theirs: Fingerprint) -> list[str]:
    """The paths in which two configurations differ."""
    return sorted(path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path))


def hash_of(value: Any) -> str:
    """A short hash of a plain value: enough to see that two differ, and no secret."""
    return hashlib.sha256(msgpack.packb(value)).hexdigest()[:16]


class Leadership:
    """Holds a lease of one controller, and leads under it when nobody else does.

    ``lease`` carries the controller's own keys as well; it is 0 while there is none. ``problem`` says why the store
    cannot be used, ``refusal`` why we would not lead; both are empty as a rule. ``outranked`` is set from outside:
    another gateway should lead, so we bid only when none has for a while.
    """

    def __init__(self, store: Store, keys: Keys, me: Member, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease = 0
        self.problem = NOT_ASKED
        self.refusal = ""
        self.leader = ""
        self.outranked = False
        self._store = store
        self._keys = keys
        self._me = me
        self._clock = clock
        self._epoch = 0
        self._renewed_at = clock() - TTL
        self._began_at = clock()
        self._resigned = False
        self._leaving = 0
        """The epoch that we have stopped to lead under, until the store knows."""
        self._free_since = math.inf

    @property
    def epoch(self) -> int:
        """The fencing token while we lead and may believe so, else 0."""
        return self._epoch if self._clock() < self._renewed_at + TTL - MARGIN else 0

    @property
    def alone(self) -> bool:
        """The store has not answered for so long that nobody may still lead by what we know."""
        silent_since = max(self._renewed_at, self._began_at)
        return self.problem not in ("", NOT_ASKED) and self._clock() >= silent_since + TTL

    async def run(self) -> None:
        """Renew, look, campaign, until cancelled."""
        while True:
            began = self._clock()
            await self.turn()
            await asyncio.sleep(max(0.05, began + CAMPAIGN - self._clock()))

    async def turn(self) -> None:
        """One look at the store; whatever goes wrong is told by ``problem``."""
        try:
            await self._live()
            await self._leave()
            await self._look()
        except LeaseLost:
            log.warning("the lease in the store is over: asking for a new one")
            self.lease, self._epoch = 0, 0
        except StoreError as error:
            if self.problem in ("", NOT_ASKED):
                log.warning("the store does not answer: %s", error)
            self.problem = str(error)
        else:
            if self.problem not in ("", NOT_ASKED):
                log.info("the store answers again")
            self.problem = ""

    def hand_over(self) -> None:
        """Lead no more from now on, and leave that to another: the next turn takes our name off, the lease stays."""
        self._leaving, self._epoch = self._epoch, 0

    async def resign(self) -> None:
        """Give the lease up, so that another may lead at once."""
        self._epoch, self._resigned = 0, True
        if self.lease:
            lease, self.lease = self.lease, 0
            try:
                await self._store.revoke(lease)
            except (StoreError, LeaseLost) as error:
                log.info("the lease ends by itself: %s", error)

    async def _live(self) -> None:
        """Have a lease with enough time left."""
        sent_at = self._clock()
        if not self.lease:
            self._epoch = 0
            self.lease = await self._store.grant(TTL)
        elif sent_at - self._renewed_at >= RENEW - CAMPAIGN / 2:
            await self._store.renew(self.lease)
        else:
            return
        self._renewed_at = sent_at

    async def _leave(self) -> None:
        if self._leaving:
            await self._store.commit([Compare(self._keys.leader, created=self._leaving)], [], [self._keys.leader])
            self._leaving = 0

    async def _look(self) -> None:
        entry = await self._store.get(self._keys.leader)
        if entry is None:
            self.leader, self._epoch = "", 0
            self._free_since = min(self._free_since, self._clock())
            if not self.outranked or self._clock() - self._free_since >= PATIENCE:
                await self._campaign()
            return
        self._free_since = math.inf
        holder = msgpack.unpackb(entry.value)
        self.leader = holder["name"]
        mine = holder["lease"] == self.lease and not self._resigned and not self._leaving
        if mine and not self._epoch:  # the answer to our transaction was lost
            self._epoch = entry.created
        elif not mine:
            self._epoch = 0
            self.refusal = await self._differs()

    async def _campaign(self) -> None:
        if self._resigned:
            return
        self.refusal = await self._differs()
        if self.refusal:
            return
        me = self._me
        value = msgpack.packb({"name": me.name, "site": me.site, "lease": self.lease})
        revision = await self._store.commit(
            [Compare(self._keys.leader, created=0)],
            [
                Put(self._keys.leader, value, self.lease),
                Put(self._keys.config, msgpack.packb(dict(me.fingerprint))),
            ],
        )
        if revision:
            self._epoch, self.leader = revision, me.name
            log.info("%s leads, epoch %d", me.name, revision)

    async def _differs(self) -> str:
        """Why our configuration must not lead: it is not the one that has led, nor that of most gateways by now."""
        entry = await self._store.get(self._keys.config)
        if entry is None:
            return ""
        paths = differences(self._me.fingerprint, msgpack.unpackb(entry.value))
        if not paths or 2 * await self._same() > self._me.gateways:
            return ""
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        return f"our configuration differs from the one that has led, at {paths[0]}{more}"

    async def _same(self) -> int:
        """How many gateways live with our configuration, ourselves included."""
        mine = hash_of(dict(self._me.fingerprint))
        seen = {entry.key: msgpack.unpackb(entry.value) for entry in await self._store.range(self._keys.seen)}
        seen.pop(self._keys.seen + self._me.name, None)
        return 1 + [record.get("configuration") for record in seen.values()].count(mine)
