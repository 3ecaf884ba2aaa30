# SPDX-License-Identifier: Apache-2.0
"""The virtual wire: an engine, user agents by their addresses and a clock; time is an argument."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plain_sip import Address, Header, Packet, Request, response

from ubisip.config import Config
from ubisip.core.engine import Engine, Event
from ubisip.core.snapshot import Slots, Snapshot
from ubisip.platform import DestinationState

KEY = bytes(range(16))
OTHER_KEY = bytes(range(100, 116))
GATEWAY: Address = ("127.0.0.1", 5060)
SBC: Address = ("127.0.0.1", 5090)
ANY = 2**31 - 1
"""The stream number that stands for any connection to the address."""
OPENED = 1000
"""The number of a connection that the gateway opened when it was told ANY."""
TICK = 0.002
"""Seconds by which a timer may be late: the engine's resolution is about a millisecond."""


def server_address(index: int) -> Address:
    """Where telephony server number *index* stands."""
    return (f"127.0.3.{index + 1}", 5060)


def entry(table: str, values: Mapping[str, object]) -> str:
    """One TOML table; strings, numbers, booleans and lists of them."""
    lines = [f"{key} = {toml(value)}" for key, value in values.items()]
    return "\n".join([table, *lines, ""])


def toml(value: object) -> str:
    """A TOML value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return '"' + value.replace('"', '\\"') + '"' if isinstance(value, str) else str(value)


def carrier(name: str = "sbc", address: Address = SBC, site: str = "PA2", **more: object) -> dict[str, object]:
    """A carrier's SBC that sends from *address* only."""
    where = f"{address[0]}:{address[1]}"
    centre = "montsouris" if site == "PA2" else "aubervilliers"
    return {"name": name, "centre": centre, "site": site, "uri": f"sip:{where}", "sources": [where], **more}


def server(index: int, site: str = "PA2", **more: object) -> dict[str, object]:
    """Telephony server number *index*, named ``tel1`` and so on."""
    host, port = server_address(index)
    return {"name": f"tel{index + 1}", "site": site, "uri": f"sip:{host}:{port}", "sources": [host], **more}


def platform(
    servers: int | Sequence[Mapping[str, object]] = 1,
    carriers: Sequence[Mapping[str, object]] = (),
    *,
    listen: Sequence[str] = ("udp:127.0.0.1:5060",),
    gateway: Mapping[str, object] | None = None,
    **routing: object,
) -> str:
    """The text of a configuration file: one gateway ``gw`` of PA2, its carriers, its servers."""
    rows = [server(index) for index in range(servers)] if isinstance(servers, int) else servers
    node = {"name": "gw", "site": "PA2", "listen": list(listen), **(gateway or {})}
    tables = [entry("[platform]", {"name": "test", "environment": "test", "state_dir": "state"})]
    tables += ["[sites.PA2]\n", "[sites.PA5]\n"]
    tables += [entry("[[carriers]]", row) for row in (carriers or [carrier()])]
    tables += [entry("[[gateways]]", node), *(entry("[[servers]]", row) for row in rows)]
    return "\n".join([*tables, entry("[routing]", routing)])


SERIAL = {"t1": 0.5, "first_response_timeout": 32}
"""Routing for tests of the RFC's own timers: T1 as in the RFC and no failover on silence."""


@dataclass
class Chaos:
    """What happens to datagrams on their way; decided by a seeded generator, so every run is the same."""

    seed: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    """Seconds; each copy is late by a random part of it, so datagrams overtake each other."""
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def copies(self) -> list[float]:
        """The delay of each copy that arrives."""
        count = 0 if self.dice.random() < self.loss else 2 if self.dice.random() < self.duplicate else 1
        return [self.dice.random() * self.delay for _ in range(count)]


