# SPDX-License-Identifier: Apache-2.0
"""One datagram in twenty is lost, on each side of the gateway and in each direction."""

from __future__ import annotations

import pytest
from crowd import Telephony, crowd, start
from processes import Place

from ubisip.lab.party import Behaviour

LOSS = 0.05
RATE = 100


def goes_on(server: Telephony, call_id: str) -> bool:
    """Whether *server* took the call, and nobody called it off."""
    return any(not invite.cancelled.done() for invite in server.invites.get(call_id, []))


@pytest.mark.parametrize("calls", [300, pytest.param(2000, marks=pytest.mark.long)])
async def test_no_call_fails_and_hardly_any_reaches_two_servers(
    place: Place, record: dict[str, float], calls: int
) -> None:
    place.write(servers=[{"site": "PA2"}] * 6, carriers=2)
    gateway = place.new_gateway()
    behaviour = Behaviour(ring=(0.5, 2.0), hold=(0.5, 1.5), hangs_up=0.3, reinvites=0.1)
    with crowd(place, behaviour=behaviour, loss=LOSS) as people:
        await start(gateway)
        people.start_calls(RATE)
        await people.placed(calls)
        await people.finish()
        twice, lost = people.tally.twice, sum(card.lost for card in [*people.carriers, *people.servers])
        kept = {call_id for call_id in twice if sum(goes_on(server, call_id) for server in people.servers) > 1}
        record |= people.figures() | {"and not cancelled": len(kept), "lost datagrams": lost}
        record |= {"given up for the next server": gateway.failovers()}
        assert (people.tally.lost, people.tally.failed) == ({}, 0)
        assert people.tally.ended == people.tally.placed
        assert len(twice) <= 1
        assert not kept
        assert lost > calls * 14 * LOSS / 2
