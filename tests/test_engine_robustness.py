# SPDX-License-Identifier: Apache-2.0
"""The engine over long times and many calls: clocks that jump, memory that comes back, tables that stay bounded."""

from __future__ import annotations

import random

import pytest
from calls import cancel, establish, failure_ack, place
from plain_sip import Request
from wire import Wire, platform


def test_an_engine_without_work_needs_no_timer() -> None:
    wire = Wire()
    assert wire.engine.next_timer() is None
    assert wire.engine.outbox() == []
    assert wire.engine.events() == []


def test_a_clock_that_stood_still_for_days() -> None:
    """A virtual machine that was asleep: everything is over at once, and new calls pass."""
    wire = Wire(platform(servers=2))
    for _ in range(20):
        place(wire)
    wire.now += 10 * 86_400
    wire.run(100)
    assert wire.transactions == 0
    for agent in (wire.sbc, *wire.tels):
        agent.clear()
    assert establish(wire)


def test_a_clock_that_steps_back_a_little() -> None:
    wire = Wire()
    invite, leg = place(wire)
    wire.run(0.3)
    wire.now -= 0.1
    wire.tel().reply(leg, 180)
    wire.sbc.send(invite)
    wire.tel().reply(leg, 200)
    assert wire.sbc.statuses() == [100, 180, 180, 200]


def test_advance_at_any_time_is_harmless() -> None:
    wire = Wire()
    place(wire)
    for now in (wire.now - 1000, 0.0, wire.now, wire.now):
        wire.engine.advance(now)
    wire.run(100)
    assert wire.transactions == 0


@pytest.mark.parametrize("start", [0.0, 1e-9, 1e6, 4_294_967.2, 1e9])
def test_any_origin_of_the_clock_will_do(start: float) -> None:
    """Monotonic clocks start anywhere; no 32-bit count of milliseconds may wrap."""
    wire = Wire(platform(t1=0.5, first_response_timeout=32))
    wire.now = start
    _, leg = place(wire)
    wire.run(10)
    assert len(wire.tel().requests("INVITE")) == 5
    wire.tel().reply(leg, 486)
    wire.run(70)
    assert wire.transactions == 0


def one_call(wire: Wire, end: str) -> None:
    """A whole call of some kind."""
    invite, leg = place(wire)
    holder = wire.holder(call_id=invite.call_id)
    holder.reply(leg, 180)
    if end == "cancelled":
        wire.sbc.send(cancel(invite))
        holder.reply(holder.requests("CANCEL")[-1], 200)
        holder.reply(leg, 487)
    elif end == "busy":
        holder.reply(leg, 486)
    else:
        holder.reply(leg, 200, headers=[("Contact", f"<sip:ua@{holder.address[0]}:5060>")])
    final = wire.sbc.responses("INVITE")[-1]
    if final.status >= 300:
        wire.sbc.send(failure_ack(invite, final))
    else:
        routes = [("Route", value) for value in reversed(final.values("Record-Route"))]
        for method, cseq in (("ACK", 1), ("BYE", 2)):
            via = [f"SIP/2.0/UDP 127.0.0.1:5090;branch=z9hG4bK{method}{final.call_id}"]
            ends = (final.get("From"), final.get("To"), final.call_id, cseq)
            wire.sbc.send(Request(method, f"sip:ua@{holder.address[0]}:5060", via, *ends, headers=routes))
        holder.reply(holder.requests("BYE")[-1], 200)
    for agent in (wire.sbc, *wire.tels):
        agent.clear()


def test_everything_comes_back_after_many_calls() -> None:
    """Memory, transactions, calls and calls in set-up: no leak, whatever the end of a call."""
    wire = Wire(platform(servers=6), record=True)
    dice = random.Random(1)
    memory = []
    ends = []
    for _ in range(3):
        for _ in range(300):
            ends.append(dice.choice(["busy", "cancelled", "answered"]))
            one_call(wire, ends[-1])
            wire.run(0.01)
            wire.log.clear()
            wire.events()
        wire.run(70)
        memory.append(wire.engine.statistics()["memory"])
    totals = wire.engine.statistics()
    assert totals["transactions"] == totals["pending"] == totals["calls"] == 0
    assert memory[2] <= memory[0]
    assert all(row["calls"] == row["setup"] == 0 for row in totals["destinations"].values())
    assert sum(row["answered"] for row in totals["destinations"].values()) == ends.count("answered")


def test_retransmissions_of_everything_change_no_count() -> None:
    wire = Wire()
    invite, leg = place(wire)
    for _ in range(3):
        wire.sbc.send(invite)
        wire.tel().reply(leg, 180)
    for _ in range(3):
        wire.tel().reply(leg, 200)
    totals = wire.engine.statistics()
    assert (totals["calls"], totals["pending"]) == (1, 0)
    routes = [("Route", value) for value in reversed(wire.sbc.responses()[-1].values("Record-Route"))]
    bye = wire.request("BYE", "sip:ua@127.0.3.1:5060", from_=leg.get("From"), to=leg.get("To") + ";tag=callee",
                       call_id=leg.call_id, cseq=2, headers=routes)
    for _ in range(3):
        wire.sbc.send(bye)
        wire.tel().reply(wire.tel().requests("BYE")[0], 200)
    totals = wire.engine.statistics()
    assert (totals["calls"], totals["pending"]) == (0, 0)


def test_the_table_of_calls_is_bounded_and_no_call_is_refused_for_it() -> None:
    """Tracking is a convenience: a call beyond the bound is carried all the same."""
    text = platform() + "\n[limits]\ncalls = 5\n"
    wire = Wire(text)
    dialogs = [establish(wire) for _ in range(12)]
    assert wire.engine.statistics()["calls"] <= 5
    for dialog in dialogs:
        wire.sbc.send(dialog.by_caller("BYE"))
        wire.tel().reply(wire.tel().requests("BYE")[-1], 200)
    assert wire.sbc.statuses("BYE") == [200] * 12
    assert wire.engine.statistics()["calls"] == 0


def test_the_events_are_bounded() -> None:
    """Nobody reads them: they are counted as lost, and calls go on."""
    wire = Wire(record=True)
    for _ in range(20_000):
        wire.sbc.send(wire.request("INVITE"))
        wire.log.clear()
    assert wire.engine.statistics()["counters"]["events_lost"] > 0
    wire.events()
    wire.sbc.clear()
    wire.tel().clear()
    assert establish(wire)


def test_equal_snapshots_swapped_often_change_nothing() -> None:
    wire = Wire(platform(servers=6))
    invite, leg = place(wire)
    for _ in range(200):
        wire.swap()
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.swap()
    wire.sbc.send(cancel(invite))
    holder.reply(leg, 487)
    assert wire.sbc.final().status == 487


def test_a_forged_branch_in_a_transport_error_does_no_harm() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    forged = leg.data.replace(leg.branch.encode(), leg.branch[:-1].encode() + b"X")
    wire.engine.transport_error(forged, holder.address, wire.now)
    wire.engine.transport_error(leg.data, ("127.0.3.9", 5060), wire.now)
    wire.settle()
    assert sum(bool(tel.requests("INVITE")) for tel in wire.tels) == 1
