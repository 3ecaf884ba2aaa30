# SPDX-License-Identifier: Apache-2.0
"""Transport over UDP (RFC 3261 section 18, RFC 3581): rows TRN of the checklist.

TRN-05 is in test_streams_core; left to the tests with TCP: TRN-01, TRN-02, TRN-08, TRN-09, TRN-16, TRN-17 on a stream.
"""

from __future__ import annotations

import pytest
from plain_sip import Packet, parameter
from wire import GATEWAY, Wire, carrier, platform, server

HOST = ("127.0.1.1", 5090)


@pytest.fixture
def wire() -> Wire:
    """The carrier is known by its address alone, whatever the port."""
    return Wire(platform(carriers=[carrier(address=HOST, sources=[HOST[0]])]))


def leg_of(wire: Wire, via: str, port: int = 5090, **parts: object) -> Packet:
    """Send an INVITE with that Via from a port of the carrier's host; the INVITE at the server."""
    wire.agent(HOST[0], port).send(wire.request("INVITE", via=[via], **parts))
    return wire.tel().got("INVITE")


def test_TRN_03_received_is_added_when_sent_by_is_a_name(wire: Wire) -> None:
    leg = leg_of(wire, "SIP/2.0/UDP host.invalid:5090;branch=z9hG4bK-1")
    assert parameter(leg.values("Via")[1], "received") == HOST[0]
    wire.run(0.2)
    wire.tel().reply(leg, 180)
    assert wire.agent(*HOST).statuses() == [100, 180]
    assert [parameter(packet.via, "received") for packet in wire.agent(*HOST).responses()] == [HOST[0]] * 2


def test_TRN_03_received_is_added_when_sent_by_differs(wire: Wire) -> None:
    leg = leg_of(wire, "SIP/2.0/UDP 192.0.2.9:5090;branch=z9hG4bK-1")
    assert parameter(leg.values("Via")[1], "received") == HOST[0]


def test_TRN_03_a_forged_received_is_replaced(wire: Wire) -> None:
    leg = leg_of(wire, "SIP/2.0/UDP host.invalid:5090;received=192.0.2.66;branch=z9hG4bK-1")
    assert parameter(leg.values("Via")[1], "received") == HOST[0]
    assert "192.0.2.66" not in leg.values("Via")[1]
    wire.run(0.2)
    wire.tel().reply(leg, 180)
    assert wire.agent(*HOST).statuses() == [100, 180]


def test_TRN_03_nothing_is_added_when_sent_by_is_the_source(wire: Wire) -> None:
    via = f"SIP/2.0/UDP {HOST[0]}:5090;branch=z9hG4bK-1"
    assert leg_of(wire, via).values("Via")[1] == via


@pytest.mark.parametrize(("sent_by", "port"), [("host.invalid:5999", 5999), ("host.invalid", 5060), (HOST[0], 5060)])
def test_TRN_04_a_response_goes_to_received_and_the_sent_by_port(wire: Wire, sent_by: str, port: int) -> None:
    waiting = wire.agent(HOST[0], port)
    leg = leg_of(wire, f"SIP/2.0/UDP {sent_by};branch=z9hG4bK-1", port=40000)
    wire.run(0.2)
    wire.tel().reply(leg, 180)
    assert waiting.statuses() == [100, 180]
    assert wire.agent(HOST[0], 40000).inbox == []


def test_TRN_06_octets_after_content_length_are_discarded(wire: Wire) -> None:
    data = bytes(wire.request("MESSAGE", source=HOST, body=b"hello"))
    wire.agent(*HOST).send(data + b"INVITE sip:joe@example.com SIP/2.0\r\n\r\n")
    assert wire.tel().got("MESSAGE").body == b"hello"
    assert len(wire.tel().inbox) == 1


def test_TRN_07_a_body_that_is_too_short_is_answered_400(wire: Wire) -> None:
    wire.agent(*HOST).send(wire.request("INVITE", source=HOST, body=b"v=0\r\n", length="99"))
    assert wire.agent(*HOST).final().status == 400
    assert wire.tel().inbox == []


def test_TRN_07_a_response_whose_body_is_too_short_is_dropped(wire: Wire) -> None:
    leg = leg_of(wire, f"SIP/2.0/UDP {HOST[0]}:5090;branch=z9hG4bK-1")
    good = wire.tel().reply(leg, 180)
    wire.tel().send(good.replace(b" 180 Ringing", b" 183 Progress").replace(b"Length: 0", b"Length: 7"))
    wire.run(0.2)
    assert wire.agent(*HOST).statuses() == [180]


@pytest.mark.parametrize("size", [2_000, 9_000, 60_000])
def test_TRN_10_a_large_datagram_is_forwarded_or_refused(wire: Wire, size: int) -> None:
    wire.agent(*HOST).send(wire.request("INVITE", source=HOST, body=b"x" * size))
    statuses = wire.agent(*HOST).statuses()
    if wire.tel().inbox:
        assert wire.tel().got("INVITE").body == b"x" * size
    else:
        assert statuses in ([513], [413])


