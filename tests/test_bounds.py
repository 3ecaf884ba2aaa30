# SPDX-License-Identifier: Apache-2.0
"""Whatever a peer or a stranger can fill has a bound: it holds, is counted, is told, and ends (DESIGN rule 5)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from calls import Dialog, cancel, establish, failure_ack
from plain_sip import Packet, Request, response
from wire import SBC, Wire, entry, platform, server

from ubisip.platform import DestinationState

STRANGER = ("192.0.2.66", 5060)
DATAGRAM = 65_507
"""Octets: the most that UDP carries over IPv4."""


def limited(servers: int = 2, routing: dict[str, object] | None = None, **limits: object) -> Wire:
    """A gateway with small bounds."""
    return Wire(platform(servers=servers, **(routing or {})) + "\n" + entry("[limits]", limits))


def counter(wire: Wire, name: str) -> int:
    return int(wire.engine.statistics()["counters"][name])


def serves(wire: Wire) -> Dialog:
    """A call is carried as on the first day."""
    for agent in (wire.sbc, *wire.tels):
        agent.clear()
    return establish(wire)


def is_shed(packet: Packet) -> bool:
    """503, and when to come again."""
    return packet.status == 503 and packet.get("Retry-After").isdigit() and int(packet.get("Retry-After")) > 0


def fill(wire: Wire, counted: str, most: int = 200) -> list[Request]:
    """Place calls until a bound named *counted* refuses one; those that were carried."""
    carried = []
    for _ in range(most):
        invite = wire.request("INVITE")
        wire.sbc.send(invite)
        if counter(wire, counted):
            return carried
        carried.append(invite)
    raise AssertionError(f"{counted} never grew")


def ringing(wire: Wire, invite: Request) -> None:
    """The server of a call rings."""
    holder = wire.holder(call_id=invite.call_id)
    holder.reply(next(p for p in holder.requests("INVITE") if p.call_id == invite.call_id), 180)


# --- transactions

def test_a_full_table_refuses_new_calls_with_503_and_when_to_come_again() -> None:
    wire = limited(transactions=64)
    carried = fill(wire, "bound_transactions")
    assert 16 <= len(carried) <= 32
    assert is_shed(wire.sbc.responses()[-1])
    assert wire.transactions <= 64
    assert counter(wire, "bound_transactions") == 1


def test_a_full_table_makes_no_state_for_what_it_refuses() -> None:
    wire = limited(transactions=64)
    fill(wire, "bound_transactions")
    before = wire.transactions
    for _ in range(50):
        wire.sbc.send(wire.request("INVITE"))
    assert wire.transactions == before
    assert counter(wire, "bound_transactions") == 51


def test_a_full_table_carries_the_calls_it_has_to_their_end() -> None:
    wire = limited(transactions=64)
    call = establish(wire)
    wire.run(70)
    carried = fill(wire, "bound_transactions")
    ringing(wire, carried[0])
    assert wire.sbc.statuses()[-1] == 180
    wire.sbc.send(call.ack())
    assert call.callee.got("ACK")
    wire.sbc.clear()
    wire.sbc.send(call.by_caller("BYE"))
    call.callee.reply(call.callee.got("BYE"), 200)
    assert wire.sbc.final("BYE").status == 200


def test_a_full_table_still_cancels() -> None:
    wire = limited(transactions=64)
    carried = fill(wire, "bound_transactions")
    ringing(wire, carried[3])
    holder = wire.holder(call_id=carried[3].call_id)
    wire.sbc.send(cancel(carried[3]))
    assert holder.got("CANCEL").call_id == carried[3].call_id


def test_a_full_table_shed_no_emergency_call() -> None:
    wire = limited(transactions=64)
    fill(wire, "bound_transactions")
    invite = wire.request("INVITE", "sip:112@127.0.0.1:5060")
    wire.sbc.send(invite)
    assert wire.holder(call_id=invite.call_id)


def test_a_table_with_no_place_at_all_refuses_even_what_is_never_shed() -> None:
    wire = limited(transactions=16)
    for _ in range(20):
        wire.sbc.send(wire.request("INVITE", "sip:112@127.0.0.1:5060"))
    assert wire.transactions <= 16
    assert is_shed(wire.sbc.responses()[-1])
    wire.run(200)
    assert wire.transactions == 0


def test_a_table_that_was_full_is_as_good_as_new_afterwards() -> None:
    wire = limited(transactions=64)
    fill(wire, "bound_transactions")
    wire.run(100)
    assert wire.transactions == 0
    serves(wire)


def test_a_flood_of_cancels_leaves_room_for_calls_that_stand() -> None:
    wire = limited(transactions=64)
    call = establish(wire)
    wire.run(70)
    for _ in range(100):
        wire.sbc.send(cancel(wire.request("INVITE")))
    assert wire.transactions <= 64
    wire.sbc.send(call.by_caller("BYE"))
    assert call.callee.got("BYE")


# --- memory

def test_memory_ends_at_its_bound_with_503() -> None:
    wire = limited(memory=1)
    for _ in range(30):
        wire.sbc.send(wire.request("MESSAGE", body=b"x" * 60_000))
    assert wire.engine.statistics()["memory"] <= 1 << 20
    assert counter(wire, "bound_memory") >= 20
    assert is_shed(wire.sbc.responses()[-1])


def test_memory_that_was_all_taken_by_large_messages_serves_small_ones_afterwards() -> None:
    wire = limited(memory=1)
    for _ in range(30):
        wire.sbc.send(wire.request("MESSAGE", body=b"x" * 60_000))
    wire.run(80)
    assert wire.engine.statistics()["buffers"] == 0
    serves(wire)


@pytest.mark.parametrize("octets", [300, 900, 1900, 3900, 15_000])
def test_memory_that_was_taken_by_one_size_of_message_serves_calls_afterwards(octets: int) -> None:
    wire = limited(memory=1)
    for _ in range(3000):
        wire.sbc.send(wire.request("MESSAGE", body=b"x" * octets))
        if counter(wire, "bound_memory"):
            break
    assert counter(wire, "bound_memory")
    wire.run(80)
    assert wire.engine.statistics()["buffers"] == 0
    serves(wire)


# --- calls

def test_calls_beyond_those_that_are_counted_are_carried_and_the_bound_is_told() -> None:
    wire = limited(calls=3)
    calls = [establish(wire) for _ in range(5)]
    assert wire.engine.statistics()["calls"] == 3
    assert counter(wire, "bound_calls") == 2
    for call in calls:
        wire.sbc.clear()
        wire.sbc.send(call.by_caller("BYE"))
        call.callee.reply(call.callee.requests("BYE")[-1], 200)
        assert wire.sbc.final("BYE").status == 200
    assert wire.engine.statistics()["calls"] == 0


def test_calls_whose_bye_never_comes_are_forgotten() -> None:
    wire = limited(calls=3)
    for _ in range(3):
        establish(wire)
    wire.run(12 * 3600 + 1)
    for _ in range(1000):  # it is looked at a few places a second, when there is something to do
        wire.sbc.send(wire.request("OPTIONS", "sip:127.0.0.1:5060"))
        wire.engine.advance(wire.now)
        wire.run(1.1)
    assert wire.engine.statistics()["calls"] == 0


# --- what the control thread and the sockets take away

def test_events_that_nobody_takes_are_lost_and_counted_and_calls_go_on() -> None:
    wire = Wire(platform(servers=2), record=True)
    invite = bytes(wire.request("INVITE"))
    count = 0
    while not counter(wire, "events_lost"):
        count += 1
        assert count < 20_000
        data = invite.replace(b"call-1@", b"call-%dx@" % count).replace(b"z9hG4bK-1", b"z9hG4bK-%dx" % count)
        wire.engine.receive(data, SBC, 0, wire.now)
        wire.engine.outbox()
    establish(wire)
    assert len(wire.events()) <= 16_384
    before = counter(wire, "events_lost")
    establish(wire)
    assert wire.events("answered")
    assert counter(wire, "events_lost") == before


def test_questions_that_nobody_takes_are_bounded_in_octets() -> None:
    wire = Wire(platform(servers=2), hook=True)
    invite = bytes(wire.request("INVITE", body=b"x" * 60_000))
    for count in range(1300):
        data = invite.replace(b"call-1@", b"call-%dx@" % count).replace(b"z9hG4bK-1", b"z9hG4bK-%dx" % count)
        wire.engine.receive(data, SBC, 0, wire.now)
        wire.engine.outbox()
    assert counter(wire, "events_lost")
    assert sum(len(event.data) for event in wire.events()) <= 64 << 20


def drain(wire: Wire, seconds: float) -> None:
    """Let time pass for more transactions than one turn serves."""
    end = wire.now + seconds
    while wire.now < end:
        wire.now += 0.05
        for _ in range(100):
            wire.engine.advance(wire.now)
            if not wire.engine.outbox():
                break


def calls_at_once(wire: Wire, count: int) -> Iterator[bytes]:
    """INVITEs of as many calls."""
    invite = bytes(wire.request("INVITE"))
    for number in range(count):
        yield invite.replace(b"call-1@", b"call-%dx@" % number).replace(b"z9hG4bK-1", b"z9hG4bK-%dx" % number)


def in_use(wire: Wire) -> tuple[int, int, int]:
    statistics = wire.engine.statistics()
    return statistics["transactions"], statistics["buffers"], statistics["pending"]


def test_an_outbox_that_nobody_empties_is_bounded_counted_and_leaves_nothing_behind() -> None:
    wire = Wire(platform(servers=2))
    for data in calls_at_once(wire, 5000):
        wire.engine.receive(data, SBC, 0, wire.now)
    assert counter(wire, "outbox_overflow")
    assert len(wire.engine.outbox()) <= 4096
    drain(wire, 120)
    assert in_use(wire) == (0, 0, 0)
    serves(wire)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize("status", [180, 200, 302, 486, 503])
def test_a_response_that_finds_the_outbox_full_leaves_nothing_behind(method: str, status: int) -> None:
    wire = Wire()
    wire.sbc.send(wire.request(method))
    leg = wire.tel().got(method)
    options = bytes(wire.request("OPTIONS", "sip:127.0.0.1:5060"))
    while not counter(wire, "outbox_overflow"):
        wire.engine.receive(options, SBC, 0, wire.now)
    wire.engine.receive(response(leg, status), wire.tel().address, 0, wire.now)
    wire.engine.outbox()
    drain(wire, 300)
    assert in_use(wire) == (0, 0, 0)


def test_a_server_that_goes_down_under_thousands_of_calls_in_set_up_loses_none() -> None:
    wire = Wire(platform(servers=2, policy="round-robin"))
    for data in calls_at_once(wire, 9000):
        wire.engine.receive(data, SBC, 0, wire.now)
        wire.engine.outbox()
    wire.options = {"states": {"tel1": DestinationState(usable=False)}}
    wire.engine.swap(wire.snapshot(), wire.now)
    reached = set()
    for _ in range(200):
        wire.engine.advance(wire.now)
        reached |= {Packet(d.data).call_id for d in wire.engine.outbox() if d.address == ("127.0.3.2", 5060)}
        wire.now += 0.001
    assert counter(wire, "failovers") == 4500
    assert len(reached) >= 4500
    drain(wire, 120)
    assert in_use(wire) == (0, 0, 0)


# --- rates

def test_strangers_are_answered_up_to_a_rate_and_dropped_past_it() -> None:
    wire = limited(refusals=5)
    stranger = wire.agent(*STRANGER)
    for _ in range(20):
        stranger.send(wire.request("INVITE", source=STRANGER))
    assert stranger.statuses() == [403] * 5
    assert (counter(wire, "strangers_refused"), counter(wire, "strangers_dropped")) == (5, 15)
    wire.run(1.0)
    stranger.clear()
    for _ in range(20):
        stranger.send(wire.request("INVITE", source=STRANGER))
    assert stranger.statuses() == [403] * 5
    assert wire.transactions == 0


def test_strangers_use_up_nothing_that_peers_need() -> None:
    wire = limited(refusals=1, source_cps=2)
    for _ in range(50):
        wire.agent(*STRANGER).send(wire.request("INVITE", source=STRANGER))
    serves(wire)


def test_a_route_to_a_stranger_is_followed_up_to_a_rate() -> None:
    wire = limited(refusals=5)
    for _ in range(20):
        wire.sbc.send(wire.request("MESSAGE", headers=[("Route", "<sip:192.0.2.66;lr>")]))
    assert len(wire.agent(*STRANGER).requests("MESSAGE")) <= 5
    assert counter(wire, "shed_routes") >= 15


def test_a_source_above_its_rate_gets_503_and_the_others_do_not() -> None:
    text = platform(
        servers=1,
        carriers=[{"name": f"sbc-{n}", "centre": "montsouris", "site": "PA2", "uri": f"sip:127.0.0.{n}:5090",
                   "sources": [f"127.0.0.{n}:5090"]} for n in (1, 2)],
    )
    wire = Wire(text + "\n" + entry("[limits]", {"source_cps": 3}))
    other = wire.agent("127.0.0.2", 5090)
    for _ in range(10):
        wire.sbc.send(wire.request("INVITE"))
    assert len(wire.tel().requests("INVITE")) == 3
    assert wire.sbc.statuses().count(503) == 7
    assert all(is_shed(p) for p in wire.sbc.responses() if p.status == 503)
    assert counter(wire, "shed_source") == 7
    other.send(wire.request("INVITE", source=other.address))
    assert len(wire.tel().requests("INVITE")) == 4
    wire.run(0.4)
    wire.tel().clear()
    wire.sbc.send(wire.request("INVITE"))
    assert len(wire.tel().requests("INVITE")) == 1


def test_a_rate_of_a_source_holds_no_request_of_a_call_back() -> None:
    wire = limited(source_cps=1)
    call = establish(wire)
    for cseq in range(2, 12):
        wire.sbc.send(call.by_caller("INFO", cseq=cseq))
    assert len(call.callee.requests("INFO")) == 10


def test_a_server_at_its_most_calls_gets_no_more() -> None:
    wire = Wire(platform(servers=[server(0, max_calls=2)]))
    for _ in range(5):
        wire.sbc.send(wire.request("INVITE"))
    assert len(wire.tel().requests("INVITE")) == 2
    assert [is_shed(p) for p in wire.sbc.responses() if p.status >= 200] == [True] * 3
    assert counter(wire, "shed_capacity") == 3


# --- one message

def headers(count: int) -> list[tuple[str, str]]:
    return [(f"X-{number}", "y") for number in range(count)]


def test_a_message_of_a_thousand_headers_gets_a_clear_answer() -> None:
    wire = Wire()
    wire.sbc.send(wire.request("INVITE", headers=headers(1000)))
    assert wire.sbc.final().status == 513
    assert wire.tel().inbox == []
    assert counter(wire, "malformed_requests") == 1
    assert wire.transactions == 0


@pytest.mark.parametrize("count", [150, 190, 200, 230, 236, 240, 244, 248, 250, 256])
def test_as_many_headers_as_pass_can_be_acknowledged_and_cancelled(count: int) -> None:
    wire = Wire()
    invite = wire.request("INVITE", headers=headers(count))
    wire.sbc.send(invite)
    if not wire.tel().requests("INVITE"):
        assert wire.sbc.final().status == 513
        return
    wire.tel().reply(wire.tel().got("INVITE"), 180)
    wire.sbc.send(cancel(invite))
    wire.tel().reply(wire.tel().got("CANCEL"), 200)
    wire.tel().reply(wire.tel().got("INVITE"), 487)
    assert wire.tel().requests("ACK")
    wire.sbc.send(failure_ack(invite, wire.sbc.final()))
    wire.run(70)
    assert wire.transactions == 0


def test_a_via_stack_of_two_hundred_is_refused() -> None:
    wire = Wire()
    invite = wire.request("INVITE")
    invite.via = [*invite.via, *(f"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{number}" for number in range(200))]
    wire.sbc.send(invite)
    assert wire.sbc.final().status == 400
    assert "Via" in wire.sbc.final().reason
    assert wire.tel().inbox == []


def test_a_via_stack_as_deep_as_max_forwards_allows_passes() -> None:
    wire = Wire()
    invite = wire.request("INVITE")
    invite.via = [*invite.via, *(f"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{number}" for number in range(70))]
    wire.sbc.send(invite)
    assert len(wire.tel().got("INVITE").values("Via")) == 72


def test_a_hundred_routes_are_refused() -> None:
    wire = Wire()
    wire.sbc.send(wire.request("INVITE", headers=[("Route", ", ".join(["<sip:127.0.3.1;lr>"] * 100))]))
    assert wire.sbc.final().status == 400
    assert wire.tel().inbox == []


def test_more_changes_than_an_edit_list_holds_are_refused_and_counted() -> None:
    wire = Wire()
    routes = ", ".join(["<sip:127.0.0.1:5060;lr>"] + ["<sip:127.0.3.1;lr>"] * 40)
    wire.sbc.send(wire.request("INVITE", headers=[("Route", routes)]))
    assert wire.sbc.final().status >= 500
    assert wire.tel().inbox == []
    assert counter(wire, "bound_edits") == 1


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE", "BYE", "CANCEL", "ACK", "OPTIONS"])
def test_the_largest_datagram_of_every_method_is_answered_or_passed_whole(method: str) -> None:
    wire = Wire()
    request = wire.request(method, body=b"")
    request.body = b"x" * (DATAGRAM - len(bytes(request)) - len("65000"))
    assert DATAGRAM - 8 <= len(bytes(request)) <= DATAGRAM
    wire.sbc.send(request)
    assert all(len(packet.data) <= DATAGRAM for packet in wire.log)
    assert wire.log or method == "ACK"
    if wire.tel().requests(method) and method != "CANCEL":
        assert wire.tel().got(method).body == request.body
    serves(wire)


NASTY = {  # each some 64 KiB of one header field or of many
    "folds": b"X: a\r\n" + b" \r\n" * 21_000,
    "commas": b"X: " + b"," * 64_000 + b"\r\n",
    "routes": b"Route: " + b"<sip:a;lr>," * 5_800 + b"<sip:b;lr>\r\n",
    "quotes": b'Reply-To: "' + b'\\"' * 32_000 + b"\r\n",
    "colons": b"X" + b":" * 64_000 + b"\r\n",
    "lines": b"X:\r\n" * 16_000,
    "no colon": b"X\r\n" * 21_000,
    "blanks": b"X:" + b" " * 64_000 + b"\r\n",
    "tokens": b"Route: <sip:127.0.0.1:5060;lr;u=" + b"0" * 44 + b">\r\n" + b"Route: <sip:a>\r\n" * 3_900,
}


@pytest.mark.parametrize("shape", NASTY)
def test_sixty_four_kilobytes_of_anything_harm_nobody(shape: str) -> None:
    wire = Wire()
    data = bytes(wire.request("INVITE")).replace(b"\r\n\r\n", b"\r\n" + NASTY[shape] + b"\r\n", 1)
    assert 60_000 < len(data) <= DATAGRAM
    wire.sbc.send(data)
    wire.agent(*STRANGER).send(data)
    assert len(wire.agent(*STRANGER).inbox) <= 1
    wire.run(70)
    assert wire.sbc.inbox
    assert wire.transactions == 0
    serves(wire)
