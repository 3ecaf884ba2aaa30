# SPDX-License-Identifier: Apache-2.0
"""What the gateways of one site share of their bindings, in Redis (DESIGN section 9).

Of each gateway a hash ``ubisip:PLATFORM:SITE:NAME``, a field a binding, which ends by itself when nobody writes it any
more; and a channel ``ubisip:PLATFORM:SITE`` that carries what changes. A change is written and published in one
transaction: who subscribes first and reads the hashes then, has missed nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no stubs
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ubisip.store.soft import UNREADABLE, Record, SoftStoreError

ANSWER_LIMIT = 5.0
"""Seconds for one answer."""
CONNECT_LIMIT = 2.0
PAGE = 100
"""Fields asked for at a time: some 30 kB, read in 2 ms."""
MAX_MESSAGE = 4 * 1024 * 1024
"""Octets of a message or of a row; ours have less than a tenth of it."""


class SiteRows:
    """The rows of the gateways of *site* in the Redis at *url*, see :class:`ubisip.store.soft.SoftStore`.

    Nothing is connected before the first call.
    """

    def __init__(self, url: str, platform: str, site: str) -> None:
        self._channel = f"ubisip:{platform}:{site}"
        self._client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            url, socket_timeout=ANSWER_LIMIT, socket_connect_timeout=CONNECT_LIMIT, client_name="ubisip",
            retry=Retry(NoBackoff(), 0), decode_responses=False,
        )  # fmt: skip

    async def write(
        self, gateway: str, rows: Mapping[Any, Record], gone: Sequence[Any], news: Sequence[Record], lifetime: float
    ) -> None:
        async with _told_as_ours(), self._client.pipeline(transaction=True) as pipe:
            if rows:
                pipe.hset(self._hash(gateway), mapping={_field(key): _packed(row) for key, row in rows.items()})
                pipe.pexpire(self._hash(gateway), round(lifetime * 1000))
            if gone:
                pipe.hdel(self._hash(gateway), *map(_field, gone))
            pipe.publish(self._channel, _packed([gateway, list(news)]))
            await pipe.execute()

    async def clear(self, gateway: str) -> None:
        async with _told_as_ours():
            await self._client.unlink(self._hash(gateway))

    async def announce(self, gateway: str) -> None:
        async with _told_as_ours():
            await self._client.publish(self._channel, _packed([gateway, None]))

    async def rows(self, gateway: str) -> AsyncIterator[Sequence[Record]]:
        cursor = 0
        while True:
            async with _told_as_ours():
                cursor, page = await self._client.hscan(self._hash(gateway), cursor, count=PAGE)
            yield [_row(value) for value in page.values()]
            if cursor == 0:
                return

    @asynccontextmanager
    async def news(self) -> AsyncIterator[News]:
        async with _told_as_ours(), self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(self._channel)
            yield News(channel)

    async def close(self) -> None:
        async with _told_as_ours():
            await self._client.aclose()

    def _hash(self, gateway: str) -> str:
        return f"{self._channel}:{gateway}"


class News:
    """An open subscription, see :class:`ubisip.store.soft.News`."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def next(self, patience: float) -> tuple[str, Sequence[Record] | None] | None:
        async with _told_as_ours():
            message = await self._channel.get_message(timeout=patience)
        return None if message is None else _message(message["data"])


@asynccontextmanager
async def _told_as_ours() -> AsyncIterator[None]:
    """
    :raises SoftStoreError: for whatever can go wrong with Redis.
    """
    try:
        yield
    except (redis.exceptions.RedisError, OSError, asyncio.IncompleteReadError) as error:  # TimeoutError is an OSError
        raise SoftStoreError(str(error) or type(error).__name__) from error


def _field(key: Any) -> bytes:
    """What stands for a key of ubisip.store.bindings; the same at every gateway."""
    return hashlib.blake2b(_packed(key), digest_size=16).digest()


def _packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return data


def _unpacked(data: bytes) -> Any:
    """
    :raises ValueError: it is not msgpack, or too much of it.
    """
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"{len(data)} octets")
    try:
        return msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
    except (msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ValueError(str(error)) from error


def _row(data: bytes) -> Record:
    try:
        row = _unpacked(data)
    except ValueError:
        return UNREADABLE
    return row if isinstance(row, list) and row else UNREADABLE


def _message(data: bytes) -> tuple[str, Sequence[Record] | None]:
    """What was published; of something that no gateway of ours says, one UNREADABLE of nobody's."""
    try:
        name, news = _unpacked(data)
    except (ValueError, TypeError):
        return "", [UNREADABLE]
    if not isinstance(name, str) or not (news is None or isinstance(news, list)):
        return "", [UNREADABLE]
    if news is None:
        return name, None
    return name, [record if isinstance(record, list) and record else UNREADABLE for record in news]
