# SPDX-License-Identifier: Apache-2.0
"""TCP (RFC 3261 section 18, RFC 5626) with a gateway process: rows TRN-01, 02, 05, 08, 17, FWD-17 and OUT-04."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from plain_sip import Address, Packet, Request, parameter, response
from processes import Gateway, Place, until
from stream_parties import Datagrams, Listening, Party, Stream
from wire import callee_route_set, route_set

_numbers = itertools.count(1)


class Platform:
    """A gateway that listens on UDP and TCP at one port, carriers, and servers reached over TCP."""

    def __init__(self, place: Place, gateway: Gateway) -> None:
        self.place, self.gateway = place, gateway
        self.servers: list[Listening] = []
        self.open = contextlib.ExitStack()

    @property
    def address(self) -> Address:
        return self.place.gateway()

    async def connect(self, host: str = "") -> Stream:
        """A connection of the carrier (or of somebody else) to the gateway."""
        local = (host or self.place.carrier()[0], 0)
        stream = Stream(*await asyncio.open_connection(*self.address, local_addr=local))
        self.open.callback(stream.close)
        return stream

    async def datagrams(self) -> Datagrams:
        """The carrier on UDP."""
        party = Datagrams(self.place.carrier())
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: party, local_addr=party.address
        )
        self.open.callback(transport.close)
        return party

    def request(self, method: str, party: Party, transport: str = "TCP", **parts: object) -> Request:
        """A request outside any dialog, of its own call."""
        number = next(_numbers)
        via = [f"SIP/2.0/{transport} {party};branch=z9hG4bK-{number}"]
        uri = f"sip:0155@{self.address[0]}:{self.address[1]}"
        return Request(method, uri, via, to=f"<{uri}>", call_id=f"call-{number}@{party.address[0]}", **parts)  # type: ignore[arg-type]

    def within(self, method: str, answer: Packet, party: Stream, cseq: int) -> Request:
        """A request of the caller within the dialog that *answer* made."""
        routes = route_set(answer)
        uri = answer.get("Contact").strip("<>")
        via = [f"SIP/2.0/TCP {party};branch=z9hG4bK-{next(_numbers)}"]
        parts = (answer.get("From"), answer.get("To"), answer.call_id, cseq)
        return Request(method, uri, via, *parts, headers=routes)

    async def holder(self) -> tuple[Listening, Packet]:
        """The server that has an INVITE that came, and the INVITE."""
        found: list[Listening] = []

        def came() -> bool:
            found[:] = [one for one in self.servers if any(packet.method == "INVITE" for packet in one.heard)]
            return bool(found)

        await until(came, "an INVITE at a server")
        return found[0], await found[0].gets("INVITE")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    it = Place(tmp_path)
    yield it
    it.close()


@contextlib.asynccontextmanager
async def started(
    place: Place, servers: Sequence[int] = (1,), listening: Sequence[int] = (1,), **settings: Any
) -> AsyncIterator[Platform]:
    """The gateway and, of its *servers*, those that are *listening*."""
    uris = [f"sip:{host}:{port};transport=tcp" for host, port in map(place.server, servers)]
    place.write(servers=[{"uri": uri} for uri in uris], carriers=1, **settings)
    host, port = place.gateway()
    udp = f'"udp:{host}:{port}"'
    place.config.write_text(place.config.read_text().replace(udp, f'{udp}, "tcp:{host}:{port}"'))
    platform = Platform(place, place.new_gateway())
    with platform.open:
        for number in listening:
            server = Listening(place.server(number))
            await server.listen()
            platform.open.callback(server.close)
            platform.servers.append(server)
        platform.gateway.launch()
        await until(lambda: platform.gateway.ready, "the gateway")
        yield platform


@pytest.fixture
async def platform(place: Place) -> AsyncIterator[Platform]:
    async with started(place) as it:
        yield it


async def test_TRN_01_udp_and_tcp_are_both_served(platform: Platform) -> None:
    datagrams, stream = await platform.datagrams(), await platform.connect()
    datagrams.send(bytes(platform.request("OPTIONS", datagrams, "UDP")), platform.address)
    stream.send(platform.request("OPTIONS", stream))
    assert (await datagrams.gets(200)).method == "OPTIONS"
    assert (await stream.gets(200)).method == "OPTIONS"


async def test_TRN_02_the_same_port_serves_udp_and_tcp(platform: Platform) -> None:
    assert platform.gateway.child is not None
    host, port = platform.address
    told = platform.gateway.child.output.read_text()
    assert told == f"ubisip gw1 ready on udp:{host}:{port}, tcp:{host}:{port}\n"
    assert platform.gateway.platform()["listeners"] == [f"udp:{host}:{port}", f"tcp:{host}:{port}"]


async def test_TRN_05_responses_come_over_the_connection_of_the_request(platform: Platform) -> None:
    stream, other = await platform.connect(), await platform.connect()
    stream.send(platform.request("INVITE", stream))
    server, invite = await platform.holder()
    server.reply(invite, 180)
    await stream.gets(180)
    server.reply(invite, 200)
    answer = await stream.gets(200)
    assert other.heard == []
    stream.send(platform.within("ACK", answer, stream, 1))
    await server.gets("ACK")
    stream.send(platform.within("BYE", answer, stream, 2))
    server.reply(await server.gets("BYE"), 200)
    assert (await stream.gets(200)).method == "BYE"


async def test_TRN_05_also_when_sent_by_is_another_address(platform: Platform) -> None:
    stream = await platform.connect()
    stream.send(platform.request("OPTIONS", Party(("192.0.2.77", 5099))))
    assert parameter((await stream.gets(200)).via, "received") == stream.address[0]


@pytest.mark.parametrize("name", ["Content-Length: ", "l:", "CONTENT-LENGTH \t:\r\n "])
async def test_TRN_08_content_length_frames_the_message(platform: Platform, name: str) -> None:
    stream = await platform.connect()
    requests = [
        bytes(platform.request("MESSAGE", stream, body=body)).replace(b"Content-Length: ", name.encode())
        for body in (b"INVITE sip:a@b SIP/2.0\r\n\r\n", b"", b"\r\n\r\n")
    ]
    stream.send(b"".join(requests))  # two and more in one segment
    got = [await platform.servers[0].gets("MESSAGE") for _ in requests]
    assert [packet.body for packet in got] == [b"INVITE sip:a@b SIP/2.0\r\n\r\n", b"", b"\r\n\r\n"]


async def test_TRN_08_one_octet_at_a_time(platform: Platform) -> None:
    stream = await platform.connect()
    for octet in bytes(platform.request("MESSAGE", stream, body=b"hello")):
        stream.send(bytes([octet]))
        await asyncio.sleep(0)
    assert (await platform.servers[0].gets("MESSAGE")).body == b"hello"


@pytest.mark.parametrize("length", [None, "x", "99999"])
async def test_TRN_08_a_stream_without_a_good_length_is_closed(platform: Platform, length: str | None) -> None:
    stream = await platform.connect()
    stream.send(platform.request("MESSAGE", stream, length=length))
    await until(lambda: stream.ended, "the end of the connection")
    causes = {None: "no_content_length", "x": "bad_content_length", "99999": "too_large"}
    assert platform.gateway.counter("ubisip_streams_total", event=f"closed_{causes[length]}") == 1


async def test_TRN_17_line_ends_before_the_start_line_mean_nothing(platform: Platform) -> None:
    stream = await platform.connect()
    stream.send(b"\r\n\r\n" + bytes(platform.request("OPTIONS", stream)) + b"\r\n")
    await stream.gets(200)
    stream.send(platform.request("OPTIONS", stream))
    await stream.gets(200)


async def test_OUT_04_a_double_line_end_is_answered_by_one(platform: Platform) -> None:
    stream = await platform.connect()
    stream.send(b"\r\n\r\n")
    await until(lambda: stream.line_ends == b"\r\n", "the answer to the keep-alive")


async def test_FWD_17_content_length_is_added_when_sent_over_a_stream(platform: Platform) -> None:
    datagrams = await platform.datagrams()
    datagrams.send(bytes(platform.request("MESSAGE", datagrams, "UDP", body=b"hello", length=None)), platform.address)
    got = await platform.servers[0].gets("MESSAGE")
    assert (got.body, got.lines("Content-Length")) == (b"hello", ["5"])
    assert [via.split()[0] for via in got.values("Via")] == ["SIP/2.0/TCP", "SIP/2.0/UDP"]


async def test_a_call_from_udp_to_tcp_and_back(platform: Platform) -> None:
    """RFC 5658: two Record-Routes where the transports differ; both ends find their way within the dialog."""
    datagrams = await platform.datagrams()
    invite = platform.request("INVITE", datagrams, "UDP", headers=[("Contact", f"<sip:me@{datagrams}>")])
    datagrams.send(bytes(invite), platform.address)
    server, got = await platform.holder()
    assert ["transport=tcp" in value for value in got.values("Record-Route")] == [True, False]
    server.reply(got, 200)
    answer = await datagrams.gets(200)
    uri = answer.get("Contact").strip("<>")
    via = [f"SIP/2.0/UDP {datagrams};branch=z9hG4bK-ack"]
    ack = Request("ACK", uri, via, answer.get("From"), answer.get("To"), answer.call_id, headers=route_set(answer))
    datagrams.send(bytes(ack), platform.address)
    await server.gets("ACK")
    via = [f"SIP/2.0/TCP {server};branch=z9hG4bK-bye"]
    to, from_ = answer.get("From"), answer.get("To")
    bye = Request("BYE", f"sip:me@{datagrams}", via, from_, to, got.call_id, headers=callee_route_set(got))
    server.over(got).send(bye)
    leg = await datagrams.gets("BYE")
    datagrams.send(response(leg, 200), platform.address)
    assert (await server.gets(200)).method == "BYE"


async def test_one_connection_carries_all_requests_to_a_destination(platform: Platform) -> None:
    stream = await platform.connect()
    for _ in range(5):
        stream.send(platform.request("MESSAGE", stream))
        server = platform.servers[0]
        server.reply(await server.gets("MESSAGE"), 200)
        await stream.gets(200)
    assert len(platform.servers[0].connections) == 1
    assert platform.gateway.counter("ubisip_stream_connections", side="opened") == 1


PATIENT = {"health": {"fall": 100}, "first_response_timeout": 20.0}
"""Only what the connection tells makes the gateway try the next server; its own site's comes first."""