@pytest.mark.parametrize(
    "top", ["192.0.2.1", "127.0.0.1:5061", "127.0.0.2:5060", "gw.example", "127.0.0.1"]
)
def test_TRN_11_a_response_whose_top_via_is_not_ours_is_discarded(wire: Wire, top: str) -> None:
    leg = leg_of(wire, f"SIP/2.0/UDP {HOST[0]}:5090;branch=z9hG4bK-1")
    expected = [180] if top == "127.0.0.1" else []  # without a port it is 5060, which is ours
    wire.tel().reply(leg, 180, via=[f"SIP/2.0/UDP {top};branch={leg.branch}", *leg.lines("Via")[1:]])
    assert wire.agent(*HOST).statuses() == expected


def test_TRN_12_TRN_13_rport_is_filled_and_received_is_always_added(wire: Wire) -> None:
    leg = leg_of(wire, f"SIP/2.0/UDP {HOST[0]}:5090;rport;branch=z9hG4bK-1")
    wire.run(0.2)
    (trying,) = wire.agent(*HOST).responses()
    for via in (leg.values("Via")[1], trying.via):
        assert parameter(via, "rport") == "5090"
        assert parameter(via, "received") == HOST[0]


def test_TRN_14_with_rport_the_response_goes_to_the_source(wire: Wire) -> None:
    leg = leg_of(wire, "SIP/2.0/UDP host.invalid:5999;branch=z9hG4bK-1;rport", port=40000)
    wire.agent(HOST[0], 5999)
    wire.run(0.2)
    wire.tel().reply(leg, 200)
    assert wire.agent(HOST[0], 40000).statuses() == [100, 200]
    assert wire.agent(HOST[0], 5999).inbox == []


@pytest.mark.parametrize(
    "via",
    [
        "SIP / 2.0 / UDP  host.invalid : 5999 ; rport ; branch = z9hG4bK-1",
        "SIP/2.0/UDP host.invalid:5999;RPORT;BRANCH=z9hG4bK-1",
        "sip/2.0/udp host.invalid:5999;branch=z9hG4bK-1;x=\"a;b,c\";rport",
        "SIP/2.0/UDP host.invalid:5999;rport;ttl=1;maddr=192.0.2.3;branch=z9hG4bK-1",
        "SIP/2.0/UDP [2001:db8::9]:5999;rport;branch=z9hG4bK-1",
    ],
)
def test_TRN_14_however_the_via_is_written(wire: Wire, via: str) -> None:
    leg = leg_of(wire, via, port=40000)
    wire.run(0.2)
    wire.tel().reply(leg, 180)
    assert wire.agent(HOST[0], 40000).statuses() == [100, 180]


def test_TRN_15_a_response_leaves_from_where_the_request_came_to() -> None:
    listen = ["udp:127.0.0.1:5060", "udp:127.0.2.1:5060"]
    wire = Wire(platform(listen=listen))
    wire.sbc.send(wire.request("OPTIONS", "sip:127.0.2.1:5060"), listener=1)
    wire.sbc.send(wire.request("OPTIONS", "sip:127.0.0.1:5060"), listener=0)
    assert [packet.source for packet in wire.sbc.inbox] == [("127.0.2.1", 5060), GATEWAY]


def test_TRN_15_a_forwarded_response_too() -> None:
    wire = Wire(platform(servers=[server(0)], listen=["udp:127.0.0.1:5060", "udp:127.0.2.1:5060"]))
    wire.sbc.send(wire.request("INVITE", "sip:0155@127.0.2.1:5060"), listener=1)
    leg = wire.tel().got("INVITE")
    wire.run(0.2)
    wire.tel().reply(leg, 180)
    assert [(packet.status, packet.source) for packet in wire.sbc.inbox] == [
        (100, ("127.0.2.1", 5060)), (180, ("127.0.2.1", 5060)),
    ]


@pytest.mark.parametrize("lead", [b"\r\n", b"\r\n\r\n"])
def test_TRN_17_line_ends_before_the_start_line_are_ignored(wire: Wire, lead: bytes) -> None:
    wire.agent(*HOST).send(lead + bytes(wire.request("OPTIONS", "sip:127.0.0.1:5060", source=HOST)))
    assert wire.agent(*HOST).statuses() == [200]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n", b"\0", b"\0\0\0\0", b"x"])
def test_TRN_17_keep_alives_and_noise_bring_no_answer_to_sip(wire: Wire, data: bytes) -> None:
    wire.agent(*HOST).send(data)
    wire.run(1)
    assert not any(packet.data.startswith(b"SIP/") for packet in wire.log)
