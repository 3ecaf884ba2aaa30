# SPDX-License-Identifier: Apache-2.0
"""A gateway is asked to stop, or to take another configuration, while calls are placed."""

from __future__ import annotations

import signal
import time

import pytest
from crowd import Telephony, crowd, start
from phones import exchange
from processes import Place, until

from ubisip.lab.party import Behaviour
from ubisip.lab.tally import Call

STOPS_WITHIN = 35.0


@pytest.mark.long
async def test_sigterm_loses_no_call_in_setup(place: Place, record: dict[str, float]) -> None:
    """100 calls a second that ring up to three seconds; who comes after SIGTERM is told to come later."""
    place.write(servers=6, carriers=2)
    gateway = place.new_gateway()
    behaviour = Behaviour(ring=(0.5, 3.0), hold=(1.0, 4.0), hangs_up=0.3, reinvites=0.2)
    with crowd(place, behaviour=behaviour) as people:
        await start(gateway)
        people.start_calls(100)
        await people.placed(400)
        answered = {call.call_id for call in people.tally.calls.values() if call.answered}
        arrived = {call_id for server in people.servers for call_id in server.invites}
        in_setup = arrived & set(people.tally.calls) - answered
        gateway.signal(signal.SIGTERM)
        told = time.monotonic()
        await people.placed(600)
        people.stop_calls()
        await until(lambda: gateway.exit_code() is not None, "the gateway to end", STOPS_WITHIN)
        gone = time.monotonic() - told
        code = gateway.exit_code()
        still_in_setup = [call_id for call_id in in_setup if not_answered(people.tally.calls, call_id)]
        await start(gateway)  # as another one would: somebody has to carry the BYEs
        await people.finish()
        refused = {call_id: text for carrier in people.carriers for call_id, text in carrier.refusals.items()}
        record |= people.figures() | {"in set-up then": len(in_setup), "of these lost": len(in_setup & set(refused))}
        record |= {"told to come later": len(refused), "seconds to the end": gone}
        assert code == 0
        assert len(in_setup) > 100 and not still_in_setup
        assert not in_setup & set(refused)
        assert not people.tally.lost
        assert people.tally.failures == {503: len(refused)} and len(refused) > 100
        assert all(int(response.get("Retry-After") or 0) > 0 for response in refused.values())


def not_answered(calls: dict[str, Call], call_id: str) -> bool:
    return call_id in calls and not calls[call_id].answered


@pytest.mark.long
async def test_a_phone_that_rings_on_does_not_keep_the_gateway(place: Place, record: dict[str, float]) -> None:
    """SIGTERM is obeyed within 35 seconds; the call that still rings then is answered through the next gateway."""
    place.write(servers=1, carriers=1)
    gateway = place.new_gateway()
    with exchange(place.gateway()) as phones:
        phones.phone("sbc1", place.carrier())
        phones.phone("tel1", place.server())
        await start(gateway)
        leg = phones.call(phones.phones[0])
        await leg.set_up()
        gateway.signal(signal.SIGTERM)
        told = time.monotonic()
        await until(lambda: gateway.exit_code() is not None, "the gateway to end", STOPS_WITHIN)
        record["seconds to the end"] = time.monotonic() - told
        assert gateway.exit_code() == 0
        await start(gateway)
        leg.answer()
        await leg.is_established()
        await leg.bye(by_caller=False)


async def test_sighup_drops_nothing(place: Place, record: dict[str, float]) -> None:
    """One more server is taken in; then the file is broken, and what was in force stays in force."""
    place.write(servers=[{"site": "PA2"}] * 2, carriers=2)
    gateway = place.new_gateway()
    behaviour = Behaviour(ring=(0.1, 0.5), hold=(0.2, 1.0), hangs_up=0.3, reinvites=0.2)
    with crowd(place, servers=[Telephony] * 3, behaviour=behaviour) as people:
        await start(gateway)
        first = gateway.platform()["configuration"]
        people.start_calls(80)
        await people.placed(80)
        place.write(servers=[{"site": "PA2"}] * 3, carriers=2)
        gateway.signal(signal.SIGHUP)
        await until(lambda: gateway.platform()["configuration"] != first, "the new configuration to be in force")
        second = gateway.platform()["configuration"]
        await until(lambda: people.servers[2].invites, "a call at the new server")
        place.config.write_text(place.config.read_text().replace("[routing]", "[routing]\npolicy = 'dice'\nspeed = 3"))
        gateway.signal(signal.SIGHUP)
        await until(lambda: "not reloaded" in gateway.log(), "the gateway to say that the file is wrong")
        await people.placed(people.tally.placed + 80)
        await people.finish()
        record |= people.figures()
        assert gateway.platform()["configuration"] == second
        assert "routing.policy" in gateway.log() and "routing.speed" in gateway.log()
        assert (people.tally.lost, people.tally.failed) == ({}, 0)
        assert people.tally.ended == people.tally.placed