class UserAgent:
    """A plain endpoint: an address, an inbox, and what a test lets it send."""

    def __init__(self, wire: Wire, address: Address) -> None:
        self.wire = wire
        self.address = address
        self.inbox: list[Packet] = []
        self.handler: Callable[[Packet], None] | None = None
        """Called for each datagram that arrives, after it is in the inbox."""

    def send(self, data: bytes | Request, listener: int = 0, stream: int = 0) -> None:
        """Send to the gateway, a datagram or over a connection; what follows at this very moment has then happened."""
        self.wire.transmit(self.address, bytes(data), listener, stream)
        self.wire.settle()

    def reply(self, request: Packet, status: int, **parts: Any) -> bytes:
        """Answer *request*, at the listener or over the connection it came from; the answer's octets."""
        data = response(request, status, **parts)
        self.send(data, request.listener, OPENED if request.stream == ANY else request.stream)
        return data

    def take(self, packet: Packet) -> None:
        """A datagram has arrived."""
        self.inbox.append(packet)
        if self.handler is not None:
            self.handler(packet)

    def requests(self, method: str = "") -> list[Packet]:
        """The requests received, of one method or all."""
        return [p for p in self.inbox if not p.is_response and method in ("", p.method)]

    def responses(self, method: str = "") -> list[Packet]:
        """The responses received, to one method or all."""
        return [p for p in self.inbox if p.is_response and method in ("", p.method)]

    def statuses(self, method: str = "") -> list[int]:
        """The status codes received, in order."""
        return [p.status for p in self.responses(method)]

    def final(self, method: str = "INVITE") -> Packet:
        """The one final response received; retransmissions of it are let pass."""
        (packet,) = {p.data: p for p in self.responses(method) if p.status >= 200}.values()
        return packet

    def got(self, method: str) -> Packet:
        """The one request of this method that was received."""
        (packet,) = self.requests(method)
        return packet

    def clear(self) -> None:
        self.inbox.clear()


