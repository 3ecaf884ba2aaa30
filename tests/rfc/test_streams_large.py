# SPDX-License-Identifier: Apache-2.0
"""Requests too large for a datagram (RFC 3261 section 18.1.1): rows TRN-09 and TRN-16."""

from __future__ import annotations

import pytest
from calls import cancel
from plain_sip import Packet, Request
from streams import LISTEN, TCP, UDP, way
from wire import ANY, Wire, platform, route_set, server

LARGE = b"a" * 1_400
SMALL = b"a" * 400


def wire_to(*servers: dict[str, object], **routing: object) -> Wire:
    return Wire(platform(servers or [server(0, tcp=True)], listen=LISTEN, **routing))


def sent(wire: Wire, body: bytes, method: str = "INVITE", **parts: object) -> tuple[Request, Packet]:
    request = wire.request(method, body=body, **parts)
    wire.sbc.send(request)
    return request, wire.tel().requests(method)[-1]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_TRN_09_a_large_request_goes_over_tcp_and_its_via_says_so(method: str) -> None:
    wire = wire_to()
    _, leg = sent(wire, LARGE, method)
    assert way(leg) == (wire.tel().address, TCP, ANY)
    assert leg.via.startswith("SIP/2.0/TCP 127.0.0.1:5060;")
    wire.run(3)
    assert len(wire.tel().requests(method)) == 1
    wire.tel().reply(leg, 486)
    assert wire.sbc.final(method).status == 486


def test_TRN_09_a_small_one_goes_by_datagram() -> None:
    wire = wire_to()
    _, leg = sent(wire, SMALL)
    assert way(leg) == (wire.tel().address, UDP, 0)
    assert leg.via.startswith("SIP/2.0/UDP ")


def test_TRN_09_what_counts_is_the_size_as_it_is_sent() -> None:
    wire = wire_to()
    for size in range(700, 1_300, 10):
        _, leg = sent(wire, b"a" * size, "MESSAGE")
        assert (leg.stream == ANY) == (len(leg.data) > 1_300)
    assert {packet.stream for packet in wire.tel().requests("MESSAGE")} == {0, ANY}


def test_TRN_09_without_tcp_at_the_peer_it_goes_by_datagram() -> None:
    wire = wire_to(server(0))
    _, leg = sent(wire, LARGE)
    assert way(leg) == (wire.tel().address, UDP, 0)


def test_TRN_09_within_a_dialog_too() -> None:
    wire = wire_to()
    _, leg = sent(wire, SMALL)
    wire.tel().reply(leg, 200, headers=[("Contact", "<sip:ua@127.0.3.1:5060>")])
    ok = wire.sbc.final()
    ends = {"from_": ok.get("From"), "to": ok.get("To"), "call_id": ok.call_id, "cseq": 5}
    again = wire.request("INVITE", "sip:ua@127.0.3.1:5060", body=LARGE, **ends, headers=route_set(ok))
    wire.sbc.send(again)
    assert way(wire.tel().requests("INVITE")[-1]) == (wire.tel().address, TCP, ANY)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_TRN_16_where_tcp_is_refused_it_goes_by_datagram(method: str) -> None:
    wire = wire_to(server(0, tcp=True), server(1, tcp=True), first_response_timeout=32)
    request = wire.request(method, body=LARGE)
    wire.sbc.send(request)
    holder = wire.holder(method, request.call_id)
    (leg,) = holder.requests(method)
    wire.engine.transport_error(leg.data, leg.address, wire.now)
    wire.settle()
    again = holder.requests(method)[-1]
    assert way(again) == (holder.address, UDP, 0)
    assert again.via.startswith("SIP/2.0/UDP 127.0.0.1:5060;") and again.get("Call-ID") == leg.get("Call-ID")
    assert again.data.count(b"\r\nVia: ") == 2
    wire.run(0.6)
    assert len(holder.requests(method)) > 2, "by datagram it is sent again"
    if method == "INVITE":
        holder.reply(again, 180)
        wire.sbc.send(cancel(request))
        assert way(holder.got("CANCEL")) == (holder.address, UDP, 0)
        holder.reply(holder.got("CANCEL"), 200)
        holder.reply(again, 487)
        assert (wire.sbc.final().status, holder.got("ACK").via) == (487, again.via)
    else:
        holder.reply(again, 200)
        assert wire.sbc.final("MESSAGE").status == 200


def test_TRN_16_where_the_datagram_fails_as_well_the_next_server_is_tried() -> None:
    wire = wire_to(server(0, tcp=True), server(1, tcp=True), first_response_timeout=32)
    request = wire.request("INVITE", body=LARGE)
    wire.sbc.send(request)
    first = wire.holder("INVITE", request.call_id)
    for _ in range(2):
        leg = first.requests("INVITE")[-1]
        wire.engine.transport_error(leg.data, leg.address, wire.now)
        wire.settle()
    assert [way(packet)[1:] for packet in first.requests("INVITE")] == [(TCP, ANY), (UDP, 0)]
    (second,) = {tel for tel in wire.tels if tel is not first}
    assert way(second.got("INVITE"))[1:] == (TCP, ANY)
