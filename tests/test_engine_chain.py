# SPDX-License-Identifier: Apache-2.0
"""Gateways in a row and gateways that change at every datagram: the same key, no word between them."""

from __future__ import annotations

import pytest
from calls import cancel, failure_ack
from plain_sip import Packet, Request
from wire import GATEWAY, UserAgent, Wire, callee_route_set, carrier, platform, route_set, server

SECOND = ("127.0.0.2", 5060)


def chain() -> tuple[Wire, Wire, UserAgent, UserAgent]:
    """SBC, gateway, second gateway, server: each gateway is a plain peer of the other; they share their keys."""
    near = Wire(platform([{"name": "next", "site": "PA2", "uri": "sip:127.0.0.2:5060"}]))
    far = Wire(platform([server(0)], [carrier("near", GATEWAY)], listen=["udp:127.0.0.2:5060"]))

    def bridge(here: Wire, there: Wire, source: tuple[str, int]) -> None:
        def carry(packet: Packet) -> None:
            there.now = here.now
            there.transmit(source, packet.data)
            there.settle()

        here.agent(*(SECOND if here is near else GATEWAY)).handler = carry

    bridge(near, far, GATEWAY)
    bridge(far, near, SECOND)
    return near, far, near.sbc, far.tel()


def within(wire: Wire, method: str, seen: Packet, source: UserAgent, target: UserAgent, *, caller: bool) -> Request:
    """A request within the dialog: by the caller, who saw the 200, or by the callee, who saw the INVITE."""
    ends = ("From", "To") if caller else ("To", "From")
    from_, to = (seen.get(name) + ("" if seen.is_response or name == "From" else ";tag=callee") for name in ends)
    routes = route_set(seen) if caller else callee_route_set(seen)
    uri = f"sip:ua@{target.address[0]}:{target.address[1]}"
    return wire.request(method, uri, source=source.address, from_=from_, to=to, call_id=seen.call_id,
                        cseq=1 if method == "ACK" else 7, headers=routes)


def test_a_call_through_two_gateways() -> None:
    near, _, sbc, tel = chain()
    sbc.send(near.request("INVITE"))
    leg = tel.got("INVITE")
    assert len(leg.values("Via")) == 3
    assert len(leg.values("Record-Route")) == 2
    assert leg.get("Max-Forwards") == "68"
    tel.reply(leg, 180)
    tel.reply(leg, 200, headers=[("Contact", "<sip:ua@127.0.3.1:5060>")])
    assert sbc.statuses() == [180, 200]
    ok = sbc.final()
    assert ok.values("Record-Route") == leg.values("Record-Route")
    sbc.send(within(near, "ACK", ok, sbc, tel, caller=True))
    assert tel.got("ACK").values("Route") == []
    sbc.send(within(near, "INFO", ok, sbc, tel, caller=True))
    tel.reply(tel.got("INFO"), 200)
    assert sbc.final("INFO").status == 200
    tel.send(within(near, "BYE", leg, tel, sbc, caller=False))
    assert sbc.got("BYE").values("Route") == []
    sbc.reply(sbc.got("BYE"), 200)
    assert tel.final("BYE").status == 200


@pytest.mark.parametrize("which", ["near", "far", "both"])
def test_a_cancel_through_two_gateways_of_which_some_restart(which: str) -> None:
    near, far, sbc, tel = chain()
    invite = near.request("INVITE")
    sbc.send(invite)
    leg = tel.got("INVITE")
    tel.reply(leg, 180)
    for name, wire in (("near", near), ("far", far)):
        if which in (name, "both"):
            wire.restart()
    sbc.send(cancel(invite))
    assert sbc.statuses("CANCEL") == [200]
    assert tel.got("CANCEL").branch == leg.branch
    tel.reply(tel.got("CANCEL"), 200)
    tel.reply(leg, 487)
    assert sbc.final().status == 487
    sbc.send(failure_ack(invite, sbc.final()))
    assert {packet.branch for packet in tel.requests("ACK")} == {leg.branch}


def test_a_token_of_one_gateway_is_good_at_its_twin_but_not_under_another_key() -> None:
    for keys, status in ((None, 0), ([bytes(16)], 403)):
        wire = Wire(platform(servers=6))
        wire.sbc.send(wire.request("INVITE"))
        holder = wire.holder()
        holder.reply(holder.got("INVITE"), 200, headers=[("Contact", f"<sip:ua@{holder.address[0]}:5060>")])
        wire.restart(keys)
        wire.sbc.send(within(wire, "BYE", wire.sbc.final(), wire.sbc, holder, caller=True))
        assert len(holder.requests("BYE")) == (0 if status else 1)
        assert status == 0 or wire.sbc.final("BYE").status == status


def test_every_datagram_of_a_call_meets_another_gateway() -> None:
    """The address moves at each datagram: what a gateway must know is in the messages."""
    wire = Wire(platform(servers=6))
    invite = wire.request("INVITE")
    wire.sbc.send(invite)
    holder = wire.holder()
    leg = holder.got("INVITE")
    for status in (180, 183, 200):
        wire.restart()
        holder.reply(leg, status, headers=[("Contact", f"<sip:ua@{holder.address[0]}:5060>")])
    assert wire.sbc.statuses() == [180, 183, 200]
    ok = wire.sbc.final()
    wire.restart()
    wire.sbc.send(within(wire, "ACK", ok, wire.sbc, holder, caller=True))
    assert len(holder.requests("ACK")) == 1
    wire.restart()
    wire.sbc.clear()
    wire.sbc.send(within(wire, "INVITE", ok, wire.sbc, holder, caller=True))
    again = holder.requests("INVITE")[-1]
    wire.restart()
    holder.reply(again, 200)
    assert wire.sbc.statuses()[-1] == 200
    wire.restart()
    holder.send(within(wire, "BYE", leg, holder, wire.sbc, caller=False))
    wire.sbc.reply(wire.sbc.got("BYE"), 200)
    assert holder.final("BYE").status == 200
    assert sum(bool(tel.inbox) for tel in wire.tels) == 1
