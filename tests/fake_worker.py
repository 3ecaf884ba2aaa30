# SPDX-License-Identifier: Apache-2.0
"""A worker that carries no calls: tests say what it heard, and see what it was told."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ubisip.core.engine import Event

PLATFORM = """\
[platform]
name = "test"
environment = "preproduction"
{platform}
[sites.PA2]
[sites.PA5]

[[carriers]]
name = "sbc-1"
centre = "montsouris"
site = "PA2"
uri = "sip:127.0.9.1:5060"

[[servers]]
name = "pa2-tel1"
site = "PA2"
uri = "sip:127.0.9.21:5071"

[[servers]]
name = "pa5-tel1"
site = "PA5"
uri = "sip:127.0.9.51:5071"
weight = 50

[[gateways]]
name = "pa2-gw1"
site = "PA2"
listen = ["udp:127.0.9.11:{port}"]
{gateway}

[health.sip]
interval = 0.2
fast_interval = 0.1
{more}
"""


def write_platform(folder: Path, *, port: int, platform: str = "", gateway: str = "", more: str = "") -> Path:
    """A small platform in *folder*."""
    path = folder / "platform.toml"
    path.write_text(PLATFORM.format(port=port, platform=platform, gateway=gateway, more=more))
    return path


@dataclass
class FakeSnapshot:
    """What the core would be told."""

    config: Any
    node: str
    slots: Any
    states: dict[str, Any] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    draining: bool = False
    hook: bool = False
    record: bool = False
    credentials_complete: bool = False
    wall: float = 0.0


def statistics() -> dict[str, Any]:
    """Counters of a worker that has done nothing."""
    return {
        "counters": {},
        "responses": {f"{digit}xx": 0 for digit in range(1, 7)},
        "transactions": 0,
        "memory": 4096,
        "pending": 0,
        "calls": 0,
        "pdd": {"buckets": [(0.01, 0), (0.1, 0), (float("inf"), 0)], "sum": 0.0, "count": 0},
        "destinations": {},
        "worker": {"batches": 0, "received": 0, "sent": 0, "together": 0, "send_errors": 0, "busy": 0.0},
    }


class FakeWorker:
    """The face of ubisip.core.worker.Worker; ``answering`` decides what a probe brings."""

    made: ClassVar[list[FakeWorker]] = []

    def __init__(
        self, sockets: Sequence[Any], snapshot: FakeSnapshot, keys: Sequence[bytes], *, coalesce: float
    ) -> None:
        self.sockets, self.keys, self.coalesce = list(sockets), list(keys), coalesce
        self.snapshots = [snapshot]
        self.probes: list[tuple[int, bytes, float]] = []
        self.decisions: dict[int, int] = {}
        self.counters = statistics()
        self.alive: float | None = None
        self.answering: Callable[[int], tuple[int, float] | None] = lambda destination: (200, 0.001)
        self.running = False
        self.full = False
        self.received: list[tuple[bytes, int, tuple[str, int], int]] = []
        """Messages that came over streams: data, stream, peer, listener."""
        self.stream_failures: list[tuple[bytes, tuple[str, int]]] = []
        self.users: dict[tuple[str, str], tuple[Any, ...]] = {}
        """What it was told of each user: three digests, known, lifetime; empty: they could not be had."""
        self.restored: list[tuple[Any, ...]] = []
        self.journal = b""
        self.lost = 0
        """Records that the journal lacks."""
        self.table: list[tuple[Any, ...]] = []
        """Its bindings, as rows of ``bindings()``."""
        self.streams_closed: list[int] = []
        self._letters: list[tuple[bytes, tuple[str, int], int, int]] = []
        self._news: list[Event] = []
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        FakeWorker.made.append(self)

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False
        os.close(self._eventfd)

    def fileno(self) -> int:
        return self._eventfd

    def hear(self, kind: str, destination: int = -1, **values: Any) -> None:
        """Let something have happened."""
        rest = {"status": 0, "handle": 0, "value": 0.0, "data": b""} | values
        self._news.append(Event(kind, time.monotonic(), destination, **rest))
        os.eventfd_write(self._eventfd, 1)

    def events(self) -> list[Event]:
        with suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        news, self._news = self._news, []
        return news

    def swap(self, snapshot: FakeSnapshot) -> None:
        self._check_mailbox()
        self.snapshots.append(snapshot)

    def _check_mailbox(self) -> None:
        if self.full:
            raise BufferError("the worker's mailbox is full")

    def set_keys(self, keys: Sequence[bytes]) -> None:
        self.keys = list(keys)

    def decide(self, handle: int, destination: int) -> None:
        self._check_mailbox()
        self.decisions[handle] = destination

    def probe(self, destination: int, data: bytes, handle: int, timeout: float) -> None:
        self.probes.append((destination, data, timeout))
        answer = self.answering(destination)
        if answer is not None:
            self.hear("probe", destination, status=answer[0], value=answer[1], handle=handle)

    def receive_stream(self, data: bytes, stream: int, peer: tuple[str, int], listener: int) -> None:
        self._check_mailbox()
        self.received.append((data, stream, peer, listener))

    def stream_failed(self, data: bytes, address: tuple[str, int]) -> None:
        self._check_mailbox()
        self.stream_failures.append((data, address))

    def stream_closed(self, stream: int) -> None:
        """A connection has ended."""
        self._check_mailbox()
        self.streams_closed.append(stream)

    def send_stream(self, data: bytes, address: tuple[str, int], listener: int = 0, stream: int = 0) -> None:
        """Let the core want to send a message over a stream."""
        self._letters.append((data, address, listener, stream))
        if self.running:
            os.eventfd_write(self._eventfd, 1)

    def stream_messages(self) -> list[tuple[bytes, tuple[str, int], int, int]]:
        letters, self._letters = self._letters, []
        return letters

    def credential(self, user: str, realm: str, *what: Any) -> None:
        self._check_mailbox()
        self.users[user, realm] = what

    def credential_failed(self, user: str, realm: str) -> None:
        self._check_mailbox()
        self.users[user, realm] = ()

    def take_journal(self) -> bytes:
        journal, self.journal = self.journal, b""
        return journal

    def journal_lost(self) -> int:
        return self.lost

    def bindings(self, after: int, limit: int) -> tuple[int, list[tuple[Any, ...]]]:
        end = after + limit
        return (end if end < len(self.table) else 0), self.table[after:end]

    def restore(self, rows: Sequence[tuple[Any, ...]]) -> int:
        if any(row[10] == "" for row in rows):
            raise ValueError("'' is no address")
        self.restored += rows
        return len(rows)

    def successes(self) -> dict[int, int]:
        return {slot: row["successes"] for slot, row in self.counters["destinations"].items()}

    def statistics(self) -> dict[str, Any]:
        return self.counters | {"alive": time.monotonic() if self.alive is None else self.alive}


async def until(condition: Callable[[], Any]) -> None:
    """Wait until *condition* holds; ten seconds are for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
