# SPDX-License-Identifier: Apache-2.0
"""The SBCs and telephony servers of a whole platform, calling each other through its gateways."""

from __future__ import annotations

import asyncio

from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour, Party
from ubisip.lab.phone import Phone
from ubisip.lab.platform import SITES, LabPlatform, Part
from ubisip.lab.queue import Queue
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Server
from ubisip.lab.tally import Tally

OUTGOING = 0.2
"""Share of the calls that the servers make towards the carrier."""
NUMBERS = [f"+331555{number:05}" for number in range(100)]
"""Who is called."""
POLL = 0.1
"""Seconds between two looks at the calls that are still in progress."""


class Simulation:
    """*rate* is that of all new calls a second, *seed* decides who rings, talks and hangs up how long."""

    def __init__(
        self, platform: LabPlatform, *, rate: float, seed: int = 0, behaviour: Behaviour | None = None
    ) -> None:
        self.tally = Tally()
        self.rate = rate

        def hops(part: Part) -> NextHops:
            return NextHops(*platform.near(platform.gateways, part.site))

        self.sbcs = {
            part.name: Sbc(part.name, part.address, self.tally, hops(part), behaviour=behaviour, seed=seed)
            for part in platform.sbcs
        }
        self.servers = {
            part.name: Server(part.name, part.address, self.tally, hops(part), behaviour=behaviour, seed=seed)
            for part in platform.servers
        }
        self.legs = Tally()
        """Of the servers' calls to agents."""
        self.phones = {
            part.name: Phone(part.name, part.address, self.legs, behaviour=behaviour, seed=seed)
            for part in platform.phones
        }
        queue = Queue(self.phones, seed)
        for server in self.servers.values() if self.phones else ():
            server.serve(queue, self.legs)
        self._registrars = [[part.address for part in platform.gateways if part.site == site] for site in SITES]
        self.parties: dict[str, Party] = {**self.sbcs, **self.servers, **self.phones}

    def open(self) -> None:
        """Bind every socket.

        :raises OSError: an address is in use.
        """
        for party in self.parties.values():
            party.open()

    def close(self) -> None:
        """Close every socket and end every call at once."""
        for party in self.parties.values():
            party.close()
            party.forget()

    def register(self) -> None:
        """Let every phone register with both sites, and stay so."""
        for phone in self.phones.values():
            phone.register(self._registrars)

    def start_calls(self) -> None:
        """Let everybody place calls."""
        for sbc in self.sbcs.values():
            sbc.start_calls(self.rate * (1 - OUTGOING) / len(self.sbcs), NUMBERS)
        for server in self.servers.values():
            self._start_outgoing(server)

    def restart(self, name: str) -> None:
        """A server that was killed returns and places calls again."""
        self.servers[name].start()
        self._start_outgoing(self.servers[name])

    def stop_calls(self) -> None:
        """No new calls; those in progress go on to their end."""
        for party in self.parties.values():
            party.stop_calls()

    async def finish(self, within: float) -> None:
        """Wait for the end of all calls; who still lets it ring after *within* seconds hangs up.

        Callers of a server that died, whom nobody will ever answer, hang up as soon as all others are done.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while loop.time() < deadline and any(call_id not in self.tally.cut for call_id in self.tally.calls):
            await asyncio.sleep(POLL)
        for party in self.parties.values():
            party.hang_up()
        deadline = loop.time() + 1.0
        while loop.time() < deadline and self.tally.calls:
            await asyncio.sleep(POLL)
        self.tally.close()

    def _start_outgoing(self, server: Server) -> None:
        server.start_calls(self.rate * OUTGOING / len(self.servers), NUMBERS)
