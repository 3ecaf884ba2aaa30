# SPDX-License-Identifier: Apache-2.0
"""Messages of connections in the core (RFC 3261 sections 16.6, 17 and 18): rows TRN-05, FWD-17 and others.

Framing and the connections themselves are tested with the transport.
"""

from __future__ import annotations

import pytest
from calls import cancel, failure_ack
from plain_sip import Packet, parameter, response
from streams import (
    CALLER,
    HOST,
    LISTEN,
    STREAM,
    TCP,
    UDP,
    from_connections,
    incoming,
    outward,
    over_tcp,
    tcp_server,
    to_connections,
    way,
)
from wire import ANY, OPENED, SBC, Wire, carrier, on_time, platform, server, when


@pytest.fixture
def wire() -> Wire:
    return from_connections()


@pytest.fixture
def onward() -> Wire:
    return to_connections()


# --- from a connection


def test_TRN_05_every_response_goes_back_over_the_connection(wire: Wire) -> None:
    start = wire.now
    _, leg = incoming(wire)
    wire.run(0.2)
    for status in (180, 183, 200, 200):
        wire.tel().reply(leg, status)
    seen = wire.agent(*CALLER).responses()
    assert [packet.status for packet in seen] == [100, 180, 183, 200, 200]
    assert on_time(when(seen[:1], start), [0.15])
    assert {way(packet) for packet in seen} == {(CALLER, TCP, STREAM)}
    assert [packet.lines("Content-Length") for packet in seen] == [["0"]] * 5
    assert way(leg) == (wire.tel().address, UDP, 0)


@pytest.mark.parametrize(
    "via",
    [
        "SIP/2.0/TCP 127.0.1.1:5090;branch=z9hG4bK-1",
        "SIP/2.0/TCP host.invalid;branch=z9hG4bK-1",
        "SIP/2.0/TCP 127.0.1.1:5090;rport;branch=z9hG4bK-1",
        "SIP/2.0/TCP 192.0.2.1:9;branch=z9hG4bK-1;received=192.0.2.2",
        "SIP/2.0/TCP 127.0.1.1:5090;branch=z9hG4bK-1;maddr=192.0.2.9",
    ],
)
@pytest.mark.parametrize("status", [180, 200, 486])
def test_TRN_05_whatever_the_via_says(wire: Wire, via: str, status: int) -> None:
    _, leg = incoming(wire, via=[via])
    wire.tel().reply(leg, status)
    assert [way(packet) for packet in wire.log if packet.is_response] == [(CALLER, TCP, STREAM)]
    seen = leg.values("Via")[1]
    if "127.0.1.1" not in via or "rport" in via:
        assert parameter(seen, "received") == HOST[0]
    if "rport" in via:
        assert parameter(seen, "rport") == str(CALLER[1])


@pytest.mark.parametrize("status", [180, 200, 486])
@pytest.mark.parametrize("body", [b"", b"v=0\r\n" * 3])
def test_FWD_17_a_response_that_came_without_a_length_gets_one(wire: Wire, status: int, body: bytes) -> None:
    """A datagram ends by itself, a message on a stream does not (RFC 3261 section 20.14)."""
    _, leg = incoming(wire)
    data = response(leg, status, body=body)
    bare = data.replace(b"Content-Length: %d\r\n" % len(body), b"")
    assert bare != data
    wire.tel().send(bare)
    (seen,) = wire.agent(*CALLER).responses()
    assert seen.lines("Content-Length") == [str(len(body))]
    assert seen.body == body
    assert seen.headers[:-1] == Packet(bare).headers[1:]


@pytest.mark.parametrize("name", ["Content-Length", "l", "CONTENT-LENGTH"])
def test_FWD_17_a_length_that_is_there_is_left_alone(wire: Wire, name: str) -> None:
    _, leg = incoming(wire)
    wire.tel().send(response(leg, 200, body=b"abc").replace(b"Content-Length", name.encode()))
    (seen,) = wire.agent(*CALLER).responses()
    assert [pair for pair in seen.headers if pair[1] == "3"] == [(name, "3")]


