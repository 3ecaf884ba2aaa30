# SPDX-License-Identifier: Apache-2.0
"""Properties: what is forwarded is what came but for what routing owns; noise is survived; calls end on any wire."""

from __future__ import annotations

import re

import pytest
from endpoints import Callee, Caller
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_sip import Packet, joined, long_name
from wire import SBC, Chaos, Wire, platform

from ubisip.core.message import Message, ParseError

TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!%*_+`'~", min_size=1, max_size=20)
TEXT = st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n\0")
VALUE = st.text(TEXT, max_size=40).map(lambda text: text.strip(" \t"))
OWNED = {"via", "max-forwards", "record-route", "route"}
KNOWN = {"from", "to", "call-id", "cseq", "content-length", "proxy-require"}
NAME = TOKEN.filter(lambda name: long_name(name) not in OWNED | KNOWN)
HEADERS = st.lists(st.tuples(NAME, VALUE), max_size=12)
METHOD = st.sampled_from(["INVITE", "MESSAGE", "REGISTER", "OPTIONS", "SUBSCRIBE", "PUBLISH", "X-Y"]) | TOKEN.filter(
    lambda method: method not in ("ACK", "CANCEL", "PRACK", "BYE")
)
USER = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()&=+$,;?/", min_size=1, max_size=20)


def rest(data: bytes) -> list[bytes]:
    """The lines of the head that routing does not own, and the body, octet for octet."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = re.split(rb"\r\n(?![ \t])", head)
    kept = [line for line in lines[1:] if long_name(line.partition(b":")[0].decode("latin-1")) not in OWNED]
    return [*kept, body]


@given(METHOD, USER, HEADERS, st.binary(max_size=300), st.integers(1, 255), st.permutations(range(6)))
def test_a_forwarded_request_is_what_came_but_for_what_routing_owns(
    method: str, user: str, headers: list[tuple[str, str]], body: bytes, hops: int, order: list[int]
) -> None:
    wire = Wire()
    request = wire.request(method, f"sip:{user}@127.0.0.1:5060", max_forwards=str(hops), body=body, to="<sip:x@y>")
    lines = request.lines()
    basic, length = lines[:6], lines[-1:]
    data = joined(f"{method} {request.uri} SIP/2.0", [*(basic[i] for i in order), *headers, *length], body)
    wire.sbc.send(data)
    (seen,) = [packet for packet in wire.log if not packet.is_response]
    sent = Packet(data)
    assert rest(seen.data) == rest(data)
    assert seen.uri == f"sip:{user}@127.0.3.1:5060"
    assert seen.get("Max-Forwards") == str(hops - 1)
    assert seen.values("Via")[1:] == sent.values("Via")
    assert seen.values("Route") == []


@given(st.integers(100, 699), VALUE, HEADERS, st.binary(max_size=300))
def test_a_forwarded_response_is_what_came_but_for_our_via(
    status: int, reason: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    wire = Wire()
    wire.sbc.send(wire.request("INVITE"))
    leg = wire.tel().got("INVITE")
    fields = [("Via", value) for value in leg.lines("Via")]
    fields += [(name, leg.get(name)) for name in ("From", "Call-ID", "CSeq")] + [("To", leg.get("To") + ";tag=t")]
    data = joined(f"SIP/2.0 {status} {reason}", [*fields, *headers, ("Content-Length", str(len(body)))], body)
    wire.sbc.clear()
    wire.tel().send(data)
    seen = [packet for packet in wire.sbc.responses() if packet.status != 100]
    if status == 100:
        assert seen == []
    elif status == 503:
        assert [packet.status for packet in seen] == [500]
    else:
        assert rest(seen[0].data) == rest(data)
        assert seen[0].start == f"SIP/2.0 {status} {reason}"


FRAGMENT = st.sampled_from([
    b"INVITE", b" ", b"sip:", b"@", b"SIP/2.0", b"\r\n", b"\r\n ", b"\r\n\r\n", b"Via", b"v", b":", b"/", b"UDP", b";",
    b"branch=", b"z9hG4bK", b"From", b"To", b"<", b">", b'"', b"\\", b"tag=", b"Call-ID", b"CSeq", b"1", b"INVITE",
    b"Content-Length", b"Max-Forwards", b"70", b",", b"\0", b"\n", b"\t", b"=", b"%", b"[", b"]", b"ACK", b"200",
    b"Route", b"127.0.0.1:5060", b"lr", b"4294967296", b"-1", b"\xff", b"rport", b"received=", b"maddr=",
    b"Record-Route", b"u=",
])


@given(st.binary(max_size=400) | st.lists(FRAGMENT, max_size=60).map(b"".join))
@settings(max_examples=500)
@example(b"SIP/2.0 200 OK\r\n\r\n")
@example(b"INVITE sip: SIP/2.0\r\nVia:\r\n\r\n")
def test_arbitrary_octets_raise_nothing_but_parse_error(data: bytes) -> None:
    try:
        message = Message(data)
    except ParseError as error:
        assert 0 <= error.offset <= len(data)
        assert 400 <= error.status <= 699
    else:
        assert data.lstrip(b"\r\n").startswith(message.data)
        assert isinstance(message.headers, list)
        assert message.body in message.data


@given(st.lists(st.binary(max_size=200) | st.lists(FRAGMENT, max_size=40).map(b"".join), max_size=10))
def test_the_engine_survives_arbitrary_octets_from_anybody(noise: list[bytes]) -> None:
    wire = Wire()
    for data in noise:
        for agent in (wire.sbc, wire.tel(), wire.agent("127.0.9.9")):
            agent.send(data)
    wire.run(200)
    assert wire.transactions == 0


@given(st.data())
def test_the_engine_survives_any_change_to_true_messages(data: st.DataObject) -> None:
    wire = Wire()
    wire.sbc.send(wire.request("INVITE", headers=[("Route", "<sip:127.0.0.1:5060;lr>")]))
    wire.tel().reply(wire.tel().got("INVITE"), 180)
    true = [bytes(wire.request("INVITE")), wire.tel().inbox[0].data, wire.sbc.inbox[-1].data,
            wire.tel().reply(wire.tel().got("INVITE"), 183)]
    octets = bytearray(data.draw(st.sampled_from(true)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(octets) - 1))
        octets[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3) | FRAGMENT)
    for agent in (wire.sbc, wire.tel()):
        agent.send(bytes(octets))
    wire.run(400)
    assert wire.transactions == 0


def run_call(wire: Wire, gives_up_after: float | None = None, status: int = 200) -> tuple[Caller, list[Callee]]:
    """One call to its end and 70 s beyond, whatever the wire does."""
    callees = [Callee(tel, status=status) for tel in wire.tels]
    caller = Caller(wire, gives_up_after=gives_up_after)
    wire.sbc.handler = caller.take
    wire.run(50)  # the last attempt can ring after 10 s, is answered, held for 5 s, and hung up within 32 s
    wire.run(70)
    if not caller.final and not caller.timed_out:
        wire.run(200)  # it rings, and every final response was lost: Timer C ends it
    return caller, callees


CHAOS = st.builds(
    Chaos, seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.05, 0.2, 0.4]),
    duplicate=st.sampled_from([0.0, 0.2]), delay=st.sampled_from([0.0, 0.005, 0.05, 0.3]),
)


@given(CHAOS, st.none() | st.floats(0.1, 4.0), st.sampled_from([200, 200, 486, 503]))
@settings(max_examples=150)
def test_every_call_ends_on_any_wire(chaos: Chaos, gives_up_after: float | None, status: int) -> None:
    wire = Wire(platform(servers=2), chaos=chaos)
    caller, callees = run_call(wire, gives_up_after, status)
    assert caller.final or caller.timed_out or any(callee.unacknowledged for callee in callees)
    if caller.final == 200:
        assert caller.bye or caller.timed_out
    assert wire.transactions == 0
    assert wire.engine.statistics()["pending"] == 0


@pytest.mark.parametrize("seed", range(25))
def test_five_percent_of_loss_fails_no_call_and_sets_none_up_twice(seed: int) -> None:
    """A lost datagram is not taken for a dead server: four tries fit into the first second."""
    wire = Wire(platform(servers=6), chaos=Chaos(seed, loss=0.05))
    caller, callees = run_call(wire)
    assert caller.final == 200
    assert caller.bye == 200
    assert sum(bool(callee.calls) for callee in callees) == 1
    assert [callee.unacknowledged for callee in callees] == [[]] * 6
    assert wire.transactions == 0


@pytest.mark.parametrize("seed", range(25))
def test_a_call_survives_restarts_of_the_gateway_and_a_bad_wire(seed: int) -> None:
    """The gateway dies again and again, in setup, while ringing and while established."""
    chaos = Chaos(seed, loss=0.03, duplicate=0.05, delay=0.02)
    wire = Wire(platform(servers=6), chaos=chaos)
    for _ in range(6):
        wire.at(chaos.dice.random() * 8, wire.restart)
    caller, callees = run_call(wire)
    assert caller.final == 200
    assert caller.bye == 200
    assert sum(bool(callee.calls) for callee in callees) == 1
    assert wire.transactions == 0


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_the_same_schedule_gives_the_same_datagrams(seed: int) -> None:
    """No clock, no dice, no address of an object in the engine: a simulation can be replayed."""
    logs = []
    for _ in range(2):
        wire = Wire(platform(servers=6), chaos=Chaos(seed, loss=0.2, duplicate=0.2, delay=0.1))
        run_call(wire)
        logs.append([(packet.time, packet.data, packet.address) for packet in wire.log])
    assert logs[0] == logs[1]
    assert all(packet.address == SBC or packet.address[0].startswith("127.0.3.") for packet in wire.log)
