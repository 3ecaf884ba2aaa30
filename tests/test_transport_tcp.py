# SPDX-License-Identifier: Apache-2.0
"""Connections over loopback, with a core that only writes down what it is told; with both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from fake_worker import until

from ubisip.platform import Endpoint
from ubisip.proxy.sockets import ListenError, open_stream_listeners
from ubisip.transport import connection, tcp
from ubisip.transport.connection import IDLE, PATIENCE
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
        self.full = False

    def receive_stream(self, data: bytes, stream: int, peer: tuple[str, int], listener: int) -> None:
        if self.full:
            raise BufferError
        self.received.append((data, stream, peer, listener))

    def stream_failed(self, data: bytes, address: tuple[str, int]) -> None:
        if self.full:
            raise BufferError
        self.failed.append((data, address))

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

    def __init__(self, listen: Sequence[Endpoint], sockets: dict[int, socket.socket]) -> None:
        self.streams, self.core = Streams(listen, sockets), FakeCore()
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

    async def connect(self, listener: int = 0, local: tuple[str, int] | None = None) -> Peer:
        """A connection to the listener, accepted or refused by now."""
        before = self.streams.counters.total()
        peer = Peer(*await asyncio.open_connection(*self.addresses[listener], local_addr=local))
        self.open.callback(peer.close)
        await until(lambda: self.streams.counters.total() > before)
        return peer

    async def serve(self, host: str = OTHER_HOST) -> tuple[tuple[str, int], asyncio.Queue[Peer]]:
        """A destination: its address, and the connections that come."""
        peers: asyncio.Queue[Peer] = asyncio.Queue()
        server = await asyncio.start_server(lambda *ends: peers.put_nowait(Peer(*ends)), host, 0)
        self.open.callback(server.close)
        address: tuple[str, int] = server.sockets[0].getsockname()[:2]
        return address, peers

    async def hears(self, *messages: bytes) -> None:
        await until(lambda: len(self.core.received) >= len(messages))
        assert self.core.messages == list(messages)
        self.core.received.clear()


@contextlib.asynccontextmanager
async def platform_on(*hosts: str) -> AsyncIterator[Platform]:
    """Streams with a listener on each host, after one that is none of theirs."""
    listen = [Endpoint("udp", hosts[0], 5060), *(Endpoint("tcp", host, 0) for host in hosts)]
    sockets = open_stream_listeners(listen)
    platform = Platform(listen, sockets)
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets bounds that a test can reach."""

    def bound(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(tcp if hasattr(tcp, name) else connection, name, value)

    yield bound


def test_a_taken_port_is_named_and_the_others_are_let_go() -> None:
    with socket.create_server((HOST, 0)) as other, socket.create_server((HOST, 0)) as free:
        taken, wanted = other.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(ListenError, match=rf"^cannot listen on tcp:{HOST}:{taken}: Address already in use$"):
            open_stream_listeners([Endpoint("tcp", HOST, wanted), Endpoint("tcp", HOST, taken)])
        with open_stream_listeners([Endpoint("udp", HOST, wanted), Endpoint("tcp", HOST, wanted)])[1] as listener:
            assert listener.getsockname() == (HOST, wanted)


# What comes


@both_loops
async def test_messages_arrive_in_order_with_where_they_came_from(platform: Platform) -> None:
    one, two = await platform.connect(), await platform.connect()
    one.send(request(1) + request(2) + response(3)[:20])
    await until(lambda: len(platform.core.received) == 2)
    one.send(response(3)[20:])
    await until(lambda: len(platform.core.received) == 3)
    assert platform.core.messages == [request(1), request(2), response(3)]
    (first,) = {(stream, peer, listener) for _, stream, peer, listener in platform.core.received}
    two.send(request(4))
    await until(lambda: len(platform.core.received) == 4)
    second = platform.core.received[3][1:]
    assert (first[1:], second[1:]) == ((one.address, 1), (two.address, 1))
    assert 0 < first[0] < 2**31 - 1 and first[0] != second[0]
    assert platform.now("accepted") == 2 and platform.counter("messages_received") == 4


@both_loops
async def test_keep_alives_are_answered(platform: Platform) -> None:
    peer = await platform.connect()
    peer.send(PING)
    await peer.gets(b"\r\n")
    peer.send(request() + b"\r\n")
    await platform.hears(request())
    peer.send(b"\r\n")
    await peer.gets(b"\r\n")
    assert platform.counter("keep_alives") == 2


@both_loops
async def test_a_stream_out_of_step_is_closed(platform: Platform) -> None:
    peer = await platform.connect()
    peer.send(request() + b"OPTIONS sip:a@b SIP/2.0\r\n\r\n" + request(2))
    await peer.is_closed()
    assert platform.core.messages == [request()]
    assert platform.counter("closed_no_content_length") == 1
    assert platform.now("accepted") == 0


@both_loops
async def test_a_full_mailbox_delays_but_loses_nothing(platform: Platform) -> None:
    peer = await platform.connect()
    platform.core.full = True
    peer.send(request(1) + request(2))
    await until(lambda: platform.counter("mailbox_full") >= 3)
    peer.send(request(3) + request(4)[:9])
    platform.core.full = False
    await platform.hears(request(1), request(2), request(3))
    peer.send(request(4)[9:])
    await platform.hears(request(4))


# What is sent


@both_loops
async def test_a_response_goes_back_over_its_connection(platform: Platform) -> None:
    one, two = await platform.connect(), await platform.connect()
    for peer in (one, two):
        peer.send(request())
    await until(lambda: len(platform.core.received) == 2)
    for data, stream, _, listener in platform.core.received:
        platform.streams.send([(data.replace(b"OPTIONS", b"MESSAGE"), ("192.0.2.1", 9), listener, stream)])
    streams = {peer: stream for _, stream, peer, _ in platform.core.received}
    platform.streams.send([(response(7), one.address, 1, streams[two.address])])
    await two.gets(request(method=b"MESSAGE") + response(7))
    await one.gets(request(method=b"MESSAGE"))


@both_loops
async def test_a_response_whose_connection_is_gone_is_dropped(platform: Platform) -> None:
    address, peers = await platform.serve()
    platform.streams.send([(response(), address, 1, 77), (request(), address, 1, 77)])
    peer = await peers.get()
    await peer.gets(request())
    platform.streams.send([(response(2), address, 1, 77), (request(3), address, 1, 77)])
    await peer.gets(request(3))
    assert platform.counter("responses_without_connection") == 2
    assert peers.empty() and platform.core.failed == []


@both_loops
async def test_a_connection_is_opened_once_and_used_for_all(platform: Platform) -> None:
    address, peers = await platform.serve()
    platform.streams.send([(request(number), address, 1, 0) for number in range(50)])
    peer = await peers.get()
    await peer.gets(b"".join(request(number) for number in range(50)))
    platform.streams.send([(request(50), address, 0, 0), (response(51), address, 1, 0)])
    await peer.gets(request(50) + response(51))
    assert peer.remote[0] == HOST
    assert peers.empty() and platform.now("opened") == platform.counter("opened") == 1
    peer.send(response(50))
    await until(lambda: platform.core.received)
    assert platform.core.received[0][2:] == (address, 1)


@both_loops
async def test_a_connection_that_a_peer_opened_is_used_too(platform: Platform) -> None:
    peer = await platform.connect()
    platform.streams.send([(request(), peer.address, 1, 0)])
    await peer.gets(request())
    assert platform.now("opened") == 0


@both_loops
async def test_after_a_connection_has_ended_another_is_opened(platform: Platform) -> None:
    address, peers = await platform.serve()
    platform.streams.send([(request(1), address, 1, 0)])
    peer = await peers.get()
    await peer.gets(request(1))
    peer.close()
    await until(lambda: platform.now("opened") == 0)
    platform.streams.send([(request(2), address, 1, 0)])
    await (await peers.get()).gets(request(2))


@both_loops
async def test_a_connection_leaves_from_its_listener() -> None:
    async with platform_on(HOST, OTHER_HOST) as platform:
        one, one_peers = await platform.serve()
        two, two_peers = await platform.serve()
        platform.streams.send([(request(), one, 1, 0), (request(), two, 2, 0)])
        assert (await one_peers.get()).remote[0] == HOST
        assert (await two_peers.get()).remote[0] == OTHER_HOST


@both_loops
async def test_an_address_of_the_other_family_is_reached_from_a_listener_of_it() -> None:
    async with platform_on(HOST, "::1") as platform:
        address, peers = await platform.serve("::1")
        platform.streams.send([(request(1), ("0:0:0:0:0:0:0:1", address[1]), 0, 0), (request(2), address, 0, 0)])
        peer = await peers.get()
        await peer.gets(request(1) + request(2))
        peer.send(response())
        await until(lambda: platform.core.received)
        assert platform.core.received[0][2:] == (address, 2)
        caller = await platform.connect(1)
        caller.send(request(3))
        await until(lambda: len(platform.core.received) == 2)
        assert platform.core.received[1][2:] == (caller.address, 2)


@both_loops
async def test_without_a_listener_of_its_family_an_address_cannot_be_reached(platform: Platform) -> None:
    platform.streams.send([(request(), ("::1", 5060), 0, 0)])
    assert platform.core.failed == [(request(), ("::1", 5060))]


# What fails


@both_loops
async def test_a_refused_connection_fails_the_requests_that_wait(platform: Platform) -> None:
    address, _ = await platform.serve()
    await platform.open.aclose()
    platform.streams.send([(request(1), address, 1, 0), (response(2), address, 1, 0), (request(3), address, 1, 0)])
    await until(lambda: len(platform.core.failed) == 2)
    assert platform.core.failed == [(request(1), address), (request(3), address)]
    assert platform.counter("connect_failed") == 1
    assert platform.now("opened") == 0


@both_loops
async def test_a_connection_that_is_not_established_in_time_fails(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, small: Any
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    small(CONNECT_LIMIT=0.02)
    monkeypatch.setattr(type(asyncio.get_running_loop()), "create_connection", never, raising=False)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never, raising=False)
    platform.streams.send([(request(), (OTHER_HOST, 9), 1, 0)])
    await until(lambda: platform.core.failed)
    assert platform.core.failed == [(request(), (OTHER_HOST, 9))]


@both_loops
async def test_a_connection_that_breaks_fails_what_may_not_have_arrived(platform: Platform) -> None:
    address, peers = await platform.serve()
    long = request(2)[:-4] + b"\r\nSubject: " + b"a" * 3_000 + b"\r\n\r\n"
    platform.streams.send([(request(1), address, 1, 0), (response(9), address, 1, 0), (long, address, 1, 0)])
    peer = await peers.get()
    await peer.gets(request(1) + response(9) + long)
    peer.writer.transport.abort()
    await until(lambda: len(platform.core.failed) == 2)
    assert platform.core.failed[0] == (request(1), address)
    assert long.startswith(platform.core.failed[1][0]) and len(platform.core.failed[1][0]) == connection.QUOTED


@both_loops
async def test_of_requests_that_a_broken_connection_had_only_the_newest_are_told(
    platform: Platform, small: Any
) -> None:
    small(UNANSWERED=3)
    peer = await platform.connect()
    platform.streams.send([(request(number), peer.address, 1, 0) for number in range(9)])
    await peer.gets(b"".join(request(number) for number in range(9)))
    peer.close()
    await until(lambda: platform.core.failed)
    assert [data for data, _ in platform.core.failed] == [request(number) for number in (6, 7, 8)]


@both_loops
async def test_failures_that_find_the_mailbox_full_are_counted(platform: Platform) -> None:
    platform.core.full = True
    platform.streams.send([(request(), ("::1", 5060), 0, 0)])
    assert platform.counter("mailbox_full") == 1


# Bounds


@both_loops
async def test_connections_of_one_source_are_bounded(platform: Platform, small: Any) -> None:
    small(PER_SOURCE=2)
    kept = [await platform.connect(), await platform.connect()]
    refused = await platform.connect()
    await refused.is_closed()
    other = await platform.connect(local=(OTHER_HOST, 0))
    assert (platform.counter("refused_source"), platform.now("accepted")) == (1, 3)
    other.send(request())
    await platform.hears(request())
    kept[0].close()
    await until(lambda: platform.now("accepted") == 2)
    (await platform.connect()).send(request(2))
    await platform.hears(request(2))


@both_loops
async def test_connections_in_all_are_bounded(small: Any) -> None:
    small(CONNECTIONS=2)
    async with platform_on(HOST) as platform:
        address, peers = await platform.serve()
        await platform.connect()
        platform.streams.send([(request(1), address, 1, 0)])
        await (await peers.get()).gets(request(1))
        await (await platform.connect()).is_closed()
        assert platform.counter("refused_full") == 1
        other, _ = await platform.serve()
        platform.streams.send([(request(2), other, 1, 0)])
        assert platform.counter("refused_full") == 2
        assert platform.core.failed == [(request(2), other)]


@both_loops
async def test_incomplete_messages_are_bounded_in_all(platform: Platform, small: Any) -> None:
    small(BUFFERED=1_000)
    one, two = await platform.connect(), await platform.connect()
    one.send(request()[:-1])
    await until(lambda: platform.buffered == len(request()) - 1)
    two.send(b"OPTIONS " + b"a" * 990)
    await two.is_closed()
    one.send(request()[-1:])
    await platform.hears(request())
    assert platform.counter("closed_memory") == 1
    three = await platform.connect()
    three.send(b"OPTIONS " + b"a" * 900)  # what the other had held is free again
    three.send(b" sip:a SIP/2.0\r\nl:0\r\n\r\n")
    await until(lambda: platform.core.received)


@both_loops
async def test_a_peer_that_does_not_read_is_cut_off(platform: Platform, small: Any) -> None:
    small(UNSENT=200_000)
    peer = await platform.connect()
    peer.writer.transport.pause_reading()
    message = request()[:-4] + b"\r\nSubject: " + b"a" * 50_000 + b"\r\n\r\n"
    for _ in range(2_000):
        platform.streams.send([(message, peer.address, 1, 0)])
        if platform.counter("closed_unsent"):
            break
        await asyncio.sleep(0)
    assert platform.counter("closed_unsent") == 1 and platform.now("accepted") == 0


async def stalled(platform: Platform) -> Peer:
    """A peer that does not read what waits for it."""
    peer = await platform.connect()
    peer.writer.transport.pause_reading()
    (held,) = (one for one in platform.streams._connections.values() if one.peer == peer.address)
    message = request()[:-4] + b"\r\nSubject: " + b"a" * 50_000 + b"\r\n\r\n"
    while held._stalled is None:
        platform.streams.send([(message, peer.address, 1, 0)])
        await asyncio.sleep(0)
    return peer


@both_loops
async def test_nothing_is_read_from_a_peer_that_does_not_read(platform: Platform) -> None:
    peer = await stalled(platform)
    peer.send(request(5))
    witness = await platform.connect()
    witness.send(request(6))
    await platform.hears(request(6))
    peer.writer.transport.resume_reading()
    async with asyncio.timeout(10):
        while not platform.core.received:
            await peer.reader.read(1 << 20)
    assert platform.core.messages == [request(5)]


@both_loops
async def test_octets_that_wait_are_bounded_in_all(platform: Platform, small: Any) -> None:
    await stalled(platform)
    small(UNSENT_IN_ALL=10)
    other = await platform.connect()
    platform.streams.sweep(time.monotonic())
    assert platform.counter("closed_unsent") == 1 and platform.now("accepted") == 1
    other.send(request())
    await platform.hears(request())


@both_loops
async def test_who_lets_octets_wait_too_long_is_cut_off(platform: Platform) -> None:
    await stalled(platform)
    platform.streams.sweep(time.monotonic() + PATIENCE - 5)
    assert platform.counter("closed_unsent") == 0
    platform.streams.sweep(time.monotonic() + PATIENCE + 0.1)
    assert platform.counter("closed_unsent") == 1


@pytest.mark.parametrize(
    ("sent", "cause", "limit"),
    [
        (b"", "silent", PATIENCE),
        (PING, "silent", PATIENCE),
        (request()[:9], "incomplete", PATIENCE),
        (request() + request()[:9], "incomplete", PATIENCE),
        (request(), "idle", IDLE),
    ],
)
@both_loops
async def test_a_connection_without_use_is_closed(platform: Platform, sent: bytes, cause: str, limit: float) -> None:
    peer = await platform.connect()
    peer.send(sent)
    whole, rest = sent.count(request()), 9 * sent.endswith(request()[:9])
    await until(lambda: len(platform.core.received) == whole and platform.buffered == rest)
    if sent == PING:
        await peer.gets(b"\r\n")
    platform.streams.sweep(time.monotonic() + limit - 5)
    assert platform.now("accepted") == 1
    platform.streams.sweep(time.monotonic() + limit + 0.1)
    await peer.is_closed()
    assert platform.counter(f"closed_{cause}") == 1


@both_loops
async def test_an_octet_now_and_then_is_no_message(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = await platform.connect()
    later = time.monotonic() + PATIENCE - 5
    for length, octet in enumerate((b"O", b"P", b"T"), 1):
        peer.send(octet)
        await until(lambda length=length: platform.buffered == length)  # type: ignore[misc]
        monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: later))
    platform.streams.sweep(later + 6)
    await peer.is_closed()
    assert platform.counter("closed_incomplete") == 1


@both_loops
async def test_a_connection_that_we_opened_may_be_silent(platform: Platform) -> None:
    address, peers = await platform.serve()
    platform.streams.send([(request(), address, 1, 0)])
    await (await peers.get()).gets(request())
    platform.streams.sweep(time.monotonic() + PATIENCE + 1)
    assert platform.now("opened") == 1


# The end


@both_loops
async def test_the_last_messages_leave_before_the_end(platform: Platform) -> None:
    peer = await platform.connect()
    platform.streams.stop_listening()
    peer.send(request())
    await platform.hears(request())
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(*platform.addresses[0])
    message = request()[:-4] + b"\r\nSubject: " + b"a" * 60_000 + b"\r\n\r\n"
    platform.streams.send([(message, peer.address, 1, 0)] * 10)
    closing = asyncio.create_task(platform.streams.close())
    await peer.gets(message * 10)
    await closing
    await peer.is_closed()
    assert platform.now("accepted") == 0 and platform.core.failed == []
