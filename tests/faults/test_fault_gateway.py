# SPDX-License-Identifier: Apache-2.0
"""A gateway is killed and started again at its address: its calls notice nothing, and strangers gain nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
from crowd import crowd, start
from lives import LIVES, live
from phones import Exchange, exchange
from processes import Place, until

from ubisip.core.message import Message
from ubisip.lab.party import Behaviour

AWAY = 0.3
"""Seconds between the death of the gateway and its new start, which takes as long again."""


def populate(place: Place, phones: Exchange) -> None:
    """The phones of one carrier and of three servers."""
    phones.phone("sbc1", place.carrier())
    for number in (1, 2, 3):
        phones.phone(f"tel{number}", place.server(number))


@pytest.mark.parametrize("caller", ["sbc1", "tel2"])
async def test_no_call_notices_that_its_gateway_died_and_came_back(
    place: Place, record: dict[str, float], caller: str
) -> None:
    place.write(servers=3, carriers=1)
    gateway = place.new_gateway()
    with exchange(place.gateway()) as phones:
        populate(place, phones)
        await start(gateway)
        phone = next(phone for phone in phones.phones if phone.name == caller)
        died = 0.0

        async def goes() -> None:
            nonlocal died
            died = time.monotonic()
            gateway.kill()

        async def returns() -> None:
            await asyncio.sleep(AWAY)
            await start(gateway)
            record["seconds away"] = time.monotonic() - died

        faults = await live(lambda: phones.call(phone), goes, returns)
        record |= {"calls": phones.tally.placed, "lost": faults.total(), "set up twice": len(phones.twice())}
        record["relayed without transaction"] = gateway.counter("ubisip_core_total", counter="stateless_responses")
        assert not faults
        assert not phones.twice()
        assert phones.tally.placed == 5 * (len(LIVES) + 1)


@pytest.mark.long
async def test_no_call_is_lost_when_a_gateway_is_killed_under_load(place: Place, record: dict[str, float]) -> None:
    """Calls of every age at 50 a second, in both directions."""
    place.write(servers=6, carriers=2)
    behaviour = Behaviour(ring=(0.05, 2.0), hold=(0.5, 3.0), hangs_up=0.4, reinvites=0.4)
    gateway = place.new_gateway()
    with crowd(place, behaviour=behaviour) as people:
        await start(gateway)
        people.start_calls(40, outgoing=10)
        await people.placed(150)
        gateway.kill()
        ages = [call.answered for call in people.tally.calls.values()]
        await asyncio.sleep(AWAY)
        await start(gateway)
        await people.placed(300)
        await people.finish()
        record |= people.figures() | {"in set-up then": ages.count(False), "established then": ages.count(True)}
        assert (people.tally.lost, people.tally.failed, people.tally.twice) == ({}, 0, {})
        assert people.tally.ended == people.tally.placed
        assert ages.count(True) > 10 and ages.count(False) > 10


@pytest.mark.parametrize("by_caller", [True, False], ids=["caller", "callee"])
async def test_another_gateway_carries_on_the_calls_of_a_dead_one(place: Place, by_caller: bool) -> None:
    """It has an address of its own and never saw the call: what it must know is in the Route of each request."""
    place.write(servers=3, carriers=1, gateways=2)
    first, second = place.new_gateway(1), place.new_gateway(2)
    with exchange(place.gateway(1)) as phones:
        populate(place, phones)
        await start(first)
        await start(second)
        legs = [phones.call(phones.phones[0]) for _ in range(5)]
        await asyncio.gather(*(leg.establish() for leg in legs))
        first.kill()
        for leg in legs:
            leg.hops = [place.gateway(2)]
        await asyncio.gather(*(leg.reinvite(by_caller=by_caller) for leg in legs))
        await asyncio.gather(*(leg.bye(by_caller=by_caller) for leg in legs))
        assert not phones.twice()


MARK = b"X-Forged: "


def response_to(invite: bytes, status: str) -> bytes:
    """A response as the callee would send it, with a mark that tells it was forged."""
    head = invite.partition(b"\r\n\r\n")[0].split(b"\r\n")
    wanted = (b"via:", b"record-route:", b"from:", b"call-id:", b"cseq:")
    kept = [line for line in head if line.lower().startswith(wanted)]
    to = next(line for line in head if line.lower().startswith(b"to:")) + b";tag=forged"
    rest = [to, b"Contact: <sip:evil@203.0.113.9>", MARK + b"yes", b"Content-Length: 0", b"", b""]
    return b"\r\n".join([f"SIP/2.0 {status}".encode(), *kept, *rest])


def forgeries(invite: Message, true: bytes, victim: tuple[str, int]) -> dict[str, bytes]:
    """Variants of a true response that no gateway may relay."""
    branch, call_id = invite.branch.encode(), invite.call_id.encode()
    own, caller = (f"Via: {value}".encode() for value in invite.get_all("Via"))
    elsewhere = b"Via: SIP/2.0/UDP %s:%d;branch=z9hG4bK-victim" % (victim[0].encode(), victim[1])
    last = b"0" if branch[-1:] != b"0" else b"1"
    return {
        "another branch": true.replace(branch, branch[:-1] + last),
        "a branch without MAC": true.replace(branch, b"z9hG4bKsomething"),
        "another Call-ID": true.replace(call_id, b"other-" + call_id),
        "another next Via": true.replace(caller, elsewhere),
        "our Via twice": true.replace(caller, own),
        "no further Via": true.replace(caller + b"\r\n", b""),
        "another method": true.replace(b" INVITE\r\n", b" MESSAGE\r\n"),
        "another CSeq number": true.replace(b"CSeq: 1 ", b"CSeq: 2 "),
    }


@pytest.mark.parametrize("restarted", [False, True], ids=["with transaction", "after a restart"])
async def test_forged_responses_are_not_relayed(place: Place, record: dict[str, float], restarted: bool) -> None:
    """To a call that rings: from its true server with something changed, and unchanged from anybody else."""
    place.write(servers=3, carriers=1)
    gateway = place.new_gateway()
    with exchange(place.gateway()) as phones:
        populate(place, phones)
        victim, stranger = phones.phone("victim", place.other(1)), phones.phone("stranger", place.other(2))
        await start(gateway)
        leg = phones.call(phones.phones[0])
        await leg.set_up()
        if restarted:
            gateway.kill()
            await start(gateway)
        sent = 0
        for status in ("180 Ringing", "200 OK", "486 Busy Here"):
            true = response_to(leg.invite.data, status)
            for name, forged in forgeries(leg.invite, true, victim.address).items():
                assert forged != true
                leg.callee.send(forged.replace(MARK + b"yes", MARK + f"{name}, {status}".encode()), place.gateway())
                sent += 1
            stranger.send(true, place.gateway())
            sent += 1
        await until(lambda: gateway.counter("ubisip_core_total", counter="responses") >= sent, "all to be read")
        dropped = {key: value for key, value in gateway.metrics().items() if key.startswith("ubisip_dropped_total")}
        leg.answer()
        await leg.outcome()
        relayed = [data.partition(MARK)[2].partition(b"\r")[0] for data in phones.heard(MARK)]
        record |= {"forged": sent, "relayed": len(relayed), "counted": sum(dropped.values())}
        assert relayed == []
        assert sum(dropped.values()) == sent
        await leg.is_established()
        await leg.bye()
