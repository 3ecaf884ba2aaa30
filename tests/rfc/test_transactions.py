# SPDX-License-Identifier: Apache-2.0
"""Transactions as a proxy shows them (RFC 3261 section 17, RFC 6026, RFC 4320): rows TXN of the checklist."""

from __future__ import annotations

import pytest
from calls import cancel, establish, failure_ack, place
from plain_sip import Request
from wire import SBC, SERIAL, TICK, Wire, on_time, platform, when


@pytest.fixture
def wire() -> Wire:
    """T1 as in the RFC; no failover on silence."""
    return Wire(platform(**SERIAL))


TRYING = 0.15
"""Seconds that the 100 waits for something better; RFC 3261 section 17.2.1 allows 200 ms."""


def test_TXN_01_a_100_when_nothing_else_comes_within_150_ms(wire: Wire) -> None:
    start = wire.now
    wire.sbc.send(wire.request("INVITE"))
    wire.run(TRYING - TICK)
    assert wire.sbc.inbox == []
    wire.run(31)
    assert wire.sbc.statuses() == [100]
    assert on_time(when(wire.sbc.inbox, start), [TRYING])


@pytest.mark.parametrize("status", [101, 180, 183, 200, 302, 404, 486, 503, 603])
def test_TXN_01_no_100_when_something_else_came_first(wire: Wire, status: int) -> None:
    _, leg = place(wire)
    wire.run(TRYING - TICK)
    wire.tel().reply(leg, status)
    wire.run(0.4)
    assert wire.sbc.statuses() == [500 if status == 503 else status]


@pytest.mark.parametrize("status", [180, 200, 486])
def test_TXN_01_no_second_100_after_anything_else(wire: Wire, status: int) -> None:
    _, leg = place(wire)
    wire.run(TRYING + TICK)
    wire.tel().reply(leg, status)
    wire.run(0.4)
    assert wire.sbc.statuses() == [100, status]


def test_TXN_01_a_failover_does_not_put_the_100_off() -> None:
    """The 150 ms count from the INVITE, whatever becomes of the attempts."""
    wire = Wire(platform(servers=2))
    start = wire.now
    _, leg = place(wire)
    wire.run(0.1)
    wire.holder().reply(leg, 503)
    wire.run(0.5)
    assert on_time(when(wire.sbc.inbox, start), [TRYING])
    assert wire.sbc.statuses() == [100]


def test_TXN_01_no_100_to_a_call_that_is_refused_at_once() -> None:
    wire = Wire(platform(servers=2))
    wire.refused = {tel.address for tel in (wire.tel(0), wire.tel(1))}
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.4)
    assert wire.sbc.statuses() == [500]


def test_TXN_01_a_reinvite_gets_its_100_in_time_too(wire: Wire) -> None:
    call = establish(wire)
    for caller, request in ((wire.sbc, call.by_caller("INVITE")), (wire.tel(), call.by_callee("INVITE"))):
        start = wire.now
        caller.clear()
        caller.send(request)
        wire.run(0.3)
        assert caller.statuses() == [100]
        assert on_time(when(caller.responses(), start), [TRYING])


def test_TXN_01_the_100_to_a_cancelled_call_does_no_harm(wire: Wire) -> None:
    """Cancelled before the server said anything: the 100 may come, the 487 must."""
    invite, leg = place(wire)
    wire.sbc.send(cancel(invite))
    wire.run(0.3)
    assert wire.sbc.statuses("INVITE") == [100]
    wire.tel().reply(leg, 100)
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.tel().reply(leg, 487)
    assert wire.sbc.statuses("INVITE") == [100, 487]


def test_TXN_02_a_retransmitted_invite_gets_the_last_provisional_again(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 180)
    wire.sbc.clear()
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [180]
    wire.tel().reply(leg, 183)
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [180, 183, 183]
    assert len(wire.tel().requests("INVITE")) == 1


def test_TXN_02_before_any_other_provisional_it_gets_the_100(wire: Wire) -> None:
    invite, _ = place(wire)
    wire.run(0.1)
    start = wire.now
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [100]
    wire.sbc.send(invite)
    wire.run(0.4)
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [100, 100, 100]  # one for each, and none at 150 ms
    assert on_time(when(wire.sbc.inbox, start), [0, 0, 0.4])
    assert len(wire.tel().requests("INVITE")) == 1


