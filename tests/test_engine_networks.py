# SPDX-License-Identifier: Apache-2.0
"""Two listeners, two networks, IPv6: where things leave from, also after a restart (DESIGN sections 5 and 10)."""

from __future__ import annotations

import pytest
from calls import Dialog, cancel, failure_ack
from plain_sip import parameter
from wire import GATEWAY, Wire, callee_route_set, platform, route_set, server

INNER = ("127.0.2.1", 5060)
TWO_NETWORKS = platform(
    servers=[server(index, listener="udp:127.0.2.1:5060") for index in range(3)],
    listen=["udp:127.0.0.1:5060", "udp:127.0.2.1:5060"],
)


def ringing(wire: Wire) -> tuple[object, object, object]:
    invite = wire.request("INVITE")
    wire.sbc.send(invite)
    holder = wire.holder()
    return invite, holder, holder.got("INVITE")


@pytest.mark.parametrize("restart", [False, True])
def test_a_call_across_two_networks(restart: bool) -> None:
    wire = Wire(TWO_NETWORKS)
    invite, holder, leg = ringing(wire)
    assert leg.source == INNER
    if restart:
        wire.restart()
    holder.reply(leg, 180)
    holder.reply(leg, 200, headers=[("Contact", f"<sip:ua@{holder.address[0]}:5060>")])
    assert {packet.source for packet in wire.sbc.inbox} == {GATEWAY}
    call = Dialog(wire, wire.sbc, holder, invite, leg, wire.sbc.final())
    if restart:
        wire.restart()
    wire.sbc.send(call.ack())
    assert holder.got("ACK").source == INNER
    holder.send(call.by_callee("BYE"), listener=1)
    bye = wire.sbc.got("BYE")
    assert bye.source == GATEWAY
    assert bye.via.startswith("SIP/2.0/UDP 127.0.0.1:5060;")
    wire.sbc.reply(bye, 200)
    assert holder.final("BYE").source == INNER


def test_a_cancel_across_two_networks_after_a_restart() -> None:
    wire = Wire(TWO_NETWORKS)
    invite, holder, leg = ringing(wire)
    holder.reply(leg, 180)
    wire.restart()
    wire.sbc.send(cancel(invite))
    assert (holder.got("CANCEL").via, holder.got("CANCEL").source) == (leg.via, INNER)
    holder.reply(holder.got("CANCEL"), 200)
    holder.reply(leg, 487)
    wire.run(0.1)
    assert wire.sbc.final().source == GATEWAY
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    assert {packet.branch for packet in holder.requests("ACK")} == {leg.branch}


def test_an_outgoing_call_across_two_networks() -> None:
    wire = Wire(TWO_NETWORKS)
    invite = wire.request("INVITE", source=wire.tel().address)
    wire.tel().send(invite, listener=1)
    leg = wire.sbc.got("INVITE")
    assert leg.source == GATEWAY
    wire.sbc.reply(leg, 200, headers=[("Contact", "<sip:ua@127.0.0.1:5090>")])
    assert wire.tel().final().source == INNER
    bye = wire.request("BYE", "sip:ua@127.0.3.1:5060", from_=wire.tel().final().get("To"), to=leg.get("From"),
                       call_id=leg.call_id, headers=callee_route_set(leg))
    wire.sbc.send(bye)
    assert wire.tel().got("BYE").source == INNER
    assert wire.tel().got("BYE").values("Route") == []


@pytest.mark.parametrize("restart", [False, True])
def test_two_listeners_of_one_network_answer_from_where_the_call_came(restart: bool) -> None:
    """RFC 3581 section 4: the response leaves from the address that the request came to."""
    wire = Wire(platform(listen=["udp:127.0.0.1:5060", "udp:127.0.2.1:5060"]))
    wire.sbc.send(wire.request("INVITE", "sip:0155@127.0.2.1:5060"), listener=1)
    leg = wire.tel().got("INVITE")
    wire.run(0.2)
    if restart:
        wire.restart()
    wire.tel().reply(leg, 180)
    assert {(packet.status, packet.source) for packet in wire.sbc.inbox} == {(100, INNER), (180, INNER)}


