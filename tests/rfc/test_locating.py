# SPDX-License-Identifier: Apache-2.0
"""Locating servers and going on without state (RFC 3263 section 4, RFC 3261 section 16.11): rows DNS and SLS.

Rows of the checklist that concern a proxy and are shown elsewhere or not at all:

======================================  ==================================================================
row                                     where
======================================  ==================================================================
TGT-03 TGT-04 TGT-05 TGT-06 TGT-08      with the registrar: they need bindings
FWD-05                                  with the registrar: parameters of a binding
VAL-10                                  with the registrar: it challenges
TRN-01 TRN-02 TRN-05 TRN-08 FWD-17      with TCP: black-box tests
TRN-09 TRN-16 DNS-02 DNS-08 FWD-11      with TCP and TLS
DNS-04                                  names are resolved outside the core
RSP-19                                  not built: no recursion on 3xx
LOP-04 LOP-05                           Max-Breadth: test_forking.py
SLS-01                                  there is no stateless mode; 100 is sent by the stateful one
======================================  ==================================================================
"""

from __future__ import annotations

from calls import cancel, failure_ack, place
from wire import Wire, platform, server


def test_DNS_01_all_of_a_transaction_goes_to_one_host() -> None:
    wire = Wire(platform(servers=2))
    invite, leg = place(wire)
    holder = wire.holder()
    wire.run(0.75)
    holder.reply(leg, 180)
    wire.sbc.send(cancel(invite))
    holder.reply(leg, 487)
    assert {packet.method for packet in holder.inbox} == {"INVITE", "CANCEL", "ACK"}
    assert sum(bool(tel.inbox) for tel in wire.tels) == 1


def test_DNS_03_a_numeric_host_without_port_and_transport_is_udp_5060() -> None:
    wire = Wire(platform([{"name": "tel1", "site": "PA2", "uri": "sip:127.0.3.1"}]))
    _, leg = place(wire)
    assert leg.address == ("127.0.3.1", 5060)
    assert leg.via.startswith("SIP/2.0/UDP ")


def test_DNS_05_a_name_of_a_destination_stands_for_the_address_given_for_it() -> None:
    rows = [server(0), {"name": "named", "site": "PA2", "uri": "sip:pbx.example:5070", "sources": ["127.0.3.7"]}]
    wire = Wire(platform(rows), addresses={"named": "127.0.3.7"})
    wire.refused.add(wire.tel(0).address)
    for _ in range(5):
        wire.sbc.send(wire.request("INVITE"))
    assert len(wire.agent("127.0.3.7", 5070).requests("INVITE")) == 5


def test_DNS_05_DNS_06_503_refusal_and_silence_move_on_with_a_new_branch() -> None:
    wire = Wire(platform(servers=4))
    _, leg = place(wire)
    first = wire.holder()
    first.reply(leg, 503)
    (second,) = [tel for tel in wire.tels if tel is not first and tel.requests("INVITE")]
    wire.engine.transport_error(second.got("INVITE").data, second.address, wire.now)
    wire.settle()
    (third,) = [tel for tel in wire.tels if tel not in (first, second) and tel.requests("INVITE")]
    wire.run(1.05)
    (fourth,) = [tel for tel in wire.tels if tel not in (first, second, third)]
    branches = [tel.requests("INVITE")[0].branch for tel in (first, second, third, fourth)]
    assert len(set(branches)) == 4


def test_DNS_07_the_order_of_tries_is_the_same_without_state() -> None:
    wire = Wire(platform(servers=4))
    invite = wire.request("INVITE")
    orders = []
    for _ in range(2):
        wire.sbc.send(invite)
        order = []
        for _ in range(4):
            (holder,) = [tel for tel in wire.tels if tel.requests("INVITE") and tel not in order]
            holder.reply(holder.got("INVITE"), 500)
            order.append(holder)
        orders.append(order)
        wire.restart()
        for tel in wire.tels:
            tel.clear()
    assert orders[0] == orders[1]


def test_SLS_02_the_same_request_goes_to_the_same_place_with_the_same_octets() -> None:
    wire = Wire(platform(servers=6))
    invite = wire.request("INVITE")
    for _ in range(5):
        wire.sbc.send(invite)
        wire.restart()
    assert len(wire.holder().requests("INVITE")) == 5
    assert len({packet.data for packet in wire.holder().requests("INVITE")}) == 1


def test_SLS_03_cancel_and_ack_follow_the_invite() -> None:
    wire = Wire(platform(servers=6))
    invite, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.restart()
    wire.sbc.send(cancel(invite))
    assert holder.got("CANCEL").branch == leg.branch
    wire.restart()
    holder.reply(leg, 487)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    assert holder.got("ACK").branch == leg.branch


def test_SLS_04_a_response_with_a_foreign_top_via_is_discarded() -> None:
    wire = Wire(platform(servers=6))
    _, leg = place(wire)
    holder = wire.holder()
    wire.restart()
    before = len(wire.log)
    holder.reply(leg, 180, via=[leg.via.replace("127.0.0.1:5060", "192.0.2.1:5060"), *leg.lines("Via")[1:]])
    assert len(wire.log) == before
