# SPDX-License-Identifier: Apache-2.0
"""Credentials from PostgreSQL."""

from __future__ import annotations

import asyncpg

from ubisip.agents.pool import CONNECT_LIMIT, Pool
from ubisip.agents.secret import Secret
from ubisip.agents.source import Options
from ubisip.agents.sql import DEFAULT_QUERY, MAX_ROWS, numbered, secret_of_rows
from ubisip.source_url import Host


class PostgresqlSession:
    """One connection."""

    def __init__(self, connection: asyncpg.Connection, query: str, names: tuple[str, ...]) -> None:
        self._connection = connection
        self._query = query
        self._names = names

    async def ask(self, user: str, realm: str) -> Secret | None:
        values = {"user": user, "realm": realm}
        rows = await self._connection.fetch(self._query, *(values[name] for name in self._names))
        return secret_of_rows([dict(row) for row in rows[:MAX_ROWS]])

    async def close(self) -> None:
        self._connection.terminate()


def open_source(options: Options) -> Pool:
    """Sessions to the servers of the URL."""
    query, names = numbered(options.query or DEFAULT_QUERY, lambda number: f"${number}")

    async def connect(host: Host) -> PostgresqlSession:
        connection = await asyncpg.connect(
            host=host.name,
            port=host.port,
            user=options.url.user or None,
            password=options.password or None,
            database=options.url.path,
            timeout=CONNECT_LIMIT,
            ssl=options.tls if options.tls is not None else "prefer",
        )
        return PostgresqlSession(connection, query, names)

    return Pool(options.url.hosts, connect)