@pytest.mark.parametrize(
    ("status", "method", "parts"),
    [
        (200, "OPTIONS", {"uri": "sip:127.0.0.1:5060"}),
        (483, "INVITE", {"max_forwards": "0"}),
        (420, "MESSAGE", {"headers": [("Proxy-Require", "x")]}),
        (416, "INVITE", {"uri": "foo:bar"}),
        (403, "INVITE", {"uri": "sip:x@192.0.2.99"}),
        (403, "BYE", {"headers": [("Route", "<sip:127.0.0.1:5060;transport=tcp;lr;u=forged>")]}),
        (400, "INVITE", {"cseq_method": "BYE"}),
    ],
)
def test_our_own_answers_go_over_it_too(wire: Wire, status: int, method: str, parts: dict[str, object]) -> None:
    wire.agent(*CALLER).send(over_tcp(wire, method, **parts), TCP, STREAM)
    (answer,) = wire.agent(*CALLER).responses()
    assert (answer.status, way(answer)) == (status, (CALLER, TCP, STREAM))
    assert answer.lines("Content-Length") == ["0"]


def test_a_repeated_request_gets_its_answer_over_the_connection_again(wire: Wire) -> None:
    message = over_tcp(wire, "MESSAGE")
    caller = wire.agent(*CALLER)
    caller.send(message, TCP, STREAM)
    wire.tel().reply(wire.tel().got("MESSAGE"), 200)
    caller.send(message, TCP, STREAM)
    assert [(packet.status, packet.stream) for packet in caller.inbox] == [(200, STREAM)] * 2
    assert len(wire.tel().requests("MESSAGE")) == 1


def test_TXN_08_a_failure_is_sent_once_over_a_stream(wire: Wire) -> None:
    """Timer G runs over UDP alone (RFC 3261 section 17.2.1); the server's leg goes on as it must."""
    invite, leg = incoming(wire)
    wire.tel().reply(leg, 486)
    assert len(wire.tel().requests("ACK")) == 1
    wire.run(20)
    caller = wire.agent(*CALLER)
    assert caller.statuses() == [486]
    caller.send(failure_ack(invite, caller.final()), TCP, STREAM)
    wire.run(60)
    assert caller.statuses() == [486]
    assert len(wire.tel().requests("ACK")) == 1
    assert wire.transactions == 0


def test_TXN_08_without_an_ack_it_ends_in_time_too(wire: Wire) -> None:
    """Timer H."""
    _, leg = incoming(wire)
    wire.tel().reply(leg, 486)
    wire.run(70)
    assert wire.agent(*CALLER).statuses() == [486]
    assert wire.transactions == 0


@pytest.mark.parametrize("status", [180, 200])
def test_TXN_14_a_response_that_finds_no_connection_keeps_the_transaction(wire: Wire, status: int) -> None:
    invite, leg = incoming(wire)
    wire.refused.add(CALLER)
    wire.tel().reply(leg, status)
    wire.refused.clear()
    caller = wire.agent(*CALLER)
    caller.send(invite, TCP, STREAM)
    wire.tel().reply(leg, 200)
    assert caller.statuses()[-1] == 200
    assert len(wire.tel().requests("INVITE")) == 1


@pytest.mark.parametrize("stream", [STREAM, STREAM + 1])
def test_a_cancel_and_its_answers(wire: Wire, stream: int) -> None:
    """Also over another connection of the caller; each answer goes back the way of its request."""
    invite, leg = incoming(wire)
    wire.tel().reply(leg, 180)
    caller = wire.agent(CALLER[0], CALLER[1] + stream - STREAM)
    caller.send(cancel(invite), TCP, stream)
    assert [way(packet) for packet in caller.responses("CANCEL")] == [(caller.address, TCP, stream)]
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.tel().reply(leg, 487)
    assert [(packet.status, packet.stream) for packet in wire.agent(*CALLER).responses("INVITE")] == [
        (180, STREAM),
        (487, STREAM),
    ]


