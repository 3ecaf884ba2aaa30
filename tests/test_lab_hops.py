# SPDX-License-Identifier: Apache-2.0
"""The lab's user agents through gateways that die: another next hop, in set-up and inside a dialog."""

from __future__ import annotations

import asyncio

from lab_parts import BRIEF, QUICK, SBC, SERVER, Forwarder, parties, until

from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Server
from ubisip.lab.tally import Tally
from ubisip.lab.udp import Address

GATEWAYS: list[Address] = [("127.77.2.1", 5060), ("127.77.2.2", 5060)]
PATIENCE = 0.2
LONG_CALL = Behaviour(ring=(0.0, 0.0), hold=(0.3, 0.3), hangs_up=0.0, reinvites=0.0)


def cast(tally: Tally, behaviour: Behaviour = BRIEF) -> tuple[Sbc, Server, list[Forwarder]]:
    """An SBC, two gateways, a server."""
    caller = Sbc("sbc-1", SBC, tally, NextHops(GATEWAYS), behaviour=behaviour, timers=QUICK, patience=PATIENCE)
    callee = Server("tel1", SERVER, tally, NextHops(GATEWAYS), behaviour=behaviour, timers=QUICK, patience=PATIENCE)
    return caller, callee, [Forwarder(address, SERVER, GATEWAYS) for address in GATEWAYS]


async def test_calls_take_gateways_in_turn() -> None:
    tally = Tally()
    caller, callee, gateways = cast(tally)
    async with parties(caller, callee, *gateways):
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(20)))
        await until(lambda: not callee.carried)
    assert tally.ended == 20 and not tally.lost
    assert [gateway.methods.count("INVITE") >= 10 for gateway in gateways] == [True, True]
    assert tally.tried == {GATEWAYS[0]: 10, GATEWAYS[1]: 10}


async def test_a_silent_gateway_is_passed_over_and_then_left_alone() -> None:
    tally = Tally()
    caller, callee, gateways = cast(tally)
    async with parties(caller, callee, *gateways):
        gateways[0].close()
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(4)))
        tried = tally.tried[GATEWAYS[0]]
        await asyncio.gather(*(caller.place("+33155500001") for _ in range(4)))
    assert tried == 2 and tally.tried[GATEWAYS[0]] == 2
    assert tally.ended == 8 and not tally.lost
    assert tally.worst_retried >= PATIENCE


async def test_a_dialog_goes_on_through_another_gateway() -> None:
    tally = Tally()
    caller, callee, gateways = cast(tally, LONG_CALL)
    async with parties(caller, callee, *gateways):
        call = asyncio.create_task(caller.place("+33155500001"))
        await until(lambda: "ACK" in gateways[0].methods + gateways[1].methods)
        taken = gateways[0] if gateways[0].methods else gateways[1]
        other = gateways[1] if taken is gateways[0] else gateways[0]
        taken.close()
        await call
        assert other.methods == ["BYE"]
    assert tally.ended == 1 and not tally.lost


async def test_bye_reaches_a_gateway_that_returns() -> None:
    tally = Tally()
    caller, callee, gateways = cast(tally, LONG_CALL)
    async with parties(caller, callee, *gateways):
        call = asyncio.create_task(caller.place("+33155500001"))
        await until(lambda: "ACK" in gateways[0].methods + gateways[1].methods)
        for gateway in gateways:
            gateway.close()
        await asyncio.sleep(2 * PATIENCE + LONG_CALL.hold[1])  # every way has been tried in vain
        assert not call.done()
        gateways[0].open()
        await call
    assert tally.ended == 1 and not tally.lost


async def test_an_invite_that_comes_by_two_ways_makes_one_call() -> None:
    """The server tells the second that it is a loop (RFC 3261 section 8.2.2.2): the caller waits for the first."""
    tally = Tally()
    caller, callee, gateways = cast(tally, Behaviour(ring=(0.5, 0.5), hold=(0.1, 0.1), hangs_up=0.0))
    async with parties(caller, callee, *gateways):
        for gateway in gateways:
            gateway.deaf_to_responses = True
        call = asyncio.create_task(caller.place("+33155500001"))
        await until(lambda: all("INVITE" in gateway.methods for gateway in gateways))
        for gateway in gateways:
            gateway.deaf_to_responses = False
        await call
        await until(lambda: not callee.carried)
    assert callee.new == 1
    assert (tally.answered, tally.ended, tally.failed, tally.lost) == (1, 1, 0, {})
