# SPDX-License-Identifier: Apache-2.0
"""SIP over TCP (RFC 3261 section 18): listeners, connections both ways, and which of them a message goes out on.

Another stream transport is another way to establish a :class:`Connection`: numbers, reuse and bounds serve them all.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Protocol

from ubisip.platform import Endpoint
from ubisip.transport.connection import Address, Connection, is_request

log = logging.getLogger(__name__)

CONNECTIONS = 10_000
"""Connections in all, both ways: thousands of agents and what a storm of reconnections adds. At the bound new ones are
refused, as those that exist carry calls; idle and silent ones go by themselves."""
PER_SOURCE = 1_000
"""Connections accepted from one address: a call centre behind one NAT, but no stranger who would take them all."""
BACKLOG = 4_096
"""Connections that may wait to be accepted: a site's phones that reconnect at once."""
RESERVE = 256
"""Open files of the process that are no connections."""
BUFFERED = 64 * 1024 * 1024
"""Octets of incomplete messages in all: 1,000 of the largest. Beyond, whoever sends more of one is cut off."""
UNSENT_IN_ALL = 64 * 1024 * 1024
"""Octets that wait to be sent in all. Beyond, the connections with most of them are cut off: nobody reads them."""
CONNECT_LIMIT = 3.0
"""Seconds to establish a connection: a lost SYN is sent again after one; the core has tried elsewhere by then."""
SWEEP = 1.0
"""Seconds between looks for connections that are overdue."""
CLOSE_LIMIT = 1.0
"""Seconds that the last messages get to leave at the stop."""
CLOSE_TURN = 0.01
NUMBERS = 2**31 - 1
"""Connection numbers are from 1 to below it."""

Letter = tuple[bytes, Address, int, int]
"""A message to send, where to, by which listener, and on which connection (0: any): a ``StreamMessage`` of the core."""


class Core(Protocol):
    """The core as streams use it (``ubisip.core.worker.Worker``); both raise BufferError when its mailbox is full."""

    def receive_stream(self, data: bytes, stream: int, peer: Address, listener: int) -> None: ...
    def stream_failed(self, data: bytes, address: Address) -> None: ...


