# SPDX-License-Identifier: Apache-2.0
"""Connections over loopback: what comes, what is sent, what fails."""

from __future__ import annotations

import asyncio
import socket

import pytest
from fake_worker import until
from transport_parts import HOST, OTHER_HOST, PING, Platform, both_loops, platform_on, request, response

from ubisip.platform import Endpoint
from ubisip.proxy.sockets import ListenError, open_stream_listeners
from ubisip.transport import connection, tcp


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
async def test_what_is_meant_for_a_connection_that_is_gone_goes_over_no_other(platform: Platform) -> None:
    address, peers = await platform.serve()
    platform.streams.send([(response(), address, 1, 77), (request(), address, 1, 77)])
    assert platform.core.failed == [(request(), address)]
    assert platform.counter("responses_without_connection") == 1
    platform.streams.send([(request(2), address, 1, 0)])
    await (await peers.get()).gets(request(2))
    platform.streams.send([(request(3), address, 1, 77)])
    assert platform.core.failed[1:] == [(request(3), address)] and peers.empty()


@both_loops
async def test_the_core_is_told_of_every_connection_that_ends(platform: Platform) -> None:
    peer = await platform.connect()
    peer.send(request())
    await until(lambda: platform.core.received)
    platform.core.full = True
    peer.close()
    await until(lambda: platform.now("accepted") == 0)
    assert platform.core.closed == [] and platform.counter("mailbox_full") == 1
    platform.core.full = False
    platform.streams.sweep(0)
    assert platform.core.closed == [platform.core.received[0][1]]


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
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(tcp, "CONNECT_LIMIT", 0.02)
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
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNANSWERED", 3)
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
