# SPDX-License-Identifier: Apache-2.0
"""The other tiers of one gateway, from their sections of the file to a running controller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ubisip import plugins
from ubisip.admin.agent_check import Share
from ubisip.config import Config
from ubisip.errors import UsageError
from ubisip.failover.action import PRIMARY, Action, Sink
from ubisip.failover.controller import Controller, UnknownTier, Watcher
from ubisip.failover.coordination import Store
from ubisip.failover.inspection import made, probe_of, targets_of
from ubisip.failover.lease import Fingerprint, Keys, Leadership, Member, hash_of
from ubisip.failover.notices import Notices
from ubisip.failover.observations import Observations
from ubisip.failover.telling import TellAction
from ubisip.failover.tier import TierSetup
from ubisip.health.machine import USABLE, State
from ubisip.health.probe import Target
from ubisip.health.prober import Prober, Watched
from ubisip.health.probes.push import Outcome, PushProbe
from ubisip.health.trust import client_context
from ubisip.parameters import read_secret, thaw
from ubisip.sections import Parameters, Tier
from ubisip.store.etcd import EtcdStore
from ubisip.store.sqlite import SqliteStore
from ubisip.tiercheck import plugin_of

log = logging.getLogger(__name__)

FINISH_LIMIT = 60.0
"""Seconds that a plan gets to end before a reload: what is left then is taken up from the journal."""
STOP_LIMIT = 3.0
"""Seconds that the tiers get to stop: the lease ends by itself, and no call waits for them."""


class Tiers:
    """Probes, controller, actions and sinks of one gateway, from ``start`` to ``stop``.

    :raises UsageError: a plug-in, a password or the store's file cannot be had.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        watcher: Watcher,
        store: Store | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        gateway = config.gateway(node)
        self.config = config
        fingerprint = fingerprint_of(config)
        targets = {name: targets_of(name, tier) for name, tier in config.tiers.items()}
        policies = {name: plugins.policy(tier.kind) for name, tier in config.tiers.items()}
        state_dir = config.platform.state_dir
        self._sinks: dict[str, Sink] = {name: _sink(name, it, state_dir) for name, it in config.sinks.items()}
        self._actions = _actions(config, policies, self._sinks)
        self._probes = {name: probe_of(tier) for name, tier in config.tiers.items()}
        watched = [Watched(name, tier, targets[name], self._probes[name]) for name, tier in config.tiers.items()]
        self._prober = Prober(watched, lambda _key, _transition: self._wake(), clock)
        self._store = store or store_of(config)
        keys = Keys(config.platform.name)
        me = Member(node, gateway.site, len(config.gateways), fingerprint)
        self._leadership = Leadership(self._store, keys, me, clock)
        self._notices = Notices(self._sinks, clock)
        observations = Observations(
            node,
            gateway.site,
            [one.site for one in config.gateways],
            hash_of(dict(fingerprint)),
            list(config.tiers),
            self._prober.watch,
        )
        self.controller = Controller(
            site=gateway.site,
            tiers=[
                TierSetup(name, tier.kind, tier.mode, tier.on, policies[name]) for name, tier in config.tiers.items()
            ],
            observations=observations,
            actions=self._actions,
            store=self._store,
            keys=keys,
            leadership=self._leadership,
            notices=self._notices,
            watcher=watcher,
            known={(name, it.name): it for name, them in targets.items() for it in them},
            clock=clock,
            wall=wall,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _wake(self) -> None:
        self.controller.wake()

    def start(self) -> None:
        """Begin to probe, to judge, and to lead when the lease is free."""
        self._prober.start()
        works = (self._leadership.run, self.controller.share, self.controller.run, self._notices.run)
        self._tasks = [asyncio.get_running_loop().create_task(self._kept(work)) for work in works]

    def push(self, tier: str, member: str, outcome: Outcome, text: str) -> None:
        """A job has reported by itself.

        :raises UnknownTier: no tier of kind ``push`` has this member.
        :raises OSError: it counts, but is not on disk.
        """
        probe = self._probes.get(tier)
        if not isinstance(probe, PushProbe) or member not in {one.name for one in self.config.tiers[tier].members}:
            raise UnknownTier(f"no tier of kind push is {tier[:80]!r} with a member {member[:80]!r}")
        probe.mark(member, outcome, text)

    def share(self, subject: str, now: float) -> Share | None:
        """What HAProxy is told of ``TIER/MEMBER`` or ``TIER/MEMBER/primary``; None: nothing is known of it."""
        tier, _, rest = subject.partition("/")
        member, _, role = rest.partition("/")
        found = [one for one in self._prober.watch.seen(tier, now) if one.target.name == member]
        if not found or found[0].state is State.UNKNOWN or role not in ("", PRIMARY):
            return None
        seen = found[0]
        if seen.state not in USABLE:
            return Share("down", reason=f"{seen.state.value} {seen.reason}")
        primary = self.primary(tier, now)
        if role and (primary is None or member != primary.name):
            return Share("down", reason="not primary")
        return Share("up", round(100 * self._prober.watch.weight((tier, member), now)))

    def primary(self, tier: str, now: float) -> Target | None:
        """The member that is primary, as it is seen from here; of several that say so, that of the newest reign."""
        found = [one for one in self._prober.watch.seen(tier, now) if one.facts.get("role") == PRIMARY]
        found = [one for one in found if one.state in USABLE]
        return max(found, key=lambda one: one.facts.get("reign", 0)).target if found else None

    async def finish(self) -> None:
        """Wait until no plan runs, FINISH_LIMIT seconds at most; none begins meanwhile."""
        self.controller.closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_LIMIT):
                await self.controller.idle()

    async def stop(self) -> None:
        """Stop all of it and give the lease up; a plan that runs is left to the next who leads."""
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_LIMIT):
                await self._leadership.resign()
                await self._prober.stop()
                parts: list[Action | Sink | Store] = [*self._actions.values(), *self._sinks.values(), self._store]
                await asyncio.gather(*(part.close() for part in parts), return_exceptions=True)

    async def __aenter__(self) -> Tiers:
        self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    async def _kept(self, work: Callable[[], Any]) -> None:
        """A fault in one of the tasks must not end it for ever."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("a task of the tiers failed; it begins anew")
                await asyncio.sleep(1.0)


def store_of(config: Config) -> Store:
    """The store that ``[store] url`` names.

    :raises UsageError: its password or a certificate cannot be had.
    """
    it = config.store
    scheme, _, rest = it.url.partition(":")
    if scheme == "etcd":
        try:
            context = client_context(it.ca_file, True, it.certificate_file, it.key_file)
            return EtcdStore(rest.split(","), context, it.user, read_secret(it.password_file))
        except ValueError as error:
            raise UsageError(f"store: {error}") from error
    return SqliteStore(rest or os.path.join(config.platform.state_dir, "store.db"))


def same(before: Config, after: Config) -> bool:
    """Whether a reload changes nothing that the tiers are made of."""
    parts = ("tiers", "actions", "sinks", "store", "gateways", "sites", "platform")
    return all(getattr(before, name) == getattr(after, name) for name in parts)


def fingerprint_of(config: Config) -> Fingerprint:
    """What the controllers of one platform must have in common, by its path in the file."""
    values = {
        "sites": list(config.sites),
        "gateways": [[one.name, one.site] for one in config.gateways],
        "actions": thaw(config.actions),
        "sinks": thaw(config.sinks),
        "tiers": {name: _plain_tier(tier) for name, tier in config.tiers.items()},
    }
    return {path: hash_of(_without_folders(path, value)) for path, value in _flat("", values)}


def _plain_tier(tier: Tier) -> dict[str, Any]:
    return {
        **{key: getattr(tier, key) for key in tier.__slots__ if key not in ("members", "parameters", "on")},
        "members": [asdict(member) for member in tier.members],
        "parameters": thaw(tier.parameters),
        **{f"on_{event}": list(names) for event, names in tier.on.items()},
    }


def _flat(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(f"{path}.{key}" if path else str(key), item)]
    if isinstance(value, list):
        return [pair for index, item in enumerate(value) for pair in _flat(f"{path}[{index}]", item)]
    return [(path, value)]


def _without_folders(path: str, value: Any) -> Any:
    """File names are made absolute when they are read: machines may keep the same file in different folders."""
    return Path(value).name if path.endswith("_file") and isinstance(value, str) else value


def _sink(name: str, parameters: Parameters, state_dir: str) -> Sink:
    kind, own = plugin_of(name, parameters)
    sink: Sink = made(f"sinks.{name}", plugins.load(plugins.SINKS, kind), own, state_dir)
    return sink


def _actions(config: Config, policies: Mapping[str, Any], sinks: Mapping[str, Sink]) -> dict[str, Action]:
    """Every action that a rule of the file or of a kind names."""
    names: dict[str, None] = {}
    for tier_name, tier in config.tiers.items():
        policy = policies[tier_name]
        for rule in (*tier.on.values(), *policy.rules.values(), tuple(policy.substitutes.values())):
            names |= dict.fromkeys(rule)
    return {name: _action(name, config.actions.get(name), sinks) for name in names}


def _action(name: str, parameters: Parameters | None, sinks: Mapping[str, Sink]) -> Action:
    if parameters is None and name in sinks:
        return TellAction(sinks[name])
    kind, own = plugin_of(name, parameters or {})
    action: Action = made(f"actions.{name}", plugins.load(plugins.ACTIONS, kind), own)
    return action


class Unwatched:
    """A watcher that nobody listens to: what is done is in the log alone."""

    def transition(self, tier: str, before: Any, after: Any) -> None: ...
    def plan(self, journal: Any) -> None: ...
    def step(self, journal: Any, index: int) -> None: ...
    def audit(self, who: str, what: str, result: str, details: Mapping[str, Any]) -> None: ...
