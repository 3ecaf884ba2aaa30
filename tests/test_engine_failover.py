# SPDX-License-Identifier: Apache-2.0
"""When the next destination is tried, and what becomes of the one before (DESIGN section 6); DNS-01, 05, 06."""

from __future__ import annotations

import pytest
from calls import cancel, establish, failure_ack, place
from plain_sip import Packet
from wire import UserAgent, Wire, carrier, on_time, platform, server, when


def others(wire: Wire, tel: UserAgent) -> list[UserAgent]:
    """The servers but *tel* that were reached."""
    return [other for other in wire.tels if other is not tel and other.requests("INVITE")]


def abandoned(servers: int = 2, **routing: object) -> tuple[Wire, UserAgent, Packet, UserAgent, Packet]:
    """A call whose first server is silent: that server and its INVITE, the next one and its INVITE."""
    wire = Wire(platform(servers=servers, **routing), record=True)
    _, first = place(wire)
    silent = wire.holder()
    wire.run(1.05)
    (follower,) = others(wire, silent)
    return wire, silent, first, follower, follower.requests("INVITE")[0]


def test_refused_is_tried_elsewhere_at_once() -> None:
    wire = Wire(platform(servers=6))
    wire.refused = {tel.address for tel in wire.tels[:5]}
    start = wire.now
    for _ in range(20):
        wire.sbc.send(wire.request("INVITE"))
    alive = wire.tel(5)
    assert set(when(alive.requests("INVITE"), start)) == {0.0}
    assert len(alive.requests("INVITE")) == 20
    alive.reply(alive.requests("INVITE")[0], 200)
    assert 200 in wire.sbc.statuses()


def test_refused_later_is_tried_elsewhere_at_once() -> None:
    """The error comes back for a retransmission."""
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    dead = wire.holder()
    wire.run(0.05)
    wire.engine.transport_error(leg.data, dead.address, wire.now)
    wire.settle()
    assert len(others(wire, dead)) == 1


def test_an_error_for_a_truncated_datagram_is_understood() -> None:
    """ICMP quotes the beginning only: often no more than the Via."""
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    dead = wire.holder()
    wire.engine.transport_error(leg.data[:400], dead.address, wire.now)
    wire.settle()
    assert len(others(wire, dead)) == 1


@pytest.mark.parametrize("data", [b"", b"INVITE", b"\0" * 600, b"SIP/2.0 200 OK\r\n", b"INVITE sip:x SIP/2.0\r\nVia: "])
def test_an_error_about_something_unknown_does_no_harm(data: bytes) -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    wire.engine.transport_error(data, holder.address, wire.now)
    wire.engine.transport_error(leg.data, ("127.0.99.99", 5060), wire.now)
    wire.settle()
    holder.reply(leg, 200)
    assert wire.sbc.statuses() == [200]


def test_after_a_provisional_an_icmp_error_ends_nothing() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.engine.transport_error(leg.data, holder.address, wire.now)
    wire.settle()
    holder.reply(leg, 200)
    assert wire.sbc.final().status == 200
    assert others(wire, holder) == []


def test_silence_is_tried_elsewhere_after_first_response_timeout() -> None:
    wire = Wire(platform(servers=3, first_response_timeout=1.0, t1=0.1))
    start = wire.now
    place(wire)
    silent = wire.holder()
    wire.run(0.99)
    assert on_time(when(silent.requests("INVITE"), start), [0, 0.1, 0.3, 0.7])  # four tries in the first second
    assert others(wire, silent) == []
    wire.run(0.05)
    (second,) = others(wire, silent)
    assert on_time(when(second.requests("INVITE"), start), [1.0])
    wire.run(1.0)
    (third,) = [tel for tel in others(wire, silent) if tel is not second]
    assert on_time(when(third.requests("INVITE")[:1], start), [2.0])


def test_with_no_other_server_the_attempt_goes_on_to_timer_b() -> None:
    wire = Wire(platform(t1=0.1))
    start = wire.now
    _, leg = place(wire)
    wire.run(6.0)
    wire.tel().reply(leg, 200)
    wire.run(0.1)
    assert wire.sbc.statuses() == [100, 200]
    assert on_time(when(wire.sbc.responses()[1:], start), [6.0])


@pytest.mark.parametrize("status", [100, 180, 183])
def test_never_after_a_provisional(status: int) -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    wire.run(0.5)
    holder.reply(leg, status)
    wire.run(60)
    assert others(wire, holder) == []
    holder.reply(leg, 200)
    assert wire.sbc.final().status == 200


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("before", [None, 100, 180])
def test_a_final_response_in_failover_on_is_tried_elsewhere(status: int, before: int | None) -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    if before:
        holder.reply(leg, before)
    holder.reply(leg, status)
    (other,) = others(wire, holder)
    assert len(holder.requests("ACK")) == 1
    other.reply(other.got("INVITE"), 200)
    assert wire.sbc.final().status == 200


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 480, 486, 487, 488, 501, 505, 600, 603])
def test_any_other_final_response_is_the_callers(status: int) -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, status)
    wire.run(2)
    assert wire.sbc.final().status == status
    assert others(wire, holder) == []