def test_TXN_02_after_the_100_it_gets_the_100_again(wire: Wire) -> None:
    invite, _ = place(wire)
    wire.run(0.4)
    wire.sbc.send(invite)
    assert wire.sbc.statuses() == [100, 100]
    assert len({packet.data for packet in wire.sbc.inbox}) == 1


@pytest.mark.parametrize("status", [200, 404, 503])
def test_TXN_03_a_retransmitted_non_invite_gets_the_final_response_again(wire: Wire, status: int) -> None:
    message = wire.request("MESSAGE")
    wire.sbc.send(message)
    wire.tel().reply(wire.tel().got("MESSAGE"), status)
    first = wire.sbc.responses()[-1].data
    wire.run(31)
    wire.sbc.send(message)
    assert [packet.data for packet in wire.sbc.responses()] == [first, first]
    assert len(wire.tel().requests("MESSAGE")) == 1


def test_TXN_03_before_a_final_response_a_retransmission_is_absorbed(wire: Wire) -> None:
    message = wire.request("MESSAGE")
    wire.sbc.send(message)
    wire.sbc.send(message)
    assert wire.sbc.inbox == []
    assert len(wire.tel().requests("MESSAGE")) == 1


def test_TXN_04_invite_is_retransmitted_at_T1_doubling(wire: Wire) -> None:
    start = wire.now
    _, leg = place(wire)
    wire.run(60)
    arrivals = wire.tel().requests("INVITE")
    assert on_time(when(arrivals, start), [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
    assert {packet.data for packet in arrivals} == {leg.data}


def test_TXN_04_towards_servers_it_starts_at_the_configured_t1() -> None:
    wire = Wire(platform(t1=0.1))
    start = wire.now
    place(wire)
    wire.run(60)
    assert on_time(when(wire.tel().requests("INVITE"), start), [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3])
    assert wire.sbc.final().status == 408
    assert on_time(when(wire.sbc.responses()[1:2], start), [6.4])


def test_TXN_04_towards_carriers_T1_is_half_a_second() -> None:
    wire = Wire(platform(t1=0.1))
    start = wire.now
    wire.sbc.inbox.clear()
    wire.tel().send(wire.request("INVITE", source=wire.tel().address))
    wire.run(60)
    times = when(wire.sbc.requests("INVITE"), start)
    assert on_time(times[:4], [0, 0.5, 1.5, 3.5])


def test_TXN_05_no_retransmission_after_a_provisional(wire: Wire) -> None:
    _, leg = place(wire)
    wire.run(0.3)
    wire.tel().reply(leg, 100)
    wire.run(60)
    assert len(wire.tel().requests("INVITE")) == 1


def test_TXN_05_a_provisional_stops_Timer_B(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 100)
    wire.run(170)
    assert wire.sbc.statuses() == [100]
    wire.tel().reply(leg, 200)
    assert wire.sbc.statuses() == [100, 200]


@pytest.mark.parametrize("status", [300, 404, 486, 500, 600])
def test_TXN_06_a_failure_is_acknowledged_by_the_proxy(wire: Wire, status: int) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, status)
    assert len(wire.tel().requests("ACK")) == 1


def test_TXN_06_a_repeated_failure_is_acknowledged_again_and_not_forwarded_again(wire: Wire) -> None:
    """Completed state: Timer D is at least 32 s."""
    invite, leg = place(wire)
    wire.tel().reply(leg, 486)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(31)
    wire.tel().reply(leg, 486)
    assert len(wire.tel().requests("ACK")) == 2
    assert wire.sbc.statuses() == [486]


def test_TXN_07_the_fields_of_that_ack(wire: Wire) -> None:
    _, leg = place(wire, to='"B" <sip:b@far.example>')
    wire.tel().reply(leg, 486, to_tag="x")
    ack = wire.tel().got("ACK")
    assert ack.uri == leg.uri
    assert ack.lines("Via") == leg.lines("Via")[:1]
    assert ack.get("From") == leg.get("From")
    assert ack.call_id == leg.call_id
    assert ack.get("CSeq") == "1 ACK"
    assert ack.get("To") == '"B" <sip:b@far.example>;tag=x'
    assert ack.values("Route") == leg.values("Route")
    assert ack.get("Max-Forwards")
    assert ack.body == b""


def test_TXN_08_the_callers_ack_of_a_failure_is_absorbed(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 486)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(40)
    assert len(wire.tel().requests("ACK")) == 1
    assert wire.sbc.statuses() == [486]


def test_TXN_08_a_failure_is_repeated_until_it_is_acknowledged(wire: Wire) -> None:
    """Timers G and H: T1 doubling up to T2, for 64*T1."""
    _, leg = place(wire)
    start = wire.now
    wire.tel().reply(leg, 486)
    wire.run(60)
    times = when([packet for packet in wire.sbc.responses() if packet.status == 486], start)
    assert on_time(times, [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])


def test_TXN_08_an_ack_that_is_late_stops_it(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 486)
    wire.run(2)
    count = len(wire.sbc.inbox)
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(60)
    assert len(wire.sbc.inbox) == count


def test_TXN_09_the_same_branch_of_two_senders_makes_two_transactions() -> None:
    wire = Wire(platform(**SERIAL))
    one = wire.request("INVITE", via=["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-same"])
    two = wire.request("INVITE", via=["SIP/2.0/UDP other.invalid:5090;branch=z9hG4bK-same"])
    wire.sbc.send(one)
    wire.sbc.send(two)
    legs = wire.tel().requests("INVITE")
    assert [leg.call_id for leg in legs] == [one.call_id, two.call_id]
    assert legs[0].branch != legs[1].branch


def test_TXN_09_even_when_all_else_is_equal(wire: Wire) -> None:
    """The sent-by is part of the match, so what we send must not be taken for a retransmission either."""
    one = wire.request("INVITE", via=["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-same"])
    two = wire.request(
        "INVITE", via=["SIP/2.0/UDP other.invalid:5090;branch=z9hG4bK-same"], from_=one.from_, call_id=one.call_id
    )
    wire.sbc.send(one)
    wire.sbc.send(two)
    legs = wire.tel().requests("INVITE")
    assert len({leg.branch for leg in legs}) == 2


def test_TXN_09_the_method_is_part_of_the_match(wire: Wire) -> None:
    via = ["SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK-same"]
    wire.sbc.send(wire.request("MESSAGE", via=via))
    wire.sbc.send(wire.request("INFO", via=via))
    assert [packet.method for packet in wire.tel().requests()] == ["MESSAGE", "INFO"]


def test_TXN_10_a_stray_response_is_discarded(wire: Wire) -> None:
    _, leg = place(wire)
    forged = [f"SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKforged{leg.branch[13:]}", *leg.lines("Via")[1:]]
    wire.tel().reply(leg, 200, via=forged)
    assert wire.sbc.inbox == []
    wire.run(0.2)
    assert wire.sbc.statuses() == [100]  # the call is still on its way


def test_TXN_11_after_a_2xx_invite_retransmissions_are_absorbed(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.tel().reply(leg, 200)
    for _ in range(3):
        wire.run(10)
        wire.sbc.send(invite)
    assert len(wire.tel().requests("INVITE")) == 1


def test_TXN_12_repeated_2xx_are_all_passed_on(wire: Wire) -> None:
    _, leg = place(wire)
    for _ in range(4):
        wire.tel().reply(leg, 200)
        wire.run(7)
    assert wire.sbc.statuses() == [200, 200, 200, 200]
    assert wire.tel().requests("ACK") == []


def test_TXN_13_the_proxy_does_not_repeat_a_2xx(wire: Wire) -> None:
    _, leg = place(wire)
    wire.tel().reply(leg, 200)
    wire.run(60)
    assert wire.sbc.statuses() == [200]


def test_TXN_14_a_send_error_on_a_response_keeps_the_transaction(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.refused.add(SBC)
    wire.tel().reply(leg, 180)
    wire.tel().reply(leg, 486)
    wire.refused.clear()
    wire.sbc.clear()
    wire.sbc.send(invite)
    assert wire.sbc.final().status == 486
    assert len(wire.tel().requests("INVITE")) == 1


@pytest.mark.parametrize("status", [180, 183, 100, 199])
def test_TXN_15_no_provisional_to_a_non_invite(wire: Wire, status: int) -> None:
    wire.sbc.send(wire.request("OPTIONS"))
    wire.tel().reply(wire.tel().got("OPTIONS"), status)
    wire.run(3)
    assert wire.sbc.inbox == []


def test_TXN_16_100_to_a_non_invite_when_Timer_E_reaches_T2(wire: Wire) -> None:
    start = wire.now
    wire.sbc.send(wire.request("MESSAGE"))
    wire.run(6)
    assert wire.sbc.statuses() == [100]
    assert on_time(when(wire.sbc.inbox, start), [3.5])
    wire.tel().reply(wire.tel().requests("MESSAGE")[0], 200)
    assert wire.sbc.statuses() == [100, 200]


@pytest.mark.parametrize("method", ["OPTIONS", "MESSAGE", "BYE", "FOOBAR"])
def test_TXN_17_no_408_to_a_non_invite(wire: Wire, method: str) -> None:
    wire.sbc.send(wire.request(method))
    wire.run(120)
    assert set(wire.sbc.statuses()) <= {100}


def test_TXN_17_a_408_of_the_server_to_a_non_invite_is_not_passed_on(wire: Wire) -> None:
    """RFC 4320 section 4.2: a proxy must not forward a 408 to a non-INVITE either."""
    wire.sbc.send(wire.request("OPTIONS"))
    wire.tel().reply(wire.tel().got("OPTIONS"), 408)
    wire.run(40)
    assert set(wire.sbc.statuses()) <= {100}


def test_TXN_18_a_late_response_to_a_non_invite_is_dropped(wire: Wire) -> None:
    wire.sbc.send(wire.request("OPTIONS"))
    wire.run(40)
    before = len(wire.sbc.inbox)
    wire.tel().reply(wire.tel().requests("OPTIONS")[0], 200)
    wire.run(1)
    assert len(wire.sbc.inbox) == before


def test_TXN_19_non_invites_are_retransmitted_with_T2_as_the_cap(wire: Wire) -> None:
    """Timers E and F."""
    start = wire.now
    wire.sbc.send(wire.request("MESSAGE"))
    wire.run(60)
    expected = [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert on_time(when(wire.tel().requests("MESSAGE"), start), expected)


def test_TXN_19_after_a_provisional_a_non_invite_is_retransmitted_every_T2(wire: Wire) -> None:
    start = wire.now
    wire.sbc.send(wire.request("MESSAGE"))
    wire.run(0.2)
    wire.tel().reply(wire.tel().got("MESSAGE"), 100)
    wire.run(14)
    assert on_time(when(wire.tel().requests("MESSAGE"), start), [0, 0.5, 4.5, 8.5, 12.5])


def test_TXN_19_a_provisional_does_not_stop_timer_F(wire: Wire) -> None:
    wire.sbc.send(wire.request("MESSAGE"))
    wire.tel().reply(wire.tel().got("MESSAGE"), 100)
    wire.run(31.9)
    count = len(wire.tel().requests("MESSAGE"))
    wire.run(40)
    assert len(wire.tel().requests("MESSAGE")) == count
    assert wire.transactions == 0
    assert set(wire.sbc.statuses()) <= {100}


def test_TXN_20_an_ack_of_a_2xx_passes_end_to_end(wire: Wire) -> None:
    """It is a transaction of its own, with its own branch, and is never answered."""
    call = establish(wire)
    ack: Request = call.ack()
    wire.sbc.send(ack)
    seen = wire.tel().got("ACK")
    assert seen.uri == ack.uri
    assert seen.values("Route") == []
    assert seen.branch != call.leg.branch
    assert len(seen.values("Via")) == 2
    wire.run(40)
    assert wire.sbc.inbox == []


def test_TXN_20_each_ack_passes(wire: Wire) -> None:
    """The callee repeats its 200 until an ACK arrives; the same ACK may have to pass again."""
    call = establish(wire)
    ack = call.ack()
    wire.sbc.send(ack)
    wire.sbc.send(ack)
    assert len(wire.tel().requests("ACK")) == 2


def test_TXN_21_no_transaction_is_left_after_its_time(wire: Wire) -> None:
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE"))
    wire.tel().reply(wire.tel().got("BYE"), 200)
    _, leg = place(wire)
    wire.tel().reply(leg, 486)
    wire.sbc.send(wire.request("MESSAGE"))
    wire.run(70)
    assert wire.transactions == 0
    assert wire.engine.next_timer() is None or wire.engine.next_timer() > wire.now


def test_TXN_22_timers_are_exact_when_advance_is_called_often(wire: Wire) -> None:
    """A worker turns many times between two timers; nothing may fire twice or drift."""
    start = wire.now
    wire.sbc.send(wire.request("INVITE"))
    for _ in range(400):
        wire.engine.advance(wire.now)
        wire.run(0.01)
    assert on_time(when(wire.tel().requests("INVITE"), start), [0, 0.5, 1.5, 3.5], late=TICK)
