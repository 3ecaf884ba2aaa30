# SPDX-License-Identifier: Apache-2.0
"""The lab's user agents against each other, without a gateway: whole calls, failures, lost datagrams, a death."""

from __future__ import annotations

import asyncio
from typing import Any

from lab_parts import BRIEF, OTHER, QUICK, SBC, SERVER, parties, until

from ubisip.lab.chaos import ChaosLink, Weather
from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Mode, Server
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import Timers
from ubisip.lab.udp import Address


def sbc(tally: Tally, *hops: Address, **options: Any) -> Sbc:
    return Sbc("sbc-1", SBC, tally, NextHops(hops or (SERVER,)), **{"behaviour": BRIEF, "timers": QUICK, **options})


def server(tally: Tally, address: Address = SERVER, **options: Any) -> Server:
    return Server("tel1", address, tally, NextHops([SBC]), **{"behaviour": BRIEF, "timers": QUICK, **options})


async def test_a_hundred_calls_are_answered_and_ended_by_either_side() -> None:
    tally = Tally()
    caller, callee = (
        sbc(tally),
        server(tally, behaviour=Behaviour((0.01, 0.03), (0.05, 0.1), hangs_up=0.5, reinvites=0.5)),
    )
    async with parties(caller, callee):
        await asyncio.gather(*(caller.place(f"+3315550{n:04}") for n in range(100)))
        await until(lambda: not callee.carried)
    assert (tally.placed, tally.answered, tally.ended, tally.failed, tally.lost) == (100, 100, 100, 0, {})
    assert len(tally.take_delays()) == 100
    assert not tally.calls and not tally.twice
    assert caller.malformed == callee.malformed == 0


async def test_a_caller_who_loses_patience_cancels() -> None:
    tally = Tally()
    caller = sbc(tally, behaviour=Behaviour(patience=0.1))
    callee = server(tally, behaviour=Behaviour(ring=(10.0, 10.0)))
    async with parties(caller, callee):
        await caller.place("+33155500001")
        await until(lambda: not callee.carried)
    assert tally.failures == {487: 1}
    assert tally.answered == 0 and not tally.lost


async def test_a_busy_callee_refuses() -> None:
    tally = Tally()
    caller, callee = sbc(tally), server(tally, behaviour=Behaviour(ring=(0.0, 0.0), status=486))
    async with parties(caller, callee):
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(10)))
    assert tally.failures == {486: 10}
    assert tally.answered == 0 and not tally.lost


async def test_nobody_there_is_a_lost_call() -> None:
    tally = Tally()
    caller = sbc(tally, timers=Timers(t1=0.005))
    async with parties(caller):
        await caller.place("+33155500001")
    assert list(tally.lost.values()) == [["INVITE never answered"]]


async def test_an_answer_without_ack_is_a_lost_call() -> None:
    """A caller that dies while the phone rings: the server's 200 is never acknowledged, and its BYE goes nowhere."""
    tally = Tally()
    caller = sbc(tally)
    callee = server(tally, behaviour=Behaviour(ring=(0.1, 0.1)), timers=Timers(t1=0.005))
    async with parties(caller, callee):
        caller.spawn(caller.place("+33155500001"))
        await until(lambda: bool(callee.carried))
        caller.close()
        await until(lambda: not callee.carried)
    assert list(tally.lost.values()) == [["200 never acknowledged", "BYE never answered"]]


async def test_no_call_is_lost_where_a_tenth_of_the_datagrams_is() -> None:
    tally = Tally()
    face, back = ("127.77.4.1", 5060), ("127.77.4.2", 5060)
    link = ChaosLink(SBC, face, back, SERVER, Weather(0.1, 0.05, 0.1, (0.0, 0.02)), seed=7)
    caller, callee = sbc(tally, face, advertise=back), server(tally, advertise=face)
    async with parties(link, caller, callee):
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(100)))
        await until(lambda: not callee.carried)
    assert (tally.ended, tally.failed, tally.lost) == (100, 0, {})
    assert callee.new == 100
    assert link.counts["dropped"] > 50 and link.counts["duplicated"] > 20 and link.counts["reordered"] > 50


async def test_the_fate_of_a_datagram_depends_on_the_seed_alone() -> None:
    counts = []
    for _ in range(2):
        link = ChaosLink(SBC, SERVER, OTHER, SBC, Weather(drop=0.3, duplicate=0.3), seed=3)
        async with parties(link):
            for number in range(200):
                link.carry(b"%d" % number, to_right=number % 2 == 0)
        counts.append(link.counts)
    assert counts[0] == counts[1]
    assert 20 < counts[0]["dropped"] < 100


async def test_a_server_that_dies_cuts_its_calls_and_returns_empty() -> None:
    tally = Tally()
    talk = Behaviour(ring=(0.0, 0.0), hold=(0.5, 0.5), hangs_up=0.0, reinvites=0.0)
    caller, callee = sbc(tally, behaviour=talk, timers=Timers(t1=0.01)), server(tally, behaviour=talk)
    async with parties(caller, callee):
        calls = [asyncio.create_task(caller.place("+33155500001")) for _ in range(5)]
        await until(lambda: tally.answered == 5)
        callee.kill()
        await asyncio.gather(*calls)
        assert (len(tally.cut), tally.ended, tally.lost) == (5, 0, {})
        assert all(faults == ["BYE never answered"] for faults in tally.faults.values())
        callee.start()
        await caller.place("+33155500001")
    assert tally.ended == 1 and not tally.lost


async def test_a_server_keeps_its_calls_while_it_refuses_or_is_silent() -> None:
    for mode in (Mode.REFUSE, Mode.SILENT):
        tally = Tally()
        talk = Behaviour(ring=(0.0, 0.0), hold=(0.1, 0.1), hangs_up=0.0, reinvites=0.0)
        caller, callee = sbc(tally, behaviour=talk), server(tally, behaviour=talk)
        async with parties(caller, callee):
            call = asyncio.create_task(caller.place("+33155500001"))
            await until(lambda tally=tally: tally.answered == 1)
            callee.set_mode(mode)
            await asyncio.sleep(0.3)  # BYE goes unheard
            assert not call.done()
            callee.set_mode(Mode.OK)
            await call
        assert tally.ended == 1 and not tally.lost


async def test_503_sends_the_caller_to_the_next_hop_and_calls_in_progress_go_on() -> None:
    tally = Tally()
    first = server(tally)
    second = server(tally, OTHER)
    second.name = "tel2"
    caller = sbc(tally, SERVER, OTHER)
    async with parties(caller, first, second):
        first.retry_after = 5
        first.set_mode(Mode.BUSY)
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(10)))
    assert (tally.ended, tally.failed, first.new, second.new) == (10, 0, 0, 10)
    assert tally.twice and all(servers == ["tel1", "tel2"] for servers in tally.twice.values())


async def test_a_server_calls_the_carrier() -> None:
    tally = Tally()
    carrier, caller = sbc(tally), server(tally)
    async with parties(carrier, caller):
        caller.start_calls(200, ["+33155500001", "+33155500002"])
        await until(lambda: tally.placed >= 20)
        caller.stop_calls()
        placed = tally.placed
        await until(lambda: not tally.calls)
    assert tally.ended == tally.placed == carrier.new
    assert tally.placed <= placed + 1  # one was on its way
    assert not tally.lost
