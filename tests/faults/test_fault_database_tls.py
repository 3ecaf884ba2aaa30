# SPDX-License-Identifier: Apache-2.0
"""Databases that take no connection in the clear: probes, plans, replicas and applications all speak TLS."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import certificates
import pytest
from tiers.mariadb_world import World

from ubisip.health.machine import Verdict
from ubisip.health.probe import Target
from ubisip.health.probes.mariadb import MariadbProbe

NewWorld = Callable[..., Awaitable[World]]


async def said(target: Target) -> tuple[Verdict, str, str]:
    """Verdict, code and problem of a probe of *target*."""
    finding = await MariadbProbe({}).check(target, 5.0)
    return finding.sample.verdict, finding.sample.reason, finding.problem


async def test_a_promotion_among_databases_that_require_tls(
    new_world: NewWorld, record: dict[str, float], tmp_path: Path
) -> None:
    """A replica takes over and the dead one rejoins, every connection verified; who does not speak TLS, or trusts
    another authority, is told so and calls nobody dead."""
    world = await new_world(tls=True)
    old = world.databases.primary
    assert (await said(old.target))[0] is Verdict.PASS
    verdict, reason, problem = await said(replace(old.target, parameters={}))
    assert (verdict, reason) == (Verdict.INCONCLUSIVE, "sql.1045"), problem
    strange = {"tls": "on", "ca_file": certificates.write_authority(tmp_path, "strange")}
    verdict, reason, problem = await said(replace(old.target, parameters=strange))
    assert (verdict, reason) == (Verdict.INCONCLUSIVE, "tls") and "certificate" in problem, problem
    async with world.writing() as writers:
        old.kill()
        moment = time.monotonic()
        record["first write, s"] = (await writers.until_written(moment, but=old)).at - moment
        old.launch()
        row = await world.until_verdict("healthy")
    primary = await world.check()
    assert primary is not old and row["about"] == [primary.name]
    for one in world.databases.servers:
        status = await one.sql("SHOW ALL SLAVES STATUS")
        assert [(it["Master_SSL_Allowed"], it["Master_SSL_Verify_Server_Cert"]) for it in status] == (
            [] if one is primary else [("Yes", "Yes")]
        )


@pytest.mark.long
async def test_a_server_without_tls_is_not_asked_in_the_clear(new_world: NewWorld) -> None:
    world = await new_world()
    target = replace(world.databases.primary.target, parameters={"tls": "unverified"})
    assert (await said(target))[0] is not Verdict.PASS
