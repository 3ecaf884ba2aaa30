# SPDX-License-Identifier: Apache-2.0
"""A registrar that is told to stop, or to run by other users: its agents' bindings and calls outlive both."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Gateway, Place, until
from register import REALM, Phone

from ubisip.lab.nexthops import NextHops
from ubisip.lab.party import Behaviour
from ubisip.lab.sbc import Sbc
from ubisip.lab.server import Server
from ubisip.lab.tally import Tally

NUMBER = "+33155500001"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.close()


def write(place: Place, file: str = "users.csv") -> None:
    """A registrar by the users of *file*."""
    place.write(servers=1, carriers=1)
    with place.config.open("a") as config:
        config.write(
            f'[agents]\nrealm = "{REALM}"\ndomains = ["{REALM}"]\ncredentials = "file:{file}"\nmirror = "off"\n'
        )


async def until_status(phone: Phone, password: str, status: int) -> None:
    """A change is seen after a while."""
    async with asyncio.timeout(20):
        while await phone.register(password) != status:
            await asyncio.sleep(0.05)


def registered(gateway: Gateway) -> dict[str, str]:
    """Contacts by address of record."""
    return {row["aor"]: row["contact"] for row in json.loads(gateway.get("/api/v1/agents"))["bindings"]}


class Call:
    """One call from a carrier to a server, which rings for *ring* seconds."""

    def __init__(self, place: Place, ring: float) -> None:
        self.tally = Tally()
        hops = NextHops([place.gateway()])
        behaviour = Behaviour(ring=(ring, ring), hold=(0.2, 0.2), hangs_up=0.0, reinvites=0.0)
        self._caller = Sbc("sbc1", place.carrier(), self.tally, hops, behaviour=behaviour)
        self._callee = Server("tel1", place.server(), self.tally, hops, behaviour=behaviour)

    async def __aenter__(self) -> Call:
        self._caller.open()
        self._callee.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for party in (self._caller, self._callee):
            party.close()
            party.forget()

    async def rings(self) -> None:
        """Place it, and wait until it rings."""
        self._caller.spawn(self._caller.place(NUMBER))
        await until(lambda: any(call.rung for call in self.tally.calls.values()), "the call to ring")

    async def ends(self) -> None:
        """Wait for its end: it must have been answered."""
        await until(lambda: not self.tally.calls, "the call to end", 60)
        assert (self.tally.answered, self.tally.failed, self.tally.lost) == (1, 0, {})


async def test_sigterm_sends_phones_elsewhere_and_keeps_their_bindings(place: Place) -> None:
    """While the last call rings, REGISTERs get 503 and a time; who was registered is so after the next start."""
    write(place)
    (place.directory / "users.csv").write_text("alice;wonder\nbob;built\n")
    alice, bob = Phone(place.gateway(), "alice"), Phone(place.gateway(), "bob")
    async with Call(place, ring=4.0) as call:
        gateway = place.start_gateway()
        assert (await alice.register("wonder"), await bob.register("built")) == (200, 200)
        before = registered(gateway)
        await call.rings()
        gateway.signal(signal.SIGTERM)
        await until_status(alice, "wonder", 503)
        assert alice.last and 0 < int(alice.last.get("Retry-After") or 0) <= 60
        assert gateway.exit_code() is None
        await until(lambda: gateway.exit_code() is not None, "the gateway to end", 40)
        assert gateway.exit_code() == 0
        gateway.start()  # who carries the BYE
        assert registered(gateway) == before
        assert set(before) == {f"alice@{REALM}", f"bob@{REALM}"}
        await call.ends()
        assert await alice.register("wonder") == 200
    alice.close()
    bob.close()


async def test_sighup_brings_other_users_and_harms_nobody(place: Place) -> None:
    """Other passwords count, users who went are unknown; a call that rings goes on, bindings stay."""
    write(place)
    (place.directory / "users.csv").write_text("alice;wonder\nbob;built\n")
    (place.directory / "others.csv").write_text("bob;rebuilt\ncarol;new\n")
    phones = {name: Phone(place.gateway(), name) for name in ("alice", "bob", "carol")}
    async with Call(place, ring=3.0) as call:
        gateway = place.start_gateway()
        assert await phones["alice"].register("wonder") == await phones["bob"].register("built") == 200
        assert await phones["carol"].register("new") == 401
        before = registered(gateway)
        await call.rings()
        write(place, "others.csv")
        gateway.signal(signal.SIGHUP)
        await until_status(phones["carol"], "new", 200)
        await until_status(phones["bob"], "built", 401)
        assert await phones["bob"].register("rebuilt") == 200
        assert await phones["alice"].register("wonder") == 401
        assert registered(gateway).items() >= before.items()
        await call.ends()
    for phone in phones.values():
        phone.close()
