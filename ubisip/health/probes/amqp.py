# SPDX-License-Identifier: Apache-2.0
"""Probe ``amqp``: a broker takes a message, and its queues are not longer than they may be.

RabbitMQ with a memory or disk alarm still lets people in; it only stops reading from those who publish. So a message
that no queue wants is published, and its confirmation awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from ubisip.address import split_address
from ubisip.health.asking import PROTOCOL, ask, failed, of_error, passed, short, unclear, warned
from ubisip.health.probe import Finding, Target
from ubisip.health.trust import client_context
from ubisip.parameters import nothing, read_parameters

AMQP_PORT = 5672
AMQPS_PORT = 5671
NOWHERE = "ubisip.probe"
"""Routing key that no queue has: the broker confirms such a message and drops it."""
FAREWELL = 0.2
"""Seconds for the end of a session."""
PATIENCE = 0.6
"""Part of the time-out that a confirmation may take: then there is time left to say that publishers are blocked."""


@dataclass(frozen=True, slots=True)
class AmqpParameters:
    """What is looked at."""

    vhost: str = "/"
    """The virtual host to enter."""
    publish: bool = True
    """Whether a message is published to find alarms; the user needs the right to write to `amq.default`."""
    queues: Mapping[str, int] = field(default_factory=nothing)
    """Queues that must exist, each with the messages from which it is a warning."""
    tls: bool = False
    """Whether the connection is encrypted; the certificate is verified then."""
    ca_file: str = ""
    """PEM file of the authorities that are trusted; empty: those of the system."""


class AmqpProbe:
    """A session with ``host:port`` as the tier's user."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = read_parameters(AmqpParameters, parameters)
        self._tls = client_context(self._parameters.ca_file, True) if self._parameters.tls else None

    async def check(self, target: Target, timeout: float) -> Finding:
        return await ask(self._check(target, timeout), timeout)

    async def _check(self, target: Target, timeout: float) -> Finding:
        connection: AbstractConnection | None = None
        try:
            connection = await self._connected(target, timeout)
            return await self._looked(connection, timeout)
        except (aiormq.exceptions.AMQPError, ConnectionError) as error:
            return of_amqp_error(error)
        finally:
            if connection is not None:
                await _end(connection)

    async def _connected(self, target: Target, timeout: float) -> AbstractConnection:
        host, port = split_address(target.address, AMQPS_PORT if self._tls else AMQP_PORT)
        return await aio_pika.connect(
            host=host, port=port, login=target.user or "guest", password=target.password or "guest",
            virtualhost=self._parameters.vhost, ssl=self._tls is not None, ssl_context=self._tls, timeout=timeout,
        )  # fmt: skip

    async def _looked(self, connection: AbstractConnection, timeout: float) -> Finding:
        channel = await connection.channel()
        depths = {}
        for name in self._parameters.queues:
            queue = await channel.declare_queue(name, passive=True)
            depths[name] = queue.declaration_result.message_count or 0
        facts = {"queues": depths}
        try:
            if self._parameters.publish:
                await self._publish(channel, timeout * PATIENCE)
        except TimeoutError:
            return failed("amqp.blocked", facts, "it takes no messages: a memory or disk alarm")
        long = [name for name, depth in depths.items() if depth > self._parameters.queues[name]]
        return warned("amqp.queue", facts, f"too many messages wait in {', '.join(long)}") if long else passed(facts)

    async def _publish(self, channel: AbstractChannel, timeout: float) -> None:
        """Two messages: under an alarm RabbitMQ still confirms the first that a session publishes, then reads no more.

        :raises TimeoutError: they are not confirmed.
        """
        async with asyncio.timeout(timeout):
            for _ in range(2):
                message = aio_pika.Message(b"", app_id="ubisip")
                await channel.default_exchange.publish(message, NOWHERE, mandatory=False)

    async def close(self) -> None:
        """It keeps no connections."""


async def _end(connection: AbstractConnection) -> None:
    """Close it politely; a broker that reads nothing from us does not answer even that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL):
            await connection.close()


def of_amqp_error(error: Exception) -> Finding:
    """The finding that an error of the driver stands for."""
    match error:
        case aiormq.exceptions.AuthenticationError() | aiormq.exceptions.ProbableAuthenticationError():
            return unclear("amqp.auth", f"the broker does not let us in: {short(error)}")
        case aiormq.exceptions.InvalidFrameError() if "Connection.Close" in str(error):
            return unclear("amqp.rights", "the broker ends the session: no such virtual host, or no right to enter it")
        case aiormq.exceptions.ChannelAccessRefused() | aiormq.exceptions.ConnectionNotAllowed():
            return unclear("amqp.rights", f"the broker does not let us look: {short(error)}")
        case aiormq.exceptions.ChannelNotFoundEntity():
            return failed("amqp.queue-missing", problem=short(error))
        case aiormq.exceptions.IncompatibleProtocolError() | aiormq.exceptions.InvalidFrameError():
            return failed(PROTOCOL, problem=short(error))
        case ConnectionError():
            cause = error.__cause__ or error.__context__
            return of_error(cause if isinstance(cause, OSError) else error)
    return failed("amqp.error", problem=short(error))