# --- who speaks over a connection


def test_a_source_with_a_port_fits_any_port_of_a_connection(wire: Wire) -> None:
    """The port of a connection that somebody opened says nothing; that of a datagram does."""
    wire.agent(*CALLER).send(over_tcp(wire, "MESSAGE"), TCP, STREAM)
    assert len(wire.tel().requests("MESSAGE")) == 1
    wire.agent(*CALLER).send(wire.request("MESSAGE", source=CALLER), UDP)
    assert wire.agent(*CALLER).statuses() == [403]
    assert len(wire.tel().requests("MESSAGE")) == 1


def test_another_address_is_a_stranger_over_a_connection_too(wire: Wire) -> None:
    stranger = wire.agent("127.0.1.2", 5090)
    stranger.send(over_tcp(wire), TCP, STREAM)
    assert [(packet.status, packet.stream) for packet in stranger.inbox] == [(403, STREAM)]
    assert wire.tel().inbox == []


@pytest.mark.parametrize("index", [0, 1])
def test_of_two_peers_at_one_address_the_one_whose_port_it_is_speaks(index: int) -> None:
    """A carrier and a server on one machine: its direction tells which of them was recognised."""
    shared = "127.0.3.1"
    servers = [server(0, sources=[f"{shared}:5060"]), server(1)]
    wire = Wire(platform(servers, [carrier(address=(shared, 5090))], listen=LISTEN))
    port = (5060, 5090)[index]
    speaker = wire.agent(shared, port)
    speaker.send(over_tcp(wire, "MESSAGE"), TCP, STREAM)
    reached = {packet.address for packet in wire.log if not packet.is_response}
    assert len(reached) == 1
    assert reached <= ({(shared, 5090)} if port == 5060 else {(shared, 5060), ("127.0.3.2", 5060)})


def test_a_response_over_a_connection_of_a_stranger_is_dropped(onward: Wire) -> None:
    _, leg = outward(onward)
    onward.agent("127.0.9.9").send(response(leg, 200), TCP, STREAM)
    onward.run(0.1)
    assert onward.sbc.inbox == []


# --- over a connection


def test_the_invite_as_it_goes_over_a_connection(onward: Wire) -> None:
    _, leg = outward(onward)
    assert way(leg) == (("127.0.3.1", 5060), TCP, ANY)
    assert leg.via.startswith("SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK")
    assert leg.values("Via")[1].startswith("SIP/2.0/UDP 127.0.0.1:5090;")


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "INFO"])
@pytest.mark.parametrize("body", [b"", b"v=0\r\n" * 3])
def test_FWD_17_a_request_that_came_without_a_length_gets_one(onward: Wire, method: str, body: bytes) -> None:
    request = onward.request(method, body=body, length=None)
    onward.sbc.send(request)
    seen = onward.tel().got(method)
    assert seen.lines("Content-Length") == [str(len(body))]
    assert seen.body == body


@pytest.mark.parametrize("name", ["Content-Length", "l"])
def test_FWD_17_only_one_length(onward: Wire, name: str) -> None:
    data = bytes(onward.request("INVITE", body=b"abc")).replace(b"Content-Length", name.encode())
    onward.sbc.send(data)
    assert [pair for pair in onward.tel().got("INVITE").headers if pair[1] == "3"] == [(name, "3")]


def test_FWD_17_octets_beyond_the_length_are_not_put_on_the_stream(onward: Wire) -> None:
    """They would be taken for the next message: request smuggling."""
    onward.sbc.send(bytes(onward.request("MESSAGE", body=b"abc")) + b"BYE sip:x SIP/2.0\r\n\r\n")
    assert onward.tel().got("MESSAGE").data.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_it_is_not_retransmitted(onward: Wire, method: str) -> None:
    """Timers A and E run over UDP alone (RFC 3261 sections 17.1.1.2 and 17.1.2.2)."""
    onward.sbc.send(onward.request(method))
    onward.run(60)
    assert len(onward.tel().requests(method)) == 1
    assert onward.transactions == 0
    if method == "INVITE":
        assert onward.sbc.final().status == 408  # Timer B runs all the same