def test_failover_on_is_what_the_operator_says() -> None:
    wire = Wire(platform(servers=2, failover_on=[404]))
    _, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 404)
    (other,) = others(wire, holder)
    other.reply(other.got("INVITE"), 500)
    wire.run(0.1)
    assert wire.sbc.final().status == 404  # the lowest class of both


def test_a_late_180_of_an_abandoned_attempt_is_cancelled() -> None:
    wire, silent, first, follower, second = abandoned()
    silent.reply(first, 180)
    seen = silent.got("CANCEL")
    assert seen.branch == first.branch
    silent.reply(seen, 200)
    silent.reply(first, 487)
    assert len(silent.requests("ACK")) == 1
    follower.reply(second, 180)
    follower.reply(second, 200)
    wire.run(1)
    assert wire.sbc.final().status == 200
    assert follower.requests("CANCEL") == []


def test_a_late_200_of_an_abandoned_attempt_is_forwarded_and_the_other_cancelled() -> None:
    wire, silent, first, follower, second = abandoned()
    follower.reply(second, 180)
    silent.reply(first, 200, to_tag="late")
    assert wire.sbc.final().tag("To") == "late"
    assert len(follower.requests("CANCEL")) == 1


def test_the_later_attempt_that_has_not_answered_yet_is_cancelled_when_it_does() -> None:
    wire, silent, first, follower, second = abandoned()
    silent.reply(first, 200)
    assert follower.requests("CANCEL") == []
    follower.reply(second, 180)
    assert len(follower.requests("CANCEL")) == 1
    assert wire.sbc.final().status == 200


def test_after_a_late_200_nobody_else_is_tried() -> None:
    wire, silent, first, follower, _ = abandoned(servers=4)
    silent.reply(first, 200)
    wire.run(40)
    assert others(wire, silent) == [follower]
    assert wire.sbc.final().status == 200


def test_a_late_503_of_an_abandoned_attempt_does_not_end_the_call() -> None:
    wire, silent, first, follower, second = abandoned()
    silent.reply(first, 503)
    assert wire.sbc.statuses() == [100]
    follower.reply(second, 200)
    assert wire.sbc.final().status == 200


def test_the_caller_hears_the_best_when_all_fail() -> None:
    wire = Wire(platform(servers=3))
    place(wire)
    tried: list[UserAgent] = []
    for status in (503, 500, 504):
        (holder,) = [tel for tel in wire.tels if tel.requests("INVITE") and tel not in tried]
        holder.reply(holder.got("INVITE"), status)
        tried.append(holder)
    wire.run(0.1)
    assert wire.sbc.final().status in (500, 504)


def test_all_refused_is_500() -> None:
    wire = Wire(platform(servers=3))
    wire.refused = {tel.address for tel in wire.tels}
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.1)
    assert wire.sbc.final().status == 500


def test_all_silent_is_408() -> None:
    wire = Wire(platform(servers=2, t1=0.1))
    wire.sbc.send(wire.request("INVITE"))
    wire.run(30)
    assert wire.sbc.final().status == 408


def test_a_cancel_stops_the_search() -> None:
    wire = Wire(platform(servers=3))
    invite, _ = place(wire)
    silent = wire.holder()
    wire.run(0.5)
    wire.sbc.send(cancel(invite))
    wire.run(30)
    assert others(wire, silent) == []
    assert wire.sbc.statuses("CANCEL") == [200]
    assert wire.sbc.final().status in (487, 408)


def test_a_non_invite_is_tried_elsewhere_too() -> None:
    wire = Wire(platform(servers=2))
    wire.sbc.send(wire.request("MESSAGE"))
    dead = wire.holder("MESSAGE")
    wire.engine.transport_error(dead.got("MESSAGE").data, dead.address, wire.now)
    wire.settle()
    (other,) = [tel for tel in wire.tels if tel is not dead]
    other.reply(other.got("MESSAGE"), 200)
    assert wire.sbc.statuses() == [200]


def test_an_in_dialog_request_is_never_tried_at_another_server() -> None:
    wire = Wire(platform(servers=6))
    call = establish(wire)
    wire.sbc.send(call.by_caller("INVITE"))
    call.callee.reply(call.callee.got("INVITE"), 503)
    wire.run(5)
    assert [bool(tel.inbox) for tel in wire.tels] == [tel is call.callee for tel in wire.tels]
    assert wire.sbc.final().status in (500, 503)


def test_retransmissions_cancel_and_ack_stay_with_their_server() -> None:
    """RFC 3263 section 4: all of a transaction goes to one place."""
    wire = Wire(platform(servers=6))
    for _ in range(6):
        invite, leg = place(wire)
        holder = wire.holder(call_id=invite.call_id)
        wire.run(0.35)
        holder.reply(leg, 180)
        wire.sbc.send(cancel(invite))
        holder.reply(leg, 487)
        reached = [tel for tel in wire.tels if any(packet.call_id == invite.call_id for packet in tel.inbox)]
        assert reached == [holder]
        assert {packet.method for packet in holder.inbox if packet.call_id == invite.call_id} == {
            "INVITE", "CANCEL", "ACK",
        }


