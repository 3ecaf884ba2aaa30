# SPDX-License-Identifier: Apache-2.0
"""All phones of a site register within a short time: each is served or told when to come back, and calls go on."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from typing import Any

import psutil
import pytest
from crowd import Telephony, crowd, start
from processes import Gateway, Place, until

from ubisip.lab.party import Behaviour
from ubisip.lab.platform import DOMAIN, PASSWORD

CALLED, REGISTRARS = range(1, 4), range(4, 7)
"""Servers of the other site, which take the calls; those of the gateway's site, to which every binding is mirrored."""
RATE = 50.0
"""Calls a second meanwhile."""
BEHAVIOUR = Behaviour(ring=(0.05, 0.2), hold=(0.5, 1.5))
OCTETS_A_PHONE = 2500
"""Memory that a gateway may grow by for each phone of a storm: its binding, its digests and what was in flight."""


def write(place: Place, phones: int) -> None:
    """A gateway, everybody's password, and servers that are drained from the start where calls shall not go."""
    sites = [{"site": "PA5"} for _ in CALLED] + [{"site": "PA2"} for _ in REGISTRARS]
    place.write(servers=sites, carriers=2)
    with place.config.open("a") as file:
        file.write(
            f'[agents]\nrealm = "{DOMAIN}"\ndomains = ["{DOMAIN}"]\ncredentials = "file:users.csv"\nmirror = "site"\n'
        )
    users = "".join(f"agent{number};{PASSWORD}\n" for number in range(1, phones + 1))
    (place.directory / "users.csv").write_text(users)


class Registrars:
    """The servers that phones are mirrored to, in one process."""

    def __init__(self, place: Place) -> None:
        self.addresses = [f"{host}:{port}" for host, port in map(place.server, REGISTRARS)]
        command = [sys.executable, "-m", "ubisip.lab.registrars", *self.addresses]
        self._child = place.run("registrars", command, talks=True)
        self._answers = 1

    async def ready(self) -> None:
        await until(lambda: self._lines(), "the registrars to listen")

    async def obey(self, command: str) -> dict[str, float]:
        """What a command answers, by address."""
        assert self._child.process.stdin
        self._child.process.stdin.write(command.encode() + b"\n")
        self._child.process.stdin.flush()
        self._answers += 1
        await until(lambda: len(self._lines()) >= self._answers, f"the registrars to answer: {self._child.words()}")
        answer: dict[str, float] = json.loads(self._lines()[-1])
        return answer

    async def hold(self, count: int, within: float) -> None:
        """Wait until each of them has *count* bindings."""
        counts: dict[str, float] = {}
        try:
            async with asyncio.timeout(within):
                while set((counts := await self.obey("count")).values()) != {count}:
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not everybody has {count} bindings: {counts}") from None

    def _lines(self) -> list[str]:
        return self._child.output.read_text().splitlines()


async def storm(place: Place, phones: int, within: float, limit: float) -> dict[str, Any]:
    """What became of *phones* that register within so many seconds."""
    host, port = place.gateway()
    command = [sys.executable, "-m", "ubisip.lab.storm", f"{host}:{port}", "--phones", str(phones)]
    command += ["--within", str(within), "--limit", str(limit), "--hosts", place.other()[0]]
    child = place.run("storm", command)
    await until(lambda: not child.running, "the phones to be registered", limit + 60)
    assert child.output.read_text(), child.words()
    outcome: dict[str, Any] = json.loads(child.output.read_text())
    return outcome


def switch(gateway: Gateway, name: str, state: str) -> None:
    """As an operator does."""
    url = f"http://{gateway.admin}/api/v1/destinations/{name}/switch"
    request = urllib.request.Request(url, json.dumps({"state": state}).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()


def memory(gateway: Gateway) -> int:
    """Octets of a gateway's own memory."""
    assert gateway.child
    return int(psutil.Process(gateway.child.process.pid).memory_full_info().uss)


async def holds(gateway: Gateway, phones: int) -> None:
    """Wait until it has counted so many bindings, which it does at its start."""
    await until(lambda: gateway.metrics().get("ubisip_bindings") == phones, f"{phones} bindings after the restart")


async def stand(gateway: Gateway, after: float, seconds: float) -> None:
    """The machine has other things to do for some seconds: what comes meanwhile waits in the gateway's sockets."""
    await asyncio.sleep(after)
    gateway.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    gateway.signal(signal.SIGCONT)


async def all_are_served(
    place: Place, record: dict[str, float], phones: int, within: float, limit: float, stands: float = 0.0
) -> dict[str, Any]:
    """*phones* register within so many seconds, in the midst of which the gateway *stands*; what became of them."""
    write(place, phones)
    registrars = Registrars(place)
    await registrars.ready()
    gateway = place.new_gateway()
    with crowd(place, servers=(Telephony,) * len(CALLED), behaviour=BEHAVIOUR) as people:
        await start(gateway)
        for number in REGISTRARS:
            switch(gateway, f"tel{number}", "drain")
        people.start_calls(RATE)
        await people.placed(50)
        before = memory(gateway)
        standing = asyncio.create_task(stand(gateway, within / 2, stands))
        outcome = await storm(place, phones, within, limit)
        await standing
        grown = memory(gateway) - before
        await registrars.hold(phones, within=60)
        await people.finish()
        record |= people.figures() | {"seconds": outcome["seconds"], "refused": outcome["refused"]}
        record |= {"octets a phone": grown / phones, "slowest phone": outcome["slowest"]}
        print(outcome, people.tally.failures)
        assert outcome["registered"] == phones
        assert not outcome["refused_without_time"] and not outcome["other"]
        assert people.tally.placed > RATE * outcome["seconds"] / 2
        assert not people.tally.lost and not people.tally.failed
        assert grown < OCTETS_A_PHONE * phones
        assert gateway.counter("ubisip_registrations_total", result="registered") == phones
        assert gateway.counter("ubisip_bindings_kept_errors_total") == 0
    gateway.kill()
    await start(gateway)
    await holds(gateway, phones)
    return outcome


@pytest.mark.long
async def test_five_thousand_phones_in_three_seconds(place: Place, record: dict[str, float]) -> None:
    """Every one of them is registered in the end, with all servers, and after a kill; no call notices."""
    await all_are_served(place, record, 5000, 3.0, 60.0)


@pytest.mark.long
async def test_a_hundred_thousand_phones_within_a_minute(place: Place, record: dict[str, float]) -> None:
    """As above, with a gateway that stands for a second: who cannot be served then is told a time of his own."""
    outcome = await all_are_served(place, record, 100_000, 40.0, 170.0, stands=1.0)
    soonest, latest = outcome["retry_after"]
    assert outcome["refused"] > 100
    assert 5 <= soonest <= 7 and 30 <= latest <= 35