async def test_a_server_that_refuses_connections_is_passed_over_at_once(place: Place) -> None:
    async with started(place, servers=(1, 2), listening=(2,), **PATIENT) as platform:
        stream = await platform.connect()
        for _ in range(3):
            stream.send(platform.request("INVITE", stream))
            server, invite = await platform.holder()
            server.reply(invite, 486)
            await stream.gets(486)
        assert platform.gateway.attempts() == {"sbc1": 0, "tel1": 3, "tel2": 3}


async def test_a_server_that_dies_before_it_answers_is_passed_over_at_once(place: Place) -> None:
    async with started(place, servers=(1, 2), listening=(1, 2), **PATIENT) as platform:
        stream, (first, second) = await platform.connect(), platform.servers
        stream.send(platform.request("INVITE", stream))
        await first.gets("INVITE")
        first.close()
        second.reply(await second.gets("INVITE"), 486)
        await stream.gets(486)


async def test_a_server_that_dies_and_returns_gets_calls_again(platform: Platform) -> None:
    stream, server = await platform.connect(), platform.servers[0]
    stream.send(platform.request("MESSAGE", stream))
    server.reply(await server.gets("MESSAGE"), 200)
    server.close()
    await until(lambda: platform.gateway.counter("ubisip_stream_connections", side="opened") == 0, "the end of it")
    await server.listen()
    stream.send(platform.request("MESSAGE", stream))
    server.reply(await server.gets("MESSAGE"), 200)


async def test_a_stranger_is_refused_over_tcp_too(platform: Platform) -> None:
    stranger = await platform.connect(platform.place.other()[0])
    stranger.send(platform.request("INVITE", stranger))
    assert (await stranger.gets(403)).method == "INVITE"
    assert platform.servers[0].heard == []


async def test_the_gateway_stops_and_starts_with_connections_open(platform: Platform) -> None:
    stream = await platform.connect()
    stream.send(platform.request("OPTIONS", stream))
    await stream.gets(200)
    platform.gateway.signal(signal.SIGTERM)
    await until(lambda: platform.gateway.exit_code() is not None, "the end of the gateway")
    assert platform.gateway.exit_code() == 0
    await until(lambda: stream.ended, "the end of the connection")
    platform.gateway.launch()
    await until(lambda: platform.gateway.ready, "the gateway again")
    stream = await platform.connect()
    stream.send(platform.request("OPTIONS", stream))
    await stream.gets(200)