SIX = platform(
    servers=[{"name": "tel1", "site": "PA2", "uri": "sip:[2001:db8::3]:5060", "sources": ["2001:db8::3"]}],
    carriers=[
        {"name": "six", "centre": "m", "site": "PA2", "uri": "sip:[2001:db8::9]:5090", "sources": ["2001:db8::9"]},
    ],
    listen=["udp:[2001:db8::1]:5060"],
)
TEL, SBC = ("2001:db8::3", 5060), ("2001:db8::9", 5090)


@pytest.mark.parametrize("restart", [False, True])
def test_a_call_over_ipv6(restart: bool) -> None:
    wire = Wire(SIX)
    sbc, tel = wire.agent(*SBC), wire.agent(*TEL)
    via = ["SIP/2.0/UDP host.invalid:5090;rport;branch=z9hG4bK6"]
    invite = wire.request("INVITE", "sip:0155@[2001:DB8:0::1]", via=via,
                          from_="<sip:a@[2001:db8::9]>;tag=f", headers=[("Contact", "<sip:a@[2001:db8::9]:5090>")])
    sbc.send(invite)
    leg = tel.got("INVITE")
    assert leg.uri == "sip:0155@[2001:db8::3]:5060"
    assert leg.via.startswith("SIP/2.0/UDP [2001:db8::1]:5060;")
    assert leg.values("Record-Route")[0].startswith("<sip:[2001:db8::1]:5060;")
    assert (parameter(leg.values("Via")[1], "received") or "").strip("[]") == "2001:db8::9"
    if restart:
        wire.restart()
    tel.reply(leg, 200, headers=[("Contact", "<sip:t@[2001:db8::3]:5060>")])
    ok = sbc.final()
    ack = wire.request("ACK", "sip:t@[2001:db8::3]:5060", via=["SIP/2.0/UDP [2001:db8::9]:5090;branch=z9hG4bK7"],
                       from_=ok.get("From"), to=ok.get("To"), call_id=ok.call_id, headers=route_set(ok))
    sbc.send(ack)
    assert tel.got("ACK").values("Route") == []
    bye = wire.request("BYE", "sip:a@[2001:db8::9]:5090", via=["SIP/2.0/UDP [2001:db8::3];branch=z9hG4bK8"],
                       from_=ok.get("To"), to=ok.get("From"), call_id=ok.call_id, headers=callee_route_set(leg))
    tel.send(bye)
    sbc.reply(sbc.got("BYE"), 200)
    assert tel.final("BYE").status == 200


def test_ipv6_strangers_are_refused() -> None:
    wire = Wire(SIX)
    stranger = wire.agent("2001:db8::66", 5060)
    stranger.send(wire.request("OPTIONS", "sip:0155@[2001:db8::1]", via=["SIP/2.0/UDP [2001:db8::66];branch=z9hG4bK6"]))
    assert stranger.statuses() == [403]


@pytest.mark.parametrize("sent_by", ["[2001:db8::9]", "[2001:DB8:0:0:0:0:0:9]", "[2001:db8::0009]:5060"])
def test_sent_by_that_is_the_ipv6_source_needs_no_received(sent_by: str) -> None:
    wire = Wire(SIX)
    via = f"SIP/2.0/UDP {sent_by};branch=z9hG4bK6"
    wire.agent("2001:db8::9", 5060).send(wire.request("MESSAGE", "sip:0155@[2001:db8::1]", via=[via]))
    leg = wire.agent(*TEL).got("MESSAGE")
    assert leg.values("Via")[1] == via
    wire.agent(*TEL).reply(leg, 200)
    assert wire.agent("2001:db8::9", 5060).statuses() == [200]
