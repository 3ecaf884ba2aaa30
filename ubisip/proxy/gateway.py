# SPDX-License-Identifier: Apache-2.0
"""One gateway from start to stop: sockets, worker, control loop, health, admin side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ubisip.admin.agent_check import AgentCheck, Share
from ubisip.admin.face import NoRegistrar, UnknownDestination
from ubisip.admin.http import WORKER_SILENCE, Admin
from ubisip.agents.credentials import Credentials
from ubisip.config import Config
from ubisip.core.snapshot import Slots
from ubisip.core.worker import Worker
from ubisip.errors import UsageError
from ubisip.failover.controller import Controller, UnknownTier
from ubisip.health.monitor import Monitor
from ubisip.health.probes.push import Outcome
from ubisip.platform import Endpoint, Switch
from ubisip.proxy.addresses import Addresses
from ubisip.proxy.control import Control
from ubisip.proxy.events import Draining, Reloaded, Subscribers, Subscription, SwitchChanged
from ubisip.proxy.hooks import Asking
from ubisip.proxy.node import Node, node_of, warn
from ubisip.proxy.registrations import Registrations
from ubisip.proxy.sockets import open_listeners, open_stream_listeners
from ubisip.proxy.status import status_of
from ubisip.proxy.tiers import Tiers, same
from ubisip.proxy.watching import ON_ACTION, ON_PLAN, ON_TRANSITION, Watching
from ubisip.sections import Limits
from ubisip.store.audit import AuditLog
from ubisip.store.record import read_record, write_record
from ubisip.transport.connection import Address
from ubisip.transport.tcp import Streams

log = logging.getLogger(__name__)

DRAIN_LIMIT = 30.0
"""Seconds that calls in set-up get to finish: phones that ring longer are carried on by any other gateway."""
SETTLE = 1.0
"""Seconds from the last set-up to the stop: the ACK of an answer that has just gone out still passes through us."""
DRAIN_TURN = 0.05
HOOK_METHODS = ("choose", "credentials", ON_TRANSITION, ON_PLAN, ON_ACTION)
NAMES_LIMIT = 1.0
"""Seconds that the start waits for the addresses of destinations with host names; later ones are taken as they come."""


class Gateway:
    """A gateway that runs while its ``async with`` block does; leaving the block normally drains it first.

    *node* names one of ``config.gateways``; *hooks* are asked about new calls, see :class:`ubisip.Hook`, or for the
    credentials of agents, see :class:`ubisip.Credentials`, and told of the other tiers, see ubisip.proxy.watching: each
    has the methods that it wants.

    :raises UsageError: what the configuration asks for cannot be had: a key is missing or, on entering, a port taken...
    """

    def __init__(self, config: Config, *, node: str, hooks: Sequence[Any] = ()) -> None:
        self._name = node
        self._node: Node = node_of(config, node)
        self._slots = Slots()
        self._addresses = Addresses()
        self._subscribers = Subscribers()
        self._monitor = Monitor(config.health.sip, self._node.targets, seed=node)
        _check_hooks(hooks)
        self._asking = Asking(hooks, lambda name: name in self._node.peers)
        credentials = [hook for hook in hooks if isinstance(hook, Credentials)]
        self._registrations = (
            Registrations(self._node, self._slots, credentials, self._subscribers) if config.agents else None
        )
        self._control = Control(
            self._node,
            self._slots,
            self._monitor,
            self._asking,
            self._subscribers,
            self._addresses,
            self._registrations,
        )
        self._control.check(self._node)
        self._audit = AuditLog(Path(config.platform.state_dir) / "audit.log", node)
        self._watching = Watching(self._subscribers, hooks, self._write_audit)
        self._tiers = self._new_tiers(config)
        self._worker: Worker | None = None
        self._streams: Streams | None = None
        self._admin: Admin | None = None
        self._open = contextlib.AsyncExitStack()
        self._started_at = time.monotonic()
        self._state = "stopped"

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._node.config

    @property
    def name(self) -> str:
        """The gateway's name in the configuration."""
        return self._name

    @property
    def listeners(self) -> Sequence[Endpoint]:
        """Where it hears SIP."""
        return self._node.gateway.listen

    @property
    def state(self) -> str:
        """``stopped``, ``starting``, ``ready`` or ``draining``."""
        return self._state

    # Life

    async def __aenter__(self) -> Gateway:
        async with contextlib.AsyncExitStack() as opened:
            self._state, self._started_at = "starting", time.monotonic()
            opened.callback(self._stopped)
            await self._start(opened)
            self._open = opened.pop_all()
        self._state = "ready"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._state == "ready":
                await self.drain()
        finally:
            await self._open.aclose()

    async def _start(self, opened: contextlib.AsyncExitStack) -> None:
        """Calls first: the sockets and the worker are up before anything that may take time."""
        node, config = self._node, self._node.config
        sockets = open_listeners(node.gateway.listen)
        opened.callback(_close, sockets)
        streams = self._open_streams(opened)
        warn(node)
        self._recall()
        with contextlib.suppress(TimeoutError):  # meanwhile the sockets keep what comes
            async with asyncio.timeout(NAMES_LIMIT):
                await self._addresses.refresh(node.peers.values(), node.gateway.listen)
        snapshot = self._control.snapshot(time.monotonic())
        self._worker = Worker(sockets, snapshot, node.keys, coalesce=config.routing.coalesce / 1000)
        opened.callback(self._send_last)
        if self._registrations is not None:
            opened.push_async_callback(self._registrations.close)
            await self._registrations.prepare(self._worker)
        self._worker.start()
        opened.callback(self._worker.stop)
        self._control.start(self._worker, streams)
        opened.push_async_callback(self._control.stop)
        if self._registrations is not None:
            self._registrations.start()
            opened.push_async_callback(self._registrations.stop)
        if streams is not None:
            await streams.start(self._worker)
            opened.callback(streams.stop_listening)
        if node.gateway.admin is not None:
            self._admin = Admin(self, node.token)
            await self._admin.start(node.gateway.admin)
            opened.push_async_callback(self._admin.stop)
        if node.gateway.agent_check is not None:
            agent = AgentCheck(self)
            await agent.start(node.gateway.agent_check)
            opened.push_async_callback(agent.stop)
        telling = asyncio.get_running_loop().create_task(self._watching.run())
        opened.callback(telling.cancel)
        opened.push_async_callback(self._stop_tiers)
        if self._tiers is not None:
            self._tiers.start()

    def _new_tiers(self, config: Config) -> Tiers | None:
        """The other tiers of *config*, not yet started; None: it has none.

        :raises UsageError: they cannot be watched as it says.
        """
        return Tiers(config, self._name, self._watching) if config.tiers else None

    async def _stop_tiers(self) -> None:
        if self._tiers is not None:
            await self._tiers.stop()

    def _open_streams(self, opened: contextlib.AsyncExitStack) -> Streams | None:
        """Hold the addresses of the stream listeners, if there are any."""
        listen = self._node.gateway.listen
        sockets = open_stream_listeners(listen)
        if not sockets:
            return None
        opened.callback(_close, list(sockets.values()))
        self._streams = Streams(listen, sockets, certificates=self._node.certificates, name_of=self._name_of)
        opened.push_async_callback(self._streams.close)
        return self._streams

    def _name_of(self, address: Address) -> str:
        """The host that a peer at *address* is known by, which its certificate must name."""
        for name, peer in self._node.peers.items():
            endpoint = peer.endpoint
            if endpoint.port == address[1] and address[0] in (endpoint.host, self._addresses.known.get(name)):
                return endpoint.host
        return address[0]

    def _send_last(self) -> None:
        """What the worker left for streams when it stopped."""
        if self._streams is not None and self._worker is not None:
            self._streams.send(self._worker.stream_messages())

    def _stopped(self) -> None:
        self._state, self._worker, self._streams, self._admin = "stopped", None, None, None
        self._subscribers.close()

    async def drain(self, limit: float = DRAIN_LIMIT) -> int:
        """Take no new calls (503) and let those in set-up finish, *limit* seconds at most; returns how many did not.

        Calls that are established need no gateway to stay up; any other one carries them on.
        """
        worker = self._running()
        self._state, self._control.draining = "draining", True
        self._control.refresh(time.monotonic())
        self._subscribers.publish(Draining(time.time()))
        until = time.monotonic() + limit
        while worker.statistics()["pending"] and time.monotonic() < until:
            await asyncio.sleep(DRAIN_TURN)
        if worker.statistics()["counters"].get("requests"):
            await asyncio.sleep(SETTLE)
        left = int(worker.statistics()["pending"])
        log.info("drained: %s", f"{left} calls in set-up are left to other gateways" if left else "no call in set-up")
        return left

    def _running(self) -> Worker:
        if self._worker is None:
            raise UsageError("the gateway does not run: use it within its `async with` block")
        return self._worker

    # What embedders and the admin side ask for

    def events(self) -> Subscription:
        """What happens from now on: an asynchronous iterator of :class:`ubisip.GatewayEvent`, see ubisip.proxy.events.

        While somebody listens, every call is told about, which costs the core some work; without listeners, nothing.

        :raises UsageError: the gateway does not run.
        """
        self._running()
        subscription = self._subscribers.subscribe()
        self._control.refresh(time.monotonic())
        return subscription

    def switch(self, name: str, state: Switch | str, who: str = "embedder") -> None:
        """Set the operator's switch of a destination; it survives a restart. *who* is written to the audit log.

        :raises UnknownDestination: no carrier or server has this name.
        :raises ValueError: *state* is no switch.
        """
        wish = Switch(state)
        what = f"switch {name[:80]} to {wish.value}"
        if name not in self._node.peers:
            self._write_audit(who, what, "no such destination")
            raise UnknownDestination(name, list(self._node.peers))
        before = self._monitor.states(time.monotonic())[name].switch
        self._monitor.switch(name, wish)
        self._control.refresh(time.monotonic())
        self._remember()
        self._write_audit(who, what, "done", before=before.value)
        log.info("%s is set to %s by %s (was %s)", name, wish.value, who, before.value)
        self._subscribers.publish(SwitchChanged(time.time(), name, wish.value, who))

    async def reload(self, path: str | None = None, *, who: str = "embedder") -> str:
        """Take the configuration from *path* (default: the file in force), all or nothing; returns its digest.

        Calls go on. Listeners, the admin address and ``state_dir`` cannot change without a restart; ``coalesce`` and
        the sizes of the core's tables are taken over at the next one.

        :raises ConfigError: the file has mistakes; the old configuration stays in force.
        :raises UsageError: it cannot be taken into force without a restart, likewise.
        """
        try:
            digest = await self._reload(path or self.config.path)
        except UsageError as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)
            self._write_audit(who, "reload", "refused", mistakes=str(error).splitlines())
            raise
        self._write_audit(who, "reload", "done", configuration=digest)
        log.info("reloaded by %s: configuration %s is in force", who, digest[:12])
        self._subscribers.publish(Reloaded(time.time(), digest))
        return digest

    async def _reload(self, path: str) -> str:
        worker = self._running()
        if not path:
            raise UsageError("the configuration came from no file: say which one to take")
        node = node_of(Config.load(path), self._name)
        _refuse_moves(self._node, node)
        self._control.check(node)
        credentials = None if self._registrations is None else self._registrations.check(node)
        moved = not same(self.config, node.config)
        tiers = self._new_tiers(node.config) if moved else self._tiers
        try:
            worker.set_keys(node.keys)
        except BufferError as error:
            raise UsageError(f"try again: {error}") from error
        self._control.take(node)
        if self._registrations is not None and credentials is not None:
            self._registrations.take(node, *credentials)
        _warn_of_restart(self._node, node)
        self._node = node
        if self._admin is not None:
            self._admin.set_token(node.token)
        if self._streams is not None:
            self._streams.certificates = node.certificates
        warn(node)
        if moved:
            await self._take_tiers(tiers)
        return node.config.digest

    async def _take_tiers(self, tiers: Tiers | None) -> None:
        """Watch over *tiers* from now on, after a plan that runs has ended; the lease is sought anew."""
        before, self._tiers = self._tiers, tiers
        if before is not None:
            await before.finish()
            await before.stop()
        if tiers is not None:
            tiers.start()

    def status(self) -> dict[str, Any]:
        """The platform as this gateway sees it: what ``GET /api/v1/platform`` answers, see docs/operations.md."""
        now = time.monotonic()
        facts = {"state": self._state, "uptime": round(now - self._started_at, 3), "panic": self._monitor.panic(now)}
        return status_of(self._node, self._monitor, self._slots, self.statistics(), now, facts)

    def statistics(self) -> Mapping[str, Any]:
        """The worker's counters since the start, see ``ubisip.core.engine.Engine.statistics``."""
        return self._running().statistics()

    def own_statistics(self) -> Mapping[str, Mapping[str, int]]:
        """What the control thread counts: hooks' failures and answers, events lost, its own faults, streams."""
        streams = {} if self._streams is None else self._streams.statistics()
        agents = {} if self._registrations is None else self._registrations.statistics()
        return {
            **streams,
            **agents,
            "hook_failures": self._asking.failures,
            "hook_answers": self._asking.answers,
            "events_lost": {"subscription": self._subscribers.lost},
            "control_errors": self._control.errors + (self._registrations.errors if self._registrations else Counter()),
        }

    async def agents(self, aor: str = "", after: int = 0, limit: int = 100, only_here: bool = False) -> dict[str, Any]:
        """Bindings of agents on this gateway: what ``GET /api/v1/agents`` answers, see docs/agents.md.

        *aor* is an address of record or its user part; *only_here*: phones that no other site reaches.

        :raises NoRegistrar: the configuration has no [agents].
        :raises UsageError: the gateway does not run.
        """
        return await self._registrar().agents(aor, after, limit, only_here)

    def agent_marks(self) -> bytes | None:
        """What stands for each phone that is reached from here, for other sites; None: not counted yet.

        :raises NoRegistrar: the configuration has no [agents].
        """
        return self._registrar().marks()

    def _registrar(self) -> Registrations:
        if self._registrations is None:
            raise NoRegistrar
        return self._registrations

    @property
    def tiers(self) -> Controller | None:
        """The controller of the other tiers; None: the configuration has none."""
        return None if self._tiers is None else self._tiers.controller

    def push(self, tier: str, member: str, outcome: Outcome = "ok", text: str = "") -> None:
        """A job of a tier of kind ``push`` has reported.

        :raises UnknownTier: there is no such tier or member.
        :raises OSError: it counts, but is not on disk.
        """
        if self._tiers is None:
            raise UnknownTier("the configuration has no [tiers]")
        self._tiers.push(tier, member, outcome, text)

    def primary(self, tier: str) -> str:
        """The address of the member of *tier* that is primary now, as this gateway sees it; empty: none is known.

        What writes to a database asks it, and connects anew when the answer is another one.
        """
        found = None if self._tiers is None else self._tiers.primary(tier, time.monotonic())
        return "" if found is None else found.address

    def share(self, subject: str) -> Share | None:
        """What HAProxy is told: of a member of a tier, or of this gateway, whose weight is the room that it has."""
        if subject:
            return None if self._tiers is None else self._tiers.share(subject, time.monotonic())
        if self._state != "ready":
            return Share("drain" if self._state == "draining" else "down", reason=self._state)
        if self.silent_for() > WORKER_SILENCE:
            return Share("down", reason="the worker is silent")
        return Share("up", _room(self.statistics(), self.config.limits), ready=True)

    def admin_of(self, name: str) -> str:
        """The HTTP address of another gateway of the configuration; empty: it has none."""
        found = next((one.admin for one in self.config.gateways if one.name == name), None)
        return "" if found is None else f"http://{str(found).partition(':')[2]}"

    def audit_entries(self, limit: int) -> list[dict[str, Any]]:
        """The newest *limit* entries of the audit log, the oldest of them first.

        :raises OSError: it cannot be read.
        """
        return self._audit.entries(limit)

    def silent_for(self) -> float:
        """Seconds since the worker's last turn; it turns at least once a second."""
        return max(0.0, time.monotonic() - float(self._running().statistics()["alive"]))

    def ready(self) -> str:
        """Empty when new calls are taken, else why not."""
        return "" if self._state == "ready" else self._state

    # What outlives the process

    def _recall(self) -> None:
        """Set the switches as they were before the restart."""
        path = self._node.state_file("switches")
        try:
            record = read_record(path)
            if record is not None:
                self._monitor.from_record(record)
        except (OSError, ValueError, AttributeError) as error:
            log.error("the switches kept in %s are not taken over: %s", path, error)

    def _remember(self) -> None:
        path = self._node.state_file("switches")
        try:
            write_record(path, self._monitor.to_record())
        except OSError as error:
            log.error("the switches will not survive a restart: %s", error)

    def _write_audit(self, who: str, what: str, result: str, **details: Any) -> None:
        try:
            self._audit.write(who, what, result, **details)
        except OSError as error:
            log.error("the audit log %s cannot be written: %s", self._audit.path, error)


