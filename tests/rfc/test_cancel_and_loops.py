# SPDX-License-Identifier: Apache-2.0
"""CANCEL (RFC 3261 section 16.10) and loops (RFC 5393): rows CAN and LOP of the checklist.

LOP-04, LOP-05 (Max-Breadth) are in test_forking.py.
"""

from __future__ import annotations

import pytest
from calls import cancel, failure_ack, place
from plain_sip import Packet, Request
from wire import Wire, platform


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_CAN_01_a_cancel_is_answered_at_once(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200]
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.tel().reply(leg, 487)
    assert wire.sbc.final().status == 487
    assert wire.sbc.statuses("CANCEL") == [200]  # the server's own 200 stays between it and the proxy
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(10)
    assert len(wire.tel().requests("ACK")) == 1


def test_CAN_01_a_repeated_cancel_is_answered_again_and_sent_once(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.sbc.send(cancel(invite))
    assert wire.sbc.statuses("CANCEL") == [200, 200]
    assert len(wire.tel().requests("CANCEL")) == 1


def test_CAN_01_the_cancel_fits_the_invite(wire: Wire) -> None:
    """RFC 3261 section 9.1: Request-URI, Call-ID, To, CSeq number, From, Route as in the INVITE; one Via."""
    invite, leg = place(wire, headers=[("Proxy-Require", ""), ("Require", "100rel")][1:])
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    seen = wire.tel().got("CANCEL")
    assert (seen.uri, seen.via) == (leg.uri, leg.via)
    for name in ("Call-ID", "To", "From"):
        assert seen.get(name) == leg.get(name)
    assert seen.get("CSeq") == "1 CANCEL"
    assert seen.values("Route") == leg.values("Route")
    assert seen.lines("Require") == []


def test_CAN_01_routes_of_the_invite_are_in_its_cancel_and_ack(wire: Wire) -> None:
    hop = wire.agent("127.0.4.1")
    routes = ["<sip:127.0.4.1:5060;lr>", "<sip:127.0.4.2:5060;lr>"]
    invite = wire.request("INVITE", "sip:bob@far.example", headers=[("Route", ", ".join(routes))])
    wire.sbc.send(invite)
    hop.reply(hop.got("INVITE"), 180)
    wire.sbc.send(cancel(invite))
    assert hop.got("CANCEL").values("Route") == routes
    hop.reply(hop.got("INVITE"), 487)
    assert hop.got("ACK").values("Route") == routes


def test_CAN_01_the_cancel_is_retransmitted_until_it_is_answered(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.run(2)
    count = len(wire.tel().requests("CANCEL"))
    assert count > 1
    wire.tel().reply(wire.tel().requests("CANCEL")[0], 200)
    wire.run(10)
    assert len(wire.tel().requests("CANCEL")) == count


def test_CAN_02_every_pending_branch_is_cancelled() -> None:
    wire = Wire(platform(servers=2))
    invite, first = place(wire)
    silent = wire.holder()
    wire.run(1.1)
    follower = next(tel for tel in wire.tels if tel is not silent)
    follower.reply(follower.requests("INVITE")[0], 180)
    wire.sbc.send(cancel(invite))
    assert len(follower.requests("CANCEL")) == 1
    silent.reply(first, 180)
    assert len(silent.requests("CANCEL")) == 1
    for agent in (silent, follower):
        agent.reply(agent.requests("CANCEL")[0], 200)
        agent.reply(agent.requests("INVITE")[0], 487)
        assert len(agent.requests("ACK")) == 1
    wire.run(0.4)
    assert wire.sbc.final().status == 487


@pytest.mark.parametrize("status", [100, 180])
def test_CAN_03_a_cancel_waits_for_a_provisional(wire: Wire, status: int) -> None:
    invite, leg = place(wire)
    wire.sbc.send(cancel(invite))
    wire.run(0.5)
    assert wire.sbc.statuses("CANCEL") == [200]
    assert wire.tel().requests("CANCEL") == []
    wire.tel().reply(leg, status)
    assert len(wire.tel().requests("CANCEL")) == 1


def test_CAN_03_a_cancelled_call_is_not_tried_elsewhere() -> None:
    """Its caller has gone: neither silence nor a failure may set it up at another server."""
    wire = Wire(platform(servers=2))
    invite, leg = place(wire)
    holder = wire.holder()
    wire.sbc.send(cancel(invite))
    wire.run(3)
    holder.reply(leg, 503)
    wire.run(40)
    assert sum(bool(tel.requests("INVITE")) for tel in wire.tels) == 1
    assert wire.sbc.final().status in (487, 408, 500)


def test_CAN_03_a_2xx_that_crosses_the_cancel_is_forwarded(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(leg, 200)
    assert wire.sbc.final().status == 200


def test_CAN_04_a_cancel_that_fits_nothing_is_answered_481_or_passed_on(wire: Wire) -> None:
    wire.sbc.send(wire.request("CANCEL"))
    wire.run(1)
    passed_on = bool(wire.tel().requests("CANCEL"))
    assert wire.sbc.statuses("CANCEL") == ([200] if passed_on else [481])


def test_CAN_05_a_cancel_after_the_final_response_changes_nothing(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 200)
    wire.sbc.send(cancel(invite))
    wire.run(5)
    assert wire.sbc.statuses("CANCEL") in ([200], [481])
    assert wire.tel().requests("CANCEL") == []
    assert wire.sbc.statuses("INVITE") == [200]


def test_CAN_05_a_cancel_after_a_failure_changes_nothing(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 486)
    wire.sbc.send(cancel(invite))
    wire.run(1)
    assert wire.sbc.statuses("CANCEL") in ([200], [481])
    assert wire.tel().requests("CANCEL") == []
    assert wire.sbc.final().status == 486


def test_CAN_06_a_stranger_cannot_cancel_a_call(wire: Wire) -> None:
    """Branch and sent-by can be guessed or overheard; the source cannot."""
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.agent("127.0.9.9").send(cancel(invite))
    wire.run(1)
    assert wire.tel().requests("CANCEL") == []


def looped(wire: Wire, seen: Packet, uri: str) -> Request:
    """The INVITE as a server saw it, on its way back to us through the SBC."""
    return Request(
        "INVITE", uri, ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-back", *seen.lines("Via")], seen.get("From"),
        seen.get("To"), seen.call_id, seen.cseq, str(int(seen.get("Max-Forwards")) - 1),
        headers=[("Record-Route", value) for value in seen.lines("Record-Route")],
    )


def test_LOP_01_LOP_02_a_loop_is_answered_482(wire: Wire) -> None:
    """RFC 5393 section 4.2: our Via is there and nothing that routing looks at has changed."""
    invite, leg = place(wire)
    wire.tel().clear()
    wire.sbc.send(looped(wire, leg, invite.uri))
    wire.run(0.1)
    assert [packet.status for packet in wire.sbc.responses() if packet.branch == "z9hG4bK-back"][-1] == 482
    assert wire.tel().inbox == []


def test_LOP_01_a_loop_through_a_server_ends_soon(wire: Wire) -> None:
    """A server that returns every call unchanged, and a carrier that does so too."""
    def bounce(packet: Packet) -> None:
        if packet.is_response or packet.method != "INVITE" or packet.branch in seen:
            return
        seen.add(packet.branch)
        agent = wire.agent(*packet.address)
        back = looped(wire, packet, "sip:0155@127.0.0.1:5060")
        where = f"{packet.address[0]}:{packet.address[1]}"
        back.via = [f"SIP/2.0/UDP {where};branch=z9hG4bK-b{len(seen)}", *packet.lines("Via")]
        agent.send(back)

    seen: set[str] = set()
    wire.tel().handler = wire.sbc.handler = bounce
    wire.sbc.send(wire.request("INVITE"))
    wire.run(1)
    assert 1 <= len(seen) <= 6


def test_LOP_03_a_spiral_is_no_loop(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().clear()
    wire.sbc.send(looped(wire, leg, "sip:0166@127.0.0.1:5060"))
    second = wire.tel().got("INVITE")
    assert second.uri == "sip:0166@127.0.3.1:5060"
    wire.tel().reply(second, 180)
    assert [packet.status for packet in wire.sbc.responses() if packet.branch == "z9hG4bK-back"] == [180]
