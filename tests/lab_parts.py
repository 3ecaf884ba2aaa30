# SPDX-License-Identifier: Apache-2.0
"""What the tests of the lab share: addresses, quick timers, opening and closing, a trivial proxy."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from ubisip.core.message import Message
from ubisip.lab.party import Behaviour
from ubisip.lab.transactions import Timers
from ubisip.lab.udp import Address, UdpSocket
from ubisip.lab.useragent import UserAgent
from ubisip.lab.wire import routes, uri_address

SBC: Address = ("127.77.1.1", 5060)
SERVER: Address = ("127.77.3.1", 5060)
OTHER: Address = ("127.77.3.2", 5060)
QUICK = Timers(t1=0.05, t2=0.4)
BRIEF = Behaviour(ring=(0.01, 0.03), hold=(0.05, 0.1))


class Member(Protocol):
    def open(self) -> None: ...
    def close(self) -> None: ...


@asynccontextmanager
async def parties(*members: Member) -> AsyncIterator[None]:
    """Open all, and close all whatever happens."""
    try:
        for member in members:
            member.open()
        yield
    finally:
        for member in members:
            member.close()
            if isinstance(member, UserAgent):
                member.forget()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for *condition*, a minute at most."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


class Forwarder:
    """A stateless loose-routing proxy, just enough to stand between user agents; it takes any Route of *family*."""

    def __init__(self, address: Address, server: Address, family: Sequence[Address]) -> None:
        self.address = address
        self.server = server
        self.family = family
        self.methods: list[str] = []
        """Of the requests that passed."""
        self.deaf_to_responses = False

    def open(self) -> None:
        self.socket = UdpSocket(self.address, self.receive)

    def close(self) -> None:
        self.socket.close()

    def receive(self, data: bytes, _source: Address) -> None:
        message = Message(data)
        if message.is_request:
            self.request(message)
        elif not self.deaf_to_responses:
            first, _, rest = data.split(b"\r\n", 2)
            host, port = (Message(data).get_all("Via")[1]).split()[1].split(";")[0].split(":")
            self.socket.send(first + b"\r\n" + rest, (host, int(port)))

    def request(self, message: Message) -> None:
        self.methods.append(message.method)
        own = f"{self.address[0]}:{self.address[1]}"
        lines = message.data.split(b"\r\n")
        target = self.server
        if route := routes(message, "Route"):
            assert uri_address(route[0]) in self.family
            lines = [line for line in lines if not line.startswith(b"Route:")]
            target = uri_address(message.uri)
        branch = f"z9hG4bK{zlib.crc32(message.branch.encode()):x}{zlib.crc32(own.encode()):x}"
        added = [f"Via: SIP/2.0/UDP {own};branch={branch}"]
        if message.method == "INVITE":
            added.append(f"Record-Route: <sip:{own};lr>")
        self.socket.send(b"\r\n".join([lines[0], *(text.encode() for text in added), *lines[1:]]), target)