def _room(statistics: Mapping[str, Any], limits: Limits) -> int:
    """Percent of what we may carry that is left, by what is nearest to its limit."""
    calls = statistics["calls"] + statistics["pending"]
    load: float = max(statistics["transactions"] / limits.transactions, calls / limits.calls)
    return max(1, round(100 * (1 - load)))


def _check_hooks(hooks: Sequence[object]) -> None:
    """
    :raises UsageError: one is no hook.
    """
    for hook in hooks:
        if not any(hasattr(hook, name) for name in HOOK_METHODS):
            raise UsageError(f"a hook has one of {', '.join(HOOK_METHODS)}; {type(hook).__name__} has none of them")


def _close(sockets: Sequence[socket.socket | None]) -> None:
    for one in sockets:
        if one is not None:
            one.close()


def _refuse_moves(old: Node, new: Node) -> None:
    """What a running gateway cannot change.

    :raises UsageError: the new configuration changes it.
    """
    names = ("listen", "admin", "agent_check")
    moved = [name for name in names if getattr(old.gateway, name) != getattr(new.gateway, name)]
    if old.config.platform.state_dir != new.config.platform.state_dir:
        moved.append("state_dir")
    if (old.config.agents is None) != (new.config.agents is None):
        moved.append("[agents]")
    if moved:
        raise UsageError(
            f"{new.config.path}: {' and '.join(moved)} of {new.gateway.name} changed: this needs a restart"
        )


def _warn_of_restart(old: Node, new: Node) -> None:
    """Tell what is taken over at the next start only."""
    before, after = old.config, new.config
    if before.routing.coalesce != after.routing.coalesce:
        log.warning("routing.coalesce changed: it is taken over at the next start")
    if before.store.soft != after.store.soft:
        log.warning("store.soft changed: it is taken over at the next start")
    for name in ("transactions", "calls"):
        if getattr(before.limits, name) != getattr(after.limits, name):
            log.warning("limits.%s changed: it is taken over at the next start", name)
