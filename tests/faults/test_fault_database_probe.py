# SPDX-License-Identifier: Apache-2.0
"""What the probe says of a real server: its facts, and what is a death, what a refusal, what our own mistake."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from processes import Place
from tiers.mariadb_rig import APP, APP_PASSWORD, Databases, Server, free_hosts

from ubisip.health.machine import Verdict
from ubisip.health.mariadb import SqlError, session
from ubisip.health.probes.mariadb import MariadbProbe


@pytest.fixture
async def databases(place: Place, template: Path) -> AsyncIterator[Databases]:
    one = Databases(place.directory / "databases", template, free_hosts(place.network))
    await one.start()
    yield one
    one.close()


async def test_roles_and_positions(databases: Databases) -> None:
    probe, (primary, near, far, _) = MariadbProbe({}), databases.servers
    found = [await probe.check(one.target, 2.0) for one in (primary, near, far)]
    assert [it.sample.verdict for it in found] == [Verdict.PASS] * 3 and not any(it.problem for it in found)
    assert [it.facts["role"] for it in found] == ["primary", "replica", "replica"]
    assert found[0].facts["ackers"] == 2 and found[0].facts["attached"] == (2, 3, 4)
    assert [it.facts["acker"] for it in found] == [False, False, True]
    assert found[1].facts["source"] == primary.address and found[1].facts["source_id"] == 1
    await primary.sql("INSERT INTO app.ledger (id, server) VALUES (1, 1)")
    position = (await primary.facts())["binlog_pos"]
    await databases.until_facts(near, lambda facts: facts["io_pos"] == position, "the write to arrive")


async def test_silence_of_a_source_grows_until_it_speaks(databases: Databases) -> None:
    now = 100.0
    probe = MariadbProbe({}, clock=lambda: now)
    replica = databases["db-pa5-1"]
    databases.primary.freeze()
    assert (await probe.check(replica.target, 2.0)).facts["stream_silence"] == 0.0
    now += 1.5
    assert (await probe.check(replica.target, 2.0)).facts["stream_silence"] >= 1.4
    databases.primary.thaw()
    await databases.until_facts(replica, lambda facts: facts["heartbeats"] > 0, "a heartbeat")
    now += 1.0
    assert (await probe.check(replica.target, 2.0)).facts["stream_silence"] < 1.0


async def test_dead_frozen_and_barred(databases: Databases) -> None:
    """Refused and silent are failures; a wrong password and a missing right are problems for a person, no death."""
    probe, one = MariadbProbe({}), databases["db-pa5-2"]
    wrong = await probe.check(replace(one.target, password="wrong"), 2.0)
    assert (wrong.sample.verdict, wrong.sample.reason) == (Verdict.INCONCLUSIVE, "sql.1045")
    assert "does not let us in" in wrong.problem
    poor = await probe.check(replace(one.target, user=APP, password=APP_PASSWORD), 2.0)
    assert (poor.sample.verdict, poor.sample.reason) == (Verdict.INCONCLUSIVE, "rights")
    assert "SLAVE MONITOR" in poor.problem and poor.facts["missing"]
    one.freeze()
    frozen = await probe.check(one.target, 0.3)
    assert (frozen.sample.verdict, frozen.sample.reason, frozen.sample.hard) == (Verdict.FAIL, "timeout", False)
    one.kill()
    dead = await probe.check(one.target, 2.0)
    assert (dead.sample.verdict, dead.sample.reason, dead.sample.hard) == (Verdict.FAIL, "refused", True)
    lost = await probe.check(replace(one.target, address="no-such-host.invalid:3306"), 2.0)
    assert lost.sample.verdict in (Verdict.INCONCLUSIVE, Verdict.FAIL)


async def fill(server: Server, held: contextlib.AsyncExitStack) -> None:
    """Take every connection, the one for administrators too."""
    with pytest.raises(SqlError) as refused:
        while True:
            await held.enter_async_context(session(server.admin, 60.0))
    assert refused.value.number == 1040


async def test_no_connection_left_is_no_death(databases: Databases) -> None:
    probe, one = MariadbProbe({}), databases.primary
    async with contextlib.AsyncExitStack() as held:
        await fill(one, held)
        full = await probe.check(one.target, 2.0)
    assert (full.sample.verdict, full.sample.reason) == (Verdict.INCONCLUSIVE, "sql.1040")
    assert "1040" in full.problem


async def test_settings_that_make_a_promotion_unsafe_are_named(databases: Databases) -> None:
    probe, one = MariadbProbe({}), databases.primary
    await one.sql("SET GLOBAL rpl_semi_sync_master_timeout = 10000")
    assert "rpl_semi_sync_master_timeout is 10000 ms" in (await probe.check(one.target, 2.0)).problem
    replica = databases["db-pa2-2"]
    await replica.sql("SET GLOBAL rpl_semi_sync_master_enabled = 1")
    assert "rpl_semi_sync_master_enabled on a replica" in (await probe.check(replica.target, 2.0)).problem


async def test_a_replica_that_stopped_is_reported(databases: Databases) -> None:
    probe, one = MariadbProbe({}), databases["db-pa2-2"]
    await one.sql("STOP SLAVE SQL_THREAD")
    found = await probe.check(one.target, 2.0)
    assert (found.sample.verdict, found.sample.reason) == (Verdict.WARN, "replication")
