# SPDX-License-Identifier: Apache-2.0
"""Any gateway can continue any call, seen from a server's outgoing call and from calls that failed over."""

from __future__ import annotations

import pytest
from calls import cancel, failure_ack, place
from plain_sip import Packet, Request
from wire import UserAgent, Wire, carrier, platform

CARRIERS = [carrier(f"sbc{n}", (f"127.0.1.{n}", 5090)) for n in (1, 2, 3)]


def outgoing() -> tuple[Wire, Request, UserAgent, Packet]:
    """A call from a server that rings at one of three SBCs; the gateway has just been restarted."""
    wire = Wire(platform(servers=2, carriers=CARRIERS))
    invite = wire.request("INVITE", source=wire.tel().address)
    wire.tel().send(invite)
    sbcs = [wire.agent(f"127.0.1.{n}", 5090) for n in (1, 2, 3)]
    (sbc,) = [agent for agent in sbcs if agent.requests("INVITE")]
    leg = sbc.got("INVITE")
    sbc.reply(leg, 180)
    wire.restart()
    wire.tel().clear()
    return wire, invite, sbc, leg


def test_an_outgoing_invite_again_goes_to_the_same_sbc() -> None:
    wire, invite, sbc, leg = outgoing()
    wire.tel().send(invite)
    assert [packet.data for packet in sbc.requests("INVITE")] == [leg.data, leg.data]


def test_the_sbcs_answer_reaches_the_server() -> None:
    wire, _, sbc, leg = outgoing()
    sbc.reply(leg, 183)
    sbc.reply(leg, 200)
    assert wire.tel().statuses() == [183, 200]


def test_the_servers_cancel_reaches_the_sbc() -> None:
    wire, invite, sbc, leg = outgoing()
    wire.tel().send(cancel(invite))
    assert wire.tel().statuses("CANCEL") == [200]
    assert sbc.got("CANCEL").via == leg.via
    sbc.reply(leg, 487)
    wire.run(0.1)
    wire.tel().send(failure_ack(invite, wire.tel().final()))
    assert {packet.branch for packet in sbc.requests("ACK")} == {leg.branch}


def test_a_failure_relayed_without_state_is_relayed_again_when_it_is_repeated() -> None:
    wire = Wire(platform(servers=3))
    _, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.restart()
    wire.sbc.clear()
    for _ in range(3):
        holder.reply(leg, 486)
    assert wire.sbc.statuses() == [486, 486, 486]


def test_a_retransmission_after_the_relayed_failure_gets_it_again() -> None:
    """The caller's gateway died after the 486 and before the ACK; the INVITE comes again."""
    wire = Wire(platform(servers=3))
    invite, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 486)
    wire.restart()
    wire.sbc.clear()
    wire.sbc.send(invite)
    assert holder.requests("INVITE")[-1].data == leg.data
    holder.reply(leg, 486)
    assert wire.sbc.final().status == 486


def failed_over() -> tuple[Wire, Request, UserAgent, Packet]:
    """A call whose first server refused and whose second rings; the gateway has just been restarted."""
    wire = Wire(platform(servers=2))
    for tel in wire.tels:
        tel.clear()
    invite = wire.request("INVITE")
    probe = Wire(platform(servers=2))
    probe.sbc.send(invite)
    dead = wire.agent(*probe.holder().address)
    wire.refused.add(dead.address)
    wire.sbc.send(invite)
    (alive,) = [tel for tel in wire.tels if tel is not dead]
    leg = alive.got("INVITE")
    alive.reply(leg, 180)
    wire.restart()
    wire.sbc.clear()
    return wire, invite, alive, leg


@pytest.mark.parametrize("status", [183, 200, 486])
def test_after_a_failover_the_second_servers_answer_is_relayed(status: int) -> None:
    wire, _, alive, leg = failed_over()
    alive.reply(leg, status)
    assert wire.sbc.statuses() == [status]


def test_after_a_failover_a_cancel_reaches_the_server_that_rings() -> None:
    """The first server still refuses: the search is the same, so its end is too."""
    wire, invite, alive, leg = failed_over()
    wire.sbc.send(cancel(invite))
    wire.run(0.1)
    assert [packet.via for packet in alive.requests("CANCEL")] == [leg.via]


def test_after_a_failover_the_ack_of_a_failure_reaches_the_server_that_failed() -> None:
    wire, invite, alive, leg = failed_over()
    alive.reply(leg, 486)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(0.1)
    assert {packet.branch for packet in alive.requests("ACK")} == {leg.branch}


def test_messages_that_cross_the_restart_make_no_second_call() -> None:
    """INVITE before, its retransmission after, answers to both: one call, one branch, one final response."""
    wire = Wire(platform(servers=6))
    invite, leg = place(wire)
    wire.restart()
    wire.sbc.send(invite)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.restart()
    holder.reply(leg, 200)
    wire.sbc.send(invite)
    holder.reply(leg, 200)
    assert {packet.data for packet in holder.requests("INVITE")} == {leg.data}
    assert {packet.tag("To") for packet in wire.sbc.responses() if packet.status == 200} == {"callee"}