def test_nor_is_it_after_a_provisional(onward: Wire) -> None:
    onward.sbc.send(onward.request("MESSAGE"))
    onward.tel().reply(onward.tel().got("MESSAGE"), 100)
    onward.run(20)
    assert len(onward.tel().requests("MESSAGE")) == 1


def test_a_retransmission_of_the_caller_is_not_passed_on_either(onward: Wire) -> None:
    invite, _ = outward(onward)
    for _ in range(3):
        onward.sbc.send(invite)
    assert len(onward.tel().requests("INVITE")) == 1
    assert onward.sbc.statuses() == [100, 100, 100]


def test_responses_of_a_connection_go_on_as_datagrams(onward: Wire) -> None:
    _, leg = outward(onward)
    for status in (180, 200):
        onward.tel().reply(leg, status)
    assert [(packet.status, way(packet)) for packet in onward.sbc.inbox] == [
        (180, (SBC, UDP, 0)),
        (200, (SBC, UDP, 0)),
    ]


def test_cancel_and_the_ack_of_a_failure_go_over_a_connection(onward: Wire) -> None:
    invite, leg = outward(onward)
    onward.tel().reply(leg, 180)
    onward.sbc.send(cancel(invite))
    seen = onward.tel().got("CANCEL")
    assert (way(seen), seen.via, seen.lines("Content-Length")) == (way(leg), leg.via, ["0"])
    onward.run(10)
    assert len(onward.tel().requests("CANCEL")) == 1
    onward.tel().reply(seen, 200)
    onward.tel().reply(leg, 487)
    ack = onward.tel().got("ACK")
    assert (way(ack), ack.via, ack.lines("Content-Length")) == (way(leg), leg.via, ["0"])
    assert onward.sbc.final().status == 487


@pytest.mark.parametrize("transport", ["tcp", "TCP"])
def test_a_route_may_ask_for_a_connection(wire: Wire, transport: str) -> None:
    hop = wire.agent("127.0.4.1")
    routes = [("Route", f"<sip:127.0.4.1:5060;transport={transport};lr>")]
    wire.agent(*CALLER).send(over_tcp(wire, "MESSAGE", uri="sip:b@far.example", headers=routes), TCP, STREAM)
    assert way(hop.got("MESSAGE")) == (hop.address, TCP, ANY)
    assert hop.got("MESSAGE").via.startswith("SIP/2.0/TCP ")


@pytest.mark.parametrize("transport", ["tls", "sctp", "ws", ""])
def test_a_transport_that_we_do_not_have_is_no_reason_to_take_another(wire: Wire, transport: str) -> None:
    hop = wire.agent("127.0.4.1")
    routes = [("Route", f"<sip:127.0.4.1:5060;transport={transport};lr>")]
    wire.agent(*CALLER).send(over_tcp(wire, "MESSAGE", uri="sip:b@far.example", headers=routes), TCP, STREAM)
    assert hop.inbox == []
    assert 400 <= wire.agent(*CALLER).final("MESSAGE").status < 600


def test_without_a_tcp_listener_nothing_is_sent_over_a_connection() -> None:
    wire = Wire()
    routes = [("Route", "<sip:127.0.4.1:5060;transport=tcp;lr>")]
    wire.sbc.send(wire.request("MESSAGE", "sip:b@far.example", headers=routes))
    assert wire.agent("127.0.4.1").inbox == []
    assert 400 <= wire.sbc.final("MESSAGE").status < 600


# --- when there is no connection


