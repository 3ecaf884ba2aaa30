# SPDX-License-Identifier: Apache-2.0
"""Applications that write through HAProxy, a ledger of what was acknowledged to them, and the checker of both."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import Child
from tiers.mariadb_rig import APP, APP_PASSWORD, PORT, Databases, Server

from ubisip.health.mariadb import Session, SqlError, session
from ubisip.health.probe import NO_FACTS, Target

INSERT = "INSERT INTO app.ledger (id, server) VALUES (%s, @@server_id)"
WRITERS = 4
PAUSE = 0.01
"""Seconds between the writes of one writer; the disks of the test machine are not the subject."""
HAPROXY = """
global
    stats socket {socket} level admin mode 600
defaults
    mode tcp
    timeout connect 500ms
    timeout client 60s
    timeout server 60s
    timeout queue 500ms
    retries 0
frontend writes
    bind {host}:{port}
    default_backend database
backend database
    default-server inter 500ms fastinter 100ms rise 2 fall 3 on-marked-down shutdown-sessions
{servers}
"""


class Proxy:
    """An HAProxy that sends all to the primary; the others are in maintenance until somebody says else."""

    def __init__(self, directory: Path, host: str, databases: Databases, prefix: Sequence[str] = ()) -> None:
        self.address = f"{host}:{PORT}"
        self._folder = Path(tempfile.mkdtemp(prefix="ha-"))
        self.socket = str(self._folder / "s")
        self._prefix = prefix
        servers = "\n".join(
            f"    server {one.name} {one.address} check{'' if one is databases.primary else ' disabled'}"
            for one in databases.servers
        )
        self._config = directory / f"haproxy-{host}.cfg"
        self._config.write_text(HAPROXY.format(socket=self.socket, host=host, port=PORT, servers=servers))
        self._directory = directory
        self.child: Child | None = None

    def start(self) -> None:
        command = [*self._prefix, "haproxy", "-db", "-f", str(self._config)]
        self.child = Child("haproxy", command, self._directory)

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True)
class Write:
    """One write that was acknowledged."""

    id: int
    server: int
    """The server that acknowledged it, by its id."""
    at: float
    """Monotonic seconds of the acknowledgement."""


@dataclass
class Ledger:
    """What applications were told: the truth that the databases are held against."""

    acknowledged: list[Write] = field(default_factory=list)
    attempts: int = 0
    ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def first_after(self, moment: float, but: Server | None = None) -> Write | None:
        """The first write that was acknowledged after *moment*, by another server than *but*."""
        number = but.number if but is not None else 0
        return next((one for one in self.acknowledged if one.at > moment and one.server != number), None)

    def gap(self) -> float:
        """The longest time without any acknowledgement."""
        times = sorted(one.at for one in self.acknowledged)
        return max((later - sooner for sooner, later in itertools.pairwise(times)), default=0.0)

    def handovers(self) -> list[int]:
        """The servers that acknowledged, in the order of time, each run of one once: ``[1, 3]`` after one failover.

        A server that comes up twice acknowledged after another had begun: two primaries.
        """
        ordered = sorted(self.acknowledged, key=lambda one: one.at)
        return [server for server, _ in itertools.groupby(one.server for one in ordered)]


class Writers:
    """Applications: each keeps one connection and writes one row after the other; what fails is not tried again."""

    def __init__(
        self,
        address: str,
        ledger: Ledger,
        count: int = WRITERS,
        patience: float = 5.0,
        parameters: Mapping[str, Any] = NO_FACTS,
    ) -> None:
        self.ledger = ledger
        self._target = Target("app", "app", "", address, APP, APP_PASSWORD, parameters)
        self._count = count
        self._patience = patience
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Writers:
        self._tasks = [asyncio.create_task(self._live()) for _ in range(self._count)]
        await self.until_written(self.ledger.acknowledged[-1].at if self.ledger.acknowledged else 0.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_written(self, moment: float, timeout: float = 30.0, but: Server | None = None) -> Write:
        """The first write that is acknowledged after *moment*, by another server than *but*: what that one said before
        its end may be read only now."""
        deadline = time.monotonic() + timeout
        while (found := self.ledger.first_after(moment, but)) is None:
            assert time.monotonic() < deadline, f"no write was acknowledged within {timeout:.0f} s"
            await asyncio.sleep(0.005)
        return found

    async def _live(self) -> None:
        while True:
            with suppress(SqlError):
                async with session(self._target, 3600.0) as opened:
                    server = int((await opened.row("SELECT @@server_id AS id"))["id"])
                    while True:
                        await self._write(opened, server)
                        await asyncio.sleep(PAUSE)
            await asyncio.sleep(0.02)

    async def _write(self, opened: Session, server: int) -> None:
        number = next(self.ledger.ids)
        self.ledger.attempts += 1
        try:
            async with asyncio.timeout(self._patience):
                await opened.rows(INSERT, (number,))
        except TimeoutError:
            raise SqlError("timeout", 0, "no acknowledgement") from None
        self.ledger.acknowledged.append(Write(number, server, time.monotonic()))


async def check(ledger: Ledger, server: Server) -> None:
    """Every acknowledged write is there exactly once, and no write twice.

    :raises AssertionError: the writes that are not.
    """
    rows = Counter(int(row["id"]) for row in await server.sql("SELECT id FROM app.ledger"))
    lost = [one for one in ledger.acknowledged if rows[one.id] == 0]
    twice = [number for number, count in rows.items() if count > 1]
    assert not lost, f"of {len(ledger.acknowledged)} acknowledged writes {server.name} lacks {len(lost)}: {lost[:5]}"
    assert not twice, f"there more than once: {twice[:5]}"


async def check_everywhere(ledger: Ledger, databases: Databases, primary: Server, timeout: float = 20.0) -> None:
    """:func:`check` on every server that runs, once it has what *primary* has; and all have the same rows."""
    position = (await primary.facts())["binlog_pos"]
    for one in databases.servers:
        if one.running and one is not primary:
            reached = await one.sql(f"SELECT MASTER_GTID_WAIT('{position}', {timeout}) AS late", timeout=timeout + 5)
            assert reached[0]["late"] == 0, f"{one.name} has not caught up with {position}"
        if one.running:
            await check(ledger, one)


async def attempt(server: Server, number: int, patience: float) -> bool:
    """Whether *server* itself, without any proxy, acknowledges a write of an application within *patience* seconds."""
    target = Target("app", server.name, server.site, server.address, APP, APP_PASSWORD)
    with suppress(SqlError):
        async with session(target, patience) as opened:
            await opened.rows(INSERT, (number,))
            return True
    return False
