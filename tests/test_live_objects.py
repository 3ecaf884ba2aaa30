# SPDX-License-Identifier: Apache-2.0
"""When calls have ended, however they ended, the core holds nothing of them any more: no transaction, no buffer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from calls import cancel, establish, failure_ack, place
from plain_sip import Packet, Request
from wire import Chaos, Wire, platform

from ubisip.platform import DestinationState

AFTERWARDS = 70.0
"""Seconds: twice the longest of the timers that run after a final response (64*T1, Timer D), and a bit."""
LONGEST = 300.0
"""Seconds: Timer C, the CANCEL after it, and what remains then."""
ENDING: dict[str, tuple[Callable[[Wire], None], float]] = {}


def ending(seconds: float = AFTERWARDS) -> Callable[[Callable[[Wire], None]], Callable[[Wire], None]]:
    """Register a way in which a call can end, and how long it may take to be forgotten."""

    def register(play: Callable[[Wire], None]) -> Callable[[Wire], None]:
        ENDING[play.__name__] = (play, seconds)
        return play

    return register


def live(wire: Wire) -> dict[str, int]:
    """What is in use, calls that stand left out: their count lives until their BYE."""
    statistics = wire.engine.statistics()
    setup = sum(load["setup"] for load in statistics["destinations"].values())
    return {"setup": setup, **{name: statistics[name] for name in ("transactions", "buffers", "pending")}}


def refuse(wire: Wire, invite: Request, status: int) -> None:
    """The server that has a call refuses it; the caller acknowledges what it hears."""
    holder = next(t for t in reversed(wire.tels) if any(p.call_id == invite.call_id for p in t.requests("INVITE")))
    holder.reply(holder.requests("INVITE")[-1], status)
    for failure in {p.data: p for p in wire.sbc.responses("INVITE") if p.status >= 300}.values():
        wire.sbc.send(failure_ack(invite, failure))


@ending()
def a_whole_call(wire: Wire) -> None:
    call = establish(wire)
    wire.run(20)
    wire.sbc.send(call.by_caller("BYE"))
    call.callee.reply(call.callee.got("BYE"), 200)


@ending()
def a_call_that_the_callee_ends(wire: Wire) -> None:
    call = establish(wire)
    call.callee.send(call.by_callee("BYE"))
    wire.sbc.reply(wire.sbc.got("BYE"), 200)


@ending()
def a_call_changed_and_talked_about(wire: Wire) -> None:
    call = establish(wire)
    for number, method in enumerate(("INFO", "UPDATE", "MESSAGE", "REFER", "NOTIFY")):
        wire.sbc.send(call.by_caller(method, cseq=2 + number))
        call.callee.reply(call.callee.got(method), 200)
    again = call.by_caller("INVITE", cseq=20)
    wire.sbc.send(again)
    call.callee.reply(call.callee.got("INVITE"), 488)
    wire.sbc.send(failure_ack(again, wire.sbc.final("INVITE")))


@ending()
def a_busy_callee(wire: Wire) -> None:
    invite, _ = place(wire)
    refuse(wire, invite, 486)


@ending()
def a_failure_that_is_never_acknowledged(wire: Wire) -> None:
    _, leg = place(wire)
    wire.holder().reply(leg, 404)


@ending()
def an_answer_that_is_never_acknowledged(wire: Wire) -> None:
    _, leg = place(wire)
    wire.holder().reply(leg, 200)


@ending()
def a_bye_that_nobody_answers(wire: Wire) -> None:
    wire.sbc.send(establish(wire).by_caller("BYE"))


@ending()
def a_call_cancelled_while_it_rings(wire: Wire) -> None:
    invite, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.sbc.send(cancel(invite))
    holder.reply(holder.got("CANCEL"), 200)
    holder.reply(leg, 487)
    wire.sbc.send(failure_ack(invite, wire.sbc.final("INVITE")))


@ending(LONGEST)
def a_call_cancelled_at_a_server_that_has_died(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.holder().reply(leg, 180)
    wire.sbc.send(cancel(invite))


@ending(LONGEST)
def a_call_cancelled_before_anything_was_heard(wire: Wire) -> None:
    invite, _ = place(wire)
    wire.sbc.send(cancel(invite))


@ending()
def a_cancel_that_crosses_the_answer(wire: Wire) -> None:
    invite, leg = place(wire)
    wire.holder().reply(leg, 200)
    wire.sbc.send(cancel(invite))


@ending()
def a_cancel_of_nothing(wire: Wire) -> None:
    wire.sbc.send(cancel(wire.request("INVITE")))


@ending(LONGEST)
def servers_that_are_all_silent(wire: Wire) -> None:
    place(wire)


@ending(LONGEST)
def a_callee_that_rings_for_ever(wire: Wire) -> None:
    _, leg = place(wire)
    wire.holder().reply(leg, 180)


@ending()
def every_server_refuses(wire: Wire) -> None:
    invite, _ = place(wire)
    for _ in wire.tels:
        refuse(wire, invite, 503)


@ending()
def a_late_answer_after_failover(wire: Wire) -> None:
    invite, leg = place(wire)
    first = wire.holder()
    wire.run(1.1)
    second = next(t for t in wire.tels if t is not first and t.requests("INVITE"))
    second.reply(second.got("INVITE"), 486)
    first.reply(leg, 200)
    wire.sbc.send(failure_ack(invite, wire.sbc.responses("INVITE")[-1]))


@ending()
def servers_with_nobody_behind_them(wire: Wire) -> None:
    wire.refused.update(tel.address for tel in wire.tels)
    wire.sbc.send(wire.request("INVITE"))
    wire.sbc.send(wire.request("MESSAGE"))


@ending(LONGEST)
def a_server_that_goes_down_in_set_up(wire: Wire) -> None:
    place(wire)
    wire.states(tel1=DestinationState(usable=False), tel2=DestinationState(usable=False))


@ending()
def requests_outside_calls(wire: Wire) -> None:
    for method in ("MESSAGE", "OPTIONS", "SUBSCRIBE", "FOO"):
        wire.sbc.send(wire.request(method))
    for tel in wire.tels:
        for packet in tel.requests():
            tel.reply(packet, 200 if packet.method == "MESSAGE" else 404)


@ending()
def a_request_that_nobody_answers(wire: Wire) -> None:
    wire.sbc.send(wire.request("MESSAGE"))


@ending()
def what_is_refused_at_once(wire: Wire) -> None:
    wire.sbc.send(wire.request("INVITE", max_forwards="0"))
    wire.sbc.send(wire.request("INVITE", headers=[("Proxy-Require", "foo")]))
    wire.sbc.send(wire.request("INVITE", "sip:x@192.0.2.1"))
    wire.sbc.send(b"INVITE nonsense SIP/2.0\r\nVia: SIP/2.0/UDP a\r\n\r\n")
    wire.agent("192.0.2.66").send(wire.request("INVITE", source=("192.0.2.66", 5060)))


@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize("record", [False, True])
def test_nothing_is_left_of(name: str, record: bool) -> None:
    play, seconds = ENDING[name]
    wire = Wire(platform(servers=3), record=record)
    play(wire)
    wire.run(seconds)
    assert live(wire) == {"setup": 0, "transactions": 0, "buffers": 0, "pending": 0}
    assert wire.engine.next_timer() is None


def test_the_count_is_no_idle_one() -> None:
    wire = Wire(platform(servers=3))
    place(wire)
    assert {**live(wire), "buffers": 0} == {"setup": 1, "transactions": 2, "buffers": 0, "pending": 1}
    assert live(wire)["buffers"] >= 2


def test_nothing_is_left_of_parked_calls() -> None:
    wire = Wire(platform(servers=3), hook=True)
    decided, cancelled, late = (wire.request("INVITE") for _ in range(3))
    for invite in (decided, cancelled, late):
        wire.sbc.send(invite)
    handles = [event.handle for event in wire.events("ask")]
    wire.engine.decide(handles[0], 0, wire.now)
    wire.sbc.send(cancel(cancelled))
    wire.run(LONGEST)
    assert live(wire) == {"setup": 0, "transactions": 0, "buffers": 0, "pending": 0}
    assert wire.engine.decide(handles[1], 0, wire.now) is False


@pytest.mark.parametrize("answered", [True, False])
def test_nothing_is_left_of_probes(answered: bool) -> None:
    wire = Wire()
    probe = Request(
        "OPTIONS", "sip:127.0.3.1:5060", ["SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKp0123456789abcdef"], call_id="probe"
    )
    wire.engine.probe(wire.slots.slot("tel1"), bytes(probe), 7, 1.0, wire.now)
    wire.settle()
    if answered:
        wire.tel().reply(wire.tel().got("OPTIONS"), 200)
    wire.run(AFTERWARDS)
    assert [event.handle for event in wire.events("probe")] == [7]
    assert live(wire) == {"setup": 0, "transactions": 0, "buffers": 0, "pending": 0}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_of_many_calls_over_a_bad_wire(seed: int) -> None:
    chaos = Chaos(seed=seed, loss=0.2, duplicate=0.2, delay=0.3)
    wire = Wire(platform(servers=3), chaos=chaos)

    def serve(packet: Packet) -> None:
        if not packet.is_response and packet.method != "ACK":
            status = chaos.dice.choice((180, 200, 486, 503)) if packet.method == "INVITE" else 200
            wire.agent(*packet.address).reply(packet, status)

    for tel in wire.tels:
        tel.handler = serve
    for _ in range(40):
        invite = wire.request("INVITE")
        wire.sbc.send(invite)
        if chaos.dice.random() < 0.3:
            wire.sbc.send(cancel(invite))
        wire.run(chaos.dice.random())
    for tel in wire.tels:
        tel.handler = None
    wire.run(LONGEST)
    assert live(wire) == {"setup": 0, "transactions": 0, "buffers": 0, "pending": 0}


def test_memory_that_calls_give_back_is_used_again() -> None:
    wire = Wire(platform(servers=3))
    memory = []
    for _ in range(4):
        for _ in range(50):
            invite, _ = place(wire)
            refuse(wire, invite, 486)
        for agent in (wire.sbc, *wire.tels):
            agent.clear()
        wire.run(AFTERWARDS)
        memory.append(wire.engine.statistics()["memory"])
    assert memory[0] == memory[-1] > 0
