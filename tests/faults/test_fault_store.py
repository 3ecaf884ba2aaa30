# SPDX-License-Identifier: Apache-2.0
"""The store of real etcd members dies beneath two gateways: calls go on, and nothing global is done without it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Gateway, Place, until
from tiers.test_store import Etcd

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed")

RATE = 20.0
TIER = """
[store]
url = "etcd:{urls}"
[tiers.web]
kind = "tcp"
mode = "automatic"
members = [
  {{ name = "w1", site = "PA2", address = "127.0.0.1:{one}" }},
  {{ name = "w2", site = "PA5", address = "127.0.0.1:{other}" }},
]
on_member_down = ["mark"]
[actions.mark]
type = "exec"
command = ["/bin/sh", "-c", "echo $UBISIP_EPOCH >> {marks}"]
"""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    folder = tmp_path / "etcd"
    folder.mkdir()
    cluster = Etcd(folder)
    yield cluster
    cluster.stop()


def tiers(gateway: Gateway) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(gateway.get("/api/v1/tiers"))
    return answer


def leading(gateways: list[Gateway]) -> list[str]:
    return [gateway.name for gateway in gateways if tiers(gateway)["leads"]]


class Tier:
    """Two members that accept connections, a configuration that watches over them, two gateways."""

    def __init__(self, place: Place, etcd: Etcd) -> None:
        self.marks = place.directory / "marks"
        self.gateways: list[Gateway] = []
        self._place = place
        self._etcd = etcd
        self._members: list[asyncio.Server] = []

    async def start(self) -> None:
        """Start all of it, and wait until one gateway leads."""
        for _ in range(2):
            server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
            self._members.append(server)
        one, other = (server.sockets[0].getsockname()[1] for server in self._members)
        self._place.write(servers=2, carriers=1, gateways=2)
        with self._place.config.open("a") as file:
            file.write(TIER.format(urls=",".join(self._etcd.urls), marks=self.marks, one=one, other=other))
        self.gateways = [self._place.start_gateway(number) for number in (1, 2)]
        await until(lambda: len(leading(self.gateways)) == 1, "one gateway to lead")

    def kill_member(self) -> None:
        """The second member refuses from now on."""
        self._members[1].close()

    def close(self) -> None:
        for server in self._members:
            server.close()


@pytest.fixture
async def tier(place: Place, etcd: Etcd) -> AsyncIterator[Tier]:
    one = Tier(place, etcd)
    await one.start()
    yield one
    one.close()


async def outage(place: Place, etcd: Etcd, tier: Tier, seconds: float, record: dict[str, float]) -> None:
    """Every member of etcd hangs for *seconds*, amid calls, and a member of a tier dies meanwhile."""
    callees = [place.answer(place.server(number)) for number in (1, 2)]
    gateways = tier.gateways
    epoch = max(tiers(gateway)["epoch"] for gateway in gateways)
    await until(lambda: gateways[0].sees("up", "tel1", "tel2"), "the servers to be up")
    calls = int(RATE * (seconds + 10))
    caller = place.call(place.carrier(), place.gateway(), rate=RATE, calls=calls)
    await asyncio.sleep(2)
    for number in range(3):
        etcd.signal(number, signal.SIGSTOP)
    await until(lambda: not leading(gateways), "nobody to lead without a majority", 15.0)
    tier.kill_member()
    await until(lambda: all(tiers(one)["tiers"][0]["verdict"] == "member-down" for one in gateways), "both to see it")
    await asyncio.sleep(seconds)
    assert not tier.marks.exists(), "something global was done without the store"
    assert all(tiers(gateway)["store"] for gateway in gateways)
    for number in range(3):
        etcd.signal(number, signal.SIGCONT)
    await until(tier.marks.exists, "it to be done once the store is back")
    await until(lambda: len(leading(gateways)) == 1, "one gateway to lead again")
    figures = await asyncio.to_thread(caller.wait, 60.0)
    record |= {"outage": seconds, "calls": figures.made, "failed": figures.failed}
    assert figures.failed == 0 and figures.good == figures.made == calls
    assert sum(len(callee.calls()) for callee in callees) == calls
    assert [int(line) > epoch for line in tier.marks.read_text().split()] == [True], "once, under a newer epoch"


@pytest.mark.long
async def test_every_member_of_etcd_hangs_for_a_while(
    place: Place, etcd: Etcd, tier: Tier, record: dict[str, float]
) -> None:
    await outage(place, etcd, tier, 15.0, record)


@pytest.mark.long
async def test_every_member_of_etcd_hangs_for_five_minutes(
    place: Place, etcd: Etcd, tier: Tier, record: dict[str, float]
) -> None:
    await outage(place, etcd, tier, 300.0, record)


async def test_a_gateway_that_leads_is_killed_and_the_other_does_what_is_due(
    tier: Tier, record: dict[str, float]
) -> None:
    (name,) = leading(tier.gateways)
    first = next(gateway for gateway in tier.gateways if gateway.name == name)
    second = next(gateway for gateway in tier.gateways if gateway is not first)
    first.kill()
    tier.kill_member()
    began = asyncio.get_running_loop().time()
    await until(tier.marks.exists, "the other to take over")
    record["takeover"] = took = asyncio.get_running_loop().time() - began
    assert took < 20 and tiers(second)["leads"], "the bar is 10 s on a quiet machine"
