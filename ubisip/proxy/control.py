# SPDX-License-Identifier: Apache-2.0
"""The control loop: the worker's news become health, decisions and events; what changed goes back as a snapshot."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from ubisip.core.engine import Event
from ubisip.core.message import Message
from ubisip.core.snapshot import Slots, Snapshot
from ubisip.errors import UsageError
from ubisip.health.evidence import NO_ANSWER, attempt
from ubisip.health.machine import State, Transition
from ubisip.health.monitor import Change, Monitor
from ubisip.health.options import Branches, Origin, options
from ubisip.platform import DestinationState
from ubisip.proxy.addresses import REFRESH, Addresses, is_address, origin_of
from ubisip.proxy.events import HealthChanged, Subscribers
from ubisip.proxy.hooks import Asking, NewCall
from ubisip.proxy.logs import Brake
from ubisip.proxy.node import Node
from ubisip.proxy.registrations import Registrations
from ubisip.proxy.telling import call_event, step_event
from ubisip.transport.tcp import Letter, Streams

log = logging.getLogger(__name__)

TICK = 0.2
"""Seconds between turns of the loop when nothing wakes it: a turn costs as much as some ten registrations, and SIGKILL
takes with it what the registrar was told since the last one."""
EVIDENCE = frozenset({"refused", "silent", "busy"})
ALARMING = frozenset({State.DOWN, State.HELD})
PASSING = frozenset({State.FALLING, State.RISING})
"""A link that loses datagrams brings these several times a second: no news for the log."""


class Carrying(Protocol):
    """The worker as the control loop uses it: see ``ubisip.core.worker.Worker``."""

    def fileno(self) -> int: ...
    def events(self) -> list[Event]: ...
    def swap(self, snapshot: Snapshot) -> None: ...
    def decide(self, handle: int, destination: int) -> None: ...
    def probe(self, destination: int, data: bytes, handle: int, timeout: float) -> None: ...
    def stream_messages(self) -> Sequence[Letter]: ...
    def successes(self) -> dict[int, int]: ...
    def statistics(self) -> dict[str, Any]: ...


class Control:
    """Runs beside the worker from ``start`` to ``stop``; all in one thread, that of the event loop.

    ``errors`` counts faults of the loop itself by place: each is logged, none ends it.
    """

    def __init__(
        self,
        node: Node,
        slots: Slots,
        monitor: Monitor,
        asking: Asking,
        subscribers: Subscribers,
        addresses: Addresses,
        registrations: Registrations | None = None,
    ) -> None:
        self.node = node
        self.monitor = monitor
        self.errors: Counter[str] = Counter()
        self.draining = False
        self._slots = slots
        self._asking = asking
        self._subscribers = subscribers
        self._addresses = addresses
        self._registrations = registrations
        self._worker: Carrying | None = None
        self._streams: Streams | None = None
        self._in_core: tuple[Any, ...] = ()
        self._successes: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._branches = Branches(random.SystemRandom().getrandbits(64))
        self._probes = 0
        self._brake = Brake()
        self._doubt = ""

    # The snapshot: built anew whenever something that it holds is no longer what the core has.

    def snapshot(self, now: float) -> Snapshot:
        """What the core must know now."""
        self._in_core = self._wanted(now)
        return self._built(self._in_core[1])

    def _wanted(self, now: float) -> tuple[Any, ...]:
        """Everything that a snapshot is made of."""
        states, known = self.monitor.states(now), self._addresses.known
        listens, asks = bool(self._subscribers), bool(self._asking)
        return self.node, states, known, self.draining, asks, listens, self._knows_all_users

    @property
    def _knows_all_users(self) -> bool:
        """The core has been told every agent there is."""
        return self._registrations is not None and self._registrations.complete

    def _built(self, states: Mapping[str, DestinationState]) -> Snapshot:
        return Snapshot(
            self.node.config,
            self.node.gateway.name,
            self._slots,
            states,
            addresses=self._addresses.known,
            draining=self.draining,
            hook=bool(self._asking),
            record=bool(self._subscribers),
            credentials_complete=self._knows_all_users,
            wall=time.time() - time.monotonic(),
        )

    def refresh(self, now: float) -> None:
        """Hand the core a new snapshot if something changed."""
        wanted = self._wanted(now)
        if self._worker is not None and wanted != self._in_core:
            snapshot = self._built(wanted[1])
            if self._posted(self._worker.swap, snapshot):  # else the next turn tries again
                self._in_core = wanted

    def check(self, node: Node) -> None:
        """Make sure that the core can hold *node*.

        :raises UsageError: it cannot: too many destinations, sources, listeners...
        """
        try:
            Snapshot(node.config, node.gateway.name, self._slots)
        except (ValueError, OverflowError) as error:
            raise UsageError(f"{node.config.path}: {error}") from error

    def take(self, node: Node) -> None:
        """Run by *node*, which has passed ``check()``, from now on."""
        self.node = node
        self.monitor.replace(node.config.health.sip, node.targets)
        self.refresh(time.monotonic())

    # Life

    def start(self, worker: Carrying, streams: Streams | None = None) -> None:
        """Begin to listen to *worker*, which runs already by ``snapshot()``; *streams* take what it sends over them."""
        self._worker, self._streams = worker, streams
        asyncio.get_running_loop().add_reader(worker.fileno(), self._wake)
        self._spawn(self._ticks())
        self._spawn(self._look_up())

    async def stop(self) -> None:
        """Listen no more; calls that wait for a hook are left to the default policy."""
        if self._worker is not None:
            asyncio.get_running_loop().remove_reader(self._worker.fileno())
        self._worker = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ticks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.monitor.lag(max(0.0, loop.time() - due), time.monotonic())
            self._guarded("tick", self._tick)
            if self._registrations is not None:
                self._guarded("registrations", self._keep_bindings)
            self._guarded("streams", self._send_streams)  # the turn took the worker's call for both

    async def _look_up(self) -> None:
        while True:
            try:
                await self._addresses.refresh(self.node.peers.values(), self.node.gateway.listen)
            except Exception:
                self._failed("look-up of names")
            await asyncio.sleep(REFRESH)

    def _guarded(self, place: str, work: Callable[[], None]) -> None:
        """A fault in one turn must not end the loop: health and snapshots of all calls hang on it."""
        try:
            work()
        except Exception:
            self._failed(place)

    def _failed(self, place: str) -> None:
        self.errors[place] += 1
        if self._brake.passes(place) is not None:
            log.exception("the control loop's %s failed; it goes on", place)

    def _posted(self, post: Callable[..., None], *letter: Any) -> bool:
        """Put a letter into the worker's mailbox; False: it was full."""
        try:
            post(*letter)
        except BufferError as error:
            self.errors["mailbox"] += 1
            if self._brake.passes("mailbox") is not None:
                log.error("%s", error)
            return False
        return True

    # One turn

    def _wake(self) -> None:
        """The worker has urgent news, or messages for streams: these leave whatever else fails."""
        self._guarded("events", self._turn)
        self._guarded("streams", self._send_streams)

    def _send_streams(self) -> None:
        if self._worker is not None and self._streams is not None:
            self._streams.send(self._worker.stream_messages())

    def _turn(self) -> None:
        """Hear the worker's news; it wakes us for urgent ones only."""
        if self._worker is None:
            return
        news, now = self._worker.events(), time.monotonic()
        if any(event.kind in EVIDENCE for event in news):
            self._credit(now)  # what went well before the failures, so that it cannot excuse them
        for event in news:
            self._hear(event, now)
        if any(event.kind in EVIDENCE or event.kind == "probe" for event in news):
            self.refresh(now)

    def _tick(self) -> None:
        self._turn()
        now = time.monotonic()
        self._credit(now)
        self._probe(now)
        self._tell_doubt(now)
        self.refresh(now)

    def _keep_bindings(self) -> None:
        assert self._registrations is not None
        self._registrations.tick(time.monotonic())

    def _credit(self, now: float) -> None:
        """Attempts that brought a response are evidence as well."""
        assert self._worker is not None
        for slot, total in self._worker.successes().items():
            name = self._slots.name(slot)
            self._changed(self.monitor.succeeded(name, total - self._successes.get(name, 0), now))
            self._successes[name] = total

    def _hear(self, event: Event, now: float) -> None:
        name = self._slots.name(event.destination) if event.destination >= 0 else ""
        if event.kind == "ask":
            self._spawn(self._ask(event, name))
        elif event.kind == "probe":
            self._changed(self.monitor.probed(name, event.status, event.value, now))
        elif event.kind in EVIDENCE:
            self._changed(self.monitor.observe(name, attempt(event.kind, retry_after=event.value), now))
        elif event.kind == "credentials" and self._registrations is not None:
            self._registrations.ask(event)
        else:
            moment = time.time() - (now - event.time)
            told = call_event(event, name, moment) or step_event(event, name, moment)
            if told is not None:
                self._subscribers.publish(told)

    async def _ask(self, event: Event, peer: str) -> None:
        """Put the hooks' decision on a parked call into the worker's mailbox."""
        left = self.node.config.routing.hook_timeout - (time.monotonic() - event.time)
        message = Message(event.data)
        call = NewCall(message.call_id, message.from_user, message.uri_user, peer, message)
        name = await self._asking.choose(call, max(0.0, left))
        if self._worker is not None:
            self._posted(self._worker.decide, event.handle, -1 if name is None else self._slots.slot(name))

    # Probes

    def _probe(self, now: float) -> None:
        for name in self.monitor.due(now):
            peer = self.node.peers[name]
            host = peer.endpoint.host
            address = host if is_address(host) else self._addresses.known.get(name)
            if address is None:  # a name without an address is as good as silence
                self._changed(self.monitor.probed(name, NO_ANSWER, 0.0, now))
            else:
                self._send_probe(name, address)

    def _send_probe(self, name: str, address: str) -> None:
        assert self._worker is not None
        peer, gateway = self.node.peers[name], self.node.gateway
        origin = Origin(*origin_of(peer, address, gateway.listen, gateway.advertise))
        self._probes += 1
        request = options(peer.uri, origin, next(self._branches), self._probes % 2**31 or 1)
        timeout = self.node.config.health.sip.timeout
        self._posted(self._worker.probe, self._slots.slot(name), request, self._probes, timeout)

    # What is told

    def _changed(self, change: Change | None) -> None:
        """Log and publish a change of health."""
        if change is None:
            return
        it = change.transition
        rest = f", rests {it.rest:.0f} s" if it.rest else ""
        log.log(_level(it), "%s (%s) is %s: %s%s", change.name, change.site, it.after.value, it.reason, rest)
        told = HealthChanged(time.time(), change.name, it.before.value, it.after.value, it.reason)
        self._subscribers.publish(told)

    def _tell_doubt(self, now: float) -> None:
        doubt = self.monitor.abstains(now)
        if doubt == self._doubt:
            return
        self._doubt = doubt
        if doubt:
            log.warning("we distrust our own observations: %s", doubt)
        else:
            log.info("we trust our own observations again")


def _level(transition: Transition) -> int:
    """How loud a change of health is told."""
    if transition.after in ALARMING:
        return logging.WARNING
    back = transition.before is State.FALLING and transition.after is State.UP
    return logging.DEBUG if back or transition.after in PASSING else logging.INFO