class Streams:
    """All stream connections of a gateway.

    *listen* are its listeners, *sockets* the listening sockets of those that are streams, by their number there;
    ``counters`` are kept since the start, see :meth:`statistics`.
    """

    def __init__(self, listen: Sequence[Endpoint], sockets: Mapping[int, socket.socket]) -> None:
        self.counters: Counter[str] = Counter()
        self._listen = listen
        self._sockets = sockets
        self._core: Core | None = None
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._connections: dict[int, Connection] = {}
        self._by_address: dict[Address, Connection] = {}
        self._accepted: Counter[str] = Counter()
        self._buffered = 0
        self._room = CONNECTIONS

    # Life

    async def start(self, core: Core) -> None:
        """Accept connections from now on and hand to *core* what comes."""
        self._core = core
        self._room = _room()
        loop = asyncio.get_running_loop()
        for listener, listening in self._sockets.items():
            self._servers.append(await loop.create_server(self._factory(listener), sock=listening, backlog=BACKLOG))
        self._spawn(self._sweep())

    def stop_listening(self) -> None:
        """Accept no more; connections stay."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def close(self) -> None:
        """Send what waits, for CLOSE_LIMIT seconds at most, and close every connection."""
        self.stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._core = None
        until = time.monotonic() + CLOSE_LIMIT
        while any(one.unsent for one in self._connections.values()) and time.monotonic() < until:
            await asyncio.sleep(CLOSE_TURN)
        for one in list(self._connections.values()):
            one.abort()

    def statistics(self) -> Mapping[str, Mapping[str, int]]:
        """``connections``: those open now, by who opened them; ``streams``: what happened since the start."""
        opened = sum(one.opened for one in self._connections.values())
        accepted = len(self._connections) - opened
        return {"connections": {"accepted": accepted, "opened": opened}, "streams": dict(self.counters)}

    # Sending

    def send(self, letters: Iterable[Letter]) -> None:
        """Send messages of the core, in their order."""
        for data, address, listener, stream in letters:
            self._send(data, _plain(address), listener, stream)

    def _send(self, data: bytes, address: Address, listener: int, stream: int) -> None:
        connection = self._connections.get(stream)
        if stream and not is_request(data):  # a response goes back where its request came from (section 18.2.2)
            if connection is None or not connection.usable:
                self.counters["responses_without_connection"] += 1
                return
        elif connection is None or not connection.usable:
            connection = self._connection_to(address, listener)
        if connection is not None:
            connection.send(data)
        elif is_request(data):
            self._tell_failed(data, address)
        else:
            self.counters["responses_without_connection"] += 1

    def _connection_to(self, address: Address, listener: int) -> Connection | None:
        """An open one to *address* whoever opened it, else a new one; None: there may be none."""
        connection = self._by_address.get(address)
        if connection is not None and connection.usable:
            return connection
        number = self._listener_for(address, listener)
        if number is None:
            return None
        if len(self._connections) >= self._room:
            self.counters["refused_full"] += 1
            return None
        connection = Connection(self, self._number(), number, address)
        self._connections[connection.number] = self._by_address[address] = connection
        self._spawn(self._connect(connection))
        return connection

    def _listener_for(self, address: Address, listener: int) -> int | None:
        """The listener that a connection to *address* belongs to: the given one, else the first of the family."""
        if listener in self._sockets:
            return listener
        six = ":" in address[0]
        return next((number for number in self._sockets if (":" in self._listen[number].host) == six), None)

    async def _connect(self, connection: Connection) -> None:
        host = self._listen[connection.listener].host
        local = None if ip_address(host).is_unspecified else (host, 0)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await loop.create_connection(lambda: connection, *connection.peer, local_addr=local)
        except (OSError, TimeoutError) as error:
            self.counters["connect_failed"] += 1
            log.debug("no connection to %s: %s", connection.peer, error or "no answer")
            connection.abort()

    def _number(self) -> int:
        """A number that no other connection has."""
        while (number := next(self._numbers) % NUMBERS) in self._connections or not number:
            pass
        return number

    # What connections ask for

    def enter(self, connection: Connection) -> bool:
        if connection.opened:
            self.counters["opened"] += 1
            return True
        host = connection.peer[0]
        if len(self._connections) >= self._room:
            self.counters["refused_full"] += 1
            return False
        if self._accepted[host] >= PER_SOURCE:
            self.counters["refused_source"] += 1
            return False
        self.counters["accepted"] += 1
        self._accepted[host] += 1
        self._connections[connection.number] = self._by_address[connection.peer] = connection
        return True

    def leave(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        if self._by_address.get(connection.peer) is connection:
            del self._by_address[connection.peer]
        if not connection.opened:
            self._accepted[connection.peer[0]] -= 1
            if not self._accepted[connection.peer[0]]:
                del self._accepted[connection.peer[0]]

    def hold(self, octets: int) -> bool:
        self._buffered += octets
        return octets <= 0 or self._buffered <= BUFFERED

    def receive(self, message: bytes, connection: Connection) -> bool:
        assert self._core is not None
        try:
            self._core.receive_stream(message, connection.number, connection.peer, connection.listener)
        except BufferError:
            self.counters["mailbox_full"] += 1
            return False
        self.counters["messages_received"] += 1
        return True

    def failed(self, request: bytes, connection: Connection) -> None:
        self._tell_failed(request, connection.peer)

    def _tell_failed(self, request: bytes, address: Address) -> None:
        if self._core is None:
            return
        try:
            self._core.stream_failed(request, address)
        except BufferError:  # its timers find out
            self.counters["mailbox_full"] += 1

    # Bounds

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep(time.monotonic())

    def sweep(self, now: float) -> None:
        """Close what is overdue at *now*, and who lets too much wait."""
        for connection in list(self._connections.values()):
            if cause := connection.overdue(now):
                connection.abort(cause)
        waiting = sum(one.unsent for one in self._connections.values())
        for connection in sorted(self._connections.values(), key=lambda one: one.unsent, reverse=True):
            if waiting <= UNSENT_IN_ALL:
                break
            waiting -= connection.unsent
            connection.abort("unsent")

    def _factory(self, listener: int) -> Callable[[], Connection]:
        return lambda: Connection(self, self._number(), listener)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _room() -> int:
    """How many connections this process may have."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return CONNECTIONS if files == resource.RLIM_INFINITY else min(CONNECTIONS, max(files - RESERVE, files // 2))


def _plain(address: Address) -> Address:
    """An IPv6 address in the one spelling that the system uses too."""
    host, port = address
    return (str(ip_address(host)), port) if ":" in host else address
