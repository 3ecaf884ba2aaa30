# SPDX-License-Identifier: Apache-2.0
"""Streams with a core that only writes down what it is told, their peers, and tests in both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvloop
from fake_worker import until

from ubisip.platform import Endpoint
from ubisip.proxy.sockets import open_stream_listeners
from ubisip.transport.tcp import Streams

HOST = "127.0.8.1"
OTHER_HOST = "127.0.8.2"
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
PING = b"\r\n\r\n"
HEADERS = b"Via: SIP/2.0/TCP a;branch=z9hG4bK%d\r\nContent-Length: 0\r\n\r\n"


def request(number: int = 1, method: bytes = b"OPTIONS") -> bytes:
    return method + b" sip:a@b SIP/2.0\r\n" + HEADERS % number


def response(number: int = 1) -> bytes:
    return b"SIP/2.0 200 OK\r\n" + HEADERS % number


class FakeCore:
    """``full`` says whether the mailbox is."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, int, tuple[str, int], int]] = []
        self.failed: list[tuple[bytes, tuple[str, int]]] = []
        self.closed: list[int] = []
        self.full = False

    def receive_stream(self, data: bytes, stream: int, peer: tuple[str, int], listener: int) -> None:
        if self.full:
            raise BufferError
        self.received.append((data, stream, peer, listener))

    def stream_failed(self, data: bytes, address: tuple[str, int]) -> None:
        if self.full:
            raise BufferError
        self.failed.append((data, address))

    def stream_closed(self, stream: int) -> None:
        if self.full:
            raise BufferError
        self.closed.append(stream)

    @property
    def messages(self) -> list[bytes]:
        return [data for data, *_ in self.received]


class Peer:
    """One end of a connection, or a listening socket that accepts some."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("sockname")[:2]
        return host, port

    @property
    def remote(self) -> tuple[str, int]:
        host, port = self.writer.get_extra_info("peername")[:2]
        return host, port

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def gets(self, data: bytes) -> None:
        async with asyncio.timeout(10):
            assert await self.reader.readexactly(len(data)) == data

    async def is_closed(self) -> None:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()


class Platform:
    """Streams under test and the peers around them."""

    def __init__(self, listen: Sequence[Endpoint], sockets: dict[int, socket.socket], **more: Any) -> None:
        self.streams, self.core = Streams(listen, sockets, **more), FakeCore()
        self.addresses = [sockets[number].getsockname()[:2] for number in sorted(sockets)]
        self.open = contextlib.AsyncExitStack()

    def counter(self, name: str) -> int:
        return self.streams.counters[name]

    @property
    def buffered(self) -> int:
        """Octets of incomplete messages."""
        return self.streams._buffered

    def now(self, side: str) -> int:
        """Connections open, by who opened them."""
        return self.streams.statistics()["connections"][side]

    async def connect(self, listener: int = 0, local: tuple[str, int] | None = None, **tls: Any) -> Peer:
        """A connection to the listener, accepted or refused by now."""
        before = self.streams.counters.total()
        peer = Peer(*await asyncio.open_connection(*self.addresses[listener], local_addr=local, **tls))
        self.open.callback(peer.close)
        await until(lambda: self.streams.counters.total() > before)
        return peer

    async def serve(self, host: str = OTHER_HOST, **tls: Any) -> tuple[tuple[str, int], asyncio.Queue[Peer]]:
        """A destination: its address, and the connections that come."""
        peers: asyncio.Queue[Peer] = asyncio.Queue()
        server = await asyncio.start_server(lambda *ends: peers.put_nowait(Peer(*ends)), host, 0, **tls)
        self.open.callback(server.close)
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address, peers

    async def hears(self, *messages: bytes) -> None:
        await until(lambda: len(self.core.received) >= len(messages))
        assert self.core.messages == list(messages)
        self.core.received.clear()


@contextlib.asynccontextmanager
async def platform_on(*hosts: str, transports: Sequence[str] = ("tcp",), **more: Any) -> AsyncIterator[Platform]:
    """Streams with a listener of each transport on each host, after one that is none of theirs."""
    streams = [Endpoint(transport, host, 0) for transport in transports for host in hosts]
    listen = [Endpoint("udp", hosts[0], 5060), *streams]
    sockets = open_stream_listeners(listen)
    platform = Platform(listen, sockets, **more)
    try:
        await platform.streams.start(platform.core)
        yield platform
    finally:
        await platform.open.aclose()
        await platform.streams.close()
        for one in sockets.values():
            one.close()


def both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run *test* in asyncio's own loop and in uvloop, with a platform if it wants one."""
    wanted = inspect.signature(test).parameters

    async def body(fixtures: dict[str, Any]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if "platform" in wanted:
                fixtures["platform"] = await stack.enter_async_context(platform_on(HOST))
            await test(**fixtures)

    def run(loop: str, **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(body(fixtures))

    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    others = [one for name, one in wanted.items() if name != "platform"]
    run.__signature__ = inspect.Signature([*others, loop])  # type: ignore[attr-defined]
    run.__name__ = test.__name__
    return pytest.mark.parametrize("loop", LOOPS)(run)
