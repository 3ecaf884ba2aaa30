# SPDX-License-Identifier: Apache-2.0
"""Probes on daemons that take their time: a standby left alone, Galera without quorum, RabbitMQ under an alarm."""

from __future__ import annotations

import pytest
from tiers.asked import FAIL, INCONCLUSIVE, PASS, SHORT, WARN, ask, brief, frozen, until_brief
from tiers.daemons_common import Yard
from tiers.daemons_messages import Rabbitmq
from tiers.daemons_stores import PASSWORD, Galera, Postgresql

from ubisip.health.probe import Finding
from ubisip.health.probes.amqp import AmqpProbe
from ubisip.health.probes.galera import GaleraProbe
from ubisip.health.probes.postgresql import PostgresqlProbe

pytestmark = pytest.mark.long


async def test_postgresql_a_standby_that_receives_nothing_is_a_warning() -> None:
    yard = Yard("postgres")
    try:
        first = Postgresql(yard)
        second = Postgresql(yard, first)
        first.child.kill()
        probe = PostgresqlProbe({})
        assert brief(await ask(probe, first.address, "watch", PASSWORD)) == (FAIL, "refused")

        async def look() -> Finding:
            return await ask(probe, second.address, "watch", PASSWORD)

        await until_brief(look, (WARN, "replication"))
    finally:
        yard.close()


# Galera


async def test_galera_by_its_wsrep_status() -> None:
    yard = Yard("mysql")
    try:
        node = Galera(yard)
        probe = GaleraProbe({})

        async def look() -> Finding:
            return await ask(probe, node.address, "watch", PASSWORD)

        await until_brief(look, (PASS, "ok"))
        facts = (await look()).facts
        assert (facts["state"], facts["cluster_status"], facts["size"]) == ("synced", "Primary", 1)
        finding = await ask(probe, node.address, "watch", "wrong")
        assert brief(finding) == (INCONCLUSIVE, "sql.1045")
        async with frozen(node.child):
            assert brief(await ask(probe, node.address, "watch", PASSWORD, SHORT)) == (FAIL, "timeout")
        node.sql(
            "SET GLOBAL wsrep_provider_options='pc.weight=0'; SET GLOBAL wsrep_cluster_address='gcomm://127.0.0.1:1'"
        )
        await until_brief(look, (FAIL, "galera.no-quorum"))
    finally:
        yard.close()


# RabbitMQ


async def test_amqp_queues_alarms_and_rights() -> None:
    yard = Yard("rabbitmq")
    try:
        broker = Rabbitmq(yard)
        probe = AmqpProbe({})
        assert brief(await ask(probe, broker.address)) == (PASS, "ok")
        assert brief(await ask(probe, broker.address, "guest", "wrong")) == (INCONCLUSIVE, "amqp.auth")
        missing = AmqpProbe({"queues": {"jobs": 10}})
        assert brief(await ask(missing, broker.address)) == (FAIL, "amqp.queue-missing")
        broker.control("add_user", "watch", PASSWORD)
        assert brief(await ask(probe, broker.address, "watch", PASSWORD)) == (INCONCLUSIVE, "amqp.rights")
        broker.control("set_vm_memory_high_watermark", "0")

        async def look() -> Finding:
            return await ask(probe, broker.address, timeout=1.5)

        await until_brief(look, (FAIL, "amqp.blocked"))
        broker.control("set_vm_memory_high_watermark", "absolute", "2GB")
        await until_brief(look, (PASS, "ok"))
        async with frozen(broker.child):
            assert brief(await ask(probe, broker.address, timeout=SHORT)) == (FAIL, "timeout")
    finally:
        yard.close()
