# SPDX-License-Identifier: Apache-2.0
"""SIP over WebSocket (RFC 7118): the handshake, frames both ways, keep-alives, closes and bounds."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import client_context, tls_section
from fake_worker import until
from transport_parts import HOST, Peer, Platform, both_loops, platform_on, request, response

from ubisip.transport import connection, framing
from ubisip.transport.framing import Fault, FramingError
from ubisip.transport.tls import Certificates
from ubisip.transport.websocket import HANDSHAKE, WebSocketFramer

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
SIP = UPGRADE % b"Sec-WebSocket-Protocol: sip\r\n"
TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True, masked: bool = True) -> bytes:
    """A frame of a client."""
    size = len(payload)
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        length = bytes([size])
    else:
        length = b"\x7e" + struct.pack("!H", size) if size < 65_536 else b"\x7f" + struct.pack("!Q", size)
    if not masked:
        return head + length + payload
    mask = os.urandom(4)
    return head + bytes([length[0] | 0x80]) + length[1:] + mask + bytes(o ^ mask[i % 4] for i, o in enumerate(payload))


def opened() -> WebSocketFramer:
    framer = WebSocketFramer()
    framer.feed(SIP)
    assert framer.take() is None and framer.established
    assert framer.answer().startswith(b"HTTP/1.1 101 ")
    return framer


def taken(framer: WebSocketFramer) -> list[bytes]:
    messages = []
    while (message := framer.take()) is not None:
        messages.append(message)
    return messages


# Octets


def test_the_handshake_is_answered_with_the_subprotocol() -> None:
    framer = WebSocketFramer()
    framer.feed(UPGRADE % b"Sec-WebSocket-Protocol: chat, sip\r\nSec-WebSocket-Extensions: permessage-deflate\r\n")
    answer = framer.answer()
    assert b"\r\nSec-WebSocket-Protocol: sip\r\n" in answer
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Extensions" not in answer


@pytest.mark.parametrize(
    ("handshake", "status"),
    [
        (UPGRADE % b"", b"400"),
        (UPGRADE % b"Sec-WebSocket-Protocol: chat\r\n", b"400"),
        (SIP.replace(b"Version: 13", b"Version: 8"), b"400"),
        (b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n", b"426"),
    ],
)
def test_a_handshake_that_is_refused(handshake: bytes, status: bytes) -> None:
    framer = WebSocketFramer()
    framer.feed(handshake + frame(request()))
    with pytest.raises(FramingError) as raised:
        framer.take()
    assert raised.value.fault is Fault.HANDSHAKE
    assert framer.answer().split()[1] == status and not framer.established


@pytest.mark.parametrize(
    "data",
    [
        SIP.replace(b"GET", b"POST"),
        b"OPTIONS sip:a@b SIP/2.0\r\n\r\n",
        b"\x16\x03\x01\x00\xff\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_request_for_a_websocket_is_refused(data: bytes) -> None:
    framer = WebSocketFramer()
    framer.feed(data)
    with pytest.raises(FramingError):
        framer.take()
    assert not framer.established


def test_a_handshake_has_a_bound() -> None:
    framer = WebSocketFramer()
    framer.feed(b"GET / HTTP/1.1\r\n")
    framer.feed((b"X: " + b"a" * 4_000 + b"\r\n") * (HANDSHAKE // 4_000 + 1))
    with pytest.raises(FramingError):
        framer.take()


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_messages_whole_and_in_pieces(step: int) -> None:
    messages = [request(1), request(2)[:-4] + b"\r\nSubject: " + b"a" * 300 + b"\r\n\r\n", "Grüße".encode() * 20_00]
    stream = frame(messages[0]) + frame(messages[1], BINARY)
    stream += frame(messages[2][:9], TEXT, fin=False) + frame(b"", PING) + frame(b"", CONT, fin=False)
    stream += frame(messages[2][9:], CONT)
    framer, got = WebSocketFramer(), []
    for at in range(0, len(SIP), step):
        framer.feed(SIP[at : at + step])
    assert b" 101 " in framer.answer()
    for at in range(0, len(stream), step):
        framer.feed(stream[at : at + step])
        got += taken(framer)
    assert got == messages
    assert len(framer) == 0 and framer.answer().endswith(b"\x8a\x00")


def test_what_waits_is_counted() -> None:
    framer = opened()
    part = frame(b"a" * 1_000, fin=False)
    framer.feed(part[:500])
    assert len(framer) == 500
    framer.feed(part[500:] + frame(b"x", PING))
    assert len(framer) == 1_000
    framer.feed(frame(b"b", CONT))
    assert len(framer) == 1_001
    assert taken(framer) == [b"a" * 1_000 + b"b"] and len(framer) == 0


def test_keep_alives_of_a_browser() -> None:
    framer = opened()
    framer.feed(frame(b"\r\n\r\n") + frame(b"\r\n"))
    assert taken(framer) == [] and framer.pings == 1


def test_text_where_it_is_utf_8_else_binary() -> None:
    framer = opened()
    assert framer.frame(b"abc") == b"\x81\x03abc"
    assert framer.frame("é".encode()) == b"\x81\x02" + "é".encode()
    assert framer.frame(b"\xff\xfe") == b"\x82\x02\xff\xfe"


@pytest.mark.parametrize(
    ("data", "code", "fault"),
    [
        (frame(b"abc", masked=False), 1002, Fault.WEBSOCKET),
        (frame(b"abc", 3), 1002, Fault.WEBSOCKET),
        (frame(b"abc", CONT), 1002, Fault.WEBSOCKET),
        (frame(b"\xff\xfe"), 1007, Fault.WEBSOCKET),
        (frame(b"a" * (framing.MESSAGE + 1))[:20], 1009, Fault.TOO_LARGE),
        (frame(b"a" * framing.MESSAGE, fin=False) + frame(b"a", CONT), 1009, Fault.TOO_LARGE),
    ],
)
def test_what_breaks_the_protocol_is_told_and_ends_it(data: bytes, code: int, fault: Fault) -> None:
    framer = opened()
    framer.feed(frame(b"first") + data)
    assert framer.take() == b"first"
    with pytest.raises(FramingError) as raised:
        framer.take()
    assert raised.value.fault is fault
    answer = framer.answer()
    assert answer[0] == 0x88 and struct.unpack("!H", answer[2:4]) == (code,)


def test_the_peer_closes() -> None:
    framer = opened()
    framer.feed(frame(b"last") + frame(struct.pack("!H", 1001), CLOSE))
    assert taken(framer) == [b"last"]
    assert framer.ended and framer.answer() == b"\x88\x02" + struct.pack("!H", 1001)
    assert framer.frame(b"late") == b""


def test_we_close() -> None:
    framer = opened()
    assert framer.close() == b"\x88\x02" + struct.pack("!H", 1001)
    assert framer.close() == b""


# Connections


async def upgraded(platform: Platform, listener: int = 0, **more: Any) -> Peer:
    peer = await platform.connect(listener, **more)
    peer.send(SIP)
    async with asyncio.timeout(10):
        assert b" 101 " in await peer.reader.readuntil(b"\r\n\r\n")
    return peer


@both_loops
async def test_messages_and_keep_alives_over_a_connection() -> None:
    async with platform_on(HOST, transports=["ws"]) as platform:
        peer = await upgraded(platform)
        peer.send(frame(request(1)) + frame(b"\r\n\r\n") + frame(b"?", PING) + frame(request(2), BINARY))
        await platform.hears(request(1), request(2))
        await peer.gets(b"\x8a\x01?" + b"\x81\x02\r\n")
        (number,) = platform.streams._connections
        platform.streams.send([(response(1), ("192.0.2.1", 9), 1, number), (request(3), peer.address, 1, 0)])
        await peer.gets(b"\x81" + bytes([len(response(1))]) + response(1))
        await peer.gets(b"\x81" + bytes([len(request(3))]) + request(3))
        assert platform.counter("keep_alives") == 1
        peer.send(frame(struct.pack("!H", 1000), CLOSE))
        await peer.gets(b"\x88\x02" + struct.pack("!H", 1000))
        await peer.is_closed()
        await until(lambda: platform.core.closed == [number])
        assert platform.core.failed == [(request(3), peer.address)]


@both_loops
async def test_without_the_subprotocol_the_connection_is_refused() -> None:
    async with platform_on(HOST, transports=["ws"]) as platform:
        peer = await platform.connect()
        peer.send(UPGRADE % b"")
        async with asyncio.timeout(10):
            assert (await peer.reader.read()).startswith(b"HTTP/1.1 400 ")
        await until(lambda: platform.now("accepted") == 0)
        assert platform.counter("closed_handshake") == 1


@both_loops
async def test_a_browser_cannot_be_connected_to() -> None:
    async with platform_on(HOST, transports=["ws"]) as platform:
        platform.streams.send([(request(), ("127.0.8.9", 4000), 1, 0)])
        assert platform.core.failed == [(request(), ("127.0.8.9", 4000))]
        assert platform.now("opened") == 0


@both_loops
async def test_half_a_message_is_cut_off_whatever_pings_come() -> None:
    async with platform_on(HOST, transports=["ws"]) as platform:
        peer = await upgraded(platform)
        peer.send(frame(request(1)) + frame(b"INVITE", fin=False))
        await platform.hears(request(1))
        (one,) = platform.streams._connections.values()
        began = one._began
        peer.send(frame(b"", PING))
        await peer.gets(b"\x8a\x00")
        assert not one.overdue(began + connection.PATIENCE - 1)
        platform.streams.sweep(began + connection.PATIENCE + 1)
        await peer.is_closed()
        assert platform.counter("closed_incomplete") == 1


@both_loops
async def test_keep_alives_alone_do_not_hold_a_connection() -> None:
    async with platform_on(HOST, transports=["ws", "tcp"]) as platform:
        web, plain = await upgraded(platform), await platform.connect(1)
        (began, *_) = (one._began for one in platform.streams._connections.values())
        web.send(frame(b"\r\n\r\n"))
        plain.send(b"\r\n\r\n")
        await web.gets(b"\x81\x02\r\n")
        await plain.gets(b"\r\n")
        platform.streams.sweep(began + connection.PATIENCE + 1)
        await web.is_closed()
        await plain.is_closed()
        assert platform.counter("closed_silent") == 2


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Platform]:
    certificates = Certificates.read(tls_section(tmp_path, "gw.example.net"))
    async with platform_on(HOST, transports=["wss"], certificates=certificates) as platform:
        yield platform


async def test_a_web_client_over_tls(secure: Platform) -> None:
    host, port = secure.addresses[0]
    async with aiohttp.ClientSession() as session:
        web = await session.ws_connect(
            f"https://{host}:{port}/", protocols=["sip"], ssl=client_context(), server_hostname="gw.example.net"
        )
        assert web.protocol == "sip"
        await web.send_str(request().decode())
        await secure.hears(request())
        (number,) = secure.streams._connections
        secure.streams.send([(response(), (host, port), 1, number)])
        assert (await web.receive()).data == response().decode()
        closing = asyncio.create_task(secure.streams.close())
        last = await web.receive()
        await closing
        assert (last.type, last.data) == (aiohttp.WSMsgType.CLOSE, 1001)
