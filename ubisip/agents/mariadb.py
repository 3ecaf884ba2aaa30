# SPDX-License-Identifier: Apache-2.0
"""Credentials from MariaDB or MySQL, by a statement prepared on the server: no user name is ever part of its text."""

from __future__ import annotations

import asyncmy

from ubisip.agents.pool import CONNECT_LIMIT, Pool
from ubisip.agents.secret import Secret
from ubisip.agents.source import Options
from ubisip.agents.sql import DEFAULT_QUERY, MAX_ROWS, numbered, secret_of_rows
from ubisip.source_url import Host

STATEMENTS = 2
"""Prepared statements that a connection keeps; we have one."""


class MariadbSession:
    """One connection."""

    def __init__(self, connection: asyncmy.connection.Connection, query: str, names: tuple[str, ...]) -> None:
        self._connection = connection
        self._query = query
        self._names = names

    async def ask(self, user: str, realm: str) -> Secret | None:
        values = {"user": user, "realm": realm}
        async with self._connection.cursor(asyncmy.cursors.DictCursor) as cursor:
            await cursor.execute(self._query, [values[name] for name in self._names])
            return secret_of_rows(await cursor.fetchmany(MAX_ROWS))

    async def close(self) -> None:
        self._connection.close()


def open_source(options: Options) -> Pool:
    """Sessions to the servers of the URL."""
    query, names = numbered((options.query or DEFAULT_QUERY).replace("%", "%%"), lambda _number: "%s")

    async def connect(host: Host) -> MariadbSession:
        connection = await asyncmy.connect(
            host=host.name,
            port=host.port,
            user=options.url.user,
            password=options.password,
            database=options.url.path,
            charset="utf8mb4",
            autocommit=True,  # else every look-up would see the table as it was at the first
            connect_timeout=CONNECT_LIMIT,
            stmt_cache_size=STATEMENTS,
            ssl=options.tls,
        )
        return MariadbSession(connection, query, names)

    return Pool(options.url.hosts, connect)