@pytest.mark.parametrize("second", ["tcp", "udp"])
def test_ERR_01_no_connection_to_a_server_and_the_next_is_tried_at_once(second: str) -> None:
    """The next may be reached over a connection, or by datagrams."""
    wire = Wire(platform([tcp_server(0), tcp_server(1) if second == "tcp" else server(1)], listen=LISTEN))
    wire.refused.add(wire.tel().address)
    start = wire.now
    for _ in range(10):
        wire.sbc.send(wire.request("INVITE"))
    tried = {packet.call_id for packet in wire.log if packet.address == wire.tel().address}
    assert tried
    reached = wire.tel(1).requests("INVITE")
    assert len(reached) == 10
    assert set(when(reached, start)) == {0.0}
    assert {packet.stream for packet in reached} == {ANY if second == "tcp" else 0}
    wire.tel(1).reply(next(packet for packet in reached if packet.call_id in tried), 200)
    assert wire.sbc.statuses() == [200]


@pytest.mark.parametrize("octets", [300, 65_535])
def test_ERR_01_the_error_comes_later_and_with_the_whole_message_or_its_beginning(octets: int) -> None:
    wire = Wire(platform([tcp_server(0), tcp_server(1)], listen=LISTEN))
    wire.sbc.send(wire.request("INVITE"))
    dead = wire.holder()
    wire.run(0.5)
    wire.engine.transport_error(dead.got("INVITE").data[:octets], dead.address, wire.now)
    wire.settle()
    (alive,) = [tel for tel in wire.tels if tel is not dead]
    assert len(alive.requests("INVITE")) == 1


def test_ERR_01_without_another_server_it_counts_as_503(onward: Wire) -> None:
    onward.refused.add(onward.tel().address)
    onward.sbc.send(onward.request("INVITE"))
    assert onward.sbc.statuses() == [500]


def test_ERR_01_a_connection_that_breaks_while_it_rings_ends_nothing() -> None:
    wire = Wire(platform([tcp_server(0), tcp_server(1)], listen=LISTEN))
    wire.sbc.send(wire.request("INVITE"))
    holder = wire.holder()
    leg = holder.got("INVITE")
    holder.reply(leg, 180)
    wire.engine.transport_error(leg.data, holder.address, wire.now)
    wire.settle()
    holder.send(response(leg, 200), TCP, OPENED + 1)
    assert wire.sbc.statuses() == [180, 200]


def test_a_silent_server_behind_a_connection_is_left_in_time() -> None:
    wire = Wire(platform([tcp_server(0), tcp_server(1)], listen=LISTEN, first_response_timeout=1.0))
    start = wire.now
    wire.sbc.send(wire.request("INVITE"))
    silent = wire.holder()
    wire.run(1.1)
    (follower,) = [tel for tel in wire.tels if tel is not silent]
    assert on_time(when(follower.requests("INVITE"), start), [1.0])
    assert len(silent.requests("INVITE")) == 1
    silent.reply(silent.got("INVITE"), 180)
    assert way(silent.got("CANCEL")) == way(silent.got("INVITE"))


def test_a_probe_goes_over_a_connection_and_is_not_repeated(onward: Wire) -> None:
    probe = (
        b"OPTIONS sip:127.0.3.1:5060;transport=tcp SIP/2.0\r\n"
        b"Via: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bKp0123456789abcdef\r\nMax-Forwards: 0\r\n"
        b"From: <sip:127.0.0.1>;tag=1\r\nTo: <sip:127.0.3.1>\r\nCall-ID: probe-1\r\nCSeq: 1 OPTIONS\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
    onward.engine.probe(onward.slots.slot("tel1"), probe, 42, 2.0, onward.now)
    onward.run(1.0)
    sent = onward.tel().got("OPTIONS")
    assert (sent.data, way(sent)) == (probe, (onward.tel().address, TCP, ANY))
    onward.tel().reply(sent, 200)
    (event,) = onward.events("probe")
    assert (event.handle, event.status) == (42, 200)
