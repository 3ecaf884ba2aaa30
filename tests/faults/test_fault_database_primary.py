# SPDX-License-Identifier: Apache-2.0
"""The primary database dies, freezes, is cut off, is saturated, comes back: the bars of the fault table.

Every test writes through HAProxy and ends with the ledger: no acknowledged write is lost or there twice, and no server
acknowledged after another had begun to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from tiers.mariadb_ledger import attempt
from tiers.mariadb_world import World

NewWorld = Callable[..., Awaitable[World]]

KILL_BAR = 2.0
FROZEN_BAR = 6.0


async def test_primary_killed(new_world: NewWorld, record: dict[str, float]) -> None:
    """SIGKILL: a replica takes over within the bar; the dead one comes back as a replica by itself."""
    world = await new_world()
    async with world.writing() as writers:
        await asyncio.sleep(0.5)
        world.databases.primary.kill()
        moment = time.monotonic()
        record["first write, s"] = (await writers.until_written(moment, but=world.databases.primary)).at - moment
        assert record["first write, s"] < KILL_BAR
        await asyncio.sleep(0.5)
        world.databases.primary.launch()
        row = await world.until_verdict("healthy")
        assert row["about"] != ["db-pa2-1"]
    assert (await world.check()).name == row["about"][0]
    assert (await world.databases.primary.facts())["role"] == "replica"
    assert [plan for plan in await world.plans() if plan[1] != "done"] == []


@pytest.mark.long
async def test_primary_frozen_and_resumed(new_world: NewWorld, record: dict[str, float]) -> None:
    """SIGSTOP of 60 s on a machine that no fence reaches: it acknowledges nothing afterwards and rejoins."""
    world = await new_world(fence=True)
    frozen = world.databases.primary
    world.supervise(frozen)
    async with world.writing() as writers:
        await asyncio.sleep(0.5)
        world.hang(frozen.name)
        frozen.freeze()
        moment = time.monotonic()
        record["first write, s"] = (await writers.until_written(moment, but=frozen)).at - moment
        assert record["first write, s"] < FROZEN_BAR
        await asyncio.sleep(60.0 - (time.monotonic() - moment))
        world.hang(frozen.name, False)
        frozen.thaw()
        assert not await attempt(frozen, 10**9, 3.0), "it acknowledged a write after it was replaced"
        await world.until_verdict("healthy", timeout=60)
    assert (await world.check()) is not frozen
    assert (await frozen.facts())["role"] == "replica"


async def test_primary_frozen_without_a_fence(new_world: NewWorld, record: dict[str, float]) -> None:
    """What waited in it for an acknowledgement becomes its own when it resumes: it is named and left alone."""
    world = await new_world()
    frozen = world.databases.primary
    async with world.writing() as writers:
        await asyncio.sleep(0.5)
        frozen.freeze()
        moment = time.monotonic()
        record["first write, s"] = (await writers.until_written(moment, but=frozen)).at - moment
        assert record["first write, s"] < FROZEN_BAR
        frozen.thaw()
        assert not await attempt(frozen, 10**9, 2.0), "it acknowledged a write after it was replaced"
        row = await world.until_verdict("healthy", "errant-member")
    facts = await frozen.facts()
    assert facts["read_only"]
    if row["verdict"] == "errant-member":
        assert row["about"] == [frozen.name] and facts["source"] == ""
        frozen.kill()
    await world.check()


@pytest.mark.long
async def test_a_write_whose_acknowledgement_is_lost(new_world: NewWorld) -> None:
    """Replicas that received a write before they began to acknowledge never acknowledge it, and all commits wait
    behind it: its session is ended, with no word of success, and the others go on."""
    world = await new_world()
    ackers = [one for one in world.databases.servers if one.site == "PA5"]
    async with world.writing() as writers:
        for enabled in (0, 1):
            for one in ackers:
                await one.sql(f"SET GLOBAL rpl_semi_sync_slave_enabled = {enabled}", "STOP SLAVE IO_THREAD")
            await asyncio.sleep(0.5)  # a write comes, and waits
            for one in ackers:
                await one.sql("START SLAVE IO_THREAD")
        moment = time.monotonic()
        await writers.until_written(moment + 0.2, 20.0)
        await world.until_verdict("healthy")
        await writers.until_written(time.monotonic() + 1.0, 20.0)
    assert await world.check() is world.databases.primary