def test_outgoing_calls_fail_over_between_carriers() -> None:
    carriers = [carrier("one", ("127.0.1.1", 5090)), carrier("two", ("127.0.1.2", 5090), "PA5")]
    wire = Wire(platform(carriers=carriers))
    one, two = wire.agent("127.0.1.1", 5090), wire.agent("127.0.1.2", 5090)
    invite = wire.request("INVITE", source=wire.tel().address)
    wire.tel().send(invite)
    one.reply(one.got("INVITE"), 503)
    two.reply(two.got("INVITE"), 486)
    assert wire.tel().final().status == 486
    wire.tel().send(failure_ack(invite, wire.tel().final()))


def test_retry_after_rests_a_server_exactly_that_long() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    resting = wire.holder()
    resting.reply(leg, 503, headers=[("Retry-After", "5")])
    (other,) = others(wire, resting)

    def reached(calls: int = 30) -> int:
        """How many of some new calls reach the server that rests."""
        resting.clear()
        for _ in range(calls):
            _, new = place(wire)
            holder = resting if resting.requests("INVITE") and resting.inbox[-1].call_id == new.call_id else other
            holder.reply(new, 486)
        return len({packet.call_id for packet in resting.requests("INVITE")})

    assert reached() == 0
    wire.run(4.9)
    assert reached() == 0
    wire.run(0.2)
    assert reached() > 0


@pytest.mark.parametrize("value", ["0", "-1", "99999999999999999999", "x", "5 (I am tired);duration=3600", ""])
def test_an_odd_retry_after_does_no_harm(value: str) -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    tired = wire.holder()
    tired.reply(leg, 503, headers=[("Retry-After", value)])
    (other,) = others(wire, tired)
    other.reply(other.got("INVITE"), 200)
    assert wire.sbc.final().status == 200


def test_every_server_resting_is_no_reason_to_lose_calls() -> None:
    """Down or resting everywhere: suspect ourselves, try all; the caller hears 500 or 503, never silence."""
    wire = Wire(platform(servers=2))
    for _ in range(2):
        invite = wire.request("INVITE")
        wire.sbc.send(invite)
        for tel in wire.tels:
            for leg in tel.requests("INVITE"):
                if leg.call_id == invite.call_id:
                    tel.reply(leg, 503, headers=[("Retry-After", "30")])
        for tel in wire.tels:
            for leg in tel.requests("INVITE"):
                if leg.call_id == invite.call_id and not tel.requests("ACK"):
                    tel.reply(leg, 503, headers=[("Retry-After", "30")])
    wire.run(0.1)
    assert {packet.status for packet in wire.sbc.responses() if packet.status >= 200} <= {500, 503}
    assert len({packet.call_id for packet in wire.sbc.responses() if packet.status >= 200}) == 2


def test_events_tell_what_happened() -> None:
    wire, silent, _, follower, second = abandoned()
    follower.reply(second, 503, headers=[("Retry-After", "7")])
    wire.run(0.1)
    events = {event.kind: event for event in wire.events()}
    assert events["silent"].destination == wire.slots.slot(f"tel{wire.tels.index(silent) + 1}")
    assert events["busy"].destination == wire.slots.slot(f"tel{wire.tels.index(follower) + 1}")
    assert events["busy"].value == 7.0
    assert "failover" in events


def test_the_event_of_a_refusal_names_the_server() -> None:
    wire = Wire(platform([server(0)]))
    wire.tel()
    wire.refused.add(wire.tel().address)
    wire.sbc.send(wire.request("INVITE"))
    (event,) = wire.events("refused")
    assert wire.slots.name(event.destination) == "tel1"


def test_the_events_of_a_call() -> None:
    wire = Wire(record=True)
    call = establish(wire)
    wire.sbc.send(call.by_caller("BYE"))
    wire.tel().reply(wire.tel().got("BYE"), 200)
    kinds = [event.kind for event in wire.events() if event.data == call.invite.call_id.encode()]
    assert [kind for kind in kinds if kind != "ringing"] == ["setup", "answered", "ended"]


def test_without_record_no_call_events_are_made() -> None:
    wire = Wire()
    establish(wire)
    assert wire.events() == []


def test_statistics_count_calls_and_attempts() -> None:
    wire = Wire(platform(servers=2))
    call = establish(wire)
    totals = wire.engine.statistics()
    assert totals["calls"] == 1
    assert totals["pending"] == 0
    slot = wire.slots.slot(f"tel{wire.tels.index(call.callee) + 1}")
    assert totals["destinations"][slot]["answered"] == 1
    assert totals["destinations"][slot]["calls"] == 1
    wire.sbc.send(call.by_caller("BYE"))
    call.callee.reply(call.callee.got("BYE"), 200)
    assert wire.engine.statistics()["calls"] == 0
