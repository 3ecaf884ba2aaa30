# SPDX-License-Identifier: Apache-2.0
"""Faults that cross the network between two data centres and a witness, and the loss of the store."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from namespaces import Ethernet, available
from tiers.mariadb_ledger import attempt
from tiers.mariadb_sites import DATABASES, GATEWAYS, SITES, Etcd, Sites, at, platform
from tiers.mariadb_world import World

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not available(), reason="needs the right to make network namespaces"),
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

PAUSE_BAR = 10.0
LOST_BAR = 12.0
UNREACHED = 120.0
STORE_AWAY = 300.0

LEADERS = [pytest.param((site, site), id=site) for site in SITES]
"""Whose gateway leads, and whose etcd: the primary's site, the other one, the witness."""
APART = pytest.param(("PA5", "PA2"), id="PA5-etcd-PA2")
"""The etcd that is asked first has no leader any more once the two sites are cut."""


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Sites]:
    network = Ethernet()
    try:
        with network.inside():
            place = Sites(tmp_path, network)
            try:
                yield place
            finally:
                place.close()
    finally:
        network.close()


@pytest.fixture
async def whole(request: pytest.FixtureRequest, sites: Sites, template: Path) -> AsyncIterator[tuple[World, Etcd]]:
    """The platform over three sites; the witness leads, or whom the test names."""
    leader, etcd_leader = getattr(request, "param", ("W", "W"))
    world, etcd = await platform(sites, template, leader=leader, etcd_leader=etcd_leader)
    yield world, etcd
    print(world.told())
    await world.close()


async def sample_writable(world: World, seen: list[tuple[str, ...]]) -> None:
    """Which servers would acknowledge a write, ten times a second: those writable that an acker is attached to."""
    while True:
        able = []
        for one in world.databases.servers:
            try:
                facts = await asyncio.wait_for(one.facts(), 1.0)
            except Exception:  # it is cut off or dead: it is looked at again in a moment
                continue
            if not facts["read_only"] and (facts["ackers"] > 0 or not facts["semisync_active"]):
                able.append(one.name)
        seen.append(tuple(able))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("whole", LEADERS, indirect=True)
async def test_primary_cut_from_us_but_not_from_its_replicas(sites: Sites, whole: tuple[World, Etcd]) -> None:
    """No gateway reaches it, all replicas do: nobody is promoted, and the verdict says why."""
    world, _ = whole
    sites.hide("PA2", at(DATABASES["PA2"][0]), [at(octet) for octet in GATEWAYS.values()])
    async with world.writing() as writers:
        await world.until_row(
            lambda row: row["verdict"] == "unreachable-primary" and "still receives from db-pa2-1" in str(row["why"]),
            "the replicas' word",
            number=2,
        )
        ends = time.monotonic() + UNREACHED
        while time.monotonic() < ends:
            assert (await world.row(2))["verdict"] in ("unreachable-primary", "suspect-primary")
            await asyncio.sleep(1.0)
        await writers.until_written(time.monotonic())
        assert [plan for number in range(3) for plan in await world.plans(number)] == []
    sites.heal("PA2")
    await world.until_verdict("healthy", number=2)
    assert await world.check() is world.databases.primary


@pytest.mark.parametrize("whole", [*LEADERS, APART], indirect=True)
async def test_two_sites_cut_and_the_witness_sees_both(
    sites: Sites, whole: tuple[World, Etcd], record: dict[str, float]
) -> None:
    """The primary stays, acknowledged by its own site for as long as it must; then all is as before."""
    world, _ = whole
    seen: list[tuple[str, ...]] = []
    watch = asyncio.create_task(sample_writable(world, seen))
    async with world.writing() as writers:
        await asyncio.sleep(1.0)
        sites.cut("PA2", "PA5")
        moment = time.monotonic()
        await asyncio.sleep(2.0)
        await writers.until_written(moment + 1.5, 40.0)
        record["write pause, s"] = world.ledger.gap()
        assert record["write pause, s"] < PAUSE_BAR
        await asyncio.sleep(5.0)
        sites.heal("PA2")
        await world.until_verdict("healthy", number=2, timeout=60)
        await writers.until_written(time.monotonic())
    watch.cancel()
    assert all(len(able) <= 1 for able in seen), [able for able in seen if len(able) > 1]
    primary = await world.check()
    assert primary is world.databases.primary
    facts = [await one.facts() for one in world.databases.servers]
    assert [it["acker"] for it in facts] == [False, False, True, True]


@pytest.mark.parametrize("whole", [*LEADERS, APART], indirect=True)
async def test_pa2_lost_whole(sites: Sites, whole: tuple[World, Etcd], record: dict[str, float]) -> None:
    """PA5 is writable, nothing acknowledged is lost; what comes back acknowledges nothing and rejoins or is named."""
    world, _ = whole
    old = world.databases.primary
    world.supervise(*world.databases.servers[:2])
    async with world.writing() as writers:
        await asyncio.sleep(1.0)
        for one in world.databases.servers[:2]:
            world.hang(one.name)
        sites.isolate("PA2")
        moment = time.monotonic()
        record["first write, s"] = (await writers.until_written(moment, 60.0, old)).at - moment
        assert record["first write, s"] < LOST_BAR
        primary = await writers.until_written(moment, 1.0, old)
        assert primary.server in (3, 4)
        await asyncio.sleep(3.0)
        for one in world.databases.servers[:2]:
            world.hang(one.name, False)
        sites.heal("PA2")
        assert not await attempt(old, 10**9, 3.0), "it acknowledged a write beside the new primary"
        row = await world.until_row(
            lambda row: row["verdict"] in ("healthy", "errant-member"), "PA2 to be back", 90.0, number=2
        )
    left = row["about"] if row["verdict"] == "errant-member" else []
    for name in left:
        facts = await world.databases[name].facts()
        assert facts["read_only"]
        world.databases[name].kill()
    for watch in world.watches:
        watch.cancel()
    assert (await world.check()).site == "PA5"


async def test_every_etcd_member_down(whole: tuple[World, Etcd]) -> None:
    """Without a store nobody is promoted, even when the primary dies; with it, at once."""
    world, etcd = whole
    async with world.writing() as writers:
        await asyncio.sleep(1.0)
        etcd.kill()
        await asyncio.sleep(8.0)  # past every lease
        world.databases.primary.kill()
        ends = time.monotonic() + STORE_AWAY
        while time.monotonic() < ends:
            for one in world.databases.servers[1:]:
                facts = await one.facts()
                assert facts["read_only"] and facts["source"] == world.databases.primary.address
            await asyncio.sleep(1.0)
        assert all(gateway.exit_code() is None for gateway in world.gateways)
        etcd.launch()
        await writers.until_written(time.monotonic(), 60.0, world.databases.primary)
    await world.check()
