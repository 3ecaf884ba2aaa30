# SPDX-License-Identifier: Apache-2.0
"""Dialogs of which one side is a connection, and what a restart leaves of them (RFC 3261 section 18, RFC 5658)."""

from __future__ import annotations

import pytest
from plain_sip import Packet, Request
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
    tcp_server,
    to_connections,
    way,
)
from wire import ANY, GATEWAY, OPENED, SBC, Wire, callee_route_set, carrier, platform, route_set


@pytest.fixture
def wire() -> Wire:
    return from_connections()


@pytest.fixture
def onward() -> Wire:
    return to_connections()


def answered(wire: Wire, invite: Request, leg: Packet) -> Packet:
    """The 200 as the caller got it."""
    callee = wire.tel()
    transport = ";transport=tcp" if leg.stream else ""
    callee.reply(leg, 200, headers=[("Contact", f"<sip:ua@127.0.3.1:5060{transport}>")])
    caller = wire.agent(*CALLER) if "TCP" in invite.via[0] else wire.sbc
    return caller.final()


def within(wire: Wire, method: str, ok: Packet, leg: Packet, *, caller: bool, uri: str) -> Request:
    """A request of one end within the dialog."""
    ends = {"from_": ok.get("From" if caller else "To"), "to": ok.get("To" if caller else "From")}
    routes = route_set(ok) if caller else callee_route_set(leg)
    here = (HOST if "TCP" in ok.via else SBC) if caller else wire.tel().address
    cseq = 1 if method == "ACK" else 5
    return wire.request(method, uri, source=here, **ends, call_id=ok.call_id, cseq=cseq, headers=routes)


def addresses(values: list[str]) -> list[str]:
    """Record-Route values without their tokens."""
    return [value.partition(";u=")[0] for value in values]


PLAIN, OVER_TCP = "<sip:127.0.0.1:5060;lr", "<sip:127.0.0.1:5060;transport=tcp;lr"


def test_RFC_5658_two_record_routes_from_a_connection_to_datagrams(wire: Wire) -> None:
    """The top one is for the callee's side, the one below for the caller's."""
    invite, leg = incoming(wire)
    assert addresses(leg.values("Record-Route")) == [PLAIN, OVER_TCP]
    assert answered(wire, invite, leg).values("Record-Route") == leg.values("Record-Route")


def test_RFC_5658_two_record_routes_from_datagrams_to_a_connection(onward: Wire) -> None:
    invite, leg = outward(onward)
    assert addresses(leg.values("Record-Route")) == [OVER_TCP, PLAIN]
    assert answered(onward, invite, leg).values("Record-Route") == leg.values("Record-Route")


def test_RFC_5658_one_record_route_when_both_sides_are_connections() -> None:
    wire = Wire(platform([tcp_server(0)], [carrier(address=HOST)], listen=LISTEN))
    _, leg = incoming(wire)
    assert addresses(leg.values("Record-Route")) == [OVER_TCP]
    assert way(leg) == (wire.tel().address, TCP, ANY)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_dialog_from_a_connection(wire: Wire, fresh: bool) -> None:
    invite, leg = incoming(wire)
    ok = answered(wire, invite, leg)
    if fresh:
        wire.restart()
    caller, callee = wire.agent(*CALLER), wire.tel()
    for method in ("ACK", "INFO"):
        request = within(wire, method, ok, leg, caller=True, uri="sip:ua@127.0.3.1:5060")
        request.via = [f"SIP/2.0/TCP {HOST[0]}:5090;branch=z9hG4bK-{method}"]
        caller.send(request, TCP, STREAM)
        assert (way(callee.got(method)), callee.got(method).values("Route")) == ((callee.address, UDP, 0), [])
    callee.reply(callee.got("INFO"), 200)
    assert (caller.final("INFO").status, caller.final("INFO").stream) == (200, STREAM)
    callee.send(within(wire, "BYE", ok, leg, caller=False, uri=f"sip:caller@{HOST[0]}:5090;transport=tcp"))
    bye = wire.agent(*HOST).got("BYE")
    assert (way(bye), bye.values("Route")) == ((HOST, TCP, ANY), [])
    assert bye.via.startswith("SIP/2.0/TCP ")
    wire.agent(*HOST).reply(bye, 200)
    assert (callee.final("BYE").status, way(callee.final("BYE"))) == (200, (callee.address, UDP, 0))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("uri", ["sip:ua@127.0.3.1:5060;transport=tcp", "sip:ua@pbx.internal.example"])
def test_a_dialog_to_a_connection(onward: Wire, uri: str, fresh: bool) -> None:
    """A remote target that is a name is reached through the token: over TCP, as the server is."""
    invite, leg = outward(onward)
    ok = answered(onward, invite, leg)
    if fresh:
        onward.restart()
    callee = onward.tel()
    for method in ("ACK", "BYE"):
        onward.sbc.send(within(onward, method, ok, leg, caller=True, uri=uri))
        seen = callee.got(method)
        assert (way(seen), seen.uri, seen.values("Route")) == ((callee.address, TCP, ANY), uri, [])
        assert seen.via.startswith("SIP/2.0/TCP ")
    callee.reply(callee.got("BYE"), 200)
    assert way(onward.sbc.final("BYE")) == (SBC, UDP, 0)


@pytest.mark.parametrize("fresh", [False, True])
def test_the_callee_hangs_up_over_its_connection(onward: Wire, fresh: bool) -> None:
    invite, leg = outward(onward)
    ok = answered(onward, invite, leg)
    if fresh:
        onward.restart()
    callee = onward.tel()
    bye = within(onward, "BYE", ok, leg, caller=False, uri="sip:caller@127.0.0.1:5090")
    bye.via = ["SIP/2.0/TCP 127.0.3.1:5060;branch=z9hG4bK-bye"]
    callee.send(bye, TCP, OPENED)
    seen = onward.sbc.got("BYE")
    assert (way(seen), seen.source, seen.values("Route")) == ((SBC, UDP, 0), GATEWAY, [])
    assert seen.via.startswith("SIP/2.0/UDP ")
    onward.sbc.reply(seen, 200)
    assert (callee.final("BYE").status, callee.final("BYE").stream) == (200, OPENED)


@pytest.mark.parametrize("status", [180, 200, 486])
def test_a_server_behind_a_connection_answers_after_a_restart(onward: Wire, status: int) -> None:
    _, leg = outward(onward)
    onward.restart()
    onward.tel().reply(leg, status)
    assert [(packet.status, way(packet)) for packet in onward.sbc.inbox] == [(status, (SBC, UDP, 0))]


@pytest.mark.parametrize("rport", ["", ";rport"])
@pytest.mark.parametrize("status", [180, 200, 486])
def test_a_caller_whose_connection_died_with_the_gateway_is_called_back(wire: Wire, status: int, rport: str) -> None:
    """RFC 3261 section 18.2.2: a new connection to the address in received and the port in sent-by."""
    _, leg = incoming(wire, via=[f"SIP/2.0/TCP {HOST[0]}:5090{rport};branch=z9hG4bK-1"])
    wire.restart()
    wire.tel().reply(leg, status)
    assert [(packet.status, way(packet)) for packet in wire.agent(*HOST).inbox] == [(status, (HOST, TCP, ANY))]


def test_a_retransmission_to_another_gateway_keeps_its_branch(onward: Wire) -> None:
    invite, leg = outward(onward)
    onward.restart()
    onward.sbc.send(invite)
    assert [packet.data for packet in onward.tel().requests("INVITE")] == [leg.data] * 2
