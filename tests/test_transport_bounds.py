# SPDX-License-Identifier: Apache-2.0
"""What strangers can fill has a bound: connections, octets and time (DESIGN section 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fake_worker import until
from transport_parts import HOST, OTHER_HOST, PING, Peer, Platform, both_loops, platform_on, request

from ubisip.transport import connection, tcp
from ubisip.transport.connection import IDLE, PATIENCE


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets bounds that a test can reach."""

    def bound(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(tcp if hasattr(tcp, name) else connection, name, value)

    yield bound


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


@both_loops
async def test_what_a_closed_connection_leaves_behind_has_its_time_too(platform: Platform, small: Any) -> None:
    """Out of step, and it does not read what waits for it: no more is it counted, so it must not stay."""
    small(LINGER=0.01)
    peer = await stalled(platform)
    (one,) = platform.streams._connections.values()
    assert one._transport is not None
    transport = one._transport
    one.close("out_of_step")
    assert platform.now("accepted") == 0 and transport.get_write_buffer_size() > 0
    await until(lambda: transport.get_write_buffer_size() == 0)
    peer.close()
