# SPDX-License-Identifier: Apache-2.0
"""The sink ``amqp`` while its broker dies and returns: no notice is lost, and they come in their order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from processes import until
from tiers.daemons_common import Yard
from tiers.daemons_messages import Rabbitmq

from ubisip.failover.action import Notice
from ubisip.failover.sinks.amqp import AmqpSink

pytestmark = pytest.mark.long

NOTICE = Notice(
    "database/dead-primary/db1", "critical", "db1 is dead", "Its replicas agree.", starts_at=1_800_000_000.0
)


@pytest.fixture
def broker() -> Iterator[Rabbitmq]:
    yard = Yard("rabbitmq")
    try:
        yield Rabbitmq(yard)
    finally:
        yard.close()


async def channel_to(broker: Rabbitmq) -> tuple[Any, Any]:
    connection = await aio_pika.connect(f"amqp://guest:guest@{broker.address}/")
    return connection, await connection.channel()


async def bind(broker: Rabbitmq) -> None:
    """A durable queue for all that is published."""
    connection, channel = await channel_to(broker)
    exchange = await channel.declare_exchange("ubisip.events", aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue("all", durable=True)
    await queue.bind(exchange, "ubisip.#")
    await connection.close()


async def fetched(broker: Rabbitmq, count: int, known: Collection[str] = ()) -> list[Any]:
    """Exactly *count* messages by their identities: one whose confirmation was lost comes twice.

    Those *known* do not count: a broker that is killed may not remember that it has handed them out.
    """
    connection, channel = await channel_to(broker)
    queue = await channel.declare_queue("all", passive=True)
    messages: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while (one := await queue.get(no_ack=True, fail=False)) is not None or len(messages) < count:
            if one is None:
                await asyncio.sleep(0.05)
            elif one.message_id not in known:
                messages.setdefault(one.message_id, one)
    await connection.close()
    assert len(messages) == count
    return list(messages.values())


async def test_notices_outlive_the_death_of_the_broker(broker: Rabbitmq, tmp_path: Path) -> None:
    await bind(broker)
    sink = AmqpSink({"url": f"amqp://{broker.address}/", "retry": 0.2, "routing_key": "ubisip.{status}"}, tmp_path)
    await sink.send(NOTICE)
    (first,) = await fetched(broker, 1)
    assert (first.routing_key, first.content_type) == ("ubisip.firing", "application/json")
    assert first.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert json.loads(first.body)["key"] == NOTICE.key

    broker.child.kill()
    for number in range(5):
        await sink.send(replace(NOTICE, text=str(number)))
    (outbox,) = tmp_path.iterdir()
    assert len(outbox.read_text().splitlines()) == 5
    await asyncio.to_thread(broker.start)
    later = await fetched(broker, 5, {first.message_id})
    assert [json.loads(one.body)["text"] for one in later] == list("01234")
    await until(lambda: not list(tmp_path.iterdir()), "the outbox to be empty")
    await sink.send(replace(NOTICE, ends_at=1_800_000_060.0))
    (last,) = await fetched(broker, 1)
    assert last.routing_key == "ubisip.resolved"
    await sink.close()


async def test_what_a_gateway_left_in_its_outbox_is_sent_by_its_successor(broker: Rabbitmq, tmp_path: Path) -> None:
    await bind(broker)
    broker.child.kill()
    parameters = {"url": f"amqp://{broker.address}/", "retry": 0.2}
    sink = AmqpSink(parameters, tmp_path)
    await sink.send(NOTICE)
    await sink.close()
    await asyncio.to_thread(broker.start)
    successor = AmqpSink(parameters, tmp_path)
    (one,) = await fetched(broker, 1)
    assert json.loads(one.body)["key"] == NOTICE.key
    await successor.close()