class Wire:
    """One gateway (or several one after the other at its address), user agents, and the clock between them."""

    def __init__(
        self, text: str = "", *, keys: Sequence[bytes] = (KEY,), chaos: Chaos | None = None, **options: Any
    ) -> None:
        """*options* are those of Snapshot: ``states``, ``draining``, ``hook``, ``record``..."""
        self.config = Config.parse(text or platform())
        self.listen: list[Address] = [(e.host, e.port) for e in self.config.gateway("gw").listen]
        self.keys = list(keys)
        self.chaos = chaos
        self.slots = Slots()
        self.options = options
        self.now = 1000.0
        self.log: list[Packet] = []
        """Every datagram the gateway sent, in order, wherever it went."""
        self.refused: set[Address] = set()
        """Addresses with nobody behind them: an ICMP error comes back."""
        self._agents: dict[Address, UserAgent] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls = itertools.count(1)
        self._settling = False
        self.engine = Engine(self.snapshot(), self.keys)

    # -- the gateway ---------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return Snapshot(self.config, "gw", self.slots, **self.options)

    def swap(self, **options: Any) -> None:
        """Give the engine a new snapshot: *options* as of Snapshot, ``text`` for another configuration."""
        text = options.pop("text", None)
        self.config = Config.parse(text) if text else self.config
        self.options = {**self.options, **options}
        self.engine.swap(self.snapshot(), self.now)
        self.settle()

    def states(self, **states: DestinationState) -> None:
        """Tell the engine the state of destinations, by name."""
        self.swap(states=states)

    def restart(self, keys: Sequence[bytes] | None = None) -> None:
        """The gateway dies; another with the same key ring, or *keys*, answers at its address."""
        self.keys = list(keys or self.keys)
        self.engine = Engine(self.snapshot(), self.keys)

    def events(self, kind: str = "") -> list[Event]:
        """The engine's events since the last call, of one kind or all."""
        return [event for event in self.engine.events() if kind in ("", event.kind)]

    @property
    def transactions(self) -> int:
        """Transactions alive in the engine."""
        return int(self.engine.statistics()["transactions"])

    # -- endpoints -----------------------------------------------------------------------------------------------

    def agent(self, host: str, port: int = 5060) -> UserAgent:
        """The user agent at an address; made at first use."""
        return self._agents.setdefault((host, port), UserAgent(self, (host, port)))

    @property
    def sbc(self) -> UserAgent:
        return self.agent(*SBC)

    def tel(self, index: int = 0) -> UserAgent:
        """Telephony server number *index*."""
        return self.agent(*server_address(index))

    @property
    def tels(self) -> list[UserAgent]:
        """Every telephony server of the configuration."""
        return [self.tel(index) for index in range(len(self.config.servers))]

    def holder(self, method: str = "INVITE", call_id: str = "") -> UserAgent:
        """The one server that got a request of this method (of that call)."""
        (found,) = [t for t in self.tels if any(call_id in ("", p.call_id) for p in t.requests(method))]
        return found

    def request(
        self, method: str, uri: str = "sip:0155@127.0.0.1:5060", *, source: Address = SBC, **parts: Any
    ) -> Request:
        """A new request as the user agent at *source* writes it; each has its own Call-ID and branch."""
        number = next(self._calls)
        where = f"{source[0]}:{source[1]}"
        defaults: dict[str, Any] = {
            "via": [f"SIP/2.0/UDP {where};branch=z9hG4bK-{number}"],
            "from_": f"<sip:0102030405@{where}>;tag=caller{number}",
            "to": f"<{uri}>",
            "call_id": f"call-{number}@test",
        }
        if method in ("INVITE", "SUBSCRIBE", "REFER"):
            defaults["headers"] = [("Contact", f"<sip:caller@{where}>"), *parts.pop("headers", ())]
        return Request(method, uri, **{**defaults, **parts})

    # -- time and transport --------------------------------------------------------------------------------------

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Do something *delay* seconds from now."""
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def transmit(self, source: Address, data: bytes, listener: int = 0, stream: int = 0) -> None:
        """Put a datagram to the gateway on the wire, or a message on a connection."""
        for delay in self._delays():
            self.at(delay, lambda: self.engine.receive(data, source, listener, self.now, stream))

    def _delays(self) -> list[float]:
        return self.chaos.copies() if self.chaos else [0.0]

    def _deliver(self) -> bool:
        """Empty the engine's outbox; True when something was in it."""
        outbox = self.engine.outbox()
        for data, address, listener, stream in outbox:
            place = (self.listen[listener], (address[0], address[1]))
            packet = Packet(bytes(data), self.now, *place, listener, stream)
            self.log.append(packet)
            if packet.address in self.refused:
                self.engine.transport_error(packet.data, packet.address, self.now)
            elif packet.address in self.listen:
                target = self.listen.index(packet.address)
                self.at(0.0, lambda p=packet, t=target: self.engine.receive(p.data, p.source, t, self.now))
            else:
                for delay in self._delays():
                    self.at(delay, lambda p=packet: self._arrive(p))
        return bool(outbox)

    def _arrive(self, packet: Packet) -> None:
        self.agent(*packet.address).take(dataclasses.replace(packet, time=self.now))

    def settle(self) -> None:
        """Let everything happen that is due now."""
        if self._settling:  # called by an endpoint from within: the outer call goes on with what it sent
            return
        self._settling = True
        try:
            rounds = sum(1 for _ in itertools.takewhile(lambda _: self._step(), range(20_000)))
        finally:
            self._settling = False
        assert rounds < 20_000, "the engine and its peers never come to rest"

    def _step(self) -> bool:
        """Do the next thing that is due now; False when there is none."""
        if self._deliver():
            return True
        if self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
            return True
        return self._fire()

    def _fire(self) -> bool:
        """Fire the engine's timers that are due; False when there was none."""
        due = self.engine.next_timer()
        if due is None or due > self.now:
            return False
        self.engine.advance(self.now)
        again = self.engine.next_timer()
        assert again is None or again > due, f"timer at {due} does not go away"
        return True

    def run(self, seconds: float = 0.0) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        self.settle()
        while True:
            due = [self.engine.next_timer(), self._agenda[0][0] if self._agenda else None]
            soonest = min((time for time in due if time is not None), default=end + 1)
            if soonest > end:
                break
            self.now = max(self.now, soonest)
            self.settle()
        self.now = end
        self.settle()


def when(packets: Sequence[Packet], start: float) -> list[float]:
    """The times of *packets*, in seconds since *start*."""
    return [packet.time - start for packet in packets]


def on_time(times: Sequence[float], expected: Sequence[float], late: float = TICK) -> bool:
    """Every time is as expected, or late by the resolution of the timers that ran until then, one after the other."""
    pairs = enumerate(zip(times, expected, strict=False))
    return len(times) == len(expected) and all(e - 1e-6 <= t <= e + late * max(n, 1) for n, (t, e) in pairs)


def route_set(packet: Packet) -> list[Header]:
    """The Route lines of a caller, from a response's Record-Route: reversed (RFC 3261 section 12.1.2)."""
    return [("Route", value) for value in reversed(packet.values("Record-Route"))]


def callee_route_set(packet: Packet) -> list[Header]:
    """The Route lines of a callee, from the request's Record-Route: in order (RFC 3261 section 12.1.1)."""
    return [("Route", value) for value in packet.values("Record-Route")]
