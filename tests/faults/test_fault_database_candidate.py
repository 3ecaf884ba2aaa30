# SPDX-License-Identifier: Apache-2.0
"""Who is promoted, who is not, and who is not taken back: errant, lagging, saturated, flapping members."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tiers.mariadb_ledger import attempt
from tiers.mariadb_rig import APP, APP_PASSWORD, Server
from tiers.mariadb_world import World

from ubisip.health.mariadb import SqlError, session
from ubisip.health.probe import Target

NewWorld = Callable[..., Awaitable[World]]
LIMIT = 20.0
"""Seconds that a failover may take here, whatever else the machine does."""
FLAPS = 5


async def write_on(server: Server) -> None:
    """A transaction of its own, which nobody else has."""
    await server.sql("INSERT INTO app.ledger (id, server) VALUES (0, @@server_id)", timeout=5)


@pytest.mark.long
async def test_best_candidate_has_an_errant_transaction(new_world: NewWorld) -> None:
    """It is told of at once, and another is promoted when the primary dies."""
    world = await new_world()
    errant = world.databases["db-pa2-2"]
    async with world.writing() as writers:
        await write_on(errant)
        row = await world.until_verdict("errant-member")
        assert row["about"] == [errant.name] and "transactions of its own: 0-2-" in row["why"][0]
        world.databases.primary.kill()
        await writers.until_written(time.monotonic(), LIMIT, world.databases.primary)
        row = await world.until_verdict("errant-member", "replica-down")
    primary = await world.primary()
    assert primary.site == "PA5"
    errant.kill()
    await world.check()


@pytest.mark.long
async def test_best_candidate_lags_a_minute(new_world: NewWorld) -> None:
    """Another, that has received as much and applied more, is promoted."""
    world = await new_world()
    late = world.databases["db-pa2-2"]
    await late.sql("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=60", "START SLAVE")
    async with world.writing() as writers:
        await asyncio.sleep(2.0)
        world.databases.primary.kill()
        await writers.until_written(time.monotonic(), LIMIT, world.databases.primary)
    primary = await world.primary()
    assert primary.site == "PA5"
    await late.sql("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=0", "START SLAVE")
    await world.check()


@pytest.mark.long
async def test_every_candidate_lags_and_the_one_is_waited_for(new_world: NewWorld) -> None:
    """Nobody is promoted before all that was acknowledged is applied."""
    world = await new_world()
    for name in ("db-pa2-2", "db-pa5-1", "db-pa5-2"):
        await world.databases[name].sql("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY=8", "START SLAVE")
    async with world.writing() as writers:
        await asyncio.sleep(2.0)
        world.databases.primary.kill()
        moment = time.monotonic()
        first = await writers.until_written(moment, 60.0, world.databases.primary)
        assert first.at - moment > 4.0, "it did not wait"
    await world.check()


@pytest.mark.long
async def test_connections_exhausted_on_the_primary(new_world: NewWorld) -> None:
    """All its connections are taken, the one for administrators too: it lives, and nobody is promoted."""
    world = await new_world()
    primary = world.databases.primary
    client = Target("app", primary.name, primary.site, primary.address, APP, APP_PASSWORD)
    async with world.writing(), contextlib.AsyncExitStack() as held:
        # The observers' own connections come and go between ours: a few rounds take what they give back.
        taken, until = 0, time.monotonic() + 20
        while taken < 200 and time.monotonic() < until:
            target = client if taken < 100 else primary.admin
            try:
                await held.enter_async_context(session(target, 120.0))
                taken += 1
            except SqlError as error:
                assert error.number == 1040
                with contextlib.suppress(SqlError):
                    await held.enter_async_context(session(primary.admin, 120.0))
                row = await world.row()
                if "1040" in row["members"][0]["problem"]:
                    break
        row = await world.until_row(lambda row: "1040" in row["members"][0]["problem"], "all connections to be taken")
        await asyncio.sleep(5.0)  # a probe may get in between when another has just ended
        assert (await world.row())["verdict"] in ("healthy", "suspect-primary", "unreachable-primary")
        assert await world.plans() == []
    await world.until_verdict("healthy")
    assert await world.check() is primary


@pytest.mark.long
async def test_old_primary_returns_with_transactions_of_its_own(new_world: NewWorld) -> None:
    """It is quarantined and named, and nothing is ever written to it."""
    world = await new_world()
    old = world.databases.primary
    async with world.writing() as writers:
        old.kill()
        await writers.until_written(time.monotonic(), LIMIT, world.databases.primary)
        await world.until_verdict("replica-down")
        config = old.directory / "my.cnf"
        text = config.read_text()
        # Somebody repairs it by hand, elsewhere, and lets it take writes.
        away = text.replace(f"bind-address = {old.host}", f"bind-address = {world.place.network}.8.1")
        config.write_text(away.replace("init-rpl-role = SLAVE", "init-rpl-role = MASTER"))
        host, old.host = old.host, f"{world.place.network}.8.1"
        old.launch()
        await world.databases.until_answers(old)
        await old.sql("SET GLOBAL read_only = 0")
        await write_on(old)
        await old.sql("SHUTDOWN")
        await asyncio.to_thread(old.child.process.wait)  # type: ignore[union-attr]
        old.host = host
        config.write_text(text)
        old.launch()
        await world.databases.until_answers(old)
        row = await world.until_verdict("errant-member")
        assert row["about"] == [old.name] and "transactions of its own: 0-1-" in row["why"][0]
        before = await old.facts()
        await asyncio.sleep(3.0)
        after = await old.facts()
        for name in ("read_only", "binlog_state", "slave_pos", "source", "reign"):
            assert after[name] == before[name], name
        assert after["read_only"] and not after["source"]
        assert not await attempt(old, 10**9, 2.0)
    old.kill()
    await world.check()


@pytest.mark.long
async def test_old_primary_returns_writable(new_world: NewWorld) -> None:
    """Its file lets it start as a primary: it acknowledges nothing, is closed at once and becomes a replica."""
    world = await new_world(fence=True)
    old = world.databases.primary
    async with world.writing() as writers:
        old.kill()
        await writers.until_written(time.monotonic(), LIMIT, world.databases.primary)
        config = old.directory / "my.cnf"
        safe = config.read_text()
        writable = safe.replace("read-only = 1", "read-only = 0")
        config.write_text(writable.replace("rpl-semi-sync-master-enabled = 0", "rpl-semi-sync-master-enabled = 1"))
        old.launch()
        await world.databases.until_answers(old)
        config.write_text(safe)
        world.supervise(old)
        assert not await attempt(old, 10**9, 1.5), "it acknowledged a write beside the new primary"
        await world.until_verdict("healthy")
    assert (await old.facts())["role"] == "replica"
    await world.check()


@pytest.mark.long
async def test_last_one_that_is_left(new_world: NewWorld) -> None:
    """Of two members one dies: the other serves alone, is told of, and waits for acknowledgements again afterwards."""
    world = await new_world(only=("db-pa2-1", "db-pa5-1"))
    old, last = world.databases.servers
    async with world.writing() as writers:
        old.kill()
        await writers.until_written(time.monotonic(), LIMIT, old)
        row = await world.until_verdict("replica-down")
        assert row["about"] == [old.name]
        assert not (await last.facts())["semisync_primary"]
        old.launch()
        await world.until_verdict("healthy")
        facts = await last.facts()
        assert facts["semisync_primary"] and facts["ackers"] == 1
        # The replica dies: no write is acknowledged without it until it is known to be down.
        old.kill()
        await writers.until_written(time.monotonic() + 0.5, LIMIT)
    await world.check()


@pytest.mark.long
async def test_primary_flaps_five_times(new_world: NewWorld) -> None:
    """One failover by itself; then it asks, and an operator's word is done."""
    world = await new_world()
    world.supervise(*world.databases.servers)
    async with world.writing() as writers:
        world.databases.primary.kill()
        await writers.until_written(time.monotonic(), LIMIT, world.databases.primary)
        await world.until_verdict("healthy")
        name = (await world.primary()).name
        for _ in range(FLAPS - 1):
            world.databases[name].kill()
            await world.databases.until_facts(world.databases[name], bool, f"{name} to be back")
            await world.until_verdict("no-primary")
        failovers = [cause for cause, _ in await world.plans() if cause in ("dead-primary", "no-primary")]
        assert failovers == ["dead-primary"]
        row = await world.until_verdict("no-primary")
        plan = json.loads(await asyncio.to_thread(world.gateways[0].get, "/api/v1/tiers/database/plan"))
        assert not plan["permitted"] and any("ubisip failover database" in reason for reason in plan["against"])
        command = [
            str(Path(sys.executable).parent / "ubisip"),
            "failover",
            "database",
            "--admin",
            f"http://{world.place.admin()}",
        ]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        await writers.until_written(time.monotonic(), LIMIT)
    await world.until_verdict("healthy")
    primary = await world.primary()
    assert row["about"] == [name] and primary.running
    await world.check_rows()
