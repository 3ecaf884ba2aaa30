# SPDX-License-Identifier: Apache-2.0
"""Servers that refuse with 503 or answer too late."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from crowd import Telephony, crowd, start
from phones import Leg, Phone, exchange
from processes import Place, until

from ubisip.lab.party import Behaviour
from ubisip.lab.transactions import ServerTransaction

REST = 3
RATE = 40


class Overloaded(Telephony):
    """Answers each new call with 503, and OPTIONS with 200: it lives, it just has enough to do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[float] = []

    def on_invite(self, transaction: ServerTransaction) -> None:
        self.asked.append(time.monotonic())
        headers = [f"Retry-After: {self.retry_after}"] if self.retry_after else []
        transaction.respond(503, headers=headers)


@pytest.mark.parametrize("retry_after", [REST, 0])
async def test_a_server_that_answers_503_rests(place: Place, record: dict[str, float], retry_after: int) -> None:
    """With Retry-After for exactly that long; without, until health trusts it again. No call fails for it."""
    place.write(servers=[{"site": "PA2"}] * 3, carriers=2)
    gateway = place.new_gateway()
    kinds, behaviour = [Telephony, Overloaded, Telephony], Behaviour(ring=(0.01, 0.1), hold=(0.1, 0.3))
    with crowd(place, servers=kinds, behaviour=behaviour) as people:
        busy = people.servers[1]
        assert isinstance(busy, Overloaded)
        busy.retry_after = retry_after
        await start(gateway)
        people.start_calls(RATE)
        await until(lambda: busy.asked, "a call at the busy server")
        begin = busy.asked[0]
        await until(lambda: time.monotonic() > begin + REST + 2, "the end of its rest")
        await people.finish()
        asked = [moment - begin for moment in busy.asked]
        record |= people.figures() | {"calls sent there": len(asked)}
        record["of these in its rest"] = sum(0.2 < moment < REST - 0.1 for moment in asked)
        assert (people.tally.lost, people.tally.failed, people.tally.placed) == ({}, 0, people.tally.ended)
        if retry_after:
            assert record["of these in its rest"] == 0
            assert max(asked) >= REST - 0.1  # and then it is asked again
        assert len(asked) < people.tally.placed / 3 / 3


async def two_servers(place: Place, phones: Any) -> Leg:
    """A call whose first server, whichever it is, stays silent until the second one has got the call as well."""
    phones.phone("sbc1", place.carrier())
    for number in (1, 2):
        phones.phone(f"tel{number}", place.server(number))
    await start(place.new_gateway())
    leg: Leg = phones.call(phones.phones[0])
    await until(lambda: len(phones.arrived[leg.call_id]) == 2, "the call to reach the second server", 5)
    return leg


async def test_an_attempt_that_was_given_up_and_rings_late_is_cancelled(place: Place) -> None:
    place.write(servers=[{"site": "PA2"}] * 2, carriers=1)
    with exchange(place.gateway()) as phones:
        leg = await two_servers(place, phones)
        (slow, late), (other, taken) = phones.arrived[leg.call_id]
        assert slow is not other
        taken.respond(180, contact=other.contact)
        await leg.rings()
        late.respond(180, contact=slow.contact)
        await until(late.cancelled.done, "the CANCEL of the late attempt")
        assert await late.acknowledged
        assert not taken.cancelled.done()
        await answer(leg, other, taken)


async def test_an_attempt_whose_ringing_was_lost_is_cancelled_in_the_end(place: Place) -> None:
    """Its phone rings, but each 180 was lost: the gateway gave it up, and another server answers the call."""
    place.write(servers=[{"site": "PA2"}] * 2, carriers=1)
    with exchange(place.gateway()) as phones:
        phones.phone("sbc1", place.carrier())
        for number in (1, 2):
            phones.phone(f"tel{number}", place.server(number))
        await start(place.new_gateway())
        leg = phones.call(phones.phones[0])
        await leg.arrives()
        lost, late = phones.arrived[leg.call_id][0]
        lost.is_mute = True
        late.respond(180, contact=lost.contact)
        await until(lambda: len(phones.arrived[leg.call_id]) == 2, "the call to reach the second server", 5)
        lost.is_mute = False
        await answer(leg, *phones.arrived[leg.call_id][1])
        await until(late.cancelled.done, "the CANCEL of the attempt that was given up", 15)


async def test_the_late_answer_of_an_attempt_that_was_given_up_reaches_the_caller(place: Place) -> None:
    """Whoever answers first has the call; the other phone stops ringing."""
    place.write(servers=[{"site": "PA2"}] * 2, carriers=1)
    with exchange(place.gateway()) as phones:
        leg = await two_servers(place, phones)
        (slow, late), (other, taken) = phones.arrived[leg.call_id]
        taken.respond(180, contact=other.contact)
        await leg.rings()
        await answer(leg, slow, late)
        await until(taken.cancelled.done, "the CANCEL of the other attempt")
        assert await taken.acknowledged


async def test_a_server_that_dies_with_a_call_it_has_only_said_trying_to(place: Place) -> None:
    """After 100 nothing is retransmitted, so no ICMP tells; the probes do, and the call goes on elsewhere."""
    place.write(servers=[{"site": "PA2"}] * 2, carriers=1)
    with exchange(place.gateway()) as phones:
        phones.phone("sbc1", place.carrier())
        for number in (1, 2):
            phones.phone(f"tel{number}", place.server(number))
        await start(place.new_gateway())
        leg = phones.call(phones.phones[0])
        await leg.arrives()
        leg.transaction.respond(100)
        leg.callee.close()
        await until(lambda: len(phones.arrived[leg.call_id]) == 2, "the call to reach the other server", 15)
        other, transaction = phones.arrived[leg.call_id][1]
        assert other is not leg.callee
        await answer(leg, other, transaction)


async def answer(leg: Leg, phone: Phone, transaction: ServerTransaction) -> None:
    """The answer makes the call, and the call can be ended."""
    acknowledged = asyncio.create_task(phone.pick_up(transaction))
    assert await leg.outcome() == 200
    assert await acknowledged
    reply = await leg.caller.bye(leg.caller_dialog(), leg.hops)
    assert reply and reply.status == 200
