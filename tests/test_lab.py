# SPDX-License-Identifier: Apache-2.0
"""The lab's user agents against each other, without a gateway: whole calls, failures, lost datagrams, a death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ubisip.lab.chaos import ChaosLink, Weather
from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Mode, Server
from ubisip.lab.tally import Tally
from ubisip.lab.transactions import Timers
from ubisip.lab.udp import Address, UdpSocket

SBC: Address = ("127.77.1.1", 5060)
SERVER: Address = ("127.77.3.1", 5060)
OTHER: Address = ("127.77.3.2", 5060)
QUICK = Timers(t1=0.05, t2=0.4)
BRIEF = Behaviour(ring=(0.01, 0.03), hold=(0.05, 0.1))


@asynccontextmanager
async def parties(*members: Sbc | Server | ChaosLink) -> AsyncIterator[None]:
    """Open all, and close all whatever happens."""
    try:
        for member in members:
            member.open()
        yield
    finally:
        for member in members:
            member.close()
            if not isinstance(member, ChaosLink):
                member.forget()


def sbc(tally: Tally, *hops: Address, **options: Any) -> Sbc:
    return Sbc("sbc-1", SBC, tally, NextHops(hops or (SERVER,)), **{"behaviour": BRIEF, "timers": QUICK, **options})


def server(tally: Tally, address: Address = SERVER, **options: Any) -> Server:
    return Server("tel1", address, tally, NextHops([SBC]), **{"behaviour": BRIEF, "timers": QUICK, **options})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for *condition*, a minute at most."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_hundred_calls_are_answered_and_ended_by_either_side() -> None:
    tally = Tally()
    caller, callee = sbc(tally), server(tally, behaviour=Behaviour((0.01, 0.03), (0.05, 0.1), hangs_up=0.5, reinvites=0.5))
    async with parties(caller, callee):
        await asyncio.gather(*(caller.place(f"+3315550{n:04}") for n in range(100)))
        await until(lambda: not callee.carried)
    assert (tally.placed, tally.answered, tally.ended, tally.failed, tally.lost) == (100, 100, 100, 0, {})
    assert len(tally.take_delays()) == 100
    assert not tally.calls and not tally.twice
    assert caller.malformed == callee.malformed == 0
