# SPDX-License-Identifier: Apache-2.0
"""The store in one SQLite file: for a single node, or the processes of one machine.

Every write is on disk before it is answered. Leases end by the machine's clock since it booted, which all of its
processes share and nobody sets; after a reboot every lease of before is over.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ubisip.failover.coordination import TIMEOUT, Compare, Entry, LeaseLost, Put, StoreError

_T = TypeVar("_T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
    lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (number INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL, ends REAL, boot TEXT);
CREATE TABLE IF NOT EXISTS revision (one INTEGER PRIMARY KEY CHECK (one = 1), newest INTEGER NOT NULL);
INSERT OR IGNORE INTO revision VALUES (1, 0);
"""


def boot_clock() -> float:
    """Seconds since the machine booted, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """What tells this boot of the machine from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class SqliteStore:
    """The file *path*; see :class:`ubisip.failover.coordination.Store`. *clock* and *boot* are for tests."""

    def __init__(self, path: str, clock: Callable[[], float] = boot_clock, boot: str = "") -> None:
        self._path = path
        self._clock = clock
        self._boot = boot or boot_id()
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ubisip-store")

    async def grant(self, ttl: float) -> int:
        return await self._do(self._grant, ttl)

    async def renew(self, lease: int) -> None:
        await self._do(self._renew, lease)

    async def revoke(self, lease: int) -> None:
        await self._do(self._revoke, lease)

    async def get(self, key: str) -> Entry | None:
        return await self._do(self._get, key)

    async def range(self, prefix: str) -> list[Entry]:
        return await self._do(self._range, prefix)

    async def commit(self, compares: Sequence[Compare], puts: Sequence[Put], deletes: Sequence[str] = ()) -> int:
        return await self._do(self._commit, compares, puts, deletes)

    async def tidy(self) -> None:
        """Nothing to forget: only the newest revision of a key is kept."""

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[..., _T], *values: object) -> _T:
        """Do *work* in the store's own thread, as one transaction."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT):
                return await loop.run_in_executor(self._thread, functools.partial(self._transact, work, *values))
        except TimeoutError:
            raise StoreError(f"{self._path}: no answer in {TIMEOUT:g} s") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error

    def _transact(self, work: Callable[..., _T], *values: object) -> _T:
        connection = self._opened()
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._expire(connection)
            result = work(connection, *values)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=TIMEOUT * 0.8, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(_SCHEMA)
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _expire(self, connection: sqlite3.Connection) -> None:
        """What is under leases that are over goes, before anything is looked at."""
        over = [
            number
            for (number,) in connection.execute(
                "SELECT number FROM lease WHERE ends <= ? OR boot <> ?", (self._clock(), self._boot)
            )
        ]
        for number in over:
            self._revoke(connection, number)

    def _grant(self, connection: sqlite3.Connection, ttl: float) -> int:
        cursor = connection.execute(
            "INSERT INTO lease (ttl, ends, boot) VALUES (?, ?, ?)", (ttl, self._clock() + ttl, self._boot)
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _renew(self, connection: sqlite3.Connection, lease: int) -> None:
        cursor = connection.execute("UPDATE lease SET ends = ? + ttl WHERE number = ?", (self._clock(), lease))
        if cursor.rowcount == 0:
            raise LeaseLost(f"lease {lease} is over")

    def _revoke(self, connection: sqlite3.Connection, lease: int) -> None:
        if connection.execute("DELETE FROM entry WHERE lease = ?", (lease,)).rowcount:
            self._next(connection)
        connection.execute("DELETE FROM lease WHERE number = ?", (lease,))

    def _get(self, connection: sqlite3.Connection, key: str) -> Entry | None:
        row = connection.execute("SELECT key, value, created, modified FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else Entry(*row)

    def _range(self, connection: sqlite3.Connection, prefix: str) -> list[Entry]:
        rows = connection.execute(
            "SELECT key, value, created, modified FROM entry WHERE substr(key, 1, ?) = ? ORDER BY key",
            (len(prefix), prefix),
        )
        return [Entry(*row) for row in rows]

    def _commit(
        self,
        connection: sqlite3.Connection,
        compares: Sequence[Compare],
        puts: Sequence[Put],
        deletes: Sequence[str],
    ) -> int:
        if not all(self._holds(connection, compare) for compare in compares):
            return 0
        leases = {put.lease for put in puts if put.lease}
        for lease in leases:
            if connection.execute("SELECT 1 FROM lease WHERE number = ?", (lease,)).fetchone() is None:
                raise LeaseLost(f"lease {lease} is over")
        revision = self._next(connection)
        for put in puts:
            connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = excluded.value, modified = excluded.modified, lease = excluded.lease",
                (put.key, put.value, revision, revision, put.lease),
            )
        connection.executemany("DELETE FROM entry WHERE key = ?", [(key,) for key in deletes])
        return revision

    def _holds(self, connection: sqlite3.Connection, compare: Compare) -> bool:
        entry = self._get(connection, compare.key)
        created, modified = (0, 0) if entry is None else (entry.created, entry.modified)
        return compare.created in (None, created) and compare.modified in (None, modified)

    def _next(self, connection: sqlite3.Connection) -> int:
        connection.execute("UPDATE revision SET newest = newest + 1")
        return int(connection.execute("SELECT newest FROM revision").fetchone()[0])
