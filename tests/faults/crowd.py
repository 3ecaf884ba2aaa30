# SPDX-License-Identifier: Apache-2.0
"""Carriers and servers that call each other through one gateway, and bad network cards for them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from processes import Gateway, Place, until

from ubisip.core.message import Message
from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour, Party
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Server
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import ServerTransaction
from ubisip.lab.udp import Address
from ubisip.lab.useragent import UserAgent

NUMBER = "+33155500001"


class Card(UserAgent):
    """Loses the share *loss* of all datagrams, each way; keeps each 503 that comes."""

    loss = 0.0
    lost = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.refusals: dict[str, Message] = {}
        """503 by Call-ID."""
        self._chance = random.Random(str(self.address))

    def _loses(self) -> bool:
        lost = self._chance.random() < self.loss
        self.lost += lost
        return lost

    def send(self, data: bytes, address: Address) -> None:
        if not self._loses():
            super().send(data, address)

    def receive(self, data: bytes, source: Address) -> None:
        if self._loses():
            return
        if data.startswith(b"SIP/2.0 503 "):
            message = Message(data)
            self.refusals[message.call_id] = message
        super().receive(data, source)


class Carrier(Card, Sbc):
    """An SBC."""


class Telephony(Card, Server):
    """A telephony server that remembers the INVITEs it got."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.invites: dict[str, list[ServerTransaction]] = defaultdict(list)
        """By Call-ID."""

    def on_invite(self, transaction: ServerTransaction) -> None:
        self.invites[transaction.request.call_id].append(transaction)
        super().on_invite(transaction)


class Crowd:
    """*carriers* and *servers* of a place, each counted in one tally."""

    def __init__(
        self, place: Place, carriers: int, servers: Sequence[type[Telephony]], behaviour: Behaviour, loss: float
    ) -> None:
        self.tally = Tally()
        hops = NextHops([place.gateway()])

        def named(kind: type[Card], name: str, address: Address, seed: int) -> Any:
            party = kind(name, address, self.tally, hops, behaviour=behaviour, seed=seed)
            party.loss = loss
            return party

        self.carriers: list[Carrier] = [
            named(Carrier, f"sbc{number}", place.carrier(number), number) for number in range(1, carriers + 1)
        ]
        self.servers: list[Telephony] = [
            named(kind, f"tel{number}", place.server(number), number) for number, kind in enumerate(servers, 1)
        ]

    @property
    def parties(self) -> list[Party]:
        return [*self.carriers, *self.servers]

    def start_calls(self, rate: float, outgoing: float = 0.0) -> None:
        """*rate* calls a second from the carriers and *outgoing* from the servers."""
        for carrier in self.carriers:
            carrier.start_calls(rate / len(self.carriers), [NUMBER])
        for server in self.servers if outgoing else []:
            server.start_calls(outgoing / len(self.servers), [NUMBER])

    def stop_calls(self) -> None:
        for party in self.parties:
            party.stop_calls()

    async def placed(self, count: int) -> None:
        """Wait until so many calls were placed."""
        await until(lambda: self.tally.placed >= count, f"{count} calls to be placed", 60)

    async def finish(self) -> None:
        """Place no more, and wait for the end of all calls, on both sides."""
        self.stop_calls()
        await until(lambda: not self.tally.calls, "all calls to end", 90)
        await until(lambda: not any(party.carried for party in self.parties), "all calls to end at the callees", 40)

    def figures(self) -> dict[str, float]:
        """What became of the calls."""
        tally = self.tally
        figures: dict[str, float] = {"calls": tally.placed, "lost": len(tally.lost), "failed": tally.failed}
        return figures | {"reached two servers": len(tally.twice)}


@contextmanager
def crowd(
    place: Place,
    *,
    carriers: int = 2,
    servers: Sequence[type[Telephony]] = (Telephony,) * 6,
    behaviour: Behaviour | None = None,
    loss: float = 0.0,
) -> Iterator[Crowd]:
    """Everybody listens; all sockets are closed at the end."""
    one = Crowd(place, carriers, servers, behaviour or Behaviour(), loss)
    try:
        for party in one.parties:
            party.open()
        yield one
    finally:
        for party in one.parties:
            party.close()
            party.forget()


async def start(gateway: Gateway) -> None:
    """Start it while the user agents of the test go on."""
    gateway.launch()
    await until(lambda: gateway.ready, f"{gateway.name} to be ready")
