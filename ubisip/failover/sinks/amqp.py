# SPDX-License-Identifier: Apache-2.0
"""Sink ``amqp``: the notice as JSON to an exchange, confirmed by the broker; kept on disk while there is none.

A notice is delivered once it is confirmed or stands in the outbox. What stands there is sent in its order as soon as
the broker confirms again. One whose confirmation was lost is sent again under the same identity: readers can tell.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aio_pika
import aiormq.exceptions
from yarl import URL

from ubisip.failover.action import ActionError, Notice
from ubisip.failover.sinks.outbox import Letter, Outbox
from ubisip.failover.sinks.plain import json_notice
from ubisip.health.asking import short
from ubisip.health.trust import client_context
from ubisip.parameters import read_parameters, read_secret
from ubisip.schema import REQUIRED, Between

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AmqpParameters:
    """Where notices are published."""

    url: Annotated[str, REQUIRED] = ""
    """``amqp://host:port/vhost`` or ``amqps://...``, without user and password."""
    user: str = "guest"
    """Who publishes."""
    password_file: str = ""
    """The file with their password; empty: ``guest``."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted by ``amqps``; empty: those of the system."""
    exchange: str = "ubisip.events"
    """The exchange, of type topic; it is declared durable when there is none."""
    routing_key: str = "ubisip.{severity}"
    """``{severity}`` and ``{status}`` (firing, resolved) are the notice's."""
    declare: bool = True
    """Whether the exchange is declared; else it must be there."""
    retry: Annotated[float, Between(0.1, 3600)] = 5.0
    """Seconds between attempts to send what stands in the outbox."""
    timeout: Annotated[float, Between(0.1, 60)] = 5.0
    """Seconds that an attempt may take."""


class AmqpSink:
    """Publishes each notice, at once or later."""

    def __init__(self, parameters: Mapping[str, Any], state_dir: Path) -> None:
        """:raises ValueError: a parameter is wrong, or a file cannot be read."""
        self._parameters = read_parameters(AmqpParameters, parameters)
        self._password = read_secret(self._parameters.password_file) or "guest"
        self._context = client_context(self._parameters.ca_file, True)
        where = hashlib.sha256(f"{self._parameters.url} {self._parameters.exchange}".encode()).hexdigest()[:12]
        self._outbox = Outbox(state_dir / f"amqp-{where}.outbox")
        self._sending = asyncio.Lock()
        self._later: asyncio.Task[None] | None = None
        if self._outbox.letters and _loop_runs():
            self._try_later()

    async def send(self, notice: Notice) -> None:
        status = "firing" if notice.ends_at is None else "resolved"
        key = self._parameters.routing_key.replace("{severity}", notice.severity).replace("{status}", status)
        async with self._sending:
            try:
                self._outbox.add(Letter(uuid.uuid4().hex, key, json_notice(notice)))
            except OSError as error:
                raise ActionError(f"the outbox cannot be written: {error}", retry=True) from error
            problem = await self._flush()
        if problem:
            log.warning("AMQP: %s; %d notices wait in the outbox", problem, len(self._outbox.letters))
            self._try_later()

    def _try_later(self) -> None:
        if self._later is None or self._later.done():
            self._later = asyncio.create_task(self._flush_until_empty())

    async def _flush_until_empty(self) -> None:
        while self._outbox.letters:
            await asyncio.sleep(self._parameters.retry)
            async with self._sending:
                await self._flush()

    async def _flush(self) -> str:
        """Send what waits; why some of it still does, or nothing."""
        if not self._outbox.letters:
            return ""
        try:
            async with asyncio.timeout(self._parameters.timeout):
                await self._publish()
        except TimeoutError:
            return "no confirmation in time"
        except (aiormq.exceptions.AMQPError, OSError) as error:
            return short(error) or type(error).__name__
        finally:
            self._settle()
        return ""

    def _settle(self) -> None:
        try:
            self._outbox.settle()
        except OSError as error:
            log.warning("the outbox cannot be written, so what was sent is sent again after a restart: %s", error)

    async def _publish(self) -> None:
        it = self._parameters
        url = URL(it.url).with_user(it.user).with_password(self._password)
        connection = await aio_pika.connect(url, timeout=it.timeout, ssl_context=self._context)
        try:
            channel = await connection.channel()
            exchange = await self._exchange(channel)
            while self._outbox.letters:
                one = self._outbox.letters[0]
                message = aio_pika.Message(
                    one.body, message_id=one.id, content_type="application/json", app_id="ubisip",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )  # fmt: skip
                await exchange.publish(message, one.routing_key, mandatory=False)
                self._outbox.letters.popleft()
        finally:
            await connection.close()

    async def _exchange(self, channel: aio_pika.abc.AbstractChannel) -> aio_pika.abc.AbstractExchange:
        if not self._parameters.declare:
            return await channel.get_exchange(self._parameters.exchange)
        return await channel.declare_exchange(self._parameters.exchange, aio_pika.ExchangeType.TOPIC, durable=True)

    async def close(self) -> None:
        """What waits stays on disk."""
        if self._later is not None:
            self._later.cancel()
            with suppress(asyncio.CancelledError):
                await self._later


def _loop_runs() -> bool:
    """Whether we are to serve; a check of the configuration constructs us too, without a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
