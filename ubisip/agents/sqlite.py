# SPDX-License-Identifier: Apache-2.0
"""Credentials from an SQLite file; it is opened for each look-up (50 us), so it may be replaced at any time."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from ubisip.agents.credentials import Unavailable
from ubisip.agents.secret import Secret
from ubisip.agents.source import Options
from ubisip.agents.sql import DEFAULT_QUERY, MAX_ROWS, secret_of_rows

LOCK_LIMIT = 1.0
"""Seconds to wait for who writes to the file."""
THREADS = 2


class SqliteSource:
    """Runs the query in a thread, for reading only."""

    def __init__(self, options: Options) -> None:
        self._uri = f"{Path(options.url.path).absolute().as_uri()}?mode=ro"
        self._query = options.query or DEFAULT_QUERY
        self._threads = ThreadPoolExecutor(THREADS, "ubisip-sqlite")

    async def credentials(self, user: str, realm: str) -> Secret | None:
        loop = asyncio.get_running_loop()
        try:
            rows = await loop.run_in_executor(self._threads, self._rows, {"user": user, "realm": realm})
            return secret_of_rows(rows)
        except (sqlite3.Error, ValueError) as error:
            raise Unavailable(f"sqlite: {error}") from error

    def _rows(self, parameters: dict[str, str]) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self._uri, timeout=LOCK_LIMIT, uri=True)) as connection:
            cursor = connection.execute(self._query, parameters)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(MAX_ROWS)]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
