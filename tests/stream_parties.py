# SPDX-License-Identifier: Apache-2.0
"""User agents on real sockets: over UDP, over a connection of TCP or TLS, over a WebSocket, and one that listens."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp
from plain_sip import Address, Packet, Request, response
from processes import until

LENGTH = re.compile(rb"\r\n(?:Content-Length|l)[ \t]*:\s*(\d+)", re.IGNORECASE)


class Party:
    """A user agent: it answers OPTIONS, the test does the rest."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.heard: list[Packet] = []

    def __str__(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def take(self, packet: Packet, answer: Callable[[bytes], None]) -> None:
        if packet.method == "OPTIONS" and not packet.is_response:
            answer(response(packet, 200))
        else:
            self.heard.append(packet)

    async def gets(self, what: str | int) -> Packet:
        """The first request of a method, or response of a status, that was not taken yet."""
        fits = [packet for packet in self.heard if what in (packet.status, "" if packet.is_response else packet.method)]
        while not fits:
            heard = len(self.heard)
            await until(lambda heard=heard: len(self.heard) > heard, f"{what} at {self.address}")  # type: ignore[misc]
            fits = [one for one in self.heard if what in (one.status, "" if one.is_response else one.method)]
        self.heard.remove(fits[0])
        return fits[0]


class Datagrams(Party, asyncio.DatagramProtocol):
    """Over UDP."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.take(Packet(data, source=addr), lambda answer: self.send(answer, addr))

    def send(self, data: bytes, to: Address) -> None:
        self._transport.sendto(data, to)


class Stream(Party):
    """One connection of TCP or TLS; ``line_ends`` is what came between messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer.get_extra_info("sockname")[:2])
        self.line_ends = b""
        self.ended = False
        self.handler: Callable[[Packet, Stream], None] = lambda packet, _: self.take(packet, self.send)
        self._reader, self._writer = reader, writer
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                data = await self._reader.readexactly(2)
                if data == b"\r\n":
                    self.line_ends += data
                    continue
                data += await self._reader.readuntil(b"\r\n\r\n")
                length = LENGTH.search(data)
                assert length, f"no Content-Length: {data!r}"
                data += await self._reader.readexactly(int(length[1]))
                self.handler(Packet(data), self)
        self.ended = True

    def send(self, data: bytes | Request) -> None:
        self._writer.write(bytes(data))

    def close(self) -> None:
        self._writer.close()


class Web(Party):
    """One WebSocket connection."""

    def __init__(self, address: Address, socket: aiohttp.ClientWebSocketResponse) -> None:
        super().__init__(address)
        self.kinds: list[aiohttp.WSMsgType] = []
        """Of the messages that came."""
        self._socket = socket
        self._tasks = {asyncio.create_task(self._read())}

    async def _read(self) -> None:
        async for message in self._socket:
            self.kinds.append(message.type)
            data = message.data if isinstance(message.data, bytes) else message.data.encode()
            self.take(Packet(data), self.send)

    def send(self, data: bytes | Request) -> None:
        self._tasks.add(asyncio.create_task(self._socket.send_str(bytes(data).decode())))


class Listening(Party):
    """A user agent that listens on TCP, or TLS with *tls*; a response goes back over the connection of its request."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(address)
        self.transport = "tcp" if tls is None else "tls"
        self._tls = tls
        self.connections: list[Stream] = []
        self.server: asyncio.Server | None = None
        self._came: dict[bytes, Stream] = {}

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._accept, *self.address, ssl=self._tls)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = Stream(reader, writer)
        stream.handler = self._hear
        self.connections.append(stream)

    def _hear(self, packet: Packet, stream: Stream) -> None:
        self._came[packet.data] = stream
        self.take(packet, stream.send)

    def over(self, packet: Packet) -> Stream:
        """The connection that it came over."""
        return self._came[packet.data]

    def reply(self, request: Packet, status: int) -> None:
        contact = [("Contact", f"<sip:{self};transport={self.transport}>")]
        self.over(request).send(response(request, status, headers=contact))

    def close(self) -> None:
        """As when the process dies."""
        assert self.server is not None
        self.server.close()
        for one in self.connections:
            one.close()
